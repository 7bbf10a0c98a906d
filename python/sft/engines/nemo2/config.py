"""NeMo 2.0 (nemo.collections.llm), from a recipe: import_ckpt -> finetune -> generate -> export_ckpt.

The configuration is data: `_target_` names what is configured, everything else is its arguments; link.build() makes of
it what the notebooks make, run.Partial of run.Config. It is the recipe's: VARIANT=published as in NeMo 8cfedd7
tutorials/llm/{reasoning/Reasoning-SFT,llama/nemo2-sft-peft/nemo2-{sft,peft}}.ipynb, with what goes wrong there;
VARIANT=corrected without. Only where things lie is ours in both, and the callback of parts.py, which ends a link.
"""

import json
from pathlib import Path
from typing import Any

from sft.lib.errors import usage
from sft.recipe.engines import engine_of
from sft.recipe.keys import Recipe
from sft.recipe.paths import Paths

Data = dict[str, Any]
LLM = "nemo.collections.llm"
NL = "nemo.lightning"
# NeMo's class of what a recipe starts from. A class is one shape: another model is refused, not trained as this one.
MODELS = {"Llama-3.1-8B-Instruct": "Llama31Config8B", "Meta-Llama-3-8B": "Llama3Config8B"}
# Megatron's linear layers hold several of Hugging Face's; one LoRA is over all of them
# (NeMo v2.3.1 nemo/collections/llm/gpt/model/llama.py, peft_config of HFLlamaPEFTExporter).
LAYERS = {
    "linear_qkv": {"q_proj", "k_proj", "v_proj"},
    "linear_proj": {"o_proj"},
    "linear_fc1": {"gate_proj", "up_proj"},
    "linear_fc2": {"down_proj"},
}
# As the notebooks' executor sets them.
ENVIRONMENT = {"TORCH_NCCL_AVOID_RECORD_STREAMS": "1", "NCCL_NVLS_ENABLE": "0"}


def base_folder(paths: Paths, model_sha256: str) -> Path:
    """The base model in NeMo's format. model_sha256: of the outputs in the DONE of what training starts from."""
    return paths.work / "models" / ".nemo2" / f"{paths.base.name}-{model_sha256[:12]}"


def predictions(paths: Paths) -> Path:
    """Where --generate leaves its answers."""
    return paths.run / "generate" / "predictions.jsonl"


# --- the configuration of a recipe ---------------------------------------------------------------------------------


def model(recipe: Recipe) -> Data:
    """The model and, where the recipe asks for it, the recomputation of its activations (Reasoning-SFT.ipynb:457-461).

    Raises Failure (status 2) for a base model that is not the tutorials'.
    """
    name = recipe["BASE_MODEL"].split("/")[-1]
    if name not in MODELS:
        usage(f"engine nemo2 trains {' and '.join(MODELS)}, not {name}; take engine automodel")
    config: Data = {"_target_": f"{LLM}.{MODELS[name]}"}
    if recipe["ACTIVATION_CHECKPOINTING"]:
        config |= {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    return {"_target_": f"{LLM}.LlamaModel", "config": config}


def dataset(recipe: Recipe) -> Data:
    """Arguments of NeMo's SFT dataset beyond the published ones, which leave all of them at their defaults.

    The defaults (NeMo v2.3.1 nemo/collections/llm/gpt/data/core.py:58-80, 395-412) put a space between input and output
    and add EOS. For rows in the chat template that is a stray space before the answer and a second end of turn; of the
    others the space belongs to the answer, but BOS is missing. The dense mask of every row is 64 MiB at 8192 tokens.
    """
    if recipe["VARIANT"] == "published":
        return {}
    if recipe["CHAT"] == "none":
        template = {"prompt_template": "{input} {output}", "add_bos": True, "add_eos": True}
    else:
        template = {"prompt_template": "{input}{output}", "add_bos": False, "add_eos": False}
    return template | {"get_attention_mask_from_fusion": True}


def data(recipe: Recipe, paths: Paths) -> Data:
    """The rows: training.jsonl and, for validation, validation.jsonl of the prepared data, in the tutorials' form."""
    tutorial = recipe["SCHEMA"] == "nemotron"
    ordered = not recipe["SHUFFLE"]
    workers = {"published": 8, "corrected": 2}[recipe["VARIANT"]] if tutorial else 0
    return {
        # The published loader permutes blocks of a million rows: the curriculum is lost.
        "_target_": "sft.engines.nemo2.parts.OrderedDataModule" if ordered else f"{LLM}.FineTuningDataModule",
        "dataset_root": str(paths.data),
        "seq_length": recipe["SEQ_LEN"],
        "micro_batch_size": recipe["MICRO_BATCH"],
        "global_batch_size": recipe["GLOBAL_BATCH"],
        "seed": recipe["SEED"],
        "memmap_workers": 1,
        "num_workers": workers,
        "pin_memory": True,
        "dataset_kwargs": dataset(recipe),
    }


def validation(recipe: Recipe) -> Data:
    """Trainer's arguments for validation: as often, and over as many global batches, as the tutorial does it.

    The reasoning tutorial has no validation rows; the corrected data hold some out, and they are gone through with
    every checkpoint.
    """
    if recipe["SCHEMA"] != "nemotron":
        return {"limit_val_batches": 2, "val_check_interval": 2}
    batches = recipe["CURATE_VAL_ROWS"] // recipe["GLOBAL_BATCH"]
    return {"limit_val_batches": batches, "val_check_interval": recipe["SAVE_EVERY"] if batches else 0}


def trainer(recipe: Recipe, callbacks: list[Data] | None = None, **arguments: Any) -> Data:
    """nl.Trainer with Megatron's strategy and bf16; without a recipe's parallelism when it only generates."""
    only_generates = callbacks is None
    strategy: Data = {
        "_target_": f"{NL}.MegatronStrategy",
        "tensor_model_parallel_size": 1 if only_generates else recipe["TP"],
    }
    if not only_generates and recipe["VARIANT"] == "published" and recipe["SCHEMA"] == "nemotron":
        # Published to save GPU memory, but lost: it ends among the options of PyTorch's DDP, which Megatron's is not.
        strategy["optimizer_cpu_offload"] = True
    return {
        "_target_": f"{NL}.Trainer",
        "accelerator": "gpu",
        "devices": 1 if only_generates else recipe["GPUS_PER_NODE"],
        "num_nodes": 1 if only_generates else recipe["NODES"],
        "strategy": strategy,
        # What the notebooks' bf16_mixed() holds.
        "plugins": {
            "_target_": f"{NL}.MegatronMixedPrecision",
            "precision": "bf16-mixed",
            "params_dtype": {"_object_": "torch.bfloat16"},
            "pipeline_dtype": {"_object_": "torch.bfloat16"},
            "autocast_enabled": False,
            "grad_reduce_in_fp32": True,
        },
        **arguments,
        **({} if only_generates else {"callbacks": callbacks}),
    }


def optimizer(recipe: Recipe) -> Data:
    """Megatron's Adam and NeMo's schedule. Raises Failure (status 2) for a schedule that NeMo does not have."""
    steps, warmup = recipe["STEPS"], recipe["WARMUP"]
    made: Data = {
        "_target_": f"{NL}.MegatronOptimizerModule",
        "config": {
            "_target_": "megatron.core.optimizer.OptimizerConfig",
            "optimizer": "adam",
            "lr": recipe["LR"],
            "weight_decay": recipe["WEIGHT_DECAY"],
            "adam_beta1": recipe["ADAM_BETA1"],
            "adam_beta2": recipe["ADAM_BETA2"],
            "adam_eps": recipe["ADAM_EPS"],
            "clip_grad": recipe["CLIP_GRAD"],
            "use_distributed_optimizer": True,
            "bf16": True,
        },
    }
    if recipe["WARMUP_INIT"]:
        usage(f"WARMUP_INIT={recipe['text']['WARMUP_INIT']} is not in NeMo 2.0's schedules; set it to 0")
    if recipe["LR_SCHEDULE"] == "cosine":
        made["lr_scheduler"] = {
            "_target_": f"{NL}.pytorch.optim.CosineAnnealingScheduler",
            "max_steps": steps,  # NeMo copies it from the trainer (v2.3.1 megatron_strategy.py:437)
            "warmup_steps": warmup,
            "constant_steps": 0,
            "min_lr": recipe["MIN_LR"],
        }
    elif warmup:
        usage(f"WARMUP={warmup} with LR_SCHEDULE=constant is not driven here with engine nemo2; set WARMUP=0")
    return made


def lora(recipe: Recipe) -> Data | None:
    """The adapter, None for all weights. Raises Failure (status 2) for targets that share a layer with others."""
    if "LORA_RANK" not in recipe:
        return None
    targets, modules = set(recipe["LORA_TARGETS"]), []
    for layer, parts in LAYERS.items():
        if targets & parts and not parts <= targets:
            usage(f"{layer} is {', '.join(sorted(parts))} in one: LORA_TARGETS must name all of them, or none")
        if parts <= targets:
            modules.append(layer)
    return {
        "_target_": f"{LLM}.peft.LoRA",
        "target_modules": modules,
        "dim": recipe["LORA_RANK"],
        "alpha": recipe["LORA_ALPHA"],
        "dropout": recipe["LORA_DROPOUT"],
        "dropout_position": "pre",  # the only one that can be exported
    }


def finetune(recipe: Recipe, paths: Paths, base: Path) -> Data:
    """The training: run.Partial(llm.finetune, ...)."""
    tutorial, published = recipe["SCHEMA"] == "nemotron", recipe["VARIANT"] == "published"
    checkpoints = str(paths.train / "checkpoints")
    link = {"_target_": "sft.engines.nemo2.parts.Link", "folder": str(paths.train), "steps": recipe["STEPS"]}
    sampler = {"use_distributed_sampler": False} if tutorial or not published else {}
    made = {
        "_target_": f"{LLM}.finetune",
        "model": model(recipe),
        "data": data(recipe, paths),
        "trainer": trainer(
            recipe,
            callbacks=[link],
            max_steps=recipe["STEPS"],
            log_every_n_steps=10 if tutorial else 1,
            num_sanity_val_steps=0,
            logger=False,  # parts.Link writes every step; Lightning's own would be a second curve
            **validation(recipe),
            **sampler,
        ),
        "log": {
            "_target_": f"{NL}.NeMoLogger",
            "log_dir": str(paths.train),  # NeMo moves the files that it finds in log_dir/name out of its way
            "name": "nemo",
            "use_datetime_version": False,
            "ckpt": {
                "_target_": f"{NL}.ModelCheckpoint",
                "dirpath": checkpoints,
                "filename": "{reduced_train_loss:.4f}-{step}",
                "save_last": True,
                "every_n_train_steps": recipe["SAVE_EVERY"],
                "monitor": "reduced_train_loss",
                # The lowest loss is that of the step with the easiest rows: only the last one is of use.
                "save_top_k": (2 if tutorial else 1) if published else 0,
                "save_on_train_epoch_end": True,
                "save_optim_on_train_end": True,
            },
        },
        "optim": optimizer(recipe),
        "resume": {
            "_target_": f"{NL}.AutoResume",
            "restore_config": {"_target_": f"{NL}.RestoreConfig", "path": str(base)},
            "resume_if_exists": True,
            "resume_from_directory": checkpoints,
        },
    }
    peft = lora(recipe)
    return made | ({"peft": peft} if peft else {})


def generate(recipe: Recipe, paths: Paths, saved: Path) -> Data:
    """Answers to the test rows as in the Llama 3 notebooks: greedy (top_k=1), of at most EVAL_MAX_TOKENS tokens."""
    return {
        "_target_": f"{LLM}.generate",
        "path": str(saved),
        "trainer": trainer(recipe),
        # The LoRA notebook takes the first hundred rows of it (nemo2-peft.ipynb:389).
        "input_dataset": str(predictions(paths).with_name("test.jsonl")),
        "add_BOS": recipe["VARIANT"] == "corrected",
        "inference_params": {
            "_target_": "megatron.core.inference.common_inference_params.CommonInferenceParams",
            "num_tokens_to_generate": recipe["EVAL_MAX_TOKENS"],
            "top_k": 1,
        },
        "output_path": str(predictions(paths)),
    }


def folder(path: Path) -> Data:
    """A path that NeMo 2.1 takes as a Path only."""
    return {"_call_": "pathlib.Path", "_args_": [str(path)]}


def render(recipe: Recipe, paths: Paths, base: Path, saved: Path, exported: Path | None = None) -> dict[str, Data]:
    """import, finetune, export and, for the Llama 3 notebooks, generate: the configuration of each, and `environment`.

    base: the base model in NeMo's format; saved: the checkpoint to export and generate from; exported: where to.
    Raises Failure (status 2) for a recipe that this engine cannot run.
    """
    if not engine_of(recipe).tutorial:
        usage(f"the recipe's engine is {recipe['ENGINE']}, not nemo2; its round nemo2 or published is")
    if recipe["DTYPE"] != "bfloat16" or recipe["PACKING"]:
        usage("engine nemo2 is driven here with DTYPE=bfloat16 and PACKING=false; set both, or take engine automodel")
    published, tutorial = recipe["VARIANT"] == "published", recipe["SCHEMA"] == "nemotron"
    made: dict[str, Data] = {
        "environment": ENVIRONMENT,
        "import": {
            "_target_": f"{LLM}.import_ckpt",
            "model": {"_target_": f"{LLM}.LlamaModel", "config": {"_target_": model(recipe)["config"]["_target_"]}},
            "source": f"hf://{paths.start}",
            "output_path": folder(base),
            "overwrite": published and tutorial,
        },
        "finetune": finetune(recipe, paths, base),
    }
    if not tutorial:
        made["generate"] = generate(recipe, paths, saved)
    made["export"] = {
        "_target_": f"{LLM}.export_ckpt",
        "path": folder(saved),
        "target": "hf-peft" if "LORA_RANK" in recipe else "hf",
        "output_path": folder(exported or paths.convert / ".export-STEP"),
        "overwrite": True,
        "load_connector": {"_object_": "sft.engines.nemo2.parts.connector"},
    }
    return made


def to_yaml(value: Any, indent: int = 0) -> str:
    """YAML of dicts, lists and JSON's scalars, in their order; a login node's Python may have no yaml."""
    pad, lines = "  " * indent, []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        start = f"{pad}{key}:" if isinstance(value, dict) else f"{pad}-"
        if isinstance(item, (dict, list)) and item:
            nested = to_yaml(item, indent + 1)
            lines.append(f"{start}\n{nested}" if isinstance(value, dict) else f"{start} {nested.lstrip()}")
        else:
            text = json.dumps(item)
            if isinstance(item, float) and "." not in text:
                text = text.replace("e", ".0e")  # without a point it is a string in YAML 1.1
            lines.append(f"{start} {text}")
    return "\n".join(lines)


def text(recipe: Recipe, paths: Paths) -> str:
    """The configuration as YAML; HASH and N stand for what only a run knows."""
    return to_yaml(render(recipe, paths, base_folder(paths, "HASH"), paths.train / "checkpoints" / "step=N-last"))
