"""Megatron-Core and Megatron-Bridge on a CPU: to be imported before them.

    import megatron_cpu
    from megatron.bridge import AutoBridge
    ...
    megatron_cpu.configure(provider)    # of a model, before it is built

Of PyPI's packages (docker/requirements-standin.txt). What only a GPU needs is not installed: empty modules stand in for
what files import at their top, and a few functions of torch.cuda do what there is to do on a CPU.
Nothing of a model's mathematics is replaced but the attention of packed rows, see packed_attention.
"""

import itertools
import sys
import typing
from typing import Any

import typing_extensions
from absent import Absent, AbsentModule

# Megatron-Core is written for Python 3.12.
typing.override = getattr(typing, "override", typing_extensions.override)

# Before Megatron-Core: these import triton and tensorboard.
for _name in (
    "megatron.core.transformer.moe.ops.paged_stash",
    "torch.utils.tensorboard",
    "torch.utils.tensorboard.writer",
):
    sys.modules[_name] = AbsentModule(_name)
import megatron.core  # looks for Transformer Engine, and has to find none
import megatron.core.models.gpt.gpt_layer_specs  # noqa: F401
import torch
import torch._dynamo
import torch.nn.functional as F
from megatron.core.transformer.dot_product_attention import DotProductAttention

# After it: Bridge imports these without asking.
absent = Absent("transformer_engine", "modelopt", "megatron.energon", "PIL", "nvidia_resiliency_ext")
sys.meta_path.append(absent)


def _get_rng_state(*_: Any) -> torch.Tensor:
    return torch.get_rng_state()


def _current_device() -> str:
    return "cpu"


def _nothing() -> Any:
    """A function that does nothing; one for each use, for torch's compiler tells functions by their identity."""

    def nothing(*_: Any) -> None: ...

    return nothing


torch._dynamo.config.disable = True  # compiling takes longer than it saves
torch.cuda.get_rng_state, torch.cuda.current_device = _get_rng_state, _current_device
for _name in ("set_rng_state", "synchronize", "set_device"):
    setattr(torch.cuda, _name, _nothing())

_unpacked_attention = DotProductAttention.forward


def packed_attention(
    self: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    *args: Any,
    packed_seq_params: Any = None,
    **kw: Any,
) -> Any:
    """Causal attention of rows that stand one after another, each by itself; else Megatron-Core's own.

    query, key, value: [tokens, heads, size], as Megatron-Core hands packed rows (THD) to its attention, which on a GPU
    is Transformer Engine's. Its own for a CPU refuses them (core/transformer/dot_product_attention.py).
    """
    if packed_seq_params is None:
        return _unpacked_attention(self, query, key, value, attention_mask, *args, **kw)
    bounds = packed_seq_params.cu_seqlens_q.tolist()
    parts = []
    for begin, end in itertools.pairwise(bounds):
        q, k, v = (tensor[begin:end].transpose(0, 1)[None] for tensor in (query, key, value))
        row = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True, scale=self.softmax_scale)
        parts.append(row[0].transpose(0, 1))
    return torch.cat(parts).reshape(query.shape[0], -1)


DotProductAttention.forward = packed_attention


def configure(provider: Any) -> Any:
    """A provider of Bridge's with what a CPU can do: plain layers, no fused kernels."""
    from megatron.bridge.models.gpt_provider import local_layer_spec

    provider.transformer_layer_spec = local_layer_spec
    for fusion in ("gradient_accumulation_fusion", "apply_rope_fusion", "moe_permute_fusion", "moe_grouped_gemm"):
        setattr(provider, fusion, False)
    provider.persist_layer_norm = False
    provider.moe_token_dispatcher_type = "allgather"
    return provider
