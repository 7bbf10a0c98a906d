"""What a curated part leaves behind: its rows, and an index of what selection needs of each."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.data.nemotron.template import Rules
from sft.data.parts import Shard, shard_file
from sft.rows.control import Counts

# A row that its shard holds: draw is of the row's text and the seed, so equal rows have equal ones.
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
class Curated(Shard):
    """The shard of a part, and what became of its rows. The rows with reasoning on come first in it, each half sorted.

    files: index, training and messages. rows: by mode. used: rows by reasoning and used_in_training.
    """

    read: dict[str, int]
    dropped: dict[str, dict[str, int]]
    rows: dict[str, int]
    empty: int
    used: dict[str, int]
    control: Counts

    def all_rows(self) -> int:
        return sum(self.rows.values())


def read_index(folder: Path, name: str) -> Any:
    """The INDEX of a shard's rows."""
    import numpy as np

    return np.fromfile(shard_file(folder, name, "index"), INDEX)
