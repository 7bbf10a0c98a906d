"""Show what each stage of a run is doing: state, step or count, time left, Slurm job.

    python3 python/runs/status.py tiny 1 --work work
    python3 python/runs/status.py tiny 1 --work work --watch 10    # again every 10 s, until all of it is done

From the files alone, plus squeue, and sacct, where there is one; standard library only, so it works on any login node.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the package sft is

import argparse
import signal
import time
from typing import Any

from sft.engines.saved import history, saved_steps
from sft.lib.errors import Failure, run, usage
from sft.lib.files import read_json
from sft.lib.progress import many
from sft.lib.table import text
from sft.plan.estimate import BRING_UP, GPUS, SAVE_RESERVE, figures
from sft.recipe.chain import ending, stages
from sft.recipe.command import open_run, run_parser
from sft.recipe.keys import Recipe, positive
from sft.recipe.paths import Paths, removed
from sft.watch.answers import answering
from sft.watch.jobs import OVER, Job, in_a_cell, read_jobs
from sft.watch.overview import short
from sft.watch.pace import LAST, active, duration, findings, gpu_hours, silence, step_seconds, tokens_per_second
from sft.watch.reasons import in_words

CLEAR = "\033[H\033[2J"


def planned(recipe: Recipe, paths: Paths, args: argparse.Namespace) -> dict[str, Any]:
    """What make plan says with its defaults, or those of the cluster; nothing where it cannot say."""
    given = {"mfu": None, "time_limit": None, "gpu": args.gpu, "gpu_memory": None}
    names = {"model": args.model, "round": args.round, "bring_up": BRING_UP, "save_reserve": SAVE_RESERVE}
    try:
        return figures(recipe, paths, argparse.Namespace(**given, **names))
    except Failure:
        return {}


def training(recipe: Recipe, paths: Paths, metrics: dict[int, Any], links: list[Job]) -> tuple[str, str]:
    """(progress, time left) of the train stage. links: its jobs."""
    steps, step = recipe["STEPS"], max(metrics, default=0)
    saved = max(saved_steps(recipe["ENGINE"], paths.train / "checkpoints"), default=0)
    pace = step_seconds(metrics)
    left = duration((steps - step) * pace) if step < steps and pace else ""
    at = [f"link {n} of {len(links)}" for n, job in enumerate(links, 1) if job.live and job.state != "PENDING"]
    return ", ".join([f"step {step}/{steps}", f"saved {saved}", *at[:1]]), left


def details(
    recipe: Recipe, paths: Paths, metrics: dict[int, Any], running: bool, args: argparse.Namespace
) -> list[str]:
    """Loss, pace and cost of training, and what is not as it should be."""
    if not metrics:
        return []
    plan = planned(recipe, paths, args)
    data = plan.get("data", {})
    tokens = tokens_per_second(metrics, data.get("tokens_per_step") if data.get("counted") else None)
    pace, last = step_seconds(metrics), list(metrics.values())[-LAST:]
    mean = sum(row["loss"] for row in last) / len(last)
    words = [f"loss {last[-1]['loss']:.4f}, mean {mean:.4f} of the last {many(len(last), 'step')}"]
    words += [] if pace is None else [f"{pace:.2f} s a step"]
    words += [] if tokens is None else [f"{tokens:,.0f} tokens/s"]
    if recipe["DEVICE"] == "gpu":
        spent = gpu_hours(paths.train, recipe["NODES"] * recipe["GPUS_PER_NODE"])
        of = plan.get("time", {}).get("stated", {}).get("gpu_hours")
        whole = f", of {of:,.0f} planned for the run" if of else ""
        words.append(f"{spent:,.0f} GPU hours until the last save{whole}")
    found = findings(metrics, silence(paths.train, metrics) if running else None)
    return ["train: " + "; ".join(words), *(f"WARNING: {words}" for words in found)]


def pending(jobs: list[Job]) -> list[str]:
    """Why jobs wait, in words: each reason once, except that one follows another, where there is more to say."""
    reasons: dict[str, list[Job]] = {}
    for job in jobs:
        if job.state == "PENDING":
            reasons.setdefault(job.reason.strip("()"), []).append(job)
    if len(reasons) > 1 or any(job.state == "RUNNING" for job in jobs):
        reasons.pop("Dependency", None)
    return [f"{some[0].stage} {some[0].id} waits: {in_words(code)} ({code})" for code, some in reasons.items()]


def advice(jobs: list[Job], states: dict[str, str], paths: Paths, args: argparse.Namespace) -> list[str]:
    """What to do about the first stage whose jobs have ended without finishing it, once no job is left."""
    if any(job.live for job in jobs) or "running" in states.values():
        return []
    again = f"MODEL={args.model} ROUND={args.round}"
    for stage, state in states.items():
        ended = [job for job in jobs if job.stage == stage and job.state not in ("", "COMPLETED")]
        if state == "done" or not ended:
            continue
        log = f"make logs {again}" if stage == "train" else f"{paths.run}/logs/{stage}-{ended[-1].id}.out"
        if ended[-1].state in (OVER, "TIMEOUT") and stage == "train":
            return [f"train: all links have ended before the last step; more of them resume it: make train {again}"]
        if ended[-1].state == "CANCELLED":
            return [f"{stage} was cancelled; this resumes it: make train {again}"]
        how = ended[-1].state.lower().replace("_", " ")
        return [f"{stage} {ended[-1].id} {how}: see {log}; this resumes it: make train {again}"]
    return []


def summary(paths: Paths, recipe: Recipe, jobs: list[Job], metrics: dict[int, Any]) -> list[tuple[str, ...]]:
    """One row per stage: name, state, progress, time left, jobs."""
    steps = recipe["AVERAGE_STEPS"]
    gone = removed(paths)
    converted = sum((paths.convert / f"step_{s}" / "DONE").is_file() or f"step_{s}" in gone for s in steps)
    folders = {"data": paths.data, "model": paths.start, "train": paths.train, "convert": paths.convert}
    folders |= {"average": paths.average} if ending(recipe) == "average" else {}
    folders |= {"eval": paths.eval, "results": paths.results}
    # Of what a chain may have made first, with PREPARE=1.
    ahead = {job.stage: paths.run for job in jobs if job.stage in ("container", "eval-data")}
    folders = ahead | folders
    rows: list[tuple[str, ...]] = []
    for name in folders:
        queued = [job for job in jobs if job.stage == name]
        done = converted == len(steps) if name == "convert" else (folders[name] / "DONE").is_file()
        live = [job for job in queued if job.live]
        progress, left = "", ""
        if name == "train":
            progress, left = training(recipe, paths, metrics, queued)
        elif name == "convert":
            progress = f"{converted}/{len(steps)} steps"
        elif name == "eval":
            progress, left = answering(paths.run)
            if done:
                progress = short(read_json(folders[name] / "DONE")["scores"])
        elif done and name == "data":
            progress = f"{read_json(folders[name] / 'DONE')['rows']['all']:,} rows"
        if done:
            state = "done"
        elif live:
            state = live[0].state.lower()
        elif name == "train" and active(paths.train, bool(queued) and all(job.state for job in queued)):
            state = "running"
        elif queued and queued[-1].state:  # how the last of its jobs ended; of those side by side, one that failed
            ended = [job.state for job in queued]
            failed = [s for s in ended if s not in ("", "COMPLETED")] if name == "convert" else []
            state = (failed or ended[-1:])[0].lower().replace(OVER.lower(), "unfinished")
        else:
            state = "unfinished" if name == "train" and (paths.train / "RUN").is_file() else "-"
        rows.append((name, state, progress, left if state == "running" else "", in_a_cell(queued)))
    return rows


def report(recipe: Recipe, paths: Paths, args: argparse.Namespace) -> tuple[str, bool]:
    """(what there is to say, whether everything is done)."""
    jobs, note = read_jobs(paths.run / "chain.tsv")
    metrics = history(recipe, paths)
    rows = summary(paths, recipe, jobs, metrics)
    states = {row[0]: row[1] for row in rows}
    now = time.strftime(", %H:%M:%S") if args.watch else ""
    lines = [f"{args.model} round {args.round} in {paths.run}{now}"]
    lines.append(text([("stage", "state", "progress", "time left", "jobs"), *rows]))
    lines += details(recipe, paths, metrics, states["train"] == "running", args)
    lines += pending(jobs) + advice(jobs, states, paths, args) + [f"note: {note}"] * bool(note)
    wanted = [name for name in stages(recipe) if name != "cache"]
    done = all(states[name] == "done" for name in wanted)
    page = paths.results / "index.html"
    if not any((paths.run / name).exists() for name in ("train", "chain.tsv")):
        lines.append(f"not begun; run: make train MODEL={args.model} ROUND={args.round}")
    lines += [f"all done; figures and answers: {page}"] * (done and page.is_file())
    return "\n".join(lines), done


def main() -> None:
    parser = run_parser(__doc__)
    parser.add_argument("--watch", help="say it again after so many seconds, until everything is done or Ctrl-C")
    parser.add_argument("--gpu", default="h100", help=f"whose hours are planned: {', '.join(GPUS)} (default: h100)")
    args, recipe, paths = open_run(parser)
    if args.watch is not None and not positive(args.watch):
        usage(f"WATCH={args.watch}; give seconds, 1 or more")
    if args.gpu not in GPUS:
        usage(f"no GPU named {args.gpu!r}; it is {', '.join(GPUS)}")
    if args.watch:
        signal.signal(signal.SIGINT, lambda *_: sys.exit(0))  # that is how watching ends
    while True:
        said, done = report(recipe, paths, args)
        print(CLEAR * (bool(args.watch) and sys.stdout.isatty()) + said, flush=True)
        if done or not args.watch:
            return
        time.sleep(int(args.watch))


if __name__ == "__main__":
    run(main)
