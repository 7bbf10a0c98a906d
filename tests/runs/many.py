"""A WORK with runs as real ones leave them, for the page of make runs: their files alone, nothing was trained.

PYTHONPATH=python:tests:tests/runs python tests/runs/many.py docs/images/runs.png    # the picture in the documents
"""

import json
import math
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from browser import chromium, picture

ROOT = Path(__file__).parents[2]
WINDOW = (1180, 1150)  # of the picture in the documents
# What squeue says of the jobs of those that are under way.
JOBS = {"101": "RUNNING", "102": "PENDING", "201": "PENDING", "301": "RUNNING"}
GREEDY = {"n": 300, "accuracy": 1.0, "no_answer": 0.0}


class Made(NamedTuple):
    """losses: how many of the steps are recorded. links: seconds of each. jobs: (stage, id).

    scores: model -> set -> mode; empty for none. broken: what stands in RUN instead.
    """

    name: str
    stages: tuple[str, ...]
    steps: int
    losses: int
    links: tuple[int, ...] = ()
    jobs: tuple[tuple[str, str], ...] = ()
    scores: dict[str, Any] | None = None
    broken: str = ""
    device: str = "gpu"
    base: str = "made-up/base-7b"
    round: str = "1"


def sampled(value: float, k: int = 64) -> dict[str, Any]:
    return {"k": k, f"pass@1[avg-of-{k}]": {"value": value}}


def both(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    return {"baseline": before, "trained": after}


DONE = ("train", "average", "eval", "results")
LONG = "our-own-mathematics-and-code-8b-lora-rank64-lr2e-4-packed-16384-second-try"
RUNS = (
    Made(
        "math-7b", DONE, 12_000, 12_000, (14_200, 14_150), scores=both(
            {"comp-math-24-25": {"cot": sampled(10.0), "tir": sampled(12.5)}},
            {"comp-math-24-25": {"cot": sampled(50.0), "tir": sampled(62.5), "genselect": sampled(75.0)},
             "hle-math": {"cot": sampled(5.0, 4)}, "gsm8k": {"cot": {"n": 1319, "accuracy": 0.9}}},
        ),
    ),
    Made("math-1.5b", ("train",), 8_000, 5_210, (14_000,), jobs=(("train", "101"), ("train", "102"))),
    Made("thinking-lora", (), 2_000, 0, jobs=(("train", "201"),), base="made-up/instruct-8b"),
    Made(
        LONG, ("train",), 2_000, 2_000, (9_000,), jobs=(("eval", "301"),), base="made-up/base-8b",
    ),
    Made("dolly-sft", (), 1_000, 137, (1_800,), base="made-up/base-8b"),
    Made("squad-lora", (), 1_000, 400, broken="{", base="made-up/base-8b"),
    Made(
        "tiny", DONE, 600, 600, (130, 131), device="cpu", base="tiny", scores=both(
            {"tiny": {"cot": {**GREEDY, "accuracy": 0.0}}}, {"tiny": {"cot": GREEDY, "tir": sampled(41.7, 4)}}
        ),
    ),
)  # fmt: skip


def loss(step: int, steps: int, draw: random.Random) -> float:
    """As fine-tuning goes: a warm-up, a long slow fall, and noise."""
    return 0.42 + 0.5 * math.exp(-step / 40) + 0.22 * math.exp(-3 * step / steps) + draw.gauss(0, 0.02)


def write(work: Path, made: Made, at: float) -> None:
    """The files of one run, last written at `at`."""
    folder, draw = work / f"runs/{made.name}/round{made.round}", random.Random(made.name)
    record = folder / "train/checkpoints"
    record.mkdir(parents=True)
    recipe = {
        "ENGINE": "automodel", "STEPS": str(made.steps), "NODES": "1" if made.device == "cpu" else "8",
        "GPUS_PER_NODE": "1" if made.device == "cpu" else "8", "DEVICE": made.device, "BASE_MODEL": made.base,
        "DATASET": "tiny" if made.base == "tiny" else "made-up/problems", "GLOBAL_BATCH": "1024", "LR": "1e-5",
        "SEQ_LEN": "32768",
    }  # fmt: skip
    if made.losses or made.broken:
        text = json.dumps({"recipe": recipe, "code": {"commit": draw.randbytes(20).hex()}})
        (folder / "train/RUN").write_text(made.broken or text)
    rows = ({"step": n, "loss": loss(n, made.steps, draw)} for n in range(made.losses))
    (record / "training.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    links = ({"link": n, "seconds": seconds} for n, seconds in enumerate(made.links, 1))
    (folder / "train/links.jsonl").write_text("".join(json.dumps(row) + "\n" for row in links))
    for stage in made.stages:
        (folder / stage).mkdir(exist_ok=True)
        content = {"scores": made.scores or {}, "finished": "2026-01-01T00:00:00Z"} if stage == "eval" else {}
        if made.losses == made.steps:
            (folder / stage / "DONE").write_text(json.dumps(content))
    if made.jobs:
        (folder / "chain.tsv").write_text("".join(f"2026-01-01T00:00:00\t{stage}\t{id_}\n" for stage, id_ in made.jobs))
    for file in folder.rglob("*"):
        os.utime(file, (at, at))


def several(work: Path, count: int = len(RUNS)) -> None:
    """The runs above, and further rounds of them until there are `count`."""
    for n in range(count):
        made = RUNS[n % len(RUNS)]._replace(round=str(n // len(RUNS) + 1))
        if n >= len(RUNS):
            made = made._replace(jobs=())
        write(work, made, 1_790_000_000 - 5_000 * n)


def runs(work: Path, root: Path = ROOT) -> str:
    """What make runs prints of it, with a squeue that knows these jobs; the page is WORK/index.html."""
    programs = work.parent / "bin"
    programs.mkdir(exist_ok=True)
    lines = "".join(f"echo '{id_}|{state}|None'\n" for id_, state in JOBS.items())
    (programs / "squeue").write_text(f"#!/bin/sh\n{lines}")
    (programs / "squeue").chmod(0o755)
    env = os.environ | {"WORK": str(work), "PATH": f"{programs}:{os.environ['PATH']}", "TZ": "UTC"}
    return subprocess.run(
        ["make", "-s", "runs"], cwd=root, env=env, check=True, capture_output=True, text=True
    ).stdout  # fmt: skip


def main(target: Path) -> None:
    """Take the picture: the top of the page, in a window of a laptop's width."""
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        work = Path(folder) / "work"
        several(work)
        runs(work)
        picture(browser, work / "index.html", target, *WINDOW)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
