"""An external shuffle: lines go to buckets at random, then each bucket is shuffled in memory.

Every order is as likely as any other, and depends only on the lines, on how they were cut into shards and on the
seed, not on the number of workers. A shard (a part of the input that one worker formats) is written once, as blocks
of lines sorted by bucket, and read twice: bucket by bucket for the shuffled file, block by block for the file in
source order. All reads and writes are sequential or of a slice of a block.
"""

import errno
import hashlib
import heapq
import mmap
import os
import random
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from pathlib import Path

SMALLEST_BLOCK = 8 << 20
SMALLEST_SLICE = 32 << 10
LONGEST = 16
CHUNK = 4 << 20  # bytes of a write
PAGE = 4096  # to whose multiples direct writes keep


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


class Stream:
    """A file that is written once, from its first byte to its last, past the page cache.

    Tens of GB that nobody reads again soon would evict what others need there, and cost more to put there than to
    write. Chunks go to disk while the next is filled. Where the file system has no direct writes, they are plain ones.
    """

    def __init__(self, path: Path):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        try:
            self.file = os.open(path, flags | os.O_DIRECT, 0o644)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self.file = os.open(path, flags, 0o644)
        self.bytes = self.fill = 0
        self.chunks = [memoryview(mmap.mmap(-1, CHUNK)) for _ in range(2)]  # a direct write's memory is aligned
        self.writer, self.writing = ThreadPoolExecutor(1), Future[None]()
        self.writing.set_result(None)

    def write(self, lines: Iterable[memoryview]) -> None:
        for line in lines:
            self.bytes += len(line)
            while len(line) >= CHUNK - self.fill:
                room = CHUNK - self.fill
                self.chunks[0][self.fill :] = line[:room]
                self.flush(CHUNK)
                line = line[room:]
            end = self.fill + len(line)
            self.chunks[0][self.fill : end] = line
            self.fill = end

    def flush(self, size: int) -> None:
        """Hand the current chunk over, once the one before it is written. Raises OSError of that one."""
        self.writing.result()
        self.writing = self.writer.submit(self.put, self.chunks[0][:size])
        self.chunks.reverse()
        self.fill = 0

    def put(self, content: memoryview) -> None:
        while content:  # a full disk takes a part, then raises
            content = content[os.write(self.file, content) :]

    def close(self) -> None:
        """Write what is left, in whole pages, and cut the file to its size."""
        try:
            self.flush(-(-self.fill // PAGE) * PAGE)
            self.writing.result()
            os.ftruncate(self.file, self.bytes)
        finally:
            self.writer.shutdown()
            os.close(self.file)


class ShardWriter:
    """Writes a shard in blocks of about `size` bytes. Lines end with a newline and have no other.

    Lines are copied to one buffer, and written from there: a list of them would take several times their memory.
    """

    def __init__(self, path: Path, name: str, seed: int, buckets: int, size: int):
        self.shard, self.seed, self.buckets = Shard(path, name, []), seed, buckets
        self.stream, self.size, self.buffer, self.ends = Stream(path), size, bytearray(), [0]

    def add(self, line: bytes) -> None:
        if self.buffer and len(self.buffer) + len(line) > self.size:
            self.flush()
        self.buffer += line
        self.ends.append(len(self.buffer))

    def flush(self) -> None:
        rows = len(self.ends) - 1
        if not rows:
            return
        ids = draw(self.seed, self.shard.name, len(self.shard.blocks), rows, self.buckets)
        sizes = [0] * self.buckets
        with memoryview(self.buffer) as view:
            lines = [view[start:end] for start, end in pairwise(self.ends)]
            for bucket, line in zip(ids, lines, strict=True):
                sizes[bucket] += len(line)
            self.shard.blocks.append(Block(self.stream.bytes, rows, list(accumulate(sizes))))
            self.stream.write(lines[i] for i in by_bucket(ids))
            for line in lines:
                line.release()
        self.buffer.clear()
        self.ends = [0]

    def close(self) -> Shard:
        self.flush()
        self.stream.close()
        return self.shard


Slice = tuple[Path, int, int]  # of a shard: path, start, bytes


def read(slices: list[Slice], buffer: bytearray) -> tuple[bytearray, int]:
    """Read slices one behind the other; returns the buffer, or a larger one, and the bytes in it. Raises OSError."""
    total = sum(size for _, _, size in slices)
    if total > len(buffer):
        buffer = bytearray(total)
    for path, start, size in slices:  # the disk can fetch them in any order
        with open(path, "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), start, size, os.POSIX_FADV_WILLNEED)
    view, at = memoryview(buffer), 0
    for path, start, size in slices:
        with open(path, "rb", buffering=0) as file:
            if os.preadv(file.fileno(), [view[at : at + size]], start) != size:
                raise OSError(f"{path} is too short")
            os.posix_fadvise(file.fileno(), start, size, os.POSIX_FADV_DONTNEED)
        at += size
    return buffer, total


def read_groups(groups: Iterable[list[Slice]]) -> Iterator[list[memoryview]]:
    """The lines of each group of slices, valid until the next one. While one is worked on, the next is read."""
    with ThreadPoolExecutor(1) as reader:
        spare, coming = bytearray(), None
        for slices in chain(groups, [None]):
            ready = coming.result() if coming else None
            coming = reader.submit(read, slices, spare) if slices is not None else None
            if ready is None:
                continue
            buffer, total = ready
            view, lines, start = memoryview(buffer), [], 0
            while start < total:
                end = buffer.index(b"\n", start, total) + 1
                lines.append(view[start:end])
                start = end
            yield lines
            spare = buffer


def shuffled(shards: list[Shard], seed: int, buckets: int) -> Iterator[list[memoryview]]:
    """The lines of all shards in random order: one bucket at a time, valid until the next one."""

    def slices(bucket: int) -> Iterator[Slice]:
        for shard in shards:
            for block in shard.blocks:
                first, last = block.ends[bucket - 1] if bucket else 0, block.ends[bucket]
                if last > first:
                    yield shard.path, block.start + first, last - first

    for bucket, lines in enumerate(read_groups(list(slices(b)) for b in range(buckets))):
        random.Random(f"{seed} bucket {bucket}").shuffle(lines)
        yield lines


def in_order(shards: list[Shard], seed: int, buckets: int) -> Iterator[list[memoryview]]:
    """The lines of the shards in the order in which they were added: a block at a time, valid until the next one."""
    blocks = [(shard, n, block) for shard in shards for n, block in enumerate(shard.blocks)]
    groups = read_groups([(shard.path, block.start, block.ends[-1])] for shard, _, block in blocks)
    for (shard, n, block), held in zip(blocks, groups, strict=True):
        lines = list(held)
        for at, line in zip(by_bucket(draw(seed, shard.name, n, block.rows, buckets)), held, strict=True):
            lines[at] = line
        yield lines


@dataclass
class Written:
    """What was written to a file. longest: (bytes, offset) of its longest lines, with their newline, longest first."""

    rows: int
    bytes: int
    sha256: str
    longest: list[tuple[int, int]]


def write_lines(groups: Iterator[list[memoryview]], target: Path) -> Written:
    """Write groups of lines as one file, and hash it on the way."""
    digest, rows, stream = hashlib.sha256(), 0, Stream(target)
    longest = [(0, 0)] * LONGEST
    for lines in groups:
        rows, at = rows + len(lines), stream.bytes
        for line in lines:
            digest.update(line)
            if len(line) > longest[0][0]:
                heapq.heappushpop(longest, (len(line), at))
            at += len(line)
        stream.write(lines)
    stream.close()
    return Written(rows, stream.bytes, digest.hexdigest(), sorted((x for x in longest if x[0]), reverse=True))
