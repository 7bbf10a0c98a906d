"""Print what a chain needs and is not here: some of the words model, data, eval-data, in the order that they are made.

    python3 python/tools/missing.py qwen7b 1 --work /lustre/me/sft
    python3 python/tools/missing.py qwen7b 1 --work /lustre/me/sft --bench aime24:64 --eval

Standard library only, like make plan: for make train PREPARE=1, which makes them. What only the user can give, data of
their own or the model that round 1 ends with, is an error here, as it is for the chain.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the package sft is

import re

from sft.eval.benchmarks.pins import pins
from sft.eval.benchmarks.prepare import folder_of
from sft.eval.sets import HUB
from sft.lib.done import read_done
from sft.lib.errors import run
from sft.recipe.command import open_run, run_parser
from sft.recipe.keys import Recipe
from sft.recipe.paths import Paths


def sets(recipe: Recipe, paths: Paths, bench: str | None) -> list[Path]:
    """The folders of the evaluation's sets that make eval-data fills. The others come with the data, and a file of the
    user's own is read when the evaluation is checked."""
    named = bench.split(",") if bench else [name for name, _ in recipe["EVAL_SET"]] if "EVAL_SET" in recipe else []
    found = []
    for word in (re.sub(r":\d+$", "", word.strip()) for word in named):
        if word in HUB:
            found.append(paths.work / "data" / word)
        elif word in pins():
            found.append(folder_of(paths.work, word))
    return found


def missing(recipe: Recipe, paths: Paths, again: str) -> list[str]:
    """model and data, where they are not here. Raises Failure for what nobody but the user can make."""
    words = []
    if not (paths.start / "DONE").is_file():
        if paths.start != paths.base:
            read_done(paths.start, "finish round 1 first")
        words.append("model")
    if not (paths.data / "DONE").is_file():
        if recipe["DATASET_SOURCE"] == "prepared":
            read_done(paths.data, "make it from your own generations with: make sft-data")
        words.append("data")
    return words


def main() -> None:
    parser = run_parser(__doc__)
    parser.add_argument("--eval", action="store_true", help="also what the evaluation needs")
    parser.add_argument("--only-eval", action="store_true", help="nothing but that")
    parser.add_argument("--bench", help="of these benchmarks, in place of EVAL_SET")
    args, recipe, paths = open_run(parser)
    words = [] if args.only_eval else missing(recipe, paths, f"MODEL={args.model} ROUND={args.round}")
    if (args.eval or args.only_eval) and not all((s / "DONE").is_file() for s in sets(recipe, paths, args.bench)):
        words.append("eval-data")
    print(*words, sep="\n")


if __name__ == "__main__":
    run(main)
