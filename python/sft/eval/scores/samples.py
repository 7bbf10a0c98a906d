"""The graded answers that scores are made of: k samples of each problem, no more and no fewer.

An average over k that were never made, divided by k all the same, falls as 1/k (lighteval#771). So the number of
samples of each problem is compared with k before anything is computed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sft.lib.errors import Failure

Votes = list[tuple[str | None, bool]]


@dataclass(frozen=True, slots=True)
class Sample:
    """One graded answer. sample: its number, from 0. tokens: generated ones. finish: stop, length or another reason.
    calls: of code; None where the mode has none."""

    benchmark: str
    problem: str
    subset: str
    sample: int
    answer: str | None
    correct: bool
    tokens: int
    finish: str
    calls: int | None = None


def read(rows: Iterable[dict[str, Any]], place: str = "the graded rows") -> list[Sample]:
    """Samples of rows with the fields of Sample; subset and calls may be missing. Raises Failure naming the row."""
    kinds: dict[str, tuple[type, ...]] = {
        **{"benchmark": (str,), "problem": (str,), "subset": (str,), "sample": (int,), "answer": (str, type(None))},
        **{"correct": (bool,), "tokens": (int,), "finish": (str,), "calls": (int, type(None))},
    }
    made = []
    for number, row in enumerate(rows, 1):
        row = {"subset": "", "calls": None} | row
        for name, allowed in kinds.items():
            wrong = name not in row or not isinstance(row[name], allowed)
            if wrong or (isinstance(row[name], bool) and bool not in allowed):
                raise Failure(f"{place}, row {number}: {name!r} is missing or no {allowed[0].__name__}; grade it again")
        made.append(Sample(**{name: row[name] for name in kinds}))
    return made


def subsets(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """(benchmark -> its samples), and each of its subsets as <benchmark>/<subset>, in the order of their rows."""
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.benchmark, []).append(sample)
        if sample.subset:
            found.setdefault(f"{sample.benchmark}/{sample.subset}", []).append(sample)
    return found


def by_problem(samples: Iterable[Sample], k: int, problems: int | None = None) -> dict[str, list[Sample]]:
    """problem -> its samples 0 to k-1, in their order. problems: how many there must be.

    Raises Failure unless each problem has exactly these: not one missing, doubled or beyond.
    """
    found: dict[str, dict[int, Sample]] = {}
    for sample in samples:
        of = found.setdefault(sample.problem, {})
        if sample.sample in of:
            raise Failure(f"problem {sample.problem} has sample {sample.sample} twice; remove one of the rows")
        of[sample.sample] = sample
    if not found:
        raise Failure("there is no answer to score; make some first")
    if problems is not None and len(found) != problems:
        raise Failure(f"{len(found):,} of {problems:,} problems have answers; continue with make eval until all have")
    for name, of in found.items():
        if len(of) != k or any(number not in of for number in range(k)):
            raise Failure(f"problem {name} has {len(of)} samples, where {k} are averaged; continue with make eval")
    return {name: [of[number] for number in range(k)] for name, of in found.items()}


def votes(samples: Iterable[Sample]) -> Votes:
    return [(sample.answer, sample.correct) for sample in samples]
