"""A file of answers, <name>.samples.jsonl, from which a run that was killed goes on.

Each answer is appended to <name>.samples.jsonl.part when it comes. When all are there they are written in the order in
which they were asked for. A row holds no times, so the file is the same, byte by byte, however often its making was
interrupted, as long as the engine gives the same answers.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from sft.eval.engines.base import seed_of
from sft.lib.errors import Failure
from sft.lib.files import read_jsonl, trim_torn_line

Row = dict[str, Any]
Key = tuple[str, str, int]  # benchmark, problem, sample


def key_of(row: Row) -> Key:
    return row["benchmark"], row["problem"], row["sample"]


def line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def rows_in(path: Path) -> Iterator[Row]:
    """The rows of a file; the last line of one that is being written may be torn."""
    return read_jsonl(path, torn_tail=path.suffix == ".part")


class Samples:
    """The rows that there are to be, by their keys, and where those are that are there already.

    seeds: key -> seed, in the order in which the file will have them. Raises Failure for rows of other seeds or keys.
    Only the places of rows are in memory: their texts may come to gigabytes.
    """

    def __init__(self, target: Path, seeds: dict[Key, int]):
        self.target, self.seeds = target, seeds
        self.part = target.with_name(f"{target.name}.part")
        self.places: dict[Key, tuple[int, int]] = {}  # offset and length of a row's line
        if not target.is_file():
            trim_torn_line(self.part)
        source = target if target.is_file() else self.part
        self.end = 0
        if source.is_file():
            for row, size in zip(read_jsonl(source), sizes_of_lines(source), strict=True):
                key = key_of(row)
                if seeds.get(key) != row["seed"]:
                    name = "/".join(map(str, key))
                    raise Failure(f"{source}: {name} is of another run, or another SEED; remove the file")
                self.places[key] = (self.end, size)
                self.end += size
        if target.is_file() and self.missing():
            raise Failure(f"{target}: {len(self.missing()):,} of {len(seeds):,} answers are not there; remove the file")
        self.resumed = len(self.places)

    def missing(self) -> list[Key]:
        return [key for key in self.seeds if key not in self.places]

    def __enter__(self) -> "Samples":
        self.file = open(self.part, "ab")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.file.close()

    def add(self, row: Row) -> None:
        """One more answer, which is in the file when this returns."""
        text = line(row).encode()
        self.file.write(text)
        self.file.flush()
        self.places[key_of(row)] = (self.end, len(text))
        self.end += len(text)

    def finish(self) -> None:
        """Write all rows in order, unless that is done. Raises KeyError for a row that is missing."""
        if not self.target.is_file():
            self.part.touch()
            whole = self.target.with_name(f"{self.target.name}.whole")
            with open(self.part, "rb") as source, open(whole, "wb") as file:
                for key in self.seeds:
                    offset, size = self.places[key]
                    source.seek(offset)
                    file.write(source.read(size))
            whole.rename(self.target)
        self.part.unlink(missing_ok=True)


def sizes_of_lines(path: Path) -> Iterator[int]:
    with open(path, "rb") as file:
        yield from map(len, file)


def seeds_of(problems: Sequence[tuple[str, str]], samples: int, seed: int) -> dict[Key, int]:
    """key -> seed of so many samples of each (benchmark, problem): all problems' sample 0 first, then 1, ...

    So a run that is cut short has whole samples, of which averages can be taken.
    """
    keys = [(*problem, sample) for sample in range(samples) for problem in problems]
    if len(set(keys)) != len(keys):
        twice = next(problem for n, problem in enumerate(problems) if problem in problems[:n])
        raise Failure(f"problem {twice[1]} of {twice[0]} is there twice; give each problem an id of its own")
    return {key: seed_of(seed, *key) for key in keys}
