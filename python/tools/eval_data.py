"""Fetch the multiple-choice sets that a recipe is evaluated on.

    python python/tools/eval_data.py reasoning-lora 1 --work /lustre/me/sft
    python python/tools/eval_data.py reasoning-lora 1 --source /lustre/me/gpqa --set gpqa_main

Writes WORK/data/<set>/test.jsonl, rows of Question, Choice 1..4, Answer (a letter) and Subject, and DONE.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the package sft is

from pathlib import Path

from sft.eval.sets import HUB, prepare
from sft.lib.errors import Failure, run, usage
from sft.recipe.command import open_run, run_parser


def main() -> None:
    parser = run_parser(__doc__)
    parser.add_argument("--source", type=Path, help="a folder with the files, in place of the download")
    parser.add_argument("--set", choices=list(HUB), help="only this set (default: those of the recipe's EVAL_SET)")
    args, recipe, paths = open_run(parser)
    wanted = [args.set] if args.set else [name for name in recipe.get("EVAL_SET", "").split(",") if name in HUB]
    if not wanted:
        usage(f"EVAL_SET of recipe {args.model} has none of {', '.join(HUB)}; its test rows come with make data")
    if args.source and not args.source.is_dir():
        raise Failure(f"DATA_SRC={args.source} is not a folder; give the one that holds the files")
    for name in wanted:
        prepare(name, paths.work, args.source)


if __name__ == "__main__":
    run(main)
