"""Test double of NeMo-RL v0.7.0's importer and exporter: Megatron-Bridge itself, driven as v0.7.0 does
(nemo_rl/models/megatron/community_import.py:81-260), on a CPU. Checkpoints are Megatron-Core's own."""

import os
from pathlib import Path
from typing import Any

import megatron_cpu
import torch
from megatron.bridge import AutoBridge
from megatron.bridge.training.model_load_save import temporary_distributed_context
from megatron.core import parallel_state

STEP = 2.0**-10  # what a step adds to every weight: exact in float32


def cached(model: str) -> bool:
    """NeMo-RL v0.7.0's rule of where a converted base model lies (nemo_rl/models/megatron/setup.py:449-460)."""
    root = Path(os.environ["NRL_MEGATRON_CHECKPOINT_DIR"])
    return (root / f"model_{model.replace('/', '_')}" / "iter_0000000").is_dir()


def build(model: str, config: dict[str, Any] | None) -> tuple[Any, list[torch.nn.Module]]:
    """Bridge and Megatron model of a Hugging Face folder. Raises what v0.7.0 raises of a call that cannot work."""
    bridge = AutoBridge.from_hf_pretrained(model, trust_remote_code=True)
    provider = megatron_cpu.configure(bridge.to_megatron_provider(load_weights=True))
    # Bridge's default where Transformer Engine is, as in the image; without APEX Megatron-Core refuses to build.
    provider.gradient_accumulation_fusion = True
    if config is not None:
        for key in (
            "tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size",
            "expert_model_parallel_size", "expert_tensor_parallel_size", "num_layers_in_first_pipeline_stage",
            "num_layers_in_last_pipeline_stage", "sequence_parallel", "gradient_accumulation_fusion",
        ):  # fmt: skip
            setattr(provider, key, config[key])
        provider.pipeline_dtype = {"bfloat16": torch.bfloat16, "float32": torch.float32}[config["pipeline_dtype"]]
    provider.finalize()
    if not parallel_state.model_parallel_is_initialized():
        provider.initialize_model_parallel(seed=0)
    return bridge, provider.provide_distributed_model(wrap_with_ddp=False, use_cpu_initialization=True)


def import_model_from_hf_name(
    hf_model_name: str, output_path: str, megatron_config: dict[str, Any] | None = None
) -> None:
    bridge, model = build(hf_model_name, megatron_config)
    bridge.save_megatron_model(model, output_path)


def export_model_from_megatron(hf_model_name: str, input_path: str, output_path: str) -> None:
    if Path(output_path).exists():
        raise FileExistsError(f"HF checkpoint already exists at {output_path}.")
    bridge = AutoBridge.from_hf_pretrained(hf_model_name, trust_remote_code=True)
    with temporary_distributed_context(backend="gloo"):
        model = bridge.load_megatron_model(input_path, skip_temp_dist_context=True)
        bridge.save_hf_pretrained(model, output_path, strict=True)


class Saver:
    """Writes checkpoints of a model after some steps; the model is built once, its first weights are kept."""

    def __init__(self, model: str):
        config = dict.fromkeys(
            ("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size",
             "expert_model_parallel_size", "expert_tensor_parallel_size"), 1,
        )  # fmt: skip
        config |= dict.fromkeys(("num_layers_in_first_pipeline_stage", "num_layers_in_last_pipeline_stage"))
        config |= {"sequence_parallel": False, "gradient_accumulation_fusion": False, "pipeline_dtype": "float32"}
        with temporary_distributed_context(backend="gloo"):
            self.bridge, self.model = build(model, config)
        self.first = {name: weight.detach().clone() for name, weight in self.model[0].named_parameters()}

    def write(self, step: int, weights: Path, optimizer: bool) -> None:
        """Megatron's checkpoint iter_0000000 below `weights`, of the base plus `step` times STEP."""
        with torch.no_grad():
            for name, weight in self.model[0].named_parameters():
                weight.copy_(self.first[name] + STEP * step)
        with temporary_distributed_context(backend="gloo"):
            self.bridge.save_megatron_model(self.model, str(weights))
        if optimizer:  # v0.7.0's own Megatron-Core writes it with every checkpoint, the one of PyPI does not
            torch.save({"optimizer": {}}, weights / "iter_0000000/common.pt")
