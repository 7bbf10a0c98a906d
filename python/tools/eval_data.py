"""Fetch what a recipe is evaluated on: the multiple-choice sets and the benchmarks that its EVAL_SET names, or others.

    python python/tools/eval_data.py reasoning-lora 1 --work /lustre/me/sft
    python python/tools/eval_data.py reasoning-lora 1 --source /lustre/me/gpqa --set gpqa_main
    python python/tools/eval_data.py qwen7b 1 --bench comp-math-24-25,gsm8k --bench-source /lustre/me/benchmarks
    python python/tools/eval_data.py qwen7b 1 --bench my/problems.jsonl

Multiple choice: WORK/data/<set>/test.jsonl, rows of Question, Choice 1..4, Answer (a letter) and Subject, and DONE.
Benchmarks: WORK/data/bench/<name>/test.jsonl, rows of id, problem, expected_answer and subset, and DONE. Which there
are, and from where, says python/sft/eval/benchmarks/pins.json. A download resumes where it stopped.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the package sft is

from pathlib import Path

from sft.eval.benchmarks.pins import chosen, pins
from sft.eval.benchmarks.prepare import prepare as prepare_benchmark
from sft.eval.sets import HUB, prepare
from sft.lib.errors import Failure, run, usage
from sft.recipe.command import open_run, run_parser


def main() -> None:
    parser = run_parser(__doc__)
    parser.add_argument("--source", type=Path, help="a folder with the files of the sets, in place of the download")
    parser.add_argument("--set", choices=list(HUB), help="only this set (default: those of the recipe's EVAL_SET)")
    parser.add_argument("--bench", help="benchmarks, with commas between: a name, or a JSONL file of yours")
    parser.add_argument("--bench-source", type=Path, help="a folder with the benchmarks' files, likewise")
    args, recipe, paths = open_run(parser)
    if args.bench and args.set:
        usage("BENCH and --set name different things; give one")
    named = [name for name, _ in recipe.get("EVAL_SET", ())]
    sets = [args.set] if args.set else [] if args.bench else [name for name in named if name in HUB]
    known = ",".join(name for name in named if name in pins())
    benchmarks = [pin for pin, _ in chosen(args.bench or known)] if args.bench or (known and not args.set) else []
    if not sets and not benchmarks:
        usage(
            f"EVAL_SET of recipe {args.model} has none of {', '.join(HUB)}, and none of {', '.join(pins())}; "
            "its test rows come with make data, or name others with BENCH"
        )
    if args.source and not args.source.is_dir():
        raise Failure(f"DATA_SRC={args.source} is not a folder; give the one that holds the files")
    for name in sets:
        prepare(name, paths.work, args.source)
    for pin in benchmarks:
        prepare_benchmark(pin, paths.work, args.bench_source)


if __name__ == "__main__":
    run(main)
