"""Read OpenMathReasoning's files, parquet or JSONL, in parts that workers take; name every fault by file and row."""

import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.lib import files as lib_files
from sft.lib.errors import Failure
from sft.lib.file_sets import check_no_copies, check_one_form, check_shards
from sft.lib.progress import Progress
from sft.lib.workers import Workers

Batch = dict[str, list[Any]]  # column -> values; ... stands for a field that a JSON object does not have
Choose = Callable[[Sequence[int], Batch], list[int]]
BATCH = 64  # rows; more take more memory and are not faster


def source_files(source: Path, split: str) -> list[Path]:
    """The parquet or JSONL files of a split: those whose name starts with it, also below data/ as the hub has them.

    Raises Failure where there is none, a shard is missing, or the split is there in more than one form.
    """
    folders = [source, source / "data"]
    found = sorted(
        p
        for f in folders
        if f.is_dir()
        for p in f.iterdir()
        if re.fullmatch(rf"{split}([-.].*)?\.(parquet|jsonl)", p.name) and p.is_file()
    )
    if not found:
        raise Failure(f"{source} has no {split}-*.parquet or {split}*.jsonl; set DATA_SRC to the folder that has")
    check_one_form(found, f"split {split}")
    check_shards(found)
    return found


@dataclass
class Source:
    """A file as it was when its hash was taken. parts: (first row group, first row, text bytes) of a parquet file."""

    path: Path
    split: str
    sha256: str
    size: int
    mtime_ns: int
    rows: int | None
    parts: list[tuple[int, int, int]]

    @property
    def text(self) -> int:
        """Bytes of text in it, about; of a JSONL file an upper bound."""
        return self.size if self.rows is None else sum(size for _, _, size in self.parts)


def open_parquet(path: Path, columns: list[str]) -> Any:
    """pyarrow's file, with text where text belongs. Raises Failure naming file and column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from None
    schema = file.schema_arrow
    for column in columns:
        if column not in schema.names:
            raise Failure(f"{path}: no column {column!r} among {', '.join(schema.names)}; fetch the file again")
        kind = schema.field(column).type
        if column in TEXTS and not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise Failure(f"{path}: column {column!r} holds {kind}, not text; fetch the file again")
    return file


def unreadable(path: Path, error: Exception) -> Failure:
    if not path.is_file():
        return Failure(f"{path} has vanished; bring it back and run it again")
    return Failure(f"{path}: cannot be read as parquet ({str(error).splitlines()[0][:150]}); fetch it again")


def inspect_source(task: tuple[Path, str, list[str]]) -> Source:
    """Hash a file and see where it can be cut."""
    path, split, columns = task
    stat = path.stat()
    rows, parts = None, []
    if path.suffix == ".parquet":
        import pyarrow as pa

        pa.set_memory_pool(pa.system_memory_pool())  # gives memory back, as the others do not at once
        file = open_parquet(path, columns)
        texts = [file.metadata.schema.names.index(c) for c in TEXTS] if file.metadata.num_row_groups else []
        rows = 0
        for n in range(file.metadata.num_row_groups):
            group = file.metadata.row_group(n)
            parts.append((n, rows, sum(group.column(c).total_uncompressed_size for c in texts)))
            rows += group.num_rows
    return Source(path, split, lib_files.sha256(path), stat.st_size, stat.st_mtime_ns, rows, parts)


@dataclass
class Part:
    """What one worker reads at a time. first, last: row groups of a parquet file, bytes of a JSONL file.

    row: number of rows before it, where that is known; bytes: about, of text in it.
    """

    path: Path
    split: str
    name: str
    size: int
    mtime_ns: int
    first: int
    last: int
    row: int
    bytes: int


def cut(sources: list[Source], block: int) -> list[Part]:
    """Parts of about a block each, the same in every run over the same files."""
    parts: list[Part] = []

    def add(source: Source, first: int, last: int, row: int, size: int) -> None:
        n = sum(part.split == source.split for part in parts)
        facts = (source.path, source.split, f"{source.split}-{n:05d}", source.size, source.mtime_ns)
        parts.append(Part(*facts, first, last, row, size))

    for source in sources:
        if source.rows is None:
            pieces = max(1, round(source.size / block))
            edges = [source.size * n // pieces for n in range(pieces + 1)]
            for first, last in itertools.pairwise(edges):
                add(source, first, last, -1, last - first)
            continue
        first = row = size = 0
        for n, at, bytes_ in source.parts:
            if size and size + bytes_ > 1.25 * block:
                add(source, first, n, row, size)
                first, row, size = n, at, 0
            size += bytes_
        if source.parts:
            add(source, first, len(source.parts), row, size)
    return parts


def check_unchanged(part: Part) -> None:
    """Raises Failure when the file of a part is not what it was when its hash was taken."""
    try:
        stat = part.path.stat()
    except FileNotFoundError:
        raise Failure(f"{part.path} has vanished; bring it back and run it again") from None
    if (stat.st_size, stat.st_mtime_ns) != (part.size, part.mtime_ns):
        raise Failure(f"{part.path} has changed since it was hashed; let it be, and run it again")


def batches(
    part: Part, columns: list[str], first: Sequence[str] = (), choose: Choose | None = None
) -> Iterator[tuple[Sequence[int], Batch]]:
    """(row numbers, columns) of a part, some dozen rows at a time. Raises Failure for what cannot be read.

    Row numbers are those `bad_row` takes. choose: sees the columns `first` of a batch and says which of its rows are
    wanted; only of these the others are made Python's.
    """
    return (jsonl_batches if part.row < 0 else parquet_batches)(part, columns, first, choose)


def parquet_batches(
    part: Part, columns: list[str], first: Sequence[str], choose: Choose | None
) -> Iterator[tuple[Sequence[int], Batch]]:
    """Rows are counted from the start of the file."""
    import pyarrow as pa

    file = open_parquet(part.path, columns)
    row, groups = part.row, list(range(part.first, part.last))
    read = list(dict.fromkeys([*columns, *first]))
    try:
        for batch in file.iter_batches(batch_size=BATCH, row_groups=groups, columns=read, use_threads=False):
            numbers: Sequence[int] = range(row, row + len(batch))
            row += len(batch)
            if choose:
                # Not by take, which brings in all of pyarrow.compute: 40 MB a worker for a row in ten.
                wanted = choose(numbers, {name: batch.column(name).to_pylist() for name in first})
                numbers = [numbers[n] for n in wanted]
                yield numbers, {name: [batch.column(name)[n].as_py() for n in wanted] for name in columns}
            else:
                yield numbers, {name: batch.column(name).to_pylist() for name in columns}
    except UnicodeDecodeError as error:
        where = f"{part.path}: one of rows {numbers[0] + 1} to {numbers[-1] + 1}"
        raise Failure(f"{where}: not UTF-8 ({error}); fetch the file again") from None
    except (pa.ArrowException, OSError) as error:
        raise unreadable(part.path, error) from None


def jsonl_batches(
    part: Part, columns: list[str], first: Sequence[str], choose: Choose | None
) -> Iterator[tuple[Sequence[int], Batch]]:
    """Rows are counted from the start of the part, for nobody has counted the lines before it: see `bad_row`."""
    import orjson

    n, rows = 0, []

    def batch() -> tuple[Sequence[int], Batch]:
        numbers: Sequence[int] = range(n - len(rows), n)
        wanted = rows
        if choose:
            at = choose(numbers, {name: [row.get(name, ...) for row in rows] for name in first})
            numbers, wanted = [numbers[i] for i in at], [rows[i] for i in at]
        return numbers, {name: [row.get(name, ...) for row in wanted] for name in columns}

    with open(part.path, "rb") as file:
        if part.first:
            file.seek(part.first - 1)
            file.readline()  # the line that the part before this one ends with
        while file.tell() < part.last and (line := file.readline()):
            try:
                value = orjson.loads(line)
            except ValueError:
                value = malformed(part, n, line)
            if not isinstance(value, dict):
                raise bad_row(part, n, "malformed JSON line (not an object)")
            rows.append(value)
            n += 1
            if len(rows) == BATCH:
                yield batch()
                rows.clear()
        if rows:
            yield batch()


def malformed(part: Part, n: int, line: bytes) -> Any:
    """What the standard library makes of a line that the fast parser refuses, such as one with NaN in it."""
    try:
        return json.loads(line)
    except ValueError as error:
        raise bad_row(part, n, f"malformed JSON line ({error})") from None


def bad_row(part: Part, row: int, why: str) -> Failure:
    """The failure that names a row by its number in the file, or its line; row: rows before it in file or part."""
    if part.row < 0:
        with open(part.path, "rb") as file:
            before, left = 0, part.first - 1 if part.first else 0
            while left > 0 and (block := file.read(min(left, 1 << 24))):
                before, left = before + block.count(b"\n"), left - len(block)
            if part.first:
                file.seek(part.first - 1)
                before += file.readline().endswith(b"\n")
        return Failure(f"{part.path}:{before + row + 1}: {why}; fix or remove it")
    return Failure(f"{part.path}: row {row + 1}: {why}; fix or remove it")


TEXTS = ("problem", "generated_solution")


def inspect_all(workers: Workers, files: list[tuple[Path, str]], columns: dict[str, list[str]]) -> list[Source]:
    """Hashes, rows and row groups of the source files, in their order."""
    progress = Progress("data: MB read and hashed", sum(path.stat().st_size for path, _ in files) >> 20)
    found: dict[Path, Source] = {}
    for _, source in workers.run(inspect_source, [(path, split, columns[split]) for path, split in files]):
        found[source.path] = source
        progress.show(sum(s.size for s in found.values()) >> 20)
    for name in {split for _, split in files}:
        check_no_copies({str(path): found[path].sha256 for path, split in files if split == name and found[path].size})
    return [found[path] for path, _ in files]
