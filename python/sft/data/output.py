"""The formatted rows in one shuffled file per split, and one of all."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.data.openmath import Filter, Row, format_messages, format_row
from sft.data.parts import Shard, shard_file, write_all
from sft.lib.files import sha256
from sft.lib.workers import Workers
from sft.rows import spool
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
class Formatted(Shard):
    """The shard of a part, and what became of its rows. files: rows, and their lengths."""

    split: str
    read: int
    rows: int
    dropped: dict[str, int]
    empty: int
    control: Counts


@dataclass
class Merge:
    """An output file to be written: a split's rows in source order, or all rows shuffled."""

    target: Path
    shards: list[Formatted]
    job: Job
    mixed: bool


def write_output(task: Merge) -> spool.Written:
    """Memory of a shuffled file: some 40 bytes a row. Raises OSError."""
    import numpy as np

    folder, names = task.job.folder, [shard.name for shard in task.shards]
    lengths = [np.fromfile(shard_file(folder, name, "lengths"), np.uint32) for name in names]
    batches: Iterable[Any] = (spool.place(found, number) for number, found in enumerate(lengths))
    if task.mixed:
        shards = zip(names, lengths, strict=True)
        order = spool.shuffled(shards, task.job.seed, task.job.buckets, task.job.block)
        batches = spool.in_order(np.concatenate(list(batches)), order)
    files = [shard_file(folder, name, "rows") for name in names]
    if task.target.suffix == ".parquet":
        return write_parquet(spool.chunks(files, batches), task.target)
    return spool.write(files, batches, task.target)


def write_parquet(chunks: Iterator[bytearray], target: Path) -> spool.Written:
    """The same rows as parquet, for loaders that map it instead of parsing it. No record of the longest rows."""
    import orjson
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, writer, schema = 0, None, None
    for chunk in chunks:
        lines = chunk.split(b"\n")[:-1]
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
    return spool.Written(rows, target.stat().st_size, sha256(target), [])


def merge_all(workers: Workers, job: Job, folder: Path, made: list[Formatted], suffix: str) -> dict[str, spool.Written]:
    """The output files of the shards."""
    merges = [Merge(folder / f"all.{suffix}", made, job, True)]
    sizes: dict[str, int] = {}
    for shard in made:
        sizes[shard.split] = sizes.get(shard.split, 0) + shard.files["rows"]
    for split in sorted(sizes, key=sizes.__getitem__, reverse=True):
        merges.append(Merge(folder / f"{split}.{suffix}", [m for m in made if m.split == split], job, False))
    total = 2 * sum(sizes.values()) if suffix == "jsonl" else None
    return {task.target.stem: written for task, written in write_all(workers, write_output, merges, total)}
