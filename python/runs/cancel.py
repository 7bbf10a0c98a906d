"""Cancel the jobs of a run's chain; a link that is training saves first.

    python3 python/runs/cancel.py tiny 1 --work work

What waits is cancelled at once. The link that runs is asked to save and end, as at its time limit, and is given --wait
seconds for it. Only jobs of this run are touched. Standard library only.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the package sft is

import argparse
import shutil
import time

from sft.engines.saved import saved_steps
from sft.engines.stop import stop_file
from sft.lib.errors import Failure, run, usage
from sft.lib.progress import log
from sft.recipe.command import open_run, run_parser
from sft.recipe.keys import Recipe, count
from sft.recipe.paths import Paths
from sft.site.programs import ask
from sft.watch.jobs import Job, own_jobs

WAIT = 900  # seconds for a link to finish its step and save
GONE = 60  # seconds for Slurm to end what it was told to
POLL = 2


def scancel(ids: list[str]) -> None:
    answer = ask("scancel", *ids)
    if answer is None or answer.returncode:
        said = answer.stderr.strip().splitlines()[-1:] if answer else ["no answer"]
        raise Failure(f"scancel failed ({' '.join(said)}); run: scancel {' '.join(ids)}")


class Chain:
    """The live jobs of one run."""

    def __init__(self, args: argparse.Namespace, paths: Paths):
        self.args, self.paths = args, paths

    def jobs(self) -> tuple[list[Job], list[str]]:
        """(ours, ids that are not ours any more). Raises Failure."""
        found = own_jobs(self.paths.run, self.args.work, self.args.model, self.args.round)
        if found is None:
            raise Failure("Slurm does not answer; run it again when squeue does")
        return found

    def wait(self, ids: list[str], seconds: float, what: str) -> list[str]:
        """Until these jobs have ended, at most so long; returns those that have not."""
        end, said = time.monotonic() + seconds, time.monotonic()
        while True:
            left = [job.id for job in self.jobs()[0] if job.id in ids]
            now = time.monotonic()
            if not left or now >= end:
                return left
            if now - said >= 30:
                said = now
                log(f"cancel: {what}, {end - now:.0f} s left")
            time.sleep(POLL)


def cancel(args: argparse.Namespace, recipe: Recipe, paths: Paths, seconds: int) -> None:
    """Cancel, wait, and say what is left to resume from. Raises Failure."""
    chain = Chain(args, paths)
    own, others = chain.jobs()
    for id_ in others:
        log(f"cancel: job {id_} is not this run's any more; left alone")
    if not own:
        log("cancel: nothing of this run is queued or running")
        return
    training = [job for job in own if job.stage == "train" and job.state == "RUNNING"] if seconds else []
    rest = [job.id for job in own if job not in training]
    if rest:
        scancel(rest)  # first: what follows the link must not start when that ends
        log(f"cancel: cancelled {', '.join(f'{job.stage} {job.id}' for job in own if job not in training)}")
    for job in training:
        stop_file(paths.train, job.id).touch()
        log(f"cancel: asked link {job.id} to save and end; it has {seconds} s")
    late = chain.wait([job.id for job in training], seconds, "waiting for the link to save") if training else []
    if late:
        scancel(late)
        log(f"cancel: link {' '.join(late)} has not ended in {seconds} s; cancelled")
    stuck = chain.wait([job.id for job in own], GONE, "waiting for Slurm to end the jobs")
    for job in training:
        stop_file(paths.train, job.id).unlink(missing_ok=True)
    if stuck:
        raise Failure(f"Slurm has not ended job {' '.join(stuck)} in {GONE} s; see make status, and run it again")
    saved = max(saved_steps(recipe["ENGINE"], paths.train / "checkpoints"), default=0)
    again = f"make train MODEL={args.model} ROUND={args.round} LAUNCHER=slurm"
    log(f"cancel: the last checkpoint is step {saved:,} of {recipe['STEPS']:,}; resume with: {again}")


def main() -> None:
    parser = run_parser(__doc__)
    parser.add_argument("--wait", default=str(WAIT), help=f"seconds for a link to save; 0: none (default: {WAIT})")
    args, recipe, paths = open_run(parser)
    if not count(args.wait):
        usage(f"CANCEL_WAIT={args.wait}; give seconds, 0 not to wait")
    if not (paths.run / "chain.tsv").is_file():
        log("cancel: no chain of this run was queued")
        return
    if not shutil.which("scancel") or not shutil.which("squeue"):
        raise Failure("no scancel here; run it on the cluster's login node")
    cancel(args, recipe, paths, int(args.wait))


if __name__ == "__main__":
    run(main)
