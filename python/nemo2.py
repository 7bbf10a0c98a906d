"""NeMo 2.0 (nemo.collections.llm), from a recipe: import_ckpt -> finetune -> generate -> export_ckpt.

    python python/nemo2.py reasoning-lora nemo2 --work work --render        # the exact configuration as YAML
    python python/nemo2.py reasoning-lora nemo2 --work work --import-base   # the base model in NeMo's format, once
    torchrun --nproc-per-node 1 python/nemo2.py reasoning-lora nemo2 --work work       # one link
    python python/nemo2.py reasoning-lora nemo2 --work work --export 2000 --target DIR # a step as an HF folder
    torchrun --nproc-per-node 1 python/nemo2.py llama3-lora published --work work --generate

The configuration is data: `_target_` names what is configured, everything else is its arguments; build() makes of it
what the notebooks make, run.Partial of run.Config. It is the recipe's: VARIANT=published as in NeMo 8cfedd7
tutorials/llm/{reasoning/Reasoning-SFT,llama/nemo2-sft-peft/nemo2-{sft,peft}}.ipynb, with what goes wrong there;
VARIANT=corrected without. Only where things lie is ours in both, and the callback of nemo2_parts.py, which ends a link.

Runs inside NVIDIA's image, whose Python has no package of ours and may be 3.10; --render needs no NeMo.
"""

import importlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import recipe as recipes
import train
from checkpoints import clean_nemo2, saved_steps
from convert import TOKENIZER_FILES
from lib import Failure, log, read_done, read_json, recipe_hash, run, usage, write_json

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


def base_folder(paths: recipes.Paths, model_sha256: str) -> Path:
    """The base model in NeMo's format. model_sha256: of the outputs in the DONE of what training starts from."""
    return paths.work / "models" / ".nemo2" / f"{paths.base.name}-{model_sha256[:12]}"


def predictions(paths: recipes.Paths) -> Path:
    """Where --generate leaves its answers."""
    return paths.run / "generate" / "predictions.jsonl"


# --- the configuration of a recipe ---------------------------------------------------------------------------------


def model(recipe: recipes.Recipe) -> Data:
    """The model and, where the recipe asks for it, the recomputation of its activations (Reasoning-SFT.ipynb:457-461).

    Raises Failure (status 2) for a base model that is not the tutorials'.
    """
    name = recipe["BASE_MODEL"].split("/")[-1]
    if name not in MODELS:
        usage(f"engine nemo2 trains {' and '.join(MODELS)}, not {name}; take engine automodel")
    config: Data = {"_target_": f"{LLM}.{MODELS[name]}"}
    if recipe.get("ACTIVATION_CHECKPOINTING") == "true":
        config |= {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    return {"_target_": f"{LLM}.LlamaModel", "config": config}


def dataset(recipe: recipes.Recipe) -> Data:
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


def data(recipe: recipes.Recipe, paths: recipes.Paths) -> Data:
    """The rows: training.jsonl and, for validation, validation.jsonl of the prepared data, in the tutorials' form."""
    tutorial = recipe["SCHEMA"] == "nemotron"
    ordered = recipe.get("SHUFFLE", "true") == "false"
    workers = {"published": 8, "corrected": 2}[recipe["VARIANT"]] if tutorial else 0
    return {
        # The published loader permutes blocks of a million rows: the curriculum is lost.
        "_target_": "nemo2_parts.OrderedDataModule" if ordered else f"{LLM}.FineTuningDataModule",
        "dataset_root": str(paths.data),
        "seq_length": int(recipe["SEQ_LEN"]),
        "micro_batch_size": int(recipe["MICRO_BATCH"]),
        "global_batch_size": int(recipe["GLOBAL_BATCH"]),
        "seed": int(recipe["SEED"]),
        "memmap_workers": 1,
        "num_workers": workers,
        "pin_memory": True,
        "dataset_kwargs": dataset(recipe),
    }


def validation(recipe: recipes.Recipe) -> Data:
    """Trainer's arguments for validation: as often, and over as many global batches, as the tutorial does it.

    The reasoning tutorial has no validation rows; the corrected data hold some out, and they are gone through with
    every checkpoint.
    """
    if recipe["SCHEMA"] != "nemotron":
        return {"limit_val_batches": 2, "val_check_interval": 2}
    batches = int(recipe["CURATE_VAL_ROWS"]) // int(recipe["GLOBAL_BATCH"])
    return {"limit_val_batches": batches, "val_check_interval": int(recipe["SAVE_EVERY"]) if batches else 0}


def trainer(recipe: recipes.Recipe, callbacks: list[Data] | None = None, **arguments: Any) -> Data:
    """nl.Trainer with Megatron's strategy and bf16; without a recipe's parallelism when it only generates."""
    only_generates = callbacks is None
    strategy: Data = {
        "_target_": f"{NL}.MegatronStrategy",
        "tensor_model_parallel_size": 1 if only_generates else int(recipe["TP"]),
    }
    if not only_generates and recipe["VARIANT"] == "published" and recipe["SCHEMA"] == "nemotron":
        # Published to save GPU memory, but lost: it ends among the options of PyTorch's DDP, which Megatron's is not.
        strategy["optimizer_cpu_offload"] = True
    return {
        "_target_": f"{NL}.Trainer",
        "accelerator": "gpu",
        "devices": 1 if only_generates else int(recipe["GPUS_PER_NODE"]),
        "num_nodes": 1 if only_generates else int(recipe["NODES"]),
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


def optimizer(recipe: recipes.Recipe) -> Data:
    """Megatron's Adam and NeMo's schedule. Raises Failure (status 2) for a schedule that NeMo does not have."""
    steps, warmup = int(recipe["STEPS"]), int(recipe["WARMUP"])
    made: Data = {
        "_target_": f"{NL}.MegatronOptimizerModule",
        "config": {
            "_target_": "megatron.core.optimizer.OptimizerConfig",
            "optimizer": "adam",
            "lr": float(recipe["LR"]),
            "weight_decay": float(recipe["WEIGHT_DECAY"]),
            "adam_beta1": float(recipe["ADAM_BETA1"]),
            "adam_beta2": float(recipe["ADAM_BETA2"]),
            "adam_eps": float(recipe["ADAM_EPS"]),
            "clip_grad": float(recipe["CLIP_GRAD"]),
            "use_distributed_optimizer": True,
            "bf16": True,
        },
    }
    if float(recipe["WARMUP_INIT"]):
        usage(f"WARMUP_INIT={recipe['WARMUP_INIT']} is not in NeMo 2.0's schedules; set it to 0")
    if recipe["LR_SCHEDULE"] == "cosine":
        made["lr_scheduler"] = {
            "_target_": f"{NL}.pytorch.optim.CosineAnnealingScheduler",
            "max_steps": steps,  # NeMo copies it from the trainer (v2.3.1 megatron_strategy.py:437)
            "warmup_steps": warmup,
            "constant_steps": 0,
            "min_lr": float(recipe["MIN_LR"]),
        }
    elif warmup:
        usage(f"WARMUP={warmup} with LR_SCHEDULE=constant is not driven here with engine nemo2; set WARMUP=0")
    return made


def lora(recipe: recipes.Recipe) -> Data | None:
    """The adapter, None for all weights. Raises Failure (status 2) for targets that share a layer with others."""
    if "LORA_RANK" not in recipe:
        return None
    targets, modules = set(recipe["LORA_TARGETS"].split(",")), []
    for layer, parts in LAYERS.items():
        if targets & parts and not parts <= targets:
            usage(f"{layer} is {', '.join(sorted(parts))} in one: LORA_TARGETS must name all of them, or none")
        if parts <= targets:
            modules.append(layer)
    return {
        "_target_": f"{LLM}.peft.LoRA",
        "target_modules": modules,
        "dim": int(recipe["LORA_RANK"]),
        "alpha": int(recipe["LORA_ALPHA"]),
        "dropout": float(recipe["LORA_DROPOUT"]),
        "dropout_position": "pre",  # the only one that can be exported
    }


def finetune(recipe: recipes.Recipe, paths: recipes.Paths, base: Path) -> Data:
    """The training: run.Partial(llm.finetune, ...)."""
    tutorial, published = recipe["SCHEMA"] == "nemotron", recipe["VARIANT"] == "published"
    checkpoints = str(paths.train / "checkpoints")
    link = {"_target_": "nemo2_parts.Link", "folder": str(paths.train), "steps": int(recipe["STEPS"])}
    sampler = {"use_distributed_sampler": False} if tutorial or not published else {}
    made = {
        "_target_": f"{LLM}.finetune",
        "model": model(recipe),
        "data": data(recipe, paths),
        "trainer": trainer(
            recipe,
            callbacks=[link],
            max_steps=int(recipe["STEPS"]),
            log_every_n_steps=10 if tutorial else 1,
            num_sanity_val_steps=0,
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
                "every_n_train_steps": int(recipe["SAVE_EVERY"]),
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


def generate(recipe: recipes.Recipe, paths: recipes.Paths, saved: Path) -> Data:
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
            "num_tokens_to_generate": int(recipe["EVAL_MAX_TOKENS"]),
            "top_k": 1,
        },
        "output_path": str(predictions(paths)),
    }


def folder(path: Path) -> Data:
    """A path that NeMo 2.1 takes as a Path only."""
    return {"_call_": "pathlib.Path", "_args_": [str(path)]}


def render(
    recipe: recipes.Recipe, paths: recipes.Paths, base: Path, saved: Path, exported: Path | None = None
) -> dict[str, Data]:
    """import, finetune, export and, for the Llama 3 notebooks, generate: the configuration of each, and `environment`.

    base: the base model in NeMo's format; saved: the checkpoint to export and generate from; exported: where to.
    Raises Failure (status 2) for a recipe that this engine cannot run.
    """
    if recipe["ENGINE"] != "nemo2":
        usage(f"the recipe's engine is {recipe['ENGINE']}, not nemo2; its round nemo2 or published is")
    if recipe["DTYPE"] != "bfloat16" or recipe["PACKING"] != "false":
        usage("engine nemo2 is driven here with DTYPE=bfloat16 and PACKING=false; set both, or take engine automodel")
    published, tutorial = recipe["VARIANT"] == "published", recipe["SCHEMA"] == "nemotron"
    made = {
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
        "load_connector": {"_object_": "nemo2_parts.connector"},
    }
    return made


# --- from data to objects ------------------------------------------------------------------------------------------


def resolve(name: str) -> Any:
    """The object that a dotted name means. Raises Failure when this NeMo does not have it."""
    parts = name.split(".")
    for n in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError as error:
            if error.name and ".".join(parts[:n]).startswith(error.name):
                continue
            raise
        try:
            for part in parts[n:]:
                found = getattr(found, part)
        except AttributeError:
            break
        return found
    raise Failure(f"{name} is not in this Python; run it in the image of the recipe's engine")


def build(value: Any, partial: bool = True) -> Any:
    """The nemo_run configuration of a piece of data: run.Partial at the top, run.Config below.

    Raises TypeError for an argument that the target does not take.
    """
    import nemo_run

    if isinstance(value, list):
        return [build(item, partial=False) for item in value]
    if not isinstance(value, dict):
        return value
    if "_object_" in value:
        return resolve(value["_object_"])
    if "_call_" in value:
        return resolve(value["_call_"])(*value["_args_"])
    arguments = {key: build(item, partial=False) for key, item in value.items() if key != "_target_"}
    if "_target_" not in value:
        return arguments
    return (nemo_run.Partial if partial else nemo_run.Config)(resolve(value["_target_"]), **arguments)


def call(configuration: Data) -> Any:
    """Build and run one of render()'s parts, as nemo_run's torchrun runner does."""
    resolve(configuration["_target_"])  # says, where there is no NeMo, what is to be done
    return resolve("fiddle.build")(build(configuration))()


# --- what runs in the image ----------------------------------------------------------------------------------------


def import_base(configuration: Data, base: Path) -> None:
    """Convert the base model once; `base` appears whole or not at all."""
    if base.is_dir():
        log(f"train: {base} is already there")
        return
    part = base.with_name(f".{base.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    base.parent.mkdir(parents=True, exist_ok=True)
    log(f"train: converting the base model for NeMo 2.0 as {base}")
    call(configuration | {"output_path": folder(part)})
    if not (part / "weights").is_dir() or not (part / "context").is_dir():
        raise Failure(f"import_ckpt left no weights and context in {part}; see its log above")
    part.rename(base)


def test_rows(recipe: recipes.Recipe, paths: recipes.Paths) -> None:
    """The rows that generate() answers: all of test.jsonl; the published LoRA takes its first hundred."""
    with open(paths.data / "test.jsonl", encoding="utf-8") as file:
        lines = file.readlines()
    if recipe["VARIANT"] == "published" and recipe["SCHEMA"] == "squad":
        lines = lines[:100]
    target = predictions(paths).with_name("test.jsonl")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("".join(lines), encoding="utf-8")


def export(recipe: recipes.Recipe, paths: recipes.Paths, configuration: Data, target: Path) -> None:
    """Export a checkpoint, and mend what NeMo leaves wrong or out of it.

    An adapter names the last two parts of the NeMo checkpoint's path as its base model and has no tokenizer
    (v2.3.1 nemo/collections/llm/gpt/model/llama.py, HFLlamaPEFTExporter.init). All weights have a configuration made
    from Megatron's: the base model's, which knows more, fits them as well.
    """
    call(configuration)
    finish_export(recipe, paths, target)
    log(f"convert: NeMo 2.0 exported {target}")


def finish_export(recipe: recipes.Recipe, paths: recipes.Paths, target: Path) -> None:
    """The part of export() that needs no NeMo. Raises Failure for a folder that is not what was to be exported."""
    adapter = target / "adapter_config.json"
    if "LORA_RANK" in recipe:
        if not adapter.is_file() or not (target / "adapter_model.safetensors").is_file():
            raise Failure(f"export_ckpt left no adapter in {target}; see its log above")
        write_json(adapter, read_json(adapter) | {"base_model_name_or_path": recipe["BASE_MODEL"]})
        names = TOKENIZER_FILES
    else:
        if not list(target.glob("*.safetensors")):
            raise Failure(f"export_ckpt left no safetensors in {target}; see its log above")
        names = TOKENIZER_FILES | {"config.json", "generation_config.json"}
    for name in sorted(names):
        if (paths.start / name).is_file():
            shutil.copyfile(paths.start / name, target / name)


def main() -> None:
    parser = recipes.parser(__doc__)
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--render", action="store_true", help="print the configuration as YAML and stop")
    action.add_argument("--base", action="store_true", help="print where the base model in NeMo's format is, and stop")
    action.add_argument("--clean", action="store_true", help="remove what a killed link left half-written, and stop")
    action.add_argument("--import-base", action="store_true", help="convert the base model, if that is not done yet")
    action.add_argument("--generate", action="store_true", help="answer the test rows with the last checkpoint")
    action.add_argument("--export", type=int, metavar="STEP", help="write this step as a Hugging Face folder")
    parser.add_argument("--target", type=Path, help="with --export: the folder to write")
    args, recipe, paths = recipes.open_run(parser)
    again = f"MODEL={args.model} ROUND={args.round}"
    if args.clean:
        clean_nemo2(paths.train / "checkpoints")
        return
    saved = saved_steps("nemo2", paths.train / "checkpoints")
    if args.render:
        print(to_yaml(render(recipe, paths, base_folder(paths, "HASH"), paths.train / "checkpoints" / "step=N-last")))
        return
    done = read_done(paths.start, f"run: make model {again}")
    base = base_folder(paths, recipe_hash(done["outputs"]))
    if args.base:
        print(base)
        return
    step = args.export or max(saved, default=0)
    if (args.export or args.generate) and step not in saved:
        raise Failure(
            f"step {step} is not saved (saved: {' '.join(map(str, saved)) or 'none'}); run: make train {again}"
        )
    if bool(args.export) != bool(args.target):
        usage("--export STEP and --target DIR go together; give both")
    config = render(recipe, paths, base, saved.get(step, paths.train / "checkpoints"), args.target)
    os.environ.update({k: os.environ.get(k, v) for k, v in config.pop("environment").items()})
    if args.import_base:
        import_base(config["import"], base)
    elif args.export:
        export(recipe, paths, config["export"], args.target)
    elif args.generate:
        if "generate" not in config:
            usage(f"the tutorial of {args.model} does not generate with NeMo; run: make eval {again}")
        if os.environ.get("RANK", "0") == "0":
            test_rows(recipe, paths)
        call(config["generate"])
    else:
        link(recipe, paths, args, config["finetune"], base)


def link(recipe: recipes.Recipe, paths: recipes.Paths, args: Any, configuration: Data, base: Path) -> None:
    """Train from the last checkpoint until the last step or the end of the link."""
    keys, inputs = train.identity(recipe, paths, args)
    rank = int(os.environ.get("RANK", "0"))
    files = ["training.jsonl", *(["validation.jsonl"] if configuration["trainer"]["limit_val_batches"] else [])]
    try:
        for name in files:
            if not (paths.data / name).is_file():
                raise Failure(f"{paths.data / name} is missing; remove {paths.data} and make the data again")
        if not base.is_dir():
            raise Failure(f"{base} is missing; the base model is not converted: run nemo2.py --import-base")
        if rank == 0:
            train.record(paths, keys, inputs)
            write_json(paths.train / "nemo2.json", configuration)
            train.trim_torn_line(paths.train / "checkpoints" / "training.jsonl")
        call(configuration)
    except Failure as failure:
        raise failure if rank == 0 else Failure(f"rank {rank}: {failure}") from None


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


if __name__ == "__main__":
    run(main)
