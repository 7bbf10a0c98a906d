"""What runs NeMo 2.0: conversion of the base, one training job, export of a step, generation."""

import importlib
import os
import shutil
from pathlib import Path
from typing import Any

from sft.engines.curves import check
from sft.engines.nemo2.config import Data, base_folder, folder, predictions, render
from sft.engines.nemo2.saved import clean
from sft.engines.saved import saved_steps
from sft.lib.done import read_done, recipe_hash
from sft.lib.errors import Failure, usage
from sft.lib.files import read_json, trim_torn_line, write_json
from sft.lib.progress import log
from sft.model.tokenizer import TOKENIZER_FILES
from sft.recipe.keys import Recipe
from sft.recipe.paths import Paths
from sft.recipe.run import identity, record

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


def opened(recipe: Recipe, paths: Paths, args: Any) -> tuple[dict[str, Data], Path]:
    """(configuration of every part, the base model in NeMo's format) of a run; sets the engine's environment.

    The checkpoint that is exported or generated from is --export's step, else the last. Raises Failure.
    """
    again = f"MODEL={args.model} ROUND={args.round}"
    saved, base = saved_steps("nemo2", paths.train / "checkpoints"), base_folders(paths)[1]
    step = args.export or max(saved, default=0)
    if (args.export or args.generate) and step not in saved:
        raise Failure(
            f"step {step} is not saved (saved: {' '.join(map(str, saved)) or 'none'}); run: make train {again}"
        )
    if bool(args.export) != bool(args.target):
        usage("--export STEP and --target DIR go together; give both")
    config = render(recipe, paths, base, saved.get(step, paths.train / "checkpoints"), args.target)
    for name, value in config.pop("environment").items():
        os.environ.setdefault(name, value)
    return config, base


def base_folders(paths: Paths) -> list[Path]:
    """What training starts from, and the same in NeMo's format."""
    done = read_done(paths.start, "run: make model")
    return [paths.start, base_folder(paths, recipe_hash(done["outputs"]))]


def open_link(recipe: Recipe, paths: Paths, args: Any) -> None:
    """Remove what a killed link left half-written: by one process, as NeMo's own look at it is at the same time."""
    clean(paths.train / "checkpoints")


def import_base(recipe: Recipe, paths: Paths, args: Any) -> None:
    """Convert the base model once; it appears whole or not at all."""
    config, base = opened(recipe, paths, args)
    if base.is_dir():
        log(f"train: {base} is already there")
        return
    part = base.with_name(f".{base.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    base.parent.mkdir(parents=True, exist_ok=True)
    log(f"train: converting the base model for NeMo 2.0 as {base}")
    call(config["import"] | {"output_path": folder(part)})
    if not (part / "weights").is_dir() or not (part / "context").is_dir():
        raise Failure(f"import_ckpt left no weights and context in {part}; see its log above")
    part.rename(base)


def test_rows(recipe: Recipe, paths: Paths) -> None:
    """The rows that generate() answers: all of test.jsonl; the published LoRA takes its first hundred."""
    with open(paths.data / "test.jsonl", encoding="utf-8") as file:
        lines = file.readlines()
    if recipe["VARIANT"] == "published" and recipe["SCHEMA"] == "squad":
        lines = lines[:100]
    target = predictions(paths).with_name("test.jsonl")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("".join(lines), encoding="utf-8")


def generate(recipe: Recipe, paths: Paths, args: Any) -> None:
    """Answer the test rows with the last checkpoint, as the Llama 3 notebooks do."""
    config, _ = opened(recipe, paths, args)
    if "generate" not in config:
        usage(
            f"the tutorial of {args.model} does not generate with NeMo; "
            f"run: make eval MODEL={args.model} ROUND={args.round}"
        )
    if os.environ.get("RANK", "0") == "0":
        test_rows(recipe, paths)
    call(config["generate"])


def export(recipe: Recipe, paths: Paths, args: Any) -> None:
    """Export a checkpoint, and fix what NeMo leaves wrong or out of it.

    An adapter names the last two parts of the NeMo checkpoint's path as its base model and has no tokenizer
    (v2.3.1 nemo/collections/llm/gpt/model/llama.py, HFLlamaPEFTExporter.init). All weights have a configuration made
    from Megatron's: the base model's, which knows more, fits them as well.
    """
    config, _ = opened(recipe, paths, args)
    call(config["export"])
    finish_export(recipe, paths, args.target)
    log(f"convert: NeMo 2.0 exported {args.target}")


def finish_export(recipe: Recipe, paths: Paths, target: Path) -> None:
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


def link(recipe: Recipe, paths: Paths, args: Any) -> None:
    """Train from the last checkpoint until the last step or the end of the link."""
    config, base = opened(recipe, paths, args)
    configuration = config["finetune"]
    keys, inputs = identity(recipe, paths, args)
    rank = int(os.environ.get("RANK", "0"))
    files = ["training.jsonl", *(["validation.jsonl"] if configuration["trainer"]["limit_val_batches"] else [])]
    try:
        for name in files:
            if not (paths.data / name).is_file():
                raise Failure(f"{paths.data / name} is missing; remove {paths.data} and make the data again")
        if not base.is_dir():
            raise Failure(f"{base} is missing; the base model is not converted: run: python/engine.py --import-base")
        if rank == 0:
            check()
            record(paths, keys, inputs)
            write_json(paths.train / "nemo2.json", configuration)
            trim_torn_line(paths.train / "checkpoints" / "training.jsonl")
        call(configuration)
    except Failure as failure:
        raise failure if rank == 0 else Failure(f"rank {rank}: {failure}") from None
