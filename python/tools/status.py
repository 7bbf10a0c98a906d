"""Show what each stage of a run is doing: state, step or count, time left, Slurm job.

    python3 python/tools/status.py tiny 1 --work work

From the files alone, plus squeue, and sacct, where there is one; standard library only, so it works on any login node.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the package sft is

import os
import re
import shutil
import subprocess
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from sft.engines.saved import history, saved_steps
from sft.eval.metrics import score_rows
from sft.lib.errors import run
from sft.lib.files import read_json
from sft.recipe.chain import ending
from sft.recipe.command import open_run, run_parser
from sft.recipe.keys import Recipe
from sft.recipe.paths import Paths, removed

Job = tuple[str, str, str]  # id, Slurm's state, reason or node
LIVE = ("RUNNING", "PENDING", "CONFIGURING", "COMPLETING", "SUSPENDED")
KEPT = "SLURM_(CONF|CONF_SERVER|CLUSTERS|WORKING_CLUSTER|JWT|SACK_[A-Z_]*)"  # which Slurm it is: as in scripts/slurm.sh


def ask(*command: str) -> subprocess.CompletedProcess[str] | None:
    """One of Slurm's programs, without the variables that give it filters and formats; None when it does not answer."""
    slurm = ("SLURM_", "SQUEUE_", "SACCT_")
    env = {k: v for k, v in os.environ.items() if not k.startswith(slurm) or re.fullmatch(KEPT, k)}
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, env=env)
    except (OSError, subprocess.TimeoutExpired):
        return None


def read_states(text: str) -> dict[str, tuple[str, str]]:
    """Job -> (state, reason) of the lines id|state|reason; of anything else, like a site's banner, nothing.

    sacct gives a cancelled job as "CANCELLED by 1000"; its "reason" is an exit status, 0:0 for none.
    """
    found = re.findall(r"^([0-9]+)\|([A-Z_]+)[^|\n]*\|(.*)$", text, re.MULTILINE)
    return {id_: (state, reason) for id_, state, reason in found}


def read_jobs(chain: Path) -> tuple[dict[str, list[Job]], str]:
    """(stage -> its jobs in the order they were queued, note on what could not be asked)."""
    jobs: dict[str, list[Job]] = {}
    if not chain.is_file():
        return jobs, ""
    ids = [line.split("\t")[1:3] for line in chain.read_text(encoding="utf-8").splitlines() if line.count("\t") == 2]
    states: dict[str, tuple[str, str]] = {}
    note = ""
    if not shutil.which("squeue"):
        note = "no squeue here: states are from the files alone"
    elif ids:
        numbers = ",".join(id_ for _, id_ in ids)
        answer = ask("squeue", "-h", "-t", "all", "-j", numbers, "-o", "%i|%T|%R")
        if answer is None or (answer.returncode and "Invalid job id" not in answer.stderr):
            note = "Slurm does not answer: states are from the files alone"
        else:
            states = read_states(answer.stdout)
    # Slurm forgets a job some minutes after its end; its accounts, where a site keeps some, do not.
    forgotten = [id_ for _, id_ in ids if id_ not in states]
    if forgotten and not note and shutil.which("sacct"):
        answer = ask("sacct", "-n", "-X", "-P", "-j", ",".join(forgotten), "-o", "JobID,State,ExitCode")
        if answer and not answer.returncode:
            ended = {id_: pair for id_, pair in read_states(answer.stdout).items() if pair[0] not in LIVE}
            states |= {
                id_: ended[id_] for id_ in forgotten if id_ in ended
            }  # one that seems live was lost with its node
    for name, id_ in ids:
        state, reason = states.get(id_, ("", ""))
        jobs.setdefault(name, []).append((id_, state, reason))
    return jobs, note


def duration(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


def training(paths: Paths, recipe: Recipe) -> tuple[str, str]:
    """(progress, time left) of the train stage; the pace is that of the last 50 steps."""
    steps = int(recipe["STEPS"])
    metrics = history(recipe, paths)
    step = max(metrics, default=0)
    saved = max(saved_steps(recipe["ENGINE"], paths.train / "checkpoints"), default=0)
    last = list(metrics.values())[-50:]
    if recipe["ENGINE"] == "nemo-rl":
        gaps = sorted(row["seconds"] for row in last if "seconds" in row)
    else:
        times = [datetime.fromisoformat(row["timestamp"]).timestamp() for row in last]
        gaps = sorted(b - a for a, b in pairwise(times) if b > a)
    left = duration((steps - step) * gaps[len(gaps) // 2]) if step < steps and gaps else ""
    return f"step {step}/{steps}, saved {saved}", left


def summary(paths: Paths, recipe: Recipe, jobs: dict[str, list[Job]]) -> list[tuple[str, ...]]:
    """One row per stage: name, state, progress, time left, jobs."""
    steps = recipe["AVERAGE_STEPS"].split(",")
    gone = removed(paths)
    converted = sum((paths.convert / f"step_{s}" / "DONE").is_file() or f"step_{s}" in gone for s in steps)
    folders = {"data": paths.data, "model": paths.start, "train": paths.train, "convert": paths.convert}
    folders |= {"average": paths.average} if ending(recipe) == "average" else {}
    folders |= {"eval": paths.eval, "results": paths.results}
    rows: list[tuple[str, ...]] = []
    for name in folders:
        queued = jobs.get(name, [])
        done = converted == len(steps) if name == "convert" else (folders[name] / "DONE").is_file()
        live = [job for job in queued if job[1] in LIVE]
        progress, left = "", ""
        if name == "train":
            progress, left = training(paths, recipe)
        elif name == "convert":
            progress = f"{converted}/{len(steps)} steps"
        elif done and name == "eval":
            progress = short(read_json(folders[name] / "DONE")["scores"])
        elif done and name == "data":
            progress = f"{read_json(folders[name] / 'DONE')['rows']['all']:,} rows"
        if done:
            state = "done"
        elif live:
            state = live[0][1].lower()
        elif name == "train" and active(paths.train):
            state = "running"
        elif queued and queued[-1][1]:  # how the last of its jobs ended; of those side by side, one that failed
            ended = [job[1] for job in queued]
            failed = [s for s in ended if s not in ("", "COMPLETED")] if name == "convert" else []
            state = (failed or ended[-1:])[0].lower()
        else:
            state = "unfinished" if name == "train" and (paths.train / "RUN").is_file() else "-"
        shown = " ".join(
            f"{id_}:{state_.lower()}{reason if state_ == 'PENDING' else ''}" for id_, state_, reason in queued
        )
        rows.append((name, state, progress, left if state == "running" else "", shown.replace(": ", " ")))
    return rows


def short(scores: dict[str, Any]) -> str:
    """The first figure of an evaluation: of every model, where there is one set; else the trained one's."""
    if all("n" in score for score in scores.values()):
        return ", ".join(f"{who} {score['pass@1']:.1%}" for who, score in scores.items())
    rows = [row for row in score_rows(scores) if row[0] != "baseline"]
    named = [(name if mode == "plain" else f"{name} {mode}", figures) for _, name, mode, figures in rows]
    return ", ".join(f"{what} {next(v for k, v in figures.items() if k != 'n'):.1%}" for what, figures in named)


def active(train: Path) -> bool:
    """Whether a training log grew in the last two minutes."""
    logs = [train / "checkpoints" / "training.jsonl", *train.glob("logs/*/driver.log")]
    return any(file.is_file() and time.time() - file.stat().st_mtime < 120 for file in logs)


def main() -> None:
    args, recipe, paths = open_run(run_parser(__doc__))
    jobs, note = read_jobs(paths.run / "chain.tsv")
    rows = [("stage", "state", "progress", "left", "jobs"), *summary(paths, recipe, jobs)]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    print(f"{args.model} round {args.round} in {paths.run}")
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)).rstrip())
    if note:
        print(f"note: {note}")


if __name__ == "__main__":
    run(main)
