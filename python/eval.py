"""Score the model that training started from, and the one that the run ends with, on the recipe's EVAL_SET.

    python python/eval.py tiny 1 --work work

EVAL_SET names the sets:
    squad, dolly                  test rows of the data, put as they were trained; EM, F1, ROUGE-L
    gpqa_main, gpqa_diamond, mmlu multiple choice by the chat template, with detailed thinking on and off: the letter
                                  as people read it, and beside it by the tutorial's own expression
    any other, SCHEMA=nemotron    generated problems, likewise on and off: the last \\boxed{} after the thoughts
    any other                     generated problems in the very prompt that training used: the last \\boxed{}

VARIANT=published asks with thinking on only, as the tutorial does, and gives questions and answers no BOS. Without
EVAL_TEMPERATURE the answers are greedy, else sampled with SEED. Each \\boxed{} is graded by sft/eval/grades.py.

Writes WORK/runs/<model>/round<N>/eval/: one JSONL of generations per model, set and mode, and DONE with the rates. An
interrupted run resumes at the first batch that is missing. A base is loaded with its config as published:
patching RoPE is part of training. A result that is a PEFT adapter is attached to the model that training started from.
"""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sft.eval.answers import ALSO_ENDS, BATCH, Settings, answer, ends_of, load, load_tokenizer
from sft.eval.metrics import score_rows
from sft.eval.prompts import PLAIN, figures, kind_of, read_rows, tasks_of, test_file
from sft.lib.done import code_hash, is_done, read_done, recipe_hash, resumable_folder, write_done
from sft.lib.errors import Failure, run, usage
from sft.lib.files import sha256
from sft.lib.progress import log
from sft.recipe.chain import ending
from sft.recipe.command import open_run, run_parser
from sft.recipe.keys import Recipe, stage_keys
from sft.rows.chat import ENDS

# --- the stage ---------------------------------------------------------------------------------------------------


def settings_of(recipe: Recipe, batch: int | None) -> Settings:
    temperature, top_p = (float(recipe[key]) if key in recipe else None for key in ("EVAL_TEMPERATURE", "EVAL_TOP_P"))
    if temperature == 0:
        temperature = top_p = None
    chat_ = recipe["CHAT"]
    return Settings(
        int(recipe["EVAL_MAX_TOKENS"]),
        ENDS[chat_],
        ALSO_ENDS.get(chat_, ()),
        temperature,
        top_p,
        int(recipe["SEED"]),
        batch or BATCH["random" if recipe["BASE_SOURCE"] == "random" else "hub"],
    )


def config_of(folder: Path) -> Path:
    """The config that a base is loaded with: as published, where training patched it."""
    original = folder / "config.original.json"
    return original if original.is_file() else folder / "config.json"


def show(scores: dict[str, Any]) -> None:
    """The rates, as lines of the log."""
    for model, name, mode, found in score_rows(scores):
        rates = ", ".join(f"{what} {rate:.1%}" for what, rate in found.items() if what != "n")
        log(f"eval: {model:<9} {name:<13} {mode:<6} {rates} of {found['n']}")


def main() -> None:
    parser = run_parser(__doc__)
    parser.add_argument("--rows", type=int, help="of each set only so many, the first (default: all)")
    parser.add_argument("--batch", type=int, help="prompts at a time (default: 8; 50 for a random base)")
    args, recipe, paths = open_run(parser)
    if "EVAL_SET" not in recipe:
        raise Failure(f"recipe {args.model} names no EVAL_SET; this version evaluates the recipes that do")
    for option, value in (("EVAL_ROWS", args.rows), ("EVAL_BATCH", args.batch)):
        if value is not None and value < 1:
            usage(f"{option}={value}; give a number from 1 up")
    again = f"MODEL={args.model} ROUND={args.round}"
    names = recipe["EVAL_SET"].split(",")
    files = {name: test_file(recipe, paths, name, again) for name in names}
    final = read_done(paths.final, f"run: make {ending(recipe)} {again}")
    start = read_done(paths.start, f"run: make model {again}")
    # One set of problems, as for OpenMathReasoning: its scores and names are flat.
    flat = [kind_of(recipe, name) for name in names] == ["math"]
    ours = "averaged" if ending(recipe) == "average" else "trained"
    keys = stage_keys(recipe, "eval")
    inputs = {"test" if flat else f"test {name}": sha256(path) for name, path in files.items()}
    inputs |= {"baseline": recipe_hash(start["outputs"]), ours: recipe_hash(final["outputs"])}
    if args.rows is not None:
        inputs["rows"] = str(args.rows)
    if is_done(paths.eval, keys, inputs):
        log(f"eval: {paths.eval} is already there")
        return
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sets = {name: read_rows(path, kind_of(recipe, name), args.rows) for name, path in files.items()}
    settings, tokenizer = settings_of(recipe, args.batch), load_tokenizer(paths.start)
    ends_of(tokenizer, settings)
    tasks = [task for name, rows in sets.items() for task in tasks_of(recipe, name, rows, tokenizer)]
    adapter = (paths.final / "adapter_config.json").is_file()
    trained = paths.start / "config.json" if adapter else paths.final / "config.json"
    models = {"baseline": (paths.start, config_of(paths.start)), ours: (paths.final, trained)}
    identity = {"recipe": keys, "inputs": inputs, "code": code_hash("lib", "rows", "data", "eval")}
    with resumable_folder(paths.eval, identity) as part:
        scores: dict[str, Any] = {}
        for model, (folder, config) in models.items():
            loaded: list[Any] = []

            def load_once(folder: Path = folder, config: Path = config, loaded: list[Any] = loaded) -> Any:
                if not loaded:
                    loaded.append(load(folder, config, paths.start))
                return loaded[0]

            for task in tasks:
                target = part / (f"{model}.jsonl" if flat else f"{model}.{task.name}.{task.mode}.jsonl")
                found = figures(task.kind, answer(task, target, load_once, tokenizer, settings))
                scores.setdefault(model, {}).setdefault(task.name, {})[task.mode] = found
                show({model: {task.name: {task.mode: found}}})
        graders = {
            "math-verify" if task.kind in ("math", "thinking") else "python/sft/eval/metrics.py" for task in tasks
        }
        facts = {"grader": ", ".join(sorted(graders)), "decoding": str(settings), "settings": asdict(settings)}
        if flat:
            scores = {model: figures_[names[0]][PLAIN] for model, figures_ in scores.items()}
        else:
            log("eval: all of it:")
            show(scores)
        write_done(part, keys, inputs, scores=scores, **facts)


if __name__ == "__main__":
    run(main)
