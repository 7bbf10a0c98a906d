"""NeMo-RL's configuration of a recipe: overrides of v0.7.0's examples/configs/sft.yaml, one a line.

    python3 python/nemo_rl.py qwen7b 1 --work work
    python3 python/nemo_rl.py qwen7b 1 --work work --must-save-by 00:03:45:00 --wandb sft --run-id qwen7b-1

The one home of the mapping from the recipe's names to NeMo-RL's. An override is `key=value` for a key of that file and
`+key=value` for one of ADDED, never `++`, which makes NeMo-RL take any key and ignore it. Each is held against
nemo_rl_versions.json, the file's keys with their defaults and types, before it is printed; and what a run depends on is
written out even where it equals the default, so that a changed default upstream cannot change the run.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import recipe as recipes
from lib import ROOT, Failure, read_json, run, usage

# Keys that v0.7.0 reads but its sft.yaml does not list: where it reads them.
RESPONSE = "nemo_rl/data/datasets/response_datasets/response_dataset.py:42-52"
ADDED = {
    **{
        f"data.{part}.{key}": RESPONSE
        for part in ("train", "validation")
        for key in ("data_path", "input_key", "output_key", "split_validation_size")
    },
    "policy.scheduler": "nemo_rl/models/automodel/setup.py:824-848",
    "checkpointing.model_save_format": "nemo_rl/utils/checkpoint.py:100",
    "checkpointing.save_consolidated": "nemo_rl/utils/checkpoint.py:101",
    "logger.wandb.id": "nemo_rl/utils/logger.py:209, passed to wandb.init",
    "logger.wandb.resume": "nemo_rl/utils/logger.py:209, passed to wandb.init",
}
# JSON schema's names of types -> the types of Python that are taken for them.
TYPES: dict[str, tuple[type, ...]] = {
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "string": (str,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
    "any": (int, float, bool, str, list, dict, type(None)),
}

FACTS = ROOT / "python" / "nemo_rl_versions.json"
SCHEDULERS = "torch.optim.lr_scheduler"
# Joins the contents of prompt and answer as they are: what v0.7.0 takes where there is no template
# (nemo_rl/algorithms/utils.py:374), but its configuration has to hold a string (nemo_rl/models/policy/__init__.py:443).
JOIN_CONTENTS = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
DURATION = re.compile(r"\d\d:([01]\d|2[0-3]):[0-5]\d:[0-5]\d", re.ASCII)
RUN_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")


@dataclass(frozen=True)
class Version:
    """What is recorded of a version of NeMo-RL in nemo_rl_versions.json.

    keys: dotted key -> {"types", "required", and "default" where sft.yaml lists it}. renamed: v0.7.0's key -> this
    one's. marker, resume_files, background: see the file.
    """

    name: str
    commit: str
    marker: str
    resume_files: tuple[str, ...]
    background: bool
    keys: dict[str, dict[str, Any]]
    renamed: dict[str, str]
    like: str = ""

    def listed(self, key: str) -> bool:
        """Whether sft.yaml has the key, or a section of that name."""
        return "default" in self.keys.get(key, {}) or any(
            known.startswith(f"{key}.") and "default" in fact for known, fact in self.keys.items()
        )


def versions() -> list[str]:
    """The versions of NeMo-RL that there are facts of, the oldest first."""
    return [name for name in read_json(FACTS) if not name.startswith("_")]


def load_version(name: str = "") -> Version:
    """The facts of a version; by default, of the image that docker/versions.env names. Raises Failure (status 2).

    name: as in nemo_rl_versions.json, or a release of it, such as 0.7.1 or v0.7.0.
    """
    if not name:
        tag = re.search(r"^NEMO_RL_IMAGE=\S+:(\S+)$", (ROOT / "docker/versions.env").read_text(encoding="utf-8"), re.M)
        name = tag[1] if tag else ""
    found = read_json(FACTS)
    short = re.sub(r"^v?(\d+\.\d+)\.\d+$", r"\1", name)
    if short not in versions():
        usage(f"NEMO_RL_VERSION={name} is not known here; it is {', '.join(versions())}")
    facts = found[short]
    base = found[facts["like"]]["keys"] if "like" in facts else {}
    keys = {key: fact for key, fact in {**base, **facts["keys"]}.items() if fact is not None}
    rest = {key: facts[key] for key in ("commit", "marker", "background")} | {"like": facts.get("like", "")}
    return Version(
        short, keys=keys, renamed=facts.get("renamed", {}), resume_files=tuple(facts["resume_files"]), **rest
    )


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


def validate_must_save_by(text: str) -> str:
    """`text` if NeMo-RL can read it: four numbers (v0.7.0 nemo_rl/utils/timer.py:260). Raises Failure (status 2).

    Slurm's own D-HH:MM:SS, and no time at all, would end the link when training starts.
    """
    if not DURATION.fullmatch(text) or text == "00:00:00:00":
        usage(f"{text!r} is no time to save by; write DD:HH:MM:SS, such as 00:03:45:00")
    return text


def base_cache(paths: recipes.Paths, model_sha256: str) -> Path:
    """Where Megatron's form of the base model is kept, for NRL_MEGATRON_CHECKPOINT_DIR.

    NeMo-RL names what it keeps there by the model's path alone (v0.7.0 nemo_rl/models/megatron/setup.py:446-456): of a
    model that was patched after a first run it would take the old form. model_sha256: of the outputs in the DONE of
    what training starts from.
    """
    return paths.work / "models" / ".megatron" / f"{paths.base.name}-{model_sha256[:12]}"


def check_epochs(recipe: recipes.Recipe, rows: int) -> None:
    """Raise Failure where MAX_EPOCHS over `rows` rows end before STEPS: AVERAGE_STEPS would never be saved."""
    batch, epochs, steps = (int(recipe[k]) for k in ("GLOBAL_BATCH", "MAX_EPOCHS", "STEPS"))
    most = rows // batch * epochs  # an epoch ends with its last whole batch (v0.7.0 nemo_rl/algorithms/sft.py:160)
    if most < steps:
        raise Failure(
            f"MAX_EPOCHS={epochs} over {rows:,} rows end after {most:,} steps, before STEPS={steps:,}; "
            "change one in the recipe, or prepare more data"
        )


# --- Hydra's grammar ---------------------------------------------------------------------------------------------


def quote(text: str) -> str:
    """A string of Hydra's grammar (1.3), quoted where it must be. Raises Failure for what no override can hold."""
    if not text.isprintable() or "${" in text:
        usage(f"{text!r} holds a control character or an expression that NeMo-RL would expand; choose another name")
    if PLAIN.fullmatch(text) and text.lower() not in ("null", "true", "false", "nan", "inf"):
        return text
    # Only a backslash that stands before a quote is special: double those, then escape the quote.
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + m[2].replace("'", "\\'"), text) + "'"


def render(value: Any) -> str:
    """A value in Hydra's grammar. Raises Failure for a string that no override can hold."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            return quote(value)
        case Mapping():
            return "{" + ",".join(f"{key}:{render(item)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ",".join(map(render, value)) + "]"
        case _:
            return repr(value)


def check(key: str, value: Any, version: Version) -> str:
    """`key` as an override has to write it: with + if sft.yaml does not list it. Raises Failure.

    Refused are a key that `version` does not read, and a value of another type than its configuration takes: NeMo-RL
    itself looks at types only once the job runs (v0.7.0 examples/run_sft.py:178).
    """
    fact = version.keys.get(key)
    if key not in ADDED and (fact is None or not version.listed(key)):
        raise Failure(f"NeMo-RL {version.name} has no key {key}; mend the mapping in python/nemo_rl.py")
    names = fact["types"] if fact else ["string"]  # wandb's own: NeMo-RL hands them on
    if type(value) not in {kind for name in names for kind in TYPES[name]}:
        kinds = " or ".join(names)
        raise Failure(f"NeMo-RL's {key} is {kinds}, not {value!r}; mend the mapping in python/nemo_rl.py")
    return f"+{key}" if key in ADDED else key


def check_complete(values: dict[str, Any], version: Version) -> None:
    """Raise Failure where a key is missing that `version` demands of a section that is on."""
    present = {key for key, fact in version.keys.items() if "default" in fact} | set(values)

    def on(section: str) -> bool:
        parts = section.split(".")
        above = [".".join(parts[: n + 1]) for n in range(len(parts))]
        enabled = {values.get(f"{s}.enabled", version.keys.get(f"{s}.enabled", {}).get("default")) for s in above}
        there = any(key.startswith(f"{section}.") for key in present)
        return there and False not in enabled and not any(values.get(s, "") is None for s in above)

    for key, fact in version.keys.items():
        there = key in present or any(known.startswith(f"{key}.") for known in present)
        if fact["required"] and not there and on(key.rpartition(".")[0]):
            raise Failure(f"NeMo-RL {version.name} demands {key}; mend the mapping in python/nemo_rl.py")


# --- the mapping -------------------------------------------------------------------------------------------------


def scheduler(recipe: recipes.Recipe) -> list[dict[str, Any]]:
    """policy.scheduler of the backend fsdp: warm-up from WARMUP_INIT, then cosine to MIN_LR or constant.

    v0.7.0 puts torch's schedulers in a row at the milestones (nemo_rl/models/automodel/setup.py:824-848). LinearLR
    refuses to start at zero; with WARMUP_INIT=0 it starts at 1e-8 of LR, where Megatron's first step has a rate of 0.
    """
    steps, warmup = int(recipe["STEPS"]), int(recipe["WARMUP"])
    start = max(float(recipe["WARMUP_INIT"]) / float(recipe["LR"]), 1e-8)
    parts = []
    if warmup:
        kwargs: dict[str, Any] = {"start_factor": start, "end_factor": 1.0, "total_iters": warmup}
        parts.append({"name": f"{SCHEDULERS}.LinearLR", "kwargs": kwargs})
    if recipe["LR_SCHEDULE"] == "cosine":
        kwargs = {"T_max": steps - warmup, "eta_min": float(recipe["MIN_LR"])}
        parts.append({"name": f"{SCHEDULERS}.CosineAnnealingLR", "kwargs": kwargs})
    else:
        parts.append({"name": f"{SCHEDULERS}.ConstantLR", "kwargs": {"factor": 1.0, "total_iters": 1}})
    return [*parts, {"milestones": [warmup] if warmup else []}]


def megatron(recipe: recipes.Recipe) -> dict[str, Any]:
    """Keys of policy.megatron_cfg.

    What no recipe sets is as in the published configuration (NeMo-Skills 8b18f39
    nemo_skills/training/nemo_rl/configs/sft.yaml:53-105) where it stands there, else v0.7.0's default.
    """
    number = {k: float(recipe[k]) for k in ("LR", "MIN_LR", "WARMUP_INIT", "WEIGHT_DECAY", "ADAM_EPS", "CLIP_GRAD")}
    tp, steps, bf16 = int(recipe["TP"]), int(recipe["STEPS"]), recipe["DTYPE"] == "bfloat16"
    return {
        "enabled": True,
        "tensor_model_parallel_size": tp,
        "context_parallel_size": int(recipe["CP"]),
        "pipeline_model_parallel_size": int(recipe["PP"]),
        "expert_model_parallel_size": int(recipe["EP"]),
        "expert_tensor_parallel_size": int(recipe.get("ETP", "1")),
        "num_layers_in_first_pipeline_stage": None,
        "num_layers_in_last_pipeline_stage": None,
        "pipeline_dtype": recipe["DTYPE"],
        # The published configuration has false: the same sums with more memory. Experts with TP need it.
        "sequence_parallel": tp > 1,
        "activation_checkpointing": recipe["ACTIVATION_CHECKPOINTING"] == "true",
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
        "optimizer.lr": number["LR"],
        "optimizer.min_lr": number["MIN_LR"],
        "optimizer.weight_decay": number["WEIGHT_DECAY"],
        "optimizer.bf16": bf16,
        "optimizer.fp16": False,
        "optimizer.params_dtype": "float32",
        "optimizer.adam_beta1": float(recipe["ADAM_BETA1"]),
        "optimizer.adam_beta2": float(recipe["ADAM_BETA2"]),
        "optimizer.adam_eps": number["ADAM_EPS"],
        "optimizer.use_distributed_optimizer": True,
        "optimizer.use_precision_aware_optimizer": True,
        "optimizer.clip_grad": number["CLIP_GRAD"],
        "optimizer.optimizer_cpu_offload": False,
        "optimizer.optimizer_offload_fraction": 0.0,
        "scheduler.start_weight_decay": number["WEIGHT_DECAY"],
        "scheduler.end_weight_decay": number["WEIGHT_DECAY"],
        "scheduler.weight_decay_incr_style": "constant",
        "scheduler.lr_decay_style": recipe["LR_SCHEDULE"],
        "scheduler.lr_decay_iters": steps,
        "scheduler.lr_warmup_iters": int(recipe["WARMUP"]),
        "scheduler.lr_warmup_init": number["WARMUP_INIT"],
        "distributed_data_parallel_config.grad_reduce_in_fp32": False,
        "distributed_data_parallel_config.overlap_grad_reduce": True,
        "distributed_data_parallel_config.overlap_param_gather": True,
        "distributed_data_parallel_config.data_parallel_sharding_strategy": "optim_grads_params",
        "distributed_data_parallel_config.use_custom_fsdp": False,
    }


def dtensor(recipe: recipes.Recipe) -> dict[str, Any]:
    """Keys of policy.dtensor_cfg: FSDP2 in NeMo-RL's second version of it."""
    return {
        "_v2": True,
        "enabled": True,
        "cpu_offload": False,
        "sequence_parallel": False,
        "activation_checkpointing": recipe["ACTIVATION_CHECKPOINTING"] == "true",
        "tensor_parallel_size": int(recipe["TP"]),
        "context_parallel_size": int(recipe["CP"]),
        "dp_replicate_size": 1,
        "custom_parallel_plan": None,
        "lora_cfg.enabled": False,
    }


def backend(recipe: recipes.Recipe) -> dict[str, Any]:
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
        "policy.optimizer.kwargs.lr": float(recipe["LR"]),
        "policy.optimizer.kwargs.weight_decay": float(recipe["WEIGHT_DECAY"]),
        "policy.optimizer.kwargs.betas": [float(recipe["ADAM_BETA1"]), float(recipe["ADAM_BETA2"])],
        "policy.optimizer.kwargs.eps": float(recipe["ADAM_EPS"]),
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


def validation(recipe: recipes.Recipe, paths: recipes.Paths) -> dict[str, Any]:
    """Keys of the validation, on or off; on, it is done before the first step and after the last one, too."""
    on = "VAL_DATASET" in recipe
    batch = {
        "sft.val_batches": int(recipe.get("VAL_BATCHES", "1")),
        "sft.val_global_batch_size": int(recipe["GLOBAL_BATCH"]),
        "sft.val_micro_batch_size": int(recipe["MICRO_BATCH"]),
        "sft.val_period": int(recipe["VAL_EVERY"]) if on else 0,
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
        usage(f"{link.run_id!r} is no run id for wandb; give letters, digits, '.', '_', '-', the same in all links")
    wandb = {"project": link.wandb, "name": link.run_id, "id": link.run_id, "resume": "allow"}
    return keys | {f"logger.wandb.{key}": value for key, value in wandb.items()}


def settings(recipe: recipes.Recipe, paths: recipes.Paths, link: Link) -> dict[str, Any]:
    """NeMo-RL's keys and values of a recipe."""
    seq_len, micro = int(recipe["SEQ_LEN"]), int(recipe["MICRO_BATCH"])
    return {
        "sft.max_num_steps": int(recipe["STEPS"]),
        "sft.max_num_epochs": int(recipe["MAX_EPOCHS"]),
        "sft.seed": int(recipe["SEED"]),
        "sft.only_unmask_final": False,
        **validation(recipe, paths),
        "checkpointing.enabled": True,
        "checkpointing.checkpoint_dir": str(paths.train / "checkpoints"),
        "checkpointing.metric_name": None,  # no metric ranks them: v0.7.0 nemo_rl/algorithms/sft.py:541
        "checkpointing.higher_is_better": False,
        # All: a step saves one checkpoint at most. It must be a number (v0.7.0 nemo_rl/utils/checkpoint.py:95).
        "checkpointing.keep_top_k": int(recipe["STEPS"]),
        "checkpointing.save_period": int(recipe["SAVE_EVERY"]),
        "checkpointing.checkpoint_must_save_by": None
        if link.must_save_by is None
        else validate_must_save_by(link.must_save_by),
        "checkpointing.save_optimizer": True,
        "policy.model_name": str(paths.start),
        "policy.tokenizer.name": str(paths.start),
        "policy.tokenizer.chat_template": JOIN_CONTENTS,
        "policy.tokenizer.chat_template_kwargs": None,
        "policy.train_global_batch_size": int(recipe["GLOBAL_BATCH"]),
        "policy.train_micro_batch_size": micro,
        "policy.max_total_sequence_length": seq_len,
        "policy.precision": recipe["DTYPE"],
        "policy.offload_optimizer_for_logprob": False,
        "policy.max_grad_norm": float(recipe["CLIP_GRAD"]),
        "policy.make_sequence_length_divisible_by": recipes.sequence_unit(recipe),
        "policy.dynamic_batching.enabled": False,
        "policy.sequence_packing.enabled": recipe["PACKING"] == "true",
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
        "cluster.num_nodes": int(recipe["NODES"]),
        "cluster.gpus_per_node": int(recipe["GPUS_PER_NODE"]),
        "cluster.segment_size": None,
        **(without_gpu(recipe) if recipe["DEVICE"] == "cpu" else {}),
    }


def without_gpu(recipe: recipes.Recipe) -> dict[str, Any]:
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


def overrides(recipe: recipes.Recipe, paths: recipes.Paths, link: Link, version: Version | None = None) -> list[str]:
    """The overrides of a recipe of engine nemo-rl, in Hydra's grammar, each checked against `version` (default: that
    of the image). Raises Failure."""
    if recipe["ENGINE"] != "nemo-rl":
        usage(f"the recipe's engine is {recipe['ENGINE']}, not nemo-rl; choose another recipe")
    version = version or load_version()
    values = of_version(settings(recipe, paths, link), version)
    check_complete(values, version)
    return [f"{check(key, value, version)}={render(value)}" for key, value in values.items()]


def main() -> None:
    parser = recipes.parser(__doc__)
    parser.add_argument("--must-save-by", help="DD:HH:MM:SS of training, then save and end (default: no limit)")
    parser.add_argument("--wandb", default="", metavar="PROJECT", help="log to this project of wandb (default: none)")
    parser.add_argument("--run-id", default="", help="wandb's id of the run, the same in all links")
    parser.add_argument("--log-dir", type=Path, help="where NeMo-RL logs (default: train/logs of the run)")
    parser.add_argument(
        "--nemo-rl-version",
        default=os.environ.get("NEMO_RL_VERSION", ""),
        help="the version to write for (default: NEMO_RL_VERSION, else that of the image in docker/versions.env)",
    )
    args, recipe, paths = recipes.open_run(parser)
    link = Link(args.log_dir or paths.train / "logs", args.must_save_by, args.wandb, args.run_id)
    print("\n".join(overrides(recipe, paths, link, load_version(args.nemo_rl_version))))


if __name__ == "__main__":
    run(main)
