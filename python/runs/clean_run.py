"""List what a run no longer needs, with sizes; remove it with --yes.

    python3 python/runs/clean_run.py qwen7b 1 --work work          # only the list
    python3 python/runs/clean_run.py qwen7b 1 --work work --yes

Checkpoints, converted steps, what was left unfinished, and logs. What the run ends with, its evaluation, its results,
every DONE and the record of its losses stay: a finished run counts as finished, and make train skips its stages. --all:
the whole run. Refused while a job of the run is live. Standard library only.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the package sft is

import argparse
import fcntl
import shutil
from collections.abc import Iterator
from contextlib import suppress
from typing import IO

from sft.engines.saved import saved_steps
from sft.lib.errors import Failure, run
from sft.lib.files import read_json, write_json
from sft.lib.progress import log
from sft.lib.table import text
from sft.plan.estimate import size_text
from sft.recipe.command import open_run, run_parser
from sft.recipe.keys import Recipe
from sft.recipe.paths import REMOVED, Paths, removed
from sft.recipe.read import load, rounds
from sft.watch.jobs import own_jobs, queued

# In a link's folder of logs: the losses of NeMo-RL are read from these (engines/nemo_rl/driver_log.py).
RECORD = {"LINK", "driver.log", "driver", "training"}
UNFINISHED = (".*.part", ".*.part-*", ".part*", ".export-*", "STOP-*")


def size(path: Path) -> int:
    """Bytes of a file, or of the files below a folder; a link counts as itself."""
    if path.is_dir() and not path.is_symlink():
        return sum(size(inner) for inner in path.iterdir())
    return path.lstat().st_size


def targets(recipe: Recipe, paths: Paths) -> Iterator[tuple[str, Path]]:
    """(kind, what may go)."""
    for path in sorted((paths.train / "checkpoints").glob("*")):
        if path.suffix != ".jsonl":  # the record of losses
            yield "checkpoint", path
    for path in sorted(paths.convert.glob("step_*")):
        if path != paths.final:
            yield "converted step", path
    for folder in (paths.run, paths.train, paths.convert, paths.average):
        for pattern in UNFINISHED:
            yield from (("unfinished", path) for path in sorted(folder.glob(pattern)))
    for path in sorted((paths.run / "logs").glob("*")):
        yield "log", path
    for path in sorted((paths.train / "logs").glob("*")):
        inner = sorted(path.iterdir()) if path.is_dir() else [path]
        yield from (("log", file) for file in inner if file.name not in RECORD)


def remove(path: Path) -> None:
    """Out of its name first, so that a kill leaves no half of a checkpoint under it."""
    part = path if path.name.startswith(".") else path.with_name(f".{path.name}.part")
    if path != part:
        path.rename(part)
    if part.is_dir() and not part.is_symlink():
        shutil.rmtree(part)
    else:
        part.unlink()


def hold(paths: Paths) -> list[IO[str]]:
    """Take the locks of every stage, so that none can begin. Raises Failure for one that is held."""
    held: list[IO[str]] = []
    for path in sorted({paths.run / ".chain.lock", paths.train / ".lock", *paths.run.glob(".*.lock")}):
        if path.parent.is_dir():
            file = open(path, "a+", encoding="utf-8")  # until the process ends
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                who = file.read().strip().splitlines()[-1:] or ["another process"]
                raise Failure(f"{paths.run} is being worked on ({who[0]}); wait for it, or stop it first") from None
            held.append(file)
    return held


def check_idle(args: argparse.Namespace, paths: Paths) -> None:
    """Raise Failure where a job of the run is queued or running, or where that cannot be told."""
    again = f"MODEL={args.model} ROUND={args.round}"
    if not queued(paths.run / "chain.tsv"):
        return
    if not shutil.which("squeue"):
        raise Failure("a chain of this run was queued, and there is no squeue here to ask; run it on the login node")
    found = own_jobs(paths.run, args.work, args.model, args.round)
    if found is None:
        raise Failure("Slurm does not answer; run it again when squeue does")
    if found[0]:
        job = found[0][0]
        raise Failure(f"job {job.id} of this run is {job.state}; wait for it, or run: make cancel {again}")


def check_unused(args: argparse.Namespace, paths: Paths) -> None:
    """Raise Failure where another round has started from the model of this one."""
    for other in rounds(args.model):
        folder = paths.run.with_name(f"round{other}")
        if args.round == "1" and other != "1" and folder.is_dir() and load(args.model, other)["START_FROM"] == "round1":
            raise Failure(f"{folder} starts from this run's model; clean that with ALL=1 first, or leave out ALL")


def warnings(recipe: Recipe, paths: Paths) -> Iterator[str]:
    """What goes with the files that somebody may still want."""
    if (paths.final / "DONE").is_file():
        return
    saved = max(saved_steps(recipe["ENGINE"], paths.train / "checkpoints"), default=0)
    if saved:
        yield f"WARNING: the run is not finished: without its checkpoints, the last of step {saved:,}, it starts over"


def clean(recipe: Recipe, paths: Paths, found: list[tuple[str, Path]]) -> None:
    """Remove what was found; the manifests of averaged steps are kept beside the average, as make average does."""
    steps = {path.name: path for kind, path in found if kind == "converted step" and (path / "DONE").is_file()}
    averaged = {f"step_{step}" for step in recipe["AVERAGE_STEPS"]} & steps.keys()
    if averaged and (paths.average / "DONE").is_file():
        kept = removed(paths) | {name: read_json(steps[name] / "DONE") for name in averaged}
        write_json(paths.average / REMOVED, kept)
    for _, path in found:
        remove(path)


def main() -> None:
    parser = run_parser(__doc__)
    parser.add_argument("--yes", action="store_true", help="remove what is listed")
    parser.add_argument("--all", action="store_true", help="the whole run: also its model, evaluation and results")
    args, recipe, paths = open_run(parser)
    if not paths.run.is_dir():
        log(f"clean-run: there is no {paths.run}")
        return
    check_idle(args, paths)
    if args.all:
        check_unused(args, paths)
    locks = hold(paths)
    if args.all:
        found = [("run", path) for path in sorted(paths.run.iterdir()) if path.suffix != ".lock"]
    else:
        found = list(targets(recipe, paths))
    sizes = [size(path) for _, path in found]
    rows = [
        (kind, size_text(n), str(path.relative_to(paths.run))) for (kind, path), n in zip(found, sizes, strict=True)
    ]
    print(f"{args.model} round {args.round} in {paths.run}")
    print(text([("what", "size", "where"), *rows, ("total", size_text(sum(sizes)), "")]))
    for line in warnings(recipe, paths):
        print(line)
    if not found:
        log("clean-run: there is nothing to remove")
    elif not args.yes:
        log("clean-run: nothing is removed; YES=1 removes what is listed")
    elif args.all:
        shutil.rmtree(paths.run)
        with suppress(OSError):
            paths.run.parent.rmdir()  # of the model, where it has no other round
        log(f"clean-run: removed {paths.run}, {size_text(sum(sizes))}")
    else:
        clean(recipe, paths, found)
        log(f"clean-run: removed {size_text(sum(sizes))}")
    for file in locks:
        file.close()


if __name__ == "__main__":
    run(main)
