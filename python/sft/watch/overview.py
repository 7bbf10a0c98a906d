"""All runs below WORK, from their files: no recipe has to be there any more. Standard library only."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.engines.registry import part
from sft.eval.metrics import first, latest_last, merged, score_rows
from sft.lib.errors import Failure
from sft.lib.files import read_json
from sft.watch.jobs import LIVE, queued, read_states, squeue
from sft.watch.pace import Metrics, active, gpu_hours

HEAD = ("model", "round", "state", "step", "loss", "GPU hours", "commit", "changed", "scores")


@dataclass(frozen=True)
class Run:
    """One round of one model. recipe: the texts of the keys that training depends on; trouble: what cannot be read."""

    model: str
    round: str
    folder: Path
    state: str
    recipe: dict[str, str]
    metrics: Metrics
    scores: dict[str, Any]
    commit: str
    hours: float
    changed: float
    trouble: str = ""

    @property
    def name(self) -> str:
        return f"{self.model} round {self.round}"

    @property
    def step(self) -> int:
        return max(self.metrics, default=0)

    @property
    def loss(self) -> float:
        return self.metrics[self.step]["loss"] if self.metrics else math.nan


def short(scores: dict[str, Any]) -> str:
    """The first figure of each set and mode of an evaluation, of the trained model."""
    rows = [row for row in score_rows(scores) if row[0] != "baseline"]
    named = [(name if mode == "plain" else f"{name} {mode}", figures) for _, name, mode, figures in rows]
    return ", ".join(f"{what} {first(figures)[1]:.1%}" for what, figures in named if "/" not in what)


def state_of(folder: Path, live: dict[str, str] | None) -> str:
    """What a run is doing, by its jobs and by the last of its stages that is done. live: job -> Slurm's state; None
    where Slurm was not asked, or did not answer."""
    chain = queued(folder / "chain.tsv")
    jobs = [(stage, live[id_]) for stage, id_ in chain if id_ in live] if live else []
    running = [stage for stage, state in jobs if state != "PENDING"]
    if jobs:
        return f"{running[0]} runs" if running else f"{jobs[0][0]} is queued"
    for stage, word in (("results", "done"), ("eval", "evaluated"), ("average", "averaged"), ("train", "trained")):
        if (folder / stage / "DONE").is_file():
            return word
    if active(folder / "train", bool(chain) and live is not None):
        return "train runs"
    return "unfinished" if (folder / "train/RUN").is_file() else "prepared"


def newest(folder: Path) -> float:
    """When one of the files that say what a run has done was last written."""
    names = ("*/DONE", "train/links.jsonl", "train/checkpoints/training.jsonl", "train/logs/*/driver.log", "chain.tsv")
    times = [file.stat().st_mtime for name in names for file in folder.glob(name)]
    return max(times, default=folder.stat().st_mtime)


def read_run(folder: Path, live: dict[str, str] | None) -> Run:
    """A run from its folder runs/<model>/round<N>. What is broken is said, and does not hide the other runs."""
    record = folder / "train/RUN"
    recipe: dict[str, str] = {}
    metrics: Metrics = {}
    scores: dict[str, Any] = {}
    commit, hours, trouble = "", 0.0, ""
    try:
        if record.is_file():
            begun = read_json(record)
            recipe, commit = begun["recipe"], begun["code"]["commit"]
            metrics = part(recipe["ENGINE"], "saved").history(folder / "train")
            hours = gpu_hours(folder / "train", int(recipe["NODES"]) * int(recipe["GPUS_PER_NODE"]))
        scores = merged(latest_last({done.parent.name: read_json(done) for done in folder.glob("eval*/DONE")}))
    except (Failure, OSError, KeyError, TypeError, ValueError) as error:
        trouble = str(error) if isinstance(error, Failure) else f"{type(error).__name__}: {error}"
        trouble = trouble.replace(f"{folder}/", "")
    state = state_of(folder, live)
    model, round_ = folder.parent.name, folder.name.removeprefix("round")
    return Run(model, round_, folder, state, recipe, metrics, scores, commit, hours, newest(folder), trouble)


def collect(work: Path) -> list[Run]:
    """All runs below WORK, the one that was changed last first."""
    folders = [path for path in sorted((work / "runs").glob("*/round*")) if path.is_dir()]
    ids = [id_ for folder in folders for _, id_ in queued(folder / "chain.tsv")]
    told = squeue(ids, "%i|%T|%r") if ids else None
    live = {id_: state for id_, (state, _) in read_states(told).items() if state in LIVE} if told is not None else None
    return sorted((read_run(folder, live) for folder in folders), key=lambda run: -run.changed)


def rows(runs: list[Run]) -> list[tuple[str, ...]]:
    """The table, its head first."""
    return [HEAD, *(row(run) for run in runs)]


def row(run: Run) -> tuple[str, ...]:
    steps = f"{run.step:,}" + (f"/{int(run.recipe['STEPS']):,}" if run.recipe else "")
    return (
        run.model,
        run.round,
        run.state,
        steps,
        f"{run.loss:.4f}" if run.metrics else "-",
        f"{run.hours:,.1f}" if run.recipe.get("DEVICE") == "gpu" else "-",
        run.commit[:12] or "-",
        time.strftime("%Y-%m-%d %H:%M", time.localtime(run.changed)),
        run.trouble or short(run.scores) or "-",
    )
