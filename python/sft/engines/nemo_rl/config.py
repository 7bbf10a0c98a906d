"""NeMo-RL's configuration of a recipe: overrides of v0.7.0's examples/configs/sft.yaml, one a line.

    python3 python/engine.py qwen7b 1 --work work --render

The one home of the mapping from the recipe's names to NeMo-RL's. An override is `key=value` for a key of that file and
`+key=value` for one of ADDED, never `++`, which makes NeMo-RL take any key and ignore it. Each is compared with
versions.json, the file's keys with their defaults and types, before it is printed; and what a run depends on is
written out even where it equals the default, so that a changed default upstream cannot change the run.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.engines.nemo_rl.overrides import (
    RUN_ID,
    SCHEDULERS,
    Version,
    check,
    check_complete,
    load_version,
    render,
    validate_must_save_by,
)
from sft.lib.errors import usage
from sft.recipe.checks import sequence_unit
from sft.recipe.engines import engine_of
from sft.recipe.keys import Recipe
from sft.recipe.paths import Paths

# Joins the contents of prompt and answer as they are: what v0.7.0 takes where there is no template
# (nemo_rl/algorithms/utils.py:374), but its configuration has to hold a string (nemo_rl/models/policy/__init__.py:443).
JOIN_CONTENTS = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@dataclass(frozen=True)
class Link:
    """What a training link depends on besides its recipe.

    must_save_by: DD:HH:MM:SS of training after which it saves and ends, None: no limit. wandb: project, "": none.
    run_id: wandb's id of the run, the same in all links of a chain. log_dir: where NeMo-RL logs.
    """

    log_dir: Path
    must_save_by: str | None = None
    wandb: str = ""
    run_id: str = ""


def base_cache(paths: Paths, model_sha256: str) -> Path:
    """Where Megatron's form of the base model is kept, for NRL_MEGATRON_CHECKPOINT_DIR.

    NeMo-RL names what it keeps there by the model's path alone (v0.7.0 nemo_rl/models/megatron/setup.py:446-456): of a
    model that was patched after a first run it would take the old form. model_sha256: of the outputs in the DONE of
    what training starts from.
    """
    return paths.work / "models" / ".megatron" / f"{paths.base.name}-{model_sha256[:12]}"


# --- the mapping -------------------------------------------------------------------------------------------------


def scheduler(recipe: Recipe) -> list[dict[str, Any]]:
    """policy.scheduler of the backend fsdp: warm-up from WARMUP_INIT, then cosine to MIN_LR or constant.

    v0.7.0 puts torch's schedulers in a row at the milestones (nemo_rl/models/automodel/setup.py:824-848). LinearLR
    refuses to start at zero; with WARMUP_INIT=0 it starts at 1e-8 of LR, where Megatron's first step has a rate of 0.
    """
    steps, warmup = recipe["STEPS"], recipe["WARMUP"]
    start = max(recipe["WARMUP_INIT"] / recipe["LR"], 1e-8)
    parts = []
    if warmup:
        kwargs: dict[str, Any] = {"start_factor": start, "end_factor": 1.0, "total_iters": warmup}
        parts.append({"name": f"{SCHEDULERS}.LinearLR", "kwargs": kwargs})
    if recipe["LR_SCHEDULE"] == "cosine":
        kwargs = {"T_max": steps - warmup, "eta_min": recipe["MIN_LR"]}
        parts.append({"name": f"{SCHEDULERS}.CosineAnnealingLR", "kwargs": kwargs})
    else:
        parts.append({"name": f"{SCHEDULERS}.ConstantLR", "kwargs": {"factor": 1.0, "total_iters": 1}})
    return [*parts, {"milestones": [warmup] if warmup else []}]


def megatron(recipe: Recipe) -> dict[str, Any]:
    """Keys of policy.megatron_cfg.

    What no recipe sets is as in the published configuration (NeMo-Skills 8b18f39
    nemo_skills/training/nemo_rl/configs/sft.yaml:53-105) where it stands there, else v0.7.0's default.
    """
    tp, steps, bf16 = recipe["TP"], recipe["STEPS"], recipe["DTYPE"] == "bfloat16"
    return {
        "enabled": True,
        "tensor_model_parallel_size": tp,
        "context_parallel_size": recipe["CP"],
        "pipeline_model_parallel_size": recipe["PP"],
        "expert_model_parallel_size": recipe["EP"],
        "expert_tensor_parallel_size": recipe["ETP"],
        "num_layers_in_first_pipeline_stage": None,
        "num_layers_in_last_pipeline_stage": None,
        "pipeline_dtype": recipe["DTYPE"],
        # The published configuration has false: the same sums with more memory. Experts with TP need it.
        "sequence_parallel": tp > 1,
        "activation_checkpointing": recipe["ACTIVATION_CHECKPOINTING"],
        "recompute_granularity": "full",
        "recompute_modules": None,
        "empty_unused_memory_level": 0,
        "force_reconvert_from_hf": False,  # base_cache has a folder for each model
        "apply_rope_fusion": True,
        "bias_activation_fusion": True,
        "gradient_accumulation_fusion": False,
        "use_fused_weighted_squared_relu": False,
        "use_linear_ce_fusion_loss": False,
        "defer_fp32_logits": False,
        "freeze_moe_router": False,
        "moe_router_dtype": None,
        "moe_router_load_balancing_type": "aux_loss",
        "moe_router_bias_update_rate": 1e-3,
        "moe_permute_fusion": False,
        "moe_per_layer_logging": False,
        "moe_enable_deepep": False,
        "moe_token_dispatcher_type": "alltoall",
        "moe_shared_expert_overlap": False,
        "peft.enabled": False,
        "fp8_cfg.enabled": False,
        "optimizer.optimizer": "adam",
        "optimizer.lr": recipe["LR"],
        "optimizer.min_lr": recipe["MIN_LR"],
        "optimizer.weight_decay": recipe["WEIGHT_DECAY"],
        "optimizer.bf16": bf16,
        "optimizer.fp16": False,
        "optimizer.params_dtype": "float32",
        "optimizer.adam_beta1": recipe["ADAM_BETA1"],
        "optimizer.adam_beta2": recipe["ADAM_BETA2"],
        "optimizer.adam_eps": recipe["ADAM_EPS"],
        "optimizer.use_distributed_optimizer": True,
        "optimizer.use_precision_aware_optimizer": True,
        "optimizer.clip_grad": recipe["CLIP_GRAD"],
        "optimizer.optimizer_cpu_offload": False,
        "optimizer.optimizer_offload_fraction": 0.0,
        "scheduler.start_weight_decay": recipe["WEIGHT_DECAY"],
        "scheduler.end_weight_decay": recipe["WEIGHT_DECAY"],
        "scheduler.weight_decay_incr_style": "constant",
        "scheduler.lr_decay_style": recipe["LR_SCHEDULE"],
        "scheduler.lr_decay_iters": steps,
        "scheduler.lr_warmup_iters": recipe["WARMUP"],
        "scheduler.lr_warmup_init": recipe["WARMUP_INIT"],
        "distributed_data_parallel_config.grad_reduce_in_fp32": False,
        "distributed_data_parallel_config.overlap_grad_reduce": True,
        "distributed_data_parallel_config.overlap_param_gather": True,
        "distributed_data_parallel_config.data_parallel_sharding_strategy": "optim_grads_params",
        "distributed_data_parallel_config.use_custom_fsdp": False,
    }


def dtensor(recipe: Recipe) -> dict[str, Any]:
    """Keys of policy.dtensor_cfg: FSDP2 in NeMo-RL's second version of it."""
    return {
        "_v2": True,
        "enabled": True,
        "cpu_offload": False,
        "sequence_parallel": False,
        "activation_checkpointing": recipe["ACTIVATION_CHECKPOINTING"],
        "tensor_parallel_size": recipe["TP"],
        "context_parallel_size": recipe["CP"],
        "dp_replicate_size": 1,
        "custom_parallel_plan": None,
        "lora_cfg.enabled": False,
    }


def backend(recipe: Recipe) -> dict[str, Any]:
    """The keys that decide the backend and those of the one that is on: two that are on are refused."""
    if recipe["BACKEND"] == "megatron":
        return {
            "policy.dtensor_cfg.enabled": False,
            "policy.optimizer": None,  # Megatron has its own: recipes/llm/sft-llama3.1-8b-1n8g-megatron-seqpack.yaml
            **{f"policy.megatron_cfg.{key}": value for key, value in megatron(recipe).items()},
        }
    return {
        "policy.megatron_cfg.enabled": False,
        **{f"policy.dtensor_cfg.{key}": value for key, value in dtensor(recipe).items()},
        "policy.optimizer.name": "torch.optim.AdamW",
        "policy.optimizer.kwargs.lr": recipe["LR"],
        "policy.optimizer.kwargs.weight_decay": recipe["WEIGHT_DECAY"],
        "policy.optimizer.kwargs.betas": [recipe["ADAM_BETA1"], recipe["ADAM_BETA2"]],
        "policy.optimizer.kwargs.eps": recipe["ADAM_EPS"],
        "policy.optimizer.kwargs.foreach": False,
        "policy.optimizer.kwargs.fused": False,
        "policy.scheduler": scheduler(recipe),
        # Else the weights are written in pieces that no converter of v0.7.0 reads.
        "checkpointing.model_save_format": "safetensors",
        "checkpointing.save_consolidated": True,
    }


def dataset(part: str, folder: Path) -> dict[str, Any]:
    """Keys of a data set of rendered rows, `part` of data: prompt and answer are taken as they are."""
    return {
        f"data.{part}.dataset_name": "ResponseDataset",
        f"data.{part}.split": "train",  # the only one that a local file has
        f"data.{part}.data_path": str(folder / "all.jsonl"),
        f"data.{part}.input_key": "input",
        f"data.{part}.output_key": "output",
        f"data.{part}.split_validation_size": 0,
    }


def validation(recipe: Recipe, paths: Paths) -> dict[str, Any]:
    """Keys of the validation, on or off; on, it is done before the first step and after the last one, too."""
    on = "VAL_DATASET" in recipe
    batch = {
        "sft.val_batches": recipe["VAL_BATCHES"] if on else 1,
        "sft.val_global_batch_size": recipe["GLOBAL_BATCH"],
        "sft.val_micro_batch_size": recipe["MICRO_BATCH"],
        "sft.val_period": recipe["VAL_EVERY"] if on else 0,
        "sft.val_at_start": on,
        "sft.val_at_end": on,
    }
    return batch | (
        dataset("validation", paths.validation) if on else {"data.validation": None}
    )  # examples/run_sft.py:121


def logger(link: Link) -> dict[str, Any]:
    """Keys of the logs: TensorBoard always, wandb where the link names a project."""
    keys = {
        "logger.log_dir": str(link.log_dir),
        "logger.wandb_enabled": bool(link.wandb),
        "logger.tensorboard_enabled": True,
        "logger.mlflow_enabled": False,
        "logger.swanlab_enabled": False,
        "logger.monitor_gpus": True,
        "logger.gpu_monitoring.collection_interval": 10,
        "logger.gpu_monitoring.flush_interval": 10,
    }
    if not link.wandb:
        return keys
    if not RUN_ID.fullmatch(link.run_id):
        usage(f"{link.run_id!r} is not a run id for wandb; give letters, digits, '.', '_', '-', the same in all links")
    wandb = {"project": link.wandb, "name": link.run_id, "id": link.run_id, "resume": "allow"}
    return keys | {f"logger.wandb.{key}": value for key, value in wandb.items()}


def settings(recipe: Recipe, paths: Paths, link: Link) -> dict[str, Any]:
    """NeMo-RL's keys and values of a recipe."""
    seq_len, micro = recipe["SEQ_LEN"], recipe["MICRO_BATCH"]
    return {
        "sft.max_num_steps": recipe["STEPS"],
        "sft.max_num_epochs": recipe["MAX_EPOCHS"],
        "sft.seed": recipe["SEED"],
        "sft.only_unmask_final": False,
        **validation(recipe, paths),
        "checkpointing.enabled": True,
        "checkpointing.checkpoint_dir": str(paths.train / "checkpoints"),
        "checkpointing.metric_name": None,  # no metric ranks them: v0.7.0 nemo_rl/algorithms/sft.py:541
        "checkpointing.higher_is_better": False,
        # All: a step saves one checkpoint at most. It must be a number (v0.7.0 nemo_rl/utils/checkpoint.py:95).
        "checkpointing.keep_top_k": recipe["STEPS"],
        "checkpointing.save_period": recipe["SAVE_EVERY"],
        "checkpointing.checkpoint_must_save_by": None
        if link.must_save_by is None
        else validate_must_save_by(link.must_save_by),
        "checkpointing.save_optimizer": True,
        "policy.model_name": str(paths.start),
        "policy.tokenizer.name": str(paths.start),
        "policy.tokenizer.chat_template": JOIN_CONTENTS,
        "policy.tokenizer.chat_template_kwargs": None,
        "policy.train_global_batch_size": recipe["GLOBAL_BATCH"],
        "policy.train_micro_batch_size": micro,
        "policy.max_total_sequence_length": seq_len,
        "policy.precision": recipe["DTYPE"],
        "policy.offload_optimizer_for_logprob": False,
        "policy.max_grad_norm": recipe["CLIP_GRAD"],
        "policy.make_sequence_length_divisible_by": sequence_unit(recipe),
        "policy.dynamic_batching.enabled": False,
        "policy.sequence_packing.enabled": recipe["PACKING"],
        "policy.sequence_packing.train_mb_tokens": seq_len * micro,
        "policy.sequence_packing.algorithm": "modified_first_fit_decreasing",
        "policy.sequence_packing.sequence_length_round": 64,
        **backend(recipe),
        "data.max_input_seq_length": seq_len,
        "data.add_bos": False,
        "data.add_eos": False,
        "data.add_generation_prompt": False,
        "data.shuffle": True,
        "data.num_workers": 10,  # as published: one worker cannot tokenize as fast as hundreds of GPUs train
        **dataset("train", paths.data),
        "data.default.prompt_file": None,
        "data.default.system_prompt_file": None,
        "data.default.processor": "sft_processor",
        **logger(link),
        "cluster.num_nodes": recipe["NODES"],
        "cluster.gpus_per_node": recipe["GPUS_PER_NODE"],
        "cluster.segment_size": None,
        **(without_gpu(recipe) if recipe["DEVICE"] == "cpu" else {}),
    }


def without_gpu(recipe: Recipe) -> dict[str, Any]:
    """What of the settings needs a GPU, or one's packages, as DEVICE=cpu has it (see inside/nemo_rl_cpu.py)."""
    keys = {
        "data.num_workers": 0,  # there is no GPU to keep busy, and processes of its own take a core's time
        "logger.tensorboard_enabled": False,
        "logger.monitor_gpus": False,
    }
    if recipe["BACKEND"] == "megatron":
        # Transformer Engine's kernel, and its optimizer.
        keys |= {
            "policy.megatron_cfg.apply_rope_fusion": False,
            "policy.megatron_cfg.optimizer.use_precision_aware_optimizer": False,
        }
    return keys


def of_version(values: dict[str, Any], version: Version) -> dict[str, Any]:
    """v0.7.0's keys and values in the words of `version`. A key that it lists and v0.7.0 does not is written out with
    the default that is recorded of it, in each section that is used."""
    renamed = {version.renamed.get(key, key): value for key, value in values.items()}
    old = load_version(version.like).keys if version.like else version.keys
    new = {
        key: fact["default"]
        for key, fact in version.keys.items()
        if "default" in fact and "default" not in old.get(key, {}) and key not in renamed
    }
    used = {key.rpartition(".")[0] for key in values}
    off = [f"{key.removesuffix('enabled')}" for key, value in values.items() if key.endswith(".enabled") and not value]
    return renamed | {
        key: value
        for key, value in new.items()
        if not key.startswith(tuple(off)) and any(key.startswith(f"{section}.") for section in used)
    }


def overrides(recipe: Recipe, paths: Paths, link: Link, version: Version | None = None) -> list[str]:
    """The overrides of a recipe of engine nemo-rl, in Hydra's grammar, each checked against `version` (default: that
    of the image). Raises Failure."""
    if not engine_of(recipe).rl:
        usage(f"the recipe's engine is {recipe['ENGINE']}, not nemo-rl; choose another recipe")
    version = version or load_version()
    values = of_version(settings(recipe, paths, link), version)
    check_complete(values, version)
    return [f"{check(key, value, version)}={render(value)}" for key, value in values.items()]


def text(recipe: Recipe, paths: Paths) -> str:
    """The overrides, one a line, for the version in NEMO_RL_VERSION (default: the image's)."""
    version = load_version(os.environ.get("NEMO_RL_VERSION", ""))
    return "\n".join(overrides(recipe, paths, Link(paths.train / "logs"), version))
