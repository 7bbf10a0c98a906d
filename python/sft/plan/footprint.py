"""What training occupies: memory of a GPU by kind, and disk below WORK by kind. Formulas and sources at each function.

Standard library only. Not yet compared with a real GPU.
"""

import math
import shutil
from dataclasses import dataclass
from typing import Any

from sft.plan.shapes import Shape
from sft.recipe.chain import ending
from sft.recipe.engines import backend_of, engine_of
from sft.recipe.keys import Recipe
from sft.recipe.paths import Paths


def size_of(dtype: str) -> int:
    """Bytes of a number of the recipe's DTYPE."""
    return 4 if dtype == "float32" else 2


@dataclass(frozen=True)
class Layout:
    """How a recipe spreads over GPUs. dp: replicas of the model, GPUs / (TP CP PP)."""

    gpus: int
    tp: int
    cp: int
    pp: int
    ep: int
    backend: str  # megatron | fsdp

    @property
    def dp(self) -> int:
        return self.gpus // (self.tp * self.cp * self.pp)


def layout_of(recipe: Recipe) -> Layout:
    gpus = recipe["NODES"] * recipe["GPUS_PER_NODE"]
    return Layout(gpus, recipe["TP"], recipe["CP"], recipe["PP"], recipe["EP"], backend_of(recipe))


def adapter_of(shape: Shape, recipe: Recipe) -> int:
    """Parameters of the recipe's LoRA adapters as its engine lays them; 0 where all weights are trained."""
    if "LORA_RANK" not in recipe:
        return 0
    return shape.lora_parameters(recipe["LORA_RANK"], recipe["LORA_TARGETS"], fused=engine_of(recipe).fused_lora)


# --- memory --------------------------------------------------------------------------------------------------------


def activation_bytes(shape: Shape, tp: int, sequence_parallel: bool) -> float:
    """Bytes that a layer keeps of a token for its backward pass, bfloat16, without recomputation; mean over layers.

    After Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", section 4, whose
    34 s b h (without the scores, which flash attention does not keep) is, two bytes a number: inputs of both norms and
    of both blocks 4h, queries, keys, values and attention's output 4h, the network's inner tensors 2 * 4h, and masks
    of dropout. Here instead: the same 4h; queries and output 2q, keys and values 2k; SwiGLU's two halves and their
    product 3f; no dropout; norms of queries and keys (Qwen3) keep their inputs, q + k. With experts 3 K m in place of
    3 f, and a token's copies in and out of K experts, 2 K h, which assumes that they are evenly used.
    TP divides what is split by heads or width; sequence parallelism divides the 4h, too.
    """
    residual = 4 * shape.hidden
    inner: float = 2 * (shape.q + shape.kv) + shape.qk_norm * (shape.q + shape.kv)
    dense, sparse = 3 * shape.ffn, shape.top_k * (3 * shape.moe_ffn + 2 * shape.hidden)
    share = shape.sparse_layers / shape.layers
    inner += dense * (1 - share) + sparse * share
    return 2 * (residual / (tp if sequence_parallel else 1) + inner / tp)


# Bytes of a logit while its gradient is computed: logits and their softmax in float32, kept for the backward pass, the
# gradient in float32, and logits or their gradient in bfloat16 (NeMo-RL v0.7.0 nemo_rl/distributed/model_utils.py,
# DistributedLogprob). No fused or chunked loss.
LOGIT_BYTES = 4 + 4 + 4 + 2


def memory(shape: Shape, recipe: Recipe, layout: Layout, micro_batches: int) -> dict[str, Any]:
    """Bytes on the fullest GPU, by kind. micro_batches: sequences that a replica works on in a step.

    Parameters of a GPU: layers / (TP PP), experts / (EP PP) (expert_tensor_parallel_size stays 1), and the embedding
    and the output projection / TP, on the first and the last pipeline stage.
    megatron: weights 2 and gradients 2 bytes a parameter (bfloat16; grad_reduce_in_fp32 is false in NeMo-RL v0.7.0's
    examples/configs/sft.yaml), and the distributed optimizer's float32 weights and two moments, 12 bytes, over the
    DP CP GPUs with the same weights (Megatron Core's guide, "Distributed Optimizer"; megatron/core/optimizer), an
    expert's over GPUs / (EP PP). NeMo-RL's precision-aware optimizer may keep 10 of those 12 (store_param_remainders),
    and needs no float32 copy of the gradients, which makes that guide's table say 4 + 16/d.
    fsdp: weights, gradients and two moments in float32 (NeMo-RL keeps float32 weights, v0.7.0 nemo_rl/models/
    automodel/setup.py:330; nemo-automodel: engines/automodel/config.py), all over the DP CP GPUs; and gathered at a
    time, in bfloat16, two layers and both ends.
    Activations: SEQ_LEN MICRO_BATCH / CP tokens in activation_bytes a layer, in as many micro-batches at a time as the
    first pipeline stage holds, min(PP, micro_batches); with ACTIVATION_CHECKPOINTING (full, layer by layer:
    v0.7.0 nemo_rl/models/megatron/setup.py:793-798) 2h a token and layer, and one layer whole. Both ends keep 6h.
    Logits: V / TP a token, LOGIT_BYTES each, on the last stage.
    Sequence parallelism is assumed for megatron with TP > 1. Eager norms and a fragmented allocator add to it.
    nemo2: as megatron, but gradients in float32 (bf16_mixed sets grad_reduce_in_fp32: NeMo 8cfedd7
    nemo/collections/llm/recipes/precision/mixed_precision.py).
    LoRA: the model's weights are frozen, in bfloat16 (by FSDP, which wants one type: float32); gradients and optimizer
    are those of the adapter, by the same rules. What each layer keeps stays: A's gradient needs the same input that the
    frozen weight's would have; A's output comes on top, LORA_RANK a token and target. The adapter is not split by TP.
    """
    tp, pp, ep, shard = layout.tp, layout.pp, layout.ep, layout.dp * layout.cp
    expert_shard = max(1, layout.gpus // (pp * ep))
    megatron = layout.backend == "megatron"
    layers = shape.layer_parameters / (tp * pp)
    experts = shape.expert_parameters / (ep * pp)
    ends = shape.embedding * (2 if pp == 1 and not shape.tied else 1) / tp
    whole, split = layers + ends + experts, (layers + ends) / shard + experts / expert_shard
    kinds: dict[str, float] = {}
    adapter = adapter_of(shape, recipe)
    trained, trained_split = (adapter, adapter / shard) if adapter else (whole, split)
    if megatron:
        kinds |= {
            "weights": 2 * whole,
            "gradients": engine_of(recipe).gradient * trained,
            "optimizer": 12 * trained_split,
        }
        kinds["weights"] += 2 * adapter
    else:
        frozen = size_of(recipe["DTYPE"]) if adapter and layout.gpus == 1 else 4
        kinds |= {"weights": frozen * split, "gradients": 4 * trained_split, "optimizer": 8 * trained_split}
        kinds["weights"] += 4 * adapter / shard
        if layout.gpus > 1 or engine_of(recipe).gathers_alone:  # one process of nemo-automodel has nothing to gather
            kinds["gathered"] = 2 * (ends + 2 * (layers + experts) * pp / shape.layers)
    tokens = recipe["SEQ_LEN"] * recipe["MICRO_BATCH"] / layout.cp
    parallel = megatron and tp > 1
    layer = tokens * activation_bytes(shape, tp, parallel)
    if adapter:
        layer += tokens * 2 * recipe["LORA_RANK"] * len(recipe["LORA_TARGETS"])
    stream = tokens * 2 * shape.hidden / (tp if parallel else 1)
    held = shape.layers / pp
    recompute = recipe["ACTIVATION_CHECKPOINTING"]
    once = held * stream if recompute else held * layer
    extra = layer if recompute else 0.0
    logits = tokens * shape.vocab / tp * LOGIT_BYTES
    if pp == 1:
        kinds |= {"activations": once + extra + 3 * stream, "logits": logits}
    else:
        first = min(pp, max(1, micro_batches)) * (once + stream) + extra
        last = once + extra + 2 * stream
        kinds |= {"activations": first} if first > last + logits else {"activations": last, "logits": logits}
    return {**kinds, "total": sum(kinds.values())}


# --- disk ----------------------------------------------------------------------------------------------------------


def disk(shape: Shape, recipe: Recipe, paths: Paths, data: int) -> dict[str, Any]:
    """Bytes below WORK, by kind, at the run's fullest; what a finished stage has written already is not `missing`.

    A checkpoint: bfloat16 weights and the optimizer's 12 bytes a parameter (Megatron's torch_dist holds both; taken
    from what the optimizer keeps, not measured); fsdp: float32 weights and moments, 12; nemo-automodel: weights twice,
    sharded and consolidated, and two moments, all in float32. Kept: one at every SAVE_EVERY, the last one, and one of
    a link that ran out of time (NeMo-RL with keep_top_k=null keeps all; superseded ones of a time-out are removed
    here). HF exports and their average: one DTYPE number a parameter. Base: its download, and for megatron its
    converted copy.
    NeMo 2.0 keeps the last checkpoint, and as published those of the lowest loss: two of the reasoning notebook, one of
    the others (engines/nemo2/config.py, save_top_k). LoRA: checkpoints and exports hold the adapter alone;
    nemo-automodel writes it once, with two moments. A run that ends with its one converted step (paths.Paths.final)
    makes no average.
    """
    steps, every, size_ = recipe["STEPS"], recipe["SAVE_EVERY"], size_of(recipe["DTYPE"])
    layout, n, adapter = layout_of(recipe), shape.parameters, adapter_of(shape, recipe)
    per = 14 if layout.backend == "megatron" else 16 if engine_of(recipe).saves_twice and not adapter else 12
    kept = math.ceil(steps / every)
    if engine_of(recipe).keeps_last:
        lowest = 2 if recipe["SCHEMA"] == "nemotron" else 1
        kept = min(kept, 1 + lowest * (recipe["VARIANT"] == "published"))
    exports = len(recipe["AVERAGE_STEPS"])
    trained = adapter or n
    kinds = {
        "data": data,
        "base": (4 if layout.backend == "megatron" else 2) * n if recipe["BASE_SOURCE"] == "hub" else size_ * n,
        "checkpoints": (kept + 1) * per * trained,
        "exports": exports * size_ * trained,
        "average": size_ * n if ending(recipe) == "average" else 0,
    }
    folders = {"data": paths.data, "base": paths.base, "checkpoints": paths.train}
    missing = sum(b for k, b in kinds.items() if not (folders.get(k, paths.final) / "DONE").is_file())
    there = next(p for p in (paths.work, *paths.work.parents) if p.exists())
    return {
        "checkpoint": per * trained,
        "bytes_per_parameter": per,
        "kept": kept,
        "final": sum(kinds.values()) - per * trained,
        "peak": sum(kinds.values()),
        "missing": missing,
        "free": shutil.disk_usage(there).free,
        "folder": str(there),
        **kinds,
    }
