"""Two runs side by side: which scores differ by more than their errors explain, which keys, and which problems."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft.eval.scores.published import OUTSIDE, SAMPLING
from sft.lib.errors import Failure, usage
from sft.lib.files import read_json
from sft.recipe.keys import NAME
from sft.results.scores import Score, differ, scores_of

ANSWERS = "answers.json"
NEEDED = ("model", "round", "code", "recipe", "recipe_sha256", "data_sha256", "scores")


@dataclass
class Run:
    """A run's results. answers: key of sft/results/page/answers.py -> its record; {} where there is no answers.json."""

    folder: Path
    result: dict[str, Any]
    label: str
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"{self.result['model']}, round {self.result['round']}"

    @property
    def page(self) -> Path | None:
        page = self.folder / "index.html"
        return page if page.is_file() else None


def open_results(given: str) -> Run:
    """The results that a path names: their folder, the folder of the run, or results.json. Raises Failure."""
    path = Path(given)
    folder = next((f for f in (path, path / "results", path.parent) if (f / "results.json").is_file()), None)
    if folder is None or (folder == path.parent and path.name != "results.json"):
        usage(f"{given} holds no results.json; name a folder that make results wrote, or the run that it is in")
    file = folder / "results.json"
    result = read_json(file)
    missing = [name for name in NEEDED if not isinstance(result, dict) or name not in result]
    if missing:
        raise Failure(f"{file} has no {missing[0]!r}; make the results again")
    for name in (result["model"], result["round"]):
        if not NAME.fullmatch(str(name)):  # they become a file's name
            raise Failure(f"{file}: {named(str(name))} is no name of a recipe; make the results again")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    answers = read_json(folder / ANSWERS) if (folder / ANSWERS).is_file() else []
    label = f"{result['model']}.round{result['round']}.{digest}"
    run = Run(folder.resolve(), result, label)
    try:
        scores_of(result), facts(run)
        run.answers = {record["key"]: record for record in answers}
        for record in answers:
            list(right(record))
    except (KeyError, TypeError, AttributeError, ValueError, ZeroDivisionError):
        raise Failure(f"{folder} does not hold what make results writes; make the results again") from None
    return run


# --- scores ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """A score of both runs, or of one. difference: B less A; sampling: the points that both errors explain."""

    a: Score | None
    b: Score | None
    difference: float | None = None
    sampling: float | None = None

    @property
    def score(self) -> Score:
        found = self.a or self.b
        assert found is not None
        return found

    @property
    def label(self) -> str:
        if self.difference is None or self.sampling is None:
            return "-"
        return SAMPLING if abs(self.difference) <= self.sampling + 1e-9 else OUTSIDE


def pairs(a: Run, b: Run) -> list[Pair]:
    """Every score of either run: those that both have first, then A's, then B's."""
    ours, theirs = ({(s.model, s.name, s.mode, s.metric): s for s in scores_of(run.result)} for run in (a, b))
    made = []
    for key in {**ours, **theirs}:
        one, other = ours.get(key), theirs.get(key)
        made.append(Pair(one, other, *differ(other, one)) if one and other else Pair(one, other))
    return sorted(made, key=lambda pair: pair.difference is None)


# --- recipes and inputs ------------------------------------------------------------------------------------------


def facts(run: Run) -> dict[str, str]:
    """What scores depend on besides the recipe."""
    result = run.result
    machine = result.get("machine") or {}
    protocol = result.get("protocol")
    named = protocol.get("name") if isinstance(protocol, dict) else protocol
    found = {
        "commit": result["code"]["commit"][:12] + (" (dirty)" if result["code"]["dirty"] else ""),
        "data": result["data_sha256"][:12],
        "protocol": named,
        "decoding": result.get("decoding"),
        "grader": result.get("grader"),
        **{name.replace("_", " "): machine.get(name) for name in ("image", "engine", "engine_version", "hardware")},
    }
    return {name: "not recorded" if value is None else str(value) for name, value in found.items()}


def changes(a: Run, b: Run) -> list[tuple[str, str, str]]:
    """(name, A's, B's) of the recipe's keys that differ, then of the other facts."""
    made = []
    for ours, theirs in ((a.result["recipe"], b.result["recipe"]), (facts(a), facts(b))):
        for name in {**ours, **theirs}:
            one, other = (str(values.get(name, "-")) for values in (ours, theirs))
            if one != other:
                made.append((name, one, other))
    return made


# --- problems ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """A problem whose share of right answers differs. a, b: right ones, of so many; places: of its rows in each."""

    problem: str
    a: tuple[int, int]
    b: tuple[int, int]
    places: tuple[int, int]

    @property
    def difference(self) -> float:
        """In points, B less A."""
        return 100 * (self.b[0] / self.b[1] - self.a[0] / self.a[1])


def right(record: dict[str, Any]) -> Iterator[tuple[str, tuple[int, int], int]]:
    """(problem, (right answers, answers), its place) of a record."""
    k = record["samples"]
    for place, problem in enumerate(record["problems"]):
        letters = record["grid"][place * k : (place + 1) * k]
        yield problem, (sum(one in "Rr" for one in letters), sum(one != "." for one in letters)), place


def changed(a: Run, b: Run) -> dict[str, tuple[int, list[Change]]]:
    """key -> (problems that both runs have, those that differ, the greatest difference first)."""
    made = {}
    for key in a.answers.keys() & b.answers.keys():
        theirs = {problem: (counts, place) for problem, counts, place in right(b.answers[key])}
        both = [(p, counts, place, *theirs[p]) for p, counts, place in right(a.answers[key]) if p in theirs]
        found = [Change(p, one, other, (at, place)) for p, one, at, other, place in both if one[1] and other[1]]
        differing = sorted((c for c in found if c.difference), key=lambda c: -abs(c.difference))
        made[key] = (len(found), differing)
    return {key: made[key] for key in a.answers if key in made}


def named(key: str) -> str:
    return json.dumps(key)[1:-1]  # a control character of a name must not reach a terminal
