"""An external shuffle: lines go to buckets at random, then each bucket is shuffled in memory.

Every order is as likely as any other, and depends only on the lines, on how they were cut into shards and on the
seed, not on the number of workers. A shard (a part of the input that one worker formats) is written once, as blocks
of lines sorted by bucket, and read twice: bucket by bucket for the shuffled file, block by block for the file in
source order. All reads and writes are sequential or of a slice of a block.
"""

import hashlib
import heapq
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SMALLEST_BLOCK = 12 << 20
SMALLEST_SLICE = 64 << 10
LONGEST = 16


def block_size(total: int) -> int:
    """Bytes of a block and of a bucket, for `total` bytes of lines.

    A bucket is read as one slice out of every block, block_size**2 / total bytes each: blocks grow with the square
    root of the total as soon as slices would be too small to be read at a disk's full speed.
    """
    return max(SMALLEST_BLOCK, int((total * SMALLEST_SLICE) ** 0.5))


@dataclass
class Block:
    """Where a block lies in its shard's file: `ends[b]` is the end of bucket b's lines, counted from `start`."""

    start: int
    rows: int
    ends: list[int]


@dataclass
class Shard:
    """A file of blocks; `name` is the same in every run over the same input, and seeds its draws."""

    path: Path
    name: str
    blocks: list[Block]


def draw(seed: int, name: str, block: int, rows: int, buckets: int) -> list[int]:
    """The bucket of each row of a block."""
    return random.Random(f"{seed} {name} {block}").choices(range(buckets), k=rows)


def by_bucket(ids: list[int]) -> list[int]:
    """The rows of a block in the order in which it holds them."""
    return sorted(range(len(ids)), key=ids.__getitem__)


class ShardWriter:
    """Writes the blocks of a shard. Lines end with a newline and have no other."""

    def __init__(self, path: Path, name: str, seed: int, buckets: int):
        self.shard, self.seed, self.buckets = Shard(path, name, []), seed, buckets
        self.stream = Stream(path, keep=True)

    def write(self, lines: list[bytes]) -> None:
        ids = draw(self.seed, self.shard.name, len(self.shard.blocks), len(lines), self.buckets)
        ends, sizes = [], [0] * self.buckets
        for bucket, line in zip(ids, lines, strict=True):
            sizes[bucket] += len(line)
        end = 0
        for size in sizes:
            end += size
            ends.append(end)
        self.shard.blocks.append(Block(self.stream.bytes, len(lines), ends))
        self.stream.write(b"".join([lines[i] for i in by_bucket(ids)]))

    def close(self) -> Shard:
        self.stream.close()
        return self.shard


class Stream:
    """A file that is written once, from its first byte to its last, and not kept in the page cache.

    The advice starts the write-back of what has just been written and lets go of what has been written back: so tens
    of GB pass through a few pages, which are fast to use again, and nothing that others need is evicted.
    """

    def __init__(self, path: Path, keep: bool = False):
        self.keep = keep
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self.bytes = 0

    def write(self, content: bytes) -> None:
        view = memoryview(content)
        while view:  # a full disk can take a part and raise only then
            view = view[os.write(self.file, view) :]
        self.bytes += len(content)
        if not self.keep:
            os.posix_fadvise(self.file, 0, self.bytes, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        os.close(self.file)


def read_slice(file: int, start: int, size: int) -> bytes:
    """Raises OSError when the file is shorter."""
    content = os.pread(file, size, start)
    if len(content) != size:
        raise OSError(f"a shard is {size - len(content)} bytes short")
    return content


def shuffled(shards: list[Shard], seed: int, buckets: int) -> Iterator[list[bytes]]:
    """The lines of all shards, without their newlines, in random order: one bucket at a time."""
    for bucket in range(buckets):
        lines: list[bytes] = []
        for shard in shards:
            with open(shard.path, "rb", buffering=0) as file:
                for block in shard.blocks:
                    first, last = block.ends[bucket - 1] if bucket else 0, block.ends[bucket]
                    if last > first:
                        lines += read_slice(file.fileno(), block.start + first, last - first).split(b"\n")
                        lines.pop()  # what follows the last newline: nothing
        random.Random(f"{seed} bucket {bucket}").shuffle(lines)
        yield lines


def in_order(shards: list[Shard], seed: int, buckets: int) -> Iterator[list[bytes]]:
    """The lines of the shards, without their newlines, in the order in which they were written: a block at a time."""
    for shard in shards:
        with open(shard.path, "rb", buffering=0) as file:
            for n, block in enumerate(shard.blocks):
                held = read_slice(file.fileno(), block.start, block.ends[-1]).split(b"\n")
                lines = [b""] * block.rows
                for at, line in zip(by_bucket(draw(seed, shard.name, n, block.rows, buckets)), held, strict=False):
                    lines[at] = line
                del held
                yield lines


@dataclass
class Written:
    """What was written to a file. longest: (bytes, offset) of its longest lines, the longest first."""

    rows: int
    bytes: int
    sha256: str
    longest: list[tuple[int, int]]


def write_lines(groups: Iterator[list[bytes]], target: Path) -> Written:
    """Write groups of lines as one file, and hash it on the way."""
    digest, rows, stream = hashlib.sha256(), 0, Stream(target)
    longest = [(0, 0)] * LONGEST
    for lines in groups:
        rows, at = rows + len(lines), stream.bytes
        for line in lines:
            if len(line) > longest[0][0]:
                heapq.heappushpop(longest, (len(line), at))
            at += len(line) + 1
        if lines:
            lines.append(b"")
            content = b"\n".join(lines)
            lines.clear()
            digest.update(content)
            stream.write(content)
    stream.close()
    return Written(rows, stream.bytes, digest.hexdigest(), sorted((x for x in longest if x[0]), reverse=True))
