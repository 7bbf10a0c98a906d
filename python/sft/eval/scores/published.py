"""Published values with their sources, and how far a score of ours is from one.

published.csv holds them: NeMo-Skills' own documents and arXiv 2504.16891. It lies here, not in results/, for a job
reads it from the snapshot of the code.
"""

import csv
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sft.lib.errors import Failure

FILE = Path(__file__).with_name("published.csv")
COLUMNS = ["model", "mode", "benchmark", "metric", "value", "k", "source"]
# Problems of each benchmark: what a published share is a share of.
PROBLEMS = {"aime24": 30, "aime25": 30, "hmmt-24-25": 196, "comp-math-24-25": 256, "hle-math": 975}
# Beyond sampling, engine, precision and formatting move scores by this much, say the authors (NeMo-Skills 8b18f39
# docs/releases/openmathreasoning/evaluation.md:15-20).
POINTS = 6.0
WIDTH = 1.96  # standard errors to either side, which hold 95 of 100

# What a run of a recipe reproduces: (MODEL, ROUND) -> its names in the file. Table 6 of the paper has the models after
# each round; the 32B one was released after the first.
REPRODUCES: dict[tuple[str, str], tuple[str, ...]] = {
    ("qwen1.5b", "1"): ("OpenMath-Nemotron-1.5B (round1)",),
    ("qwen1.5b", "2"): ("OpenMath-Nemotron-1.5B", "OpenMath-Nemotron-1.5B (round2exact)"),
    ("qwen1.5b", "2exact"): ("OpenMath-Nemotron-1.5B", "OpenMath-Nemotron-1.5B (round2exact)"),
    ("qwen7b", "1"): ("OpenMath-Nemotron-7B (round1)",),
    ("qwen7b", "2"): ("OpenMath-Nemotron-7B", "OpenMath-Nemotron-7B (round2exact)"),
    ("qwen7b", "2exact"): ("OpenMath-Nemotron-7B", "OpenMath-Nemotron-7B (round2exact)"),
    ("qwen14b", "1"): ("OpenMath-Nemotron-14B (round1)",),
    ("qwen14b", "2"): ("OpenMath-Nemotron-14B", "OpenMath-Nemotron-14B (round2exact)"),
    ("qwen14b", "2exact"): ("OpenMath-Nemotron-14B", "OpenMath-Nemotron-14B (round2exact)"),
    ("qwen32b", "1"): ("OpenMath-Nemotron-32B",),
}

SAMPLING, DOCS, OUTSIDE = "inside the sampling error", "inside the docs' 6 points", "outside"


@dataclass(frozen=True)
class Published:
    """value: percent. step: half of its last digit's, as far as it may have been rounded. k: samples a problem."""

    model: str
    mode: str
    benchmark: str
    metric: str
    value: float
    k: int
    source: str
    step: float


@cache
def table(path: Path = FILE) -> tuple[Published, ...]:
    """All published values. Raises Failure naming the line that is none, or is there twice."""
    found: dict[tuple[str, str, str, str], Published] = {}
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != COLUMNS:
            raise Failure(f"{path}: the columns are not {','.join(COLUMNS)}; restore the file")
        for row in reader:
            place = f"{path}:{reader.line_num}"
            try:
                value, k = float(row["value"]), int(row["k"])
            except (TypeError, ValueError):
                raise Failure(f"{place}: value or k is no number; restore the file") from None
            if not (0 <= value <= 100 and k > 0 and row["source"]) or row["benchmark"] not in PROBLEMS:
                raise Failure(f"{place}: no percentage of a known benchmark with a source; restore the file")
            digits = len(row["value"].partition(".")[2])
            key = (row["model"], row["mode"], row["benchmark"], row["metric"])
            if key in found:
                raise Failure(f"{place}: {', '.join(key)} is there twice; remove one")
            found[key] = Published(*key, value, k, row["source"], 0.5 * 10**-digits)
    return tuple(found.values())


def published(model: str, benchmark: str, mode: str, path: Path = FILE) -> list[Published]:
    """What is published of a model, by metric; [] where nothing is. benchmark: a subset by its own name."""
    wanted = (model, benchmark.rpartition("/")[2], mode)
    return [row for row in table(path) if (row.model, row.benchmark, row.mode) == wanted]


@dataclass(frozen=True)
class Verdict:
    """difference: ours less theirs, in points. sampling: how many points either way the sampling explains."""

    label: str
    difference: float
    sampling: float


def verdict(value: float, error: float, theirs: Published) -> Verdict:
    """How a score in percent stands to the published one.

    error: its standard error over samples, in points. Theirs is not published; it was as many samples of the same
    problems, so it is taken to be the same, and the difference has that of both. Both limits count as inside. The 6
    points are no sampling error: where the label is theirs, the difference wants a reason.
    """
    sampling = WIDTH * math.sqrt(2) * error + theirs.step
    difference = value - theirs.value
    size = abs(difference) - 1e-9
    label = SAMPLING if size <= sampling else DOCS if size <= POINTS else OUTSIDE
    return Verdict(label, round(difference, 4), round(sampling, 4))
