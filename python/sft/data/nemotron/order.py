"""The chosen rows in the curriculum's order, written without holding them in memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from sft.data.nemotron.rules import MODES
from sft.data.nemotron.shards import Curated, read_index, shard_file
from sft.lib.progress import Progress
from sft.lib.workers import Workers
from sft.rows import shuffle

# --- the order, and the files -------------------------------------------------------------------------------------

Edge = tuple[int, int]  # completion tokens, shard: the rows below it are shorter, or as short and of an earlier shard


def edges(folder: Path, made: list[Curated], mode: str, most: int) -> list[Edge]:
    """Where the rows of a mode, by length, are cut in buckets of at most `most` bytes, about; the last is above all."""
    import numpy as np

    sizes = np.zeros(1, np.int64)

    def by_length(shard: Curated) -> Any:
        index = mode_rows(shard, read_index(folder, shard.name), mode)
        return np.bincount(index["completion"], index["training"] + index["messages"], 1).astype(np.int64)

    for shard in made:
        found = by_length(shard)
        sizes, found = (found, sizes) if len(found) > len(sizes) else (sizes, found)
        sizes[: len(found)] += found
    # Of a length that fills more than a bucket, the rows are cut between the shards.
    large = {int(n): [0] * len(made) for n in np.flatnonzero(sizes > most)}
    if large:
        for number, shard in enumerate(made):
            found = by_length(shard)
            for length, column in large.items():
                column[number] = int(found[length]) if length < len(found) else 0
    found_edges: list[Edge] = []
    fill = 0
    for length in map(int, np.flatnonzero(sizes)):
        for number, size in enumerate(large.get(length, [int(sizes[length])])):
            if fill and fill + size > most:
                found_edges.append((length, number))
                fill = 0
            fill += size
    return [*found_edges, (len(sizes), 0)]


def mode_rows(shard: Curated, index: Any, mode: str) -> Any:
    return index[: shard.rows["on"]] if mode == "on" else index[shard.rows["on"] :]


@dataclass
class Output:
    """A file to be written: the rows of a state, in one of the two forms."""

    target: Path
    form: str
    state: int
    chunk: int
    shards: list[Curated]
    folder: Path
    edges: dict[str, list[Edge]]


def cuts(output: Output, mode: str) -> tuple[Any, Any]:
    """For each shard, the row and the byte of its file at which each bucket of a mode begins, and the last one ends.

    Rows are counted from the shard's first. Both: int64 [shards, buckets + 1].
    """
    import numpy as np

    lengths, owners = (np.array(column) for column in zip(*output.edges[mode], strict=True))
    rows, offsets = (np.zeros((len(output.shards), len(lengths) + 1), np.int64) for _ in range(2))
    for n, shard in enumerate(output.shards):
        index = read_index(output.folder, shard.name)
        mine = mode_rows(shard, index, mode)["completion"]
        left, right = (np.searchsorted(mine, lengths, side) for side in ("left", "right"))
        first = 0 if mode == "on" else shard.rows["on"]
        rows[n, 0], rows[n, 1:] = first, first + np.where(n < owners, right, left)
        offsets[n] = np.concatenate([[0], np.cumsum(index[output.form], dtype=np.int64)])[rows[n]]
    return rows, offsets


def in_order(output: Output, mode: str) -> Iterator[list[memoryview]]:
    """The lines of a mode by length: a bucket at a time, valid until the next one."""
    import numpy as np

    state = np.memmap(output.folder / "state", np.uint8, "r")
    base = [0, *accumulate(shard.all_rows() for shard in output.shards)]
    rows, offsets = cuts(output, mode)
    order: list[Any] = []

    def slices(bucket: int) -> list[shuffle.Slice]:
        found, lengths, wanted = [], [], []
        for n, shard in enumerate(output.shards):
            first, last = (int(row) for row in rows[n, bucket : bucket + 2])
            mask = state[base[n] + first : base[n] + last] == output.state
            if not mask.any():
                continue
            path, start = shard_file(output.folder, shard.name, output.form), int(offsets[n, bucket])
            index = read_index(output.folder, shard.name, first, last)
            if mask.sum() * 8 > len(mask):
                found.append((path, start, int(offsets[n, bucket + 1]) - start))
            else:  # a few lines of many
                ends = start + np.cumsum(index[output.form], dtype=np.int64)
                sizes, at = index[output.form][mask], ends[mask]
                found += [(path, int(end) - int(size), int(size)) for end, size in zip(at, sizes, strict=True)]
                index, mask = index[mask], mask[mask]
            lengths.append(index["completion"])
            wanted.append(mask)
        ordered = np.argsort(np.concatenate(lengths), kind="stable") if lengths else np.empty(0, np.int64)
        order.append(ordered[np.concatenate(wanted)[ordered]] if lengths else ordered)
        return found

    groups = shuffle.read_groups(slices(bucket) for bucket in range(rows.shape[1] - 1))
    for lines in groups:
        yield [lines[i] for i in order.pop(0)]


def interleaved(on: Iterator[list[memoryview]], off: Iterator[list[memoryview]], chunk: int) -> Iterator[list[Any]]:
    """Chunks of both, alternating, then the rest of the longer one: groups of lines, valid until the next."""
    feeds, held, at, ended = (on, off), [[], []], [0, 0], [False, False]
    ready: list[Any] = []
    turn = 0
    while not all(ended):
        left = chunk
        while left and not ended[turn]:
            if at[turn] == len(held[turn]):
                if ready:
                    yield ready  # before what its lines are of goes
                    ready = []
                found = next(feeds[turn], None)
                ended[turn], held[turn], at[turn] = found is None, found or [], 0
                continue
            fresh = held[turn][at[turn] : at[turn] + left]
            ready += fresh
            at[turn], left = at[turn] + len(fresh), left - len(fresh)
        turn = 1 - turn
    if ready:
        yield ready


def write_output(output: Output) -> shuffle.Written:
    on, off = (in_order(output, mode) for mode in MODES)
    return shuffle.write_lines(interleaved(on, off, output.chunk), output.target)


def write_all(workers: Workers, outputs: list[Output], total: int) -> dict[str, shuffle.Written]:
    """The output files, each by one worker, for its hash is taken from the first byte to the last. total: bytes."""
    progress = Progress("data: MB written")

    def tick() -> None:
        size = sum(o.target.stat().st_size for o in outputs if o.target.is_file())
        progress.show(size >> 20, min(1.0, size / max(1, total)))

    return {output.target.name: written for output, written in workers.run(write_output, outputs, tick)}
