"""Turn checkpoints into verified Hugging Face folders, one for each of AVERAGE_STEPS.

    python python/convert.py tiny 1 --work work            # all of AVERAGE_STEPS
    python python/convert.py tiny 1 --work work --step 400 # one
    python python/convert.py reasoning-lora 1 --merge      # an adapter, and the base with the adapter merged into it

Writes WORK/runs/<model>/round<N>/convert/step_<S>/. Before a folder appears under its name it is loaded and compared
with the model that training started from: same tensors, finite, RoPE and chat template kept. Config, generation
config and tokenizer name the trained end-of-turn token as EOS: the Math bases stop at another one, with which every
server would run each answer to its token limit. Of a recipe with LORA_RANK the folder is an adapter of the peft
library, see sft/model/adapter.py; with --merge, step_<S>-merged/ is a whole model beside it.
"""

import json
import os
import shutil
import time
from itertools import islice
from pathlib import Path
from typing import Any

from sft.engines.registry import part
from sft.engines.saved import saved_steps
from sft.lib.done import describe, is_done, new_folder, read_done, write_done
from sft.lib.errors import Failure, run, usage
from sft.lib.files import read_json, sha256, write_json
from sft.lib.progress import log
from sft.model.folder import tensors, verify
from sft.model.tokenizer import TOKENIZER_FILES, copy_tokenizer, name_end_of_turn
from sft.recipe.command import open_run, run_parser
from sft.recipe.keys import Recipe, stage_keys
from sft.recipe.paths import Paths, removed
from sft.rows.chat import ENDS, give_default


def trained_turns(recipe: Recipe, paths: Paths) -> list[Any]:
    """The turns of the first rows that were trained on; none where the data are gone, or plain text."""
    from sft.inspect.verdicts import turns

    if recipe["CHAT"] == "none" or not paths.rows.is_file():
        return []
    with open(paths.rows, encoding="utf-8") as file:
        return [turns(json.loads(line)["input"], recipe["CHAT"]) for line in islice(file, 64)]


def export_of(recipe: Recipe, saved: Path, made: Path | None) -> Path:
    """The folder of a checkpoint that has its weights in Hugging Face's names; made: what the engine's converter wrote.

    Both engines on FSDP2 write one with every checkpoint (of an adapter, the adapter alone); of a Megatron checkpoint
    the engine's converter makes one.
    """
    found = part(recipe["ENGINE"], "saved").exported(saved, recipe) or made
    if found is None:
        raise Failure(f"{saved} is a Megatron checkpoint; run: make convert, which calls the engine's converter")
    return found


def name_type(folder: Path, start: Path) -> None:
    """Name the type in `folder`'s config as `start` does, where the weights have it.

    nemo-automodel trains in float32 and says so, but exports weights in the type that they had.
    """
    original = read_json(start / "config.json")
    dtype = original.get("dtype", original.get("torch_dtype"))
    types = [{dtype for _, _, dtype in tensors(model).values()} for model in (folder, start)]
    if dtype and types[0] == types[1]:
        write_json(folder / "config.json", read_json(folder / "config.json") | {"dtype": dtype})


def convert(exported: Path, start: Path, target: Path, end_of_turn: str) -> None:
    """Fill the empty folder `target` from a checkpoint's export, and verify it."""
    if not (exported / "config.json").is_file():
        raise Failure(f"{exported} has no config.json; train that step again")
    tensors(exported)
    for path in sorted(exported.iterdir()):
        if path.name not in TOKENIZER_FILES and path.suffix in (".safetensors", ".json"):
            shutil.copyfile(path, target / path.name)
    # nemo-automodel leaves the generation config out.
    if (start / "generation_config.json").is_file() and not (target / "generation_config.json").is_file():
        shutil.copyfile(start / "generation_config.json", target / "generation_config.json")
    name_type(target, start)
    copy_tokenizer(start, target)
    name_end_of_turn(target, end_of_turn)
    try:
        verify(target, start, end_of_turn)
    except Failure as failure:  # the scratch folder will be gone when the user reads this
        raise Failure(str(failure).replace(str(target), str(exported))) from None


def main() -> None:
    parser = run_parser(__doc__)
    parser.add_argument("--step", type=int, help="only this step (default: all of AVERAGE_STEPS)")
    parser.add_argument("--again", action="store_true", help="also what was removed once it was averaged")
    parser.add_argument("--exported", type=Path, help="that step as the engine's converter wrote it")
    parser.add_argument("--todo", action="store_true", help="print the steps that are not converted yet, and stop")
    parser.add_argument("--merge", action="store_true", help="also merge an adapter into its base")
    args, recipe, paths = open_run(parser)
    lora = "LORA_RANK" in recipe
    if args.merge and not lora:
        usage(f"recipe {args.model} trains no adapter; leave out MERGE=1 (--merge)")
    steps = [args.step] if args.step else list(recipe["AVERAGE_STEPS"])
    keys = stage_keys(recipe, "convert")
    saved = saved_steps(recipe["ENGINE"], paths.train / "checkpoints")
    gone = {} if args.again else removed(paths)
    again = f"MODEL={args.model} ROUND={args.round}"

    def demand_saved(step: int) -> None:
        if step not in saved:
            have = " ".join(map(str, saved)) or "none"
            raise Failure(f"step {step} is not saved (saved: {have}); run: make train {again}")

    for step in steps:
        if not (paths.convert / f"step_{step}").is_dir() and f"step_{step}" not in gone:
            demand_saved(step)
    train = read_done(paths.train, f"run: make train {again}")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from sft.model import adapter  # which uses what is above
    from sft.model.adapter import merge

    for step in steps:
        target = paths.convert / f"step_{step}"
        # Not only what was trained on but this very training: one that was done over has other checkpoints.
        inputs = train["inputs"] | {"train": sha256(paths.train / "DONE"), "step": str(step)}
        kept = None if target.is_dir() else gone.get(target.name)
        if is_done(target, keys, inputs):
            if not args.todo:
                log(f"convert: step {step} is already there")
        elif kept and kept["recipe"] == keys and kept["inputs"] == inputs:
            if not args.todo:
                log(f"convert: step {step} is averaged and was removed; --step {step} --again makes it again")
        else:
            demand_saved(step)
            if args.todo:
                print(step)
                continue
            started = time.time()
            exported = export_of(recipe, saved[step], args.exported)
            with new_folder(target) as folder:
                if lora:
                    adapter.convert(exported, recipe, paths, folder)
                else:
                    convert(exported, paths.start, folder, ENDS[recipe["CHAT"]])
                facts: dict[str, Any] = {"chat_template": give_default(folder, trained_turns(recipe, paths))}
                facts |= {"step": step, "seconds": round(time.time() - started, 1)}
                write_done(folder, keys, inputs, **facts, **describe(folder))
            log(f"convert: step {step} in {target}, verified; chat template: {facts['chat_template']}")
        if not args.merge:
            continue
        merged = target.with_name(f"{target.name}-merged")
        inputs |= {"adapter": sha256(target / "DONE")}
        if is_done(merged, keys, inputs):
            if not args.todo:
                log(f"convert: step {step} is merged already")
        elif args.todo:
            print(step)
        else:
            started = time.time()
            with new_folder(merged) as folder:
                differ = merge(target, recipe, paths, folder)
                facts = {"chat_template": give_default(folder, trained_turns(recipe, paths))}
                facts |= {"step": step, "seconds": round(time.time() - started, 1), "differ": differ}
                write_done(folder, keys, inputs, **facts, **describe(folder))
            log(f"convert: step {step} merged in {merged}, verified: logits differ by {differ:.1e} of their size")


if __name__ == "__main__":
    run(main)
