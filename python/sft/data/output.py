"""The formatted rows in one shuffled file per split, and one of all."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sft.data.openmath import Filter, Row, format_messages, format_row
from sft.lib.files import sha256
from sft.lib.progress import Progress
from sft.lib.workers import Workers
from sft.rows import shuffle
from sft.rows.control import Counts

FORMATS, FORMS = ("jsonl", "parquet"), ("text", "messages")


@dataclass
class Job:
    """What all parts have in common."""

    folder: Path
    seed: int
    block: int
    buckets: int
    form: str
    columns: list[str]
    filter: Filter | None

    def make(self, split: str, row: Row) -> Row:
        """The output row of a source row. Raises ValueError naming what is missing."""
        made = format_messages(split, row) if self.form == "messages" else format_row(split, row)
        for column in self.columns:
            if row.get(column, ...) is ...:
                raise ValueError(f"field {column!r} is not there")
            made[column] = row[column]
        return made


@dataclass
class Formatted:
    """The shard that was made of a part, and what became of its rows."""

    shard: shuffle.Shard
    split: str
    read: int
    rows: int
    bytes: int
    dropped: dict[str, int]
    empty: int
    control: Counts


@dataclass
class Merge:
    """An output file to be written: a split's rows in source order, or all rows shuffled."""

    target: Path
    shards: list[shuffle.Shard]
    job: Job
    mixed: bool


def write_output(task: Merge) -> shuffle.Written:
    groups = (shuffle.shuffled if task.mixed else shuffle.in_order)(task.shards, task.job.seed, task.job.buckets)
    return (
        write_parquet(groups, task.target)
        if task.target.suffix == ".parquet"
        else shuffle.write_lines(groups, task.target)
    )


def write_parquet(groups: Iterator[list[memoryview]], target: Path) -> shuffle.Written:
    """The same rows as parquet, for loaders that map it instead of parsing it. No record of the longest rows."""
    import orjson
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, writer, schema = 0, None, None
    for lines in groups:
        for first in range(0, len(lines), 1000):
            values = [orjson.loads(line) for line in lines[first : first + 1000]]
            table = pa.Table.from_pylist(values, schema)
            if writer is None:
                schema = pa.schema([f.with_type(pa.string()) if pa.types.is_null(f.type) else f for f in table.schema])
                table, writer = table.cast(schema), pq.ParquetWriter(target, schema)
            writer.write_table(table)
            rows += len(values)
    if writer is None:  # the filter has left nothing of a split
        writer = pq.ParquetWriter(target, pa.schema([("input", pa.string()), ("output", pa.string())]))
    writer.close()
    return shuffle.Written(rows, target.stat().st_size, sha256(target), [])


def merge_all(
    workers: Workers, job: Job, folder: Path, made: list[Formatted], suffix: str
) -> dict[str, shuffle.Written]:
    """The output files of the shards, each by one worker, for its hash is taken from the first byte to the last."""
    merges = [Merge(folder / f"all.{suffix}", [m.shard for m in made], job, True)]
    sizes: dict[str, int] = {}
    for m in made:
        sizes[m.split] = sizes.get(m.split, 0) + m.bytes
    for split in sorted(sizes, key=sizes.__getitem__, reverse=True):
        merges.append(Merge(folder / f"{split}.{suffix}", [m.shard for m in made if m.split == split], job, False))
    progress, total = Progress("data: MB written"), 2 * sum(sizes.values()) or 1

    def tick() -> None:
        size = sum(m.target.stat().st_size for m in merges if m.target.is_file())
        progress.show(size >> 20, size / total if suffix == "jsonl" else None)

    return {task.target.stem: result for task, result in workers.run(write_output, merges, tick)}
