"""What a curated part leaves behind: its rows, and an index of what selection needs of each."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.data.nemotron.template import Rules
from sft.rows.control import Counts

# Of a row that its shard holds: draw is of the row's text and the seed, so equal rows have equal ones.
INDEX = [("draw", "<u8"), ("completion", "<u4"), ("total", "<u4"), ("training", "<u4"), ("messages", "<u4")]
UNUSED, TRAINING, VALIDATION = range(3)


@dataclass(frozen=True)
class Job:
    """What all parts have in common."""

    folder: Path
    seed: int
    rules: Rules
    tokenizer: Path
    language: Path
    evaluation: tuple[Path, ...]


@dataclass
class Curated:
    """The shard of a part, and what became of its rows. The rows with reasoning on come first in it, each half sorted.

    rows, bytes: of its files, by mode and by output. used: rows by reasoning and used_in_training.
    """

    name: str
    read: dict[str, int]
    dropped: dict[str, dict[str, int]]
    rows: dict[str, int]
    bytes: dict[str, int]
    empty: int
    used: dict[str, int]
    control: Counts

    def all_rows(self) -> int:
        return sum(self.rows.values())


def shard_file(folder: Path, name: str, kind: str) -> Path:
    return folder / f"{name}.{kind}"


def read_index(folder: Path, name: str, first: int = 0, last: int = -1) -> Any:
    """The INDEX of a shard's rows, or of some of them."""
    import numpy as np

    width = np.dtype(INDEX).itemsize
    return np.fromfile(shard_file(folder, name, "index"), INDEX, max(-1, last - first), offset=first * width)
