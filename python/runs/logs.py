"""The lines that matter of a run's last link: errors, warnings, its last steps, what is saved, how it ended.

    python3 python/runs/logs.py qwen7b 1 --work work

Read from the logs of the recipe's engine and of Slurm's job. Standard library only.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the package sft is

import math
import re
from itertools import pairwise
from typing import Any

from sft.engines.saved import history, saved_steps
from sft.lib.errors import run
from sft.lib.table import text
from sft.recipe.command import open_run, run_parser
from sft.recipe.keys import Recipe
from sft.recipe.paths import Paths
from sft.watch.jobs import LIVE, OVER, read_jobs
from sft.watch.lines import ending_of, link_files, matter, read
from sft.watch.pace import moment

STEPS = 5


def job_log(paths: Paths, files: list[Path]) -> Path | None:
    """What Slurm's job of this link wrote: by the job in the link's name, else the newest."""
    name = files[0].parent.name if files[0].parent.name != "logs" else files[0].name
    match = re.match(r"([0-9]+)-", name)
    own = paths.run / "logs" / f"train-{match[1]}.out" if match else None
    return own if own and own.is_file() else None


def step_rows(metrics: dict[int, Any]) -> list[tuple[str, ...]]:
    """Step, loss, tokens a second and seconds of the last steps; - for what the engine does not record."""
    last = list(metrics.items())[-STEPS - 1 :]
    times = [moment(row) for _, row in last]
    took = {b[0]: y - x for (_, b), (x, y) in zip(pairwise(last), pairwise(times), strict=True) if x and y and y > x}
    rows: list[tuple[str, ...]] = []
    for step, row in last[-STEPS:]:
        seconds = row.get("seconds", took.get(step))
        rate = row.get("tps")
        loss = f"{row['loss']:.4f}" if math.isfinite(row["loss"]) else str(row["loss"])
        rows.append((f"{step:,}", loss, f"{rate:,.0f}" if rate else "-", f"{seconds:.2f}" if seconds else "-"))
    return rows


def show(recipe: Recipe, paths: Paths) -> list[str]:
    """What there is to say of the last link, line by line."""
    files = link_files(recipe, paths.train)
    if not files:
        return ["no link of this run has begun"]
    slurm = job_log(paths, files)
    everything = [*files, *([slurm] if slurm else [])]
    errors, warnings = matter(read(everything))
    lines = ["logs:", *(f"  {file}" for file in everything)]
    for name, some in (("errors", errors), ("warnings", warnings)):
        lines += [f"{name}:", *(f"  {line}" for line in some)] if some else [f"{name}: none"]
    if metrics := history(recipe, paths):
        lines += [
            "last steps:",
            *text([("step", "loss", "tokens/s", "seconds"), *step_rows(metrics)], right=True).splitlines(),
        ]
    else:
        lines.append("last steps: none")
    saved = saved_steps(recipe["ENGINE"], paths.train / "checkpoints")
    lines.append(f"saved: step {max(saved):,}, {saved[max(saved)]}" if saved else "saved: nothing")
    done = (paths.train / "DONE").is_file()
    state = next(
        (job.state for job in read_jobs(paths.run / "chain.tsv")[0] if slurm and f"-{job.id}." in slurm.name), ""
    )
    word = ending_of(slurm, files)
    what = "runs" if state in LIVE else "ended"
    job = "the link is over, the run is not" if state == OVER else f"job {state}"
    said = ["training is finished"] * done + [job] * bool(state) + [word or "nothing was said"]
    lines.append(f"{what}: {'; '.join(said)}")
    return lines


def main() -> None:
    args, recipe, paths = open_run(run_parser(__doc__))
    print(f"{args.model} round {args.round} in {paths.run}")
    print("\n".join(show(recipe, paths)))


if __name__ == "__main__":
    run(main)
