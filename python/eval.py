"""Score the model that training started from, and the one that the run ends with, on the recipe's EVAL_SET.

    python python/eval.py tiny 1 --work work
    python python/eval.py qwen7b 1 --work work --bench aime24:64 --mode tir
    python python/eval.py qwen7b 1 --work work --share 3/8 --scored trained    # in one of several jobs; then:
    python python/eval.py qwen7b 1 --work work --grade

EVAL_SET names the sets:
    squad, dolly                  test rows of the data, put as they were trained; EM, F1, ROUGE-L
    gpqa_main, gpqa_diamond, mmlu multiple choice by the chat template, with detailed thinking on and off: the letter
                                  as a reader would take it, and beside it by the tutorial's own expression
    any other, SCHEMA=nemotron    generated problems, likewise on and off: the last \\boxed{} after the thoughts
    any other                     mathematics by EVAL_PROTOCOL, in each of EVAL_MODE, in the very prompt that training
                                  used; name:k asks for k samples of each problem, else there is one greedy answer

Writes WORK/runs/<model>/round<N>/eval/, or eval-<what was given> beside it: one JSONL of graded answers per model, set
and mode, and DONE with the scores. Each answer is kept when it comes, so an interrupted run goes on at the next one. A
base is loaded with its config as published: patching RoPE is part of training, and a base of 4,096 positions has
shorter answers. A result that is a PEFT adapter is attached to the model that training started from.
"""

import argparse
import os
from functools import partial
from pathlib import Path
from typing import Any

from sft.eval import evaluation as asked
from sft.eval.answers import ALL, answer, longest, machine, read_share, sandbox
from sft.eval.engines.opening import open_engine
from sft.eval.engines.transformer import load_tokenizer
from sft.eval.evaluation import Evaluation, Scored, gpus_of
from sft.eval.metrics import in_words, score_rows
from sft.eval.tasks import Task, tasks_of
from sft.lib.done import is_done, open_part, resumable_folder, write_done
from sft.lib.errors import run, usage, without_torch
from sft.lib.files import write_json
from sft.lib.progress import log
from sft.recipe.command import open_run, run_parser

BATCH = {"random": 50, "hub": None}  # prompts at a time, by BASE_SOURCE; None: what the engine takes

# --- the stage ---------------------------------------------------------------------------------------------------


def show(scores: dict[str, Any]) -> None:
    """The rates, as lines of the log."""
    for model, name, mode, found in score_rows(scores):
        log(f"eval: {model:<9} {name:<13} {mode:<9} {in_words(found)} of {found['n']}")


def make_answers(wanted: Evaluation, tasks: list[Task], scored: Scored, part: Path, args: argparse.Namespace) -> None:
    """The answers of a model that are missing, or this job's share of them: its own, then what is selected of them."""
    own = [task for task in tasks if task.mode != "genselect"]
    select = [task for task in tasks if task.mode == "genselect"]
    if args.share:
        own, select = ([], select) if args.select else (own, [])
    if args.selector:
        answer_with(wanted, own, tasks, scored, part, args, "answer")
        answer_with(wanted, select, tasks, asked.selector(scored, args.selector), part, args, "select")
    else:
        answer_with(wanted, own + select, tasks, scored, part, args, "select" if args.select else "answer")


def answer_with(
    wanted: Evaluation,
    mine: list[Task],
    tasks: list[Task],
    model: Scored,
    part: Path,
    args: argparse.Namespace,
    kind: str,
) -> None:
    """Some of the tasks, by one model, which is loaded only if there are answers missing."""
    if not mine:
        return
    recipe, tokenizer, share = wanted.recipe, load_tokenizer(model.base), args.share or ALL
    engine = partial(
        open_engine,
        "server" if args.server else recipe["EVAL_ENGINE"],
        model.folder,
        model.config,
        model.base,
        server=args.server,
        tensor_parallel=gpus_of(recipe),
        max_model_len=longest(recipe, mine, tokenizer),
        batch=args.batch or BATCH[recipe["BASE_SOURCE"]],
        seed=recipe["SEED"],
    )
    if any(task.mode == "tir" for task in mine):
        sandbox()  # which may be refused: before hours of other answers
    with machine(engine, part / f"{model.name}.{kind}.{share}.machine.json") as opened:
        for task in mine:
            answer(recipe, task, model.name, part, opened, tokenizer, share, tasks)


def main() -> None:
    parser = run_parser(__doc__)
    parser.add_argument("--rows", type=int, help="of each set only so many, the first (default: all)")
    parser.add_argument("--batch", type=int, help="prompts at a time (default: what the engine holds)")
    for option, key in asked.KEYS.items():
        parser.add_argument(f"--{option}", help=f"in place of {key}")
    parser.add_argument("--folder", help="score this model, in place of the run's two")
    parser.add_argument("--selector", help="the folder of another model that compares the solutions in genselect")
    parser.add_argument("--server", help="URL of an OpenAI-compatible completions server that serves the model")
    parser.add_argument("--judge", help="URL of a chat server whose model compares the answers to hle-math")
    parser.add_argument("--judge-model", help="its name there (default: the protocol's)")
    parser.add_argument("--share", type=read_share, help="make only this share of the answers, as 2/8")
    parser.add_argument("--scored", choices=("baseline", "trained"), help="answers of this model only")
    parser.add_argument("--select", action="store_true", help="the share of genselect, when all others are there")
    parser.add_argument("--grade", action="store_true", help="make no answer: all are there")
    parser.add_argument("--check", action="store_true", help="only whether the sets are there")
    parser.add_argument("--unmade", action="store_true", help="with --check: the sets need not be there yet")
    args, recipe, paths = open_run(parser)
    for option, value in (("EVAL_ROWS", args.rows), ("EVAL_BATCH", args.batch)):
        if value is not None and value < 1:
            usage(f"{option}={value}; give a number from 1 up")
    if args.server and not args.folder:
        usage("SERVER serves one model; say which with MODEL_DIR=folder, for its tokenizer")
    if args.check:
        asked.check(asked.changed(recipe, args), paths, f"MODEL={args.model} ROUND={args.round}", args.unmade)
        return
    wanted = asked.evaluation(recipe, paths, args)
    if is_done(wanted.target, wanted.keys, wanted.inputs):
        log(f"eval: {wanted.target} is already there")
        return
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if args.grade or args.server:
        without_torch()
    tokenizer = load_tokenizer(wanted.models[0].base)
    sets = wanted.sets(args.rows)
    tasks = [task for name, k, rows in sets for task in tasks_of(wanted.recipe, paths, name, k, rows, tokenizer)]
    total = {"answers": len(wanted.models) * sum(len(task.rows) * task.samples for task in tasks)}
    if args.share:
        part = open_part(wanted.target, wanted.identity, several=True)
        write_json(part / "total.json", total)
        for scored in wanted.models:
            if args.scored in (None, scored.name):
                make_answers(wanted, tasks, scored, part, args)
        return
    with resumable_folder(wanted.target, wanted.identity) as part:
        write_json(part / "total.json", total)
        scores: dict[str, Any] = {}
        judge = asked.open_judge(wanted, args)
        for scored in wanted.models:
            if not args.grade:
                make_answers(wanted, tasks, scored, part, args)
            scores[scored.name] = asked.grade(wanted.recipe, tasks, scored.name, part, judge, show)
        log("eval: all of it:")
        show(scores)
        write_done(part, wanted.keys, wanted.inputs, scores=scores, **asked.facts(wanted.recipe, tasks, part, judge))
    for pattern in ("*.samples.jsonl*", "*.machine.json", "*.progress.json", "total.json"):
        for path in wanted.target.glob(pattern):
            path.unlink()  # DONE and the graded rows hold the same


if __name__ == "__main__":
    run(main)
