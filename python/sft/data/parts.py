"""Parts of the input, each made into a shard by a worker; an interrupted run resumes at the first unfinished one."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sft.lib.files import read_json, write_json
from sft.lib.progress import Progress, log
from sft.lib.workers import Workers
from sft.rows.files import Part
from sft.rows.spool import Written


@dataclass
class Shard:
    """What was made of a part: files named NAME.<kind>, with their bytes by kind. Subclasses have only JSON's types."""

    name: str
    files: dict[str, int]


Made = TypeVar("Made", bound=Shard)


def shard_file(folder: Path, name: str, kind: str) -> Path:
    return folder / f"{name}.{kind}"


def finish(folder: Path, made: Made) -> Made:
    """Record that a shard's files are whole."""
    write_json(shard_file(folder, made.name, "json"), dataclasses.asdict(made))
    return made


def finished(folder: Path, name: str, kind: type[Made]) -> Made | None:
    """What an interrupted run made of a part, if it finished it."""
    record = shard_file(folder, name, "json")
    if not record.is_file():
        return None
    made = kind(**read_json(record))
    files = {shard_file(folder, name, suffix): size for suffix, size in made.files.items()}
    return made if all(file.is_file() and file.stat().st_size == size for file, size in files.items()) else None


def make_all(
    workers: Workers,
    function: Callable[[tuple[Any, Part]], Made],
    job: Any,
    parts: list[Part],
    kind: type[Made],
    rows: Callable[[Made], int],
) -> list[Made]:
    """Every part as a shard in job.folder, in order. rows: how many a shard's part had, for the progress."""
    made = {part.name: found for part in parts if (found := finished(job.folder, part.name, kind))}
    if made:
        log(f"data: going on with an interrupted run: {len(made)} of {len(parts)} shards are there")
    tasks = [(job, part) for part in parts if part.name not in made]
    progress, total = Progress("data: rows"), sum(part.bytes for _, part in tasks) or 1
    done_bytes = done_rows = 0
    for (_, part), result in workers.run(function, tasks):
        made[part.name] = result
        done_bytes, done_rows = done_bytes + part.bytes, done_rows + rows(result)
        progress.show(done_rows, done_bytes / total)
    return [made[part.name] for part in parts]


def write_all(
    workers: Workers, function: Callable[[Any], Written], outputs: list[Any], total: int | None
) -> Iterator[tuple[Any, Written]]:
    """The files `target` of the outputs, each by one worker, for its hash is taken from the first byte to the last.

    total: bytes of all of them, for the progress; None where that is not known.
    """
    progress = Progress("data: MB written")

    def tick() -> None:
        size = sum(o.target.stat().st_size for o in outputs if o.target.is_file())
        progress.show(size >> 20, min(1.0, size / max(1, total)) if total is not None else None)

    return workers.run(function, outputs, tick)
