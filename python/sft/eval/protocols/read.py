"""Protocols: everything that a score depends on besides the model, in a file with a name.

published.toml is what the released models were measured with, today.toml what NeMo-Skills does now. A file has a
section for each mode: cot, tir, genselect. Every key must be there, and no other: one that nothing reads would be
believed.
"""

import tomllib
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from sft.lib.errors import Failure, usage

FOLDER = Path(__file__).parent
MODES = ("cot", "tir", "genselect")

Section = TypeVar("Section")


@dataclass(frozen=True)
class Code:
    """How a model calls Python. calls: how many are run; seconds, characters: of one call. state: replay or live.

    told: the model is shown how many calls are left; closes: an open block is closed, and run, when the model ended its
    turn within it; total_seconds: of a whole generation, 0 for no limit.
    """

    calls: int
    seconds: float
    characters: int
    begin: str
    end: str
    output_begin: str
    output_end: str
    system_begin: str
    system_end: str
    left: str
    none_left: str
    timed_out: str
    cut: str
    state: str
    told: bool
    closes: bool
    total_seconds: float

    @property
    def tag(self) -> str:
        """What engines stop at: the end without the newline that may follow it."""
        return self.end.rstrip("\n")


@dataclass(frozen=True)
class Mode:
    """How answers are sampled. max_tokens: generated ones. top_k -1: off. prompt: the user's turn, to be formatted.

    code: of tir. candidates, summary_characters: of genselect, how many solutions are compared, and how much of each.
    """

    samples: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    max_tokens: int
    stop: tuple[str, ...]
    system: str
    prompt: str
    code: Code | None = None
    candidates: int | None = None
    summary_characters: int | None = None


@dataclass(frozen=True)
class Protocol:
    """comparison, extraction: names in sft/eval/grading/rules.py. tie: first or mean, of sft/eval/scores/votes.py.

    judge: benchmarks whose answers a model compares, and which model.
    """

    name: str
    comparison: str
    extraction: str
    tie: str
    judge: tuple[str, ...]
    judge_model: str
    modes: dict[str, Mode]

    def mode(self, name: str) -> Mode:
        """Raises Failure for a mode that the protocol does not have."""
        if name not in self.modes:
            usage(f"protocol {self.name} has no mode {name}, only {', '.join(self.modes)}; choose another protocol")
        return self.modes[name]


CHOICES = {"comparison": ("release", "today", "values"), "extraction": ("strict", "boxed"), "tie": ("first", "mean")}
CHOICES |= {"state": ("replay", "live")}
# Beyond its type, what a number must be.
LEAST: dict[str, float] = {"samples": 1, "max_tokens": 1, "calls": 0, "seconds": 0.001, "characters": 1, "top_k": -1}
LEAST |= {"total_seconds": 0}
LEAST |= {
    "temperature": 0,
    "min_p": 0,
    "top_p": 1e-9,
    "repetition_penalty": 1e-9,
    "candidates": 2,
    "summary_characters": 1,
}
MOST = {"top_p": 1.0, "min_p": 1.0}
KINDS: dict[Any, tuple[type, ...]] = {int: (int,), float: (int, float), str: (str,), tuple[str, ...]: (list,)}
KINDS |= {int | None: (int,), bool: (bool,)}
OF_MODE = {"tir": ("code",), "genselect": ("candidates", "summary_characters")}


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def section(kind: type[Section], table: Any, place: str, given: dict[str, Any], extra: tuple[str, ...] = ()) -> Section:
    """A dataclass of a table's keys, each checked. given: fields that are not of the table; extra: optional ones that
    this table must have. Raises Failure."""
    if not isinstance(table, dict):
        raise Failure(f"{place} is no section; write it as one")
    wanted = {f.name: f.type for f in fields(kind) if f.name not in given}  # type: ignore[arg-type]
    optional = {f.name for f in fields(kind) if f.default is not MISSING}  # type: ignore[arg-type]
    wanted = {name: type_ for name, type_ in wanted.items() if name not in optional or name in extra}
    for key in table:
        if key not in wanted:
            raise Failure(f"{place}: no key {key!r} is known there; it has {', '.join(wanted)}")
    for key, type_ in wanted.items():
        if key not in table:
            raise Failure(f"{place}: key {key!r} is missing; add it")
        check(table[key], type_, key, place)
    return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in table.items()}, **given)


def check(value: Any, type_: Any, key: str, place: str) -> None:
    """Raise Failure when a value is not of its kind, or out of its range."""
    kinds = KINDS[type_]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise Failure(f"{place}: {key} = {value!r} is not {' or '.join(kind.__name__ for kind in kinds)}; correct it")
    if isinstance(value, list) and not all(isinstance(item, str) and item for item in value):
        raise Failure(f"{place}: {key} = {value!r} is not a list of texts; correct it")
    if isinstance(value, int | float) and not LEAST.get(key, value) <= value <= MOST.get(key, float("inf")):
        most = f" to {MOST[key]:g}" if key in MOST else " up"
        raise Failure(f"{place}: {key} = {value!r} is out of range; it goes from {LEAST[key]:g}{most}")
    if key in CHOICES and value not in CHOICES[key]:
        raise Failure(f"{place}: {key} = {value!r} is none of {', '.join(CHOICES[key])}; correct it")


def mode_of(name: str, table: Any, place: str) -> Mode:
    extra, given = OF_MODE.get(name, ()), {}
    if "code" in extra and isinstance(table, dict):
        if "code" not in table:
            raise Failure(f"{place}: section code is missing; add it")
        given["code"] = section(Code, table["code"], f"{place}.code", {})
        table = {key: value for key, value in table.items() if key != "code"}
        extra = tuple(key for key in extra if key != "code")
    return section(Mode, table, place, given, extra)


def read(path: Path) -> Protocol:
    """A protocol file. Raises Failure naming the key that is wrong, missing or unknown."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Failure(f"{path}: not valid TOML ({error}); correct it") from None
    modes = {name: mode_of(name, table.pop(name), f"{path} [{name}]") for name in MODES if name in table}
    if "cot" not in modes:
        raise Failure(f"{path}: section cot is missing; add it")
    return section(Protocol, table, str(path), {"name": path.stem, "modes": modes})


def protocol(name: str) -> Protocol:
    """The protocol of that name. Raises Failure when there is none."""
    if name not in names():
        usage(f"PROTOCOL={name}: no such protocol; it is {' or '.join(names())}")
    return read(FOLDER / f"{name}.toml")
