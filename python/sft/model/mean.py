"""The mean of the tensors of several safetensors folders, in pieces: float32 sums in order, one rounding.

The output is cut into chunks. Worker processes read a chunk's inputs block by block, average them, and write the
chunk to its place; the parent hashes the chunks in order as they are done. Memory is a few MiB a worker, however large
the tensors: files are read into buffers that are used again, never mapped. Nothing here imports torch, which would take
longer than averaging a small model.
"""

import errno
import hashlib
import json
import mmap
import os
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from math import prod
from pathlib import Path
from typing import Any

from sft.lib.errors import Failure
from sft.lib.progress import Progress
from sft.lib.workers import Workers, cores

CHUNK = 2 << 20  # bytes of output in one task and one write
BLOCK = 1 << 18  # bytes of an input in one pass: long enough for numpy's loops, and its sums stay in the cache
AHEAD = 3  # chunks a worker that are begun, or waiting for an earlier one to be hashed
MOST = 8  # workers; one process hashes no more than eight can average
OPEN = 200  # files that a process keeps open

SIZES = {"F32": 4, "F16": 2, "BF16": 2}  # bytes of an element, by safetensors' names
INFINITY = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}  # with the sign off, what is below is finite

Tensor = tuple[Path, tuple[int, ...], str]  # file, shape, dtype
Layout = dict[str, Tensor]  # by name


@dataclass
class Span:
    """Bytes of one dtype that lie together in the output and in each input."""

    start: int  # in the output, counted from the end of its header
    size: int  # bytes
    dtype: str
    sources: tuple[tuple[Path, int], ...]  # of each input: file and offset in it


@dataclass
class Shard:
    """One file of the output. chunks: spans of at most CHUNK bytes together, in order and without gaps."""

    path: Path
    head: bytes
    size: int  # bytes after the head
    names: list[str]
    starts: list[int]  # of the tensors, as in Span
    chunks: list[list[Span]]


def size_of(tensor: Tensor) -> int:
    """Bytes."""
    return SIZES[tensor[2]] * prod(tensor[1])


def read_offsets(file: Path) -> dict[str, int]:
    """Tensor name -> offset of its first byte in a safetensors file that the library has found valid."""
    with open(file, "rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header = json.loads(opened.read(length))
    return {name: 8 + length + one["data_offsets"][0] for name, one in header.items() if name != "__metadata__"}


def spans_of(names: list[str], layouts: list[Layout], offsets: dict[Path, dict[str, int]]) -> Iterator[Span]:
    """Where the bytes of `names` are; tensors that are neighbours everywhere are one span, for they may be tiny."""
    span, start = None, 0
    for name in names:
        size, dtype = size_of(layouts[0][name]), layouts[0][name][2]
        if not size:
            continue
        files = [layout[name][0] for layout in layouts]
        sources = tuple((file, offsets[file][name]) for file in files)
        if span and span.dtype == dtype and sources == tuple((f, at + span.size) for f, at in span.sources):
            span.size += size
        else:
            if span:
                yield span
            span = Span(start, size, dtype, sources)
        start += size
    if span:
        yield span


def cut(spans: Iterator[Span]) -> list[list[Span]]:
    """The spans in chunks of CHUNK bytes, or a little less where that would cut an element."""
    chunks: list[list[Span]] = []
    room = 0
    for span in spans:
        done = 0
        while done < span.size:
            size = min(room // SIZES[span.dtype] * SIZES[span.dtype], span.size - done)
            if not size:
                chunks.append([])
                room = CHUNK
                continue
            sources = tuple((file, at + done) for file, at in span.sources)
            chunks[-1].append(Span(span.start + done, size, span.dtype, sources))
            done += size
            room -= size
    return chunks


def plan(target: Path, names: list[str], layouts: list[Layout], offsets: dict[Path, dict[str, int]]) -> Shard:
    """The file `target` of the mean of `names`.

    The format is 8 bytes of header length, a JSON header padded to 8 bytes, and the tensors' bytes in its order
    (safetensors' README, "Format").
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end, starts = 0, []
    for name in names:
        _, shape, dtype = layouts[0][name]
        size = size_of(layouts[0][name])
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        starts.append(end)
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    chunks = cut(spans_of(names, layouts, offsets))
    return Shard(target, struct.pack("<Q", len(text)) + text, end, names, starts, chunks)


# --- files -------------------------------------------------------------------------------------------------------

descriptors: dict[tuple[Path, int], int] = {}  # of this process


def descriptor(path: Path, flags: int = os.O_RDONLY) -> int:
    """Of the file, opened once for many blocks."""
    if (path, flags) not in descriptors:
        if len(descriptors) >= OPEN:
            close_all()
        descriptors[path, flags] = os.open(path, flags)
    return descriptors[path, flags]


def close_all() -> None:
    while descriptors:
        os.close(descriptors.popitem()[1])


def read_into(path: Path, offset: int, buffer: memoryview) -> None:
    """Fill `buffer` from the file. Raises Failure when the file ends before that."""
    file, done = descriptor(path), 0
    while done < len(buffer):
        count = os.preadv(file, [buffer[done:]], offset + done)
        if not count:
            raise Failure(f"{path}: truncated while it was being read; make {path.parent} again")
        done += count


def write_from(path: Path, offset: int, buffer: memoryview) -> None:
    """Write all of `buffer` to its place. Raises OSError that names the file."""
    done = 0
    try:
        file = descriptor(path, os.O_WRONLY)
        while done < len(buffer):
            done += os.pwrite(file, buffer[done:], offset + done)
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror, str(path)) from None


# --- arithmetic, in a worker -------------------------------------------------------------------------------------


class Mean:
    """Buffers and arithmetic. Each method averages one block and leaves it, rounded, in self.raw.

    size: bytes, at most BLOCK; read(n, buffer) fills a buffer of `size` bytes from input n of `count`.
    """

    def __init__(self, count: int):
        import numpy as np

        self.np, self.count = np, count
        self.raw = np.zeros(BLOCK, np.uint8)
        self.total = np.zeros(BLOCK // 2, np.float32)  # an element for each two bytes
        self.more = np.zeros(BLOCK // 2, np.float32)
        self.kinds: dict[str, Callable[[int, Callable[[int, memoryview], None]], None]]
        self.kinds = {"BF16": self.bf16, "F16": self.f16, "F32": self.f32}

    def bf16(self, size: int, read: Callable[[int, memoryview], None]) -> None:
        """A bfloat16 is the upper half of a float32, so a word of two becomes two floats without a conversion.

        That keeps the even elements and the odd ones apart until they are rounded: to nearest, ties to even, by
        adding half of the last place, less one where that place is even, and cutting. Infinities and NaNs made of
        bfloat16 have nothing in the lower half, so they stay what they are.
        """
        np, words = self.np, -(-size // 4)
        upper, half, one, places = np.uint32(0xFFFF0000), np.uint32(0x7FFF), np.uint32(1), np.uint32(16)
        raw, total, more = self.raw[: 4 * words].view(np.uint32), self.total[: 2 * words], self.more[: 2 * words]
        self.raw[size : 4 * words] = 0
        buffer = self.raw.data[:size]
        for n in range(self.count):
            read(n, buffer)
            bits = (more if n else total).view(np.uint32)
            np.left_shift(raw, places, out=bits[:words])
            np.bitwise_and(raw, upper, out=bits[words:])
            if n:
                np.add(total, more, out=total)
        np.divide(total, np.float32(self.count), out=total)
        bits, carry = total.view(np.uint32), more.view(np.uint32)
        np.right_shift(bits, places, out=carry)
        np.bitwise_and(carry, one, out=carry)
        np.add(carry, half, out=carry)
        np.add(bits, carry, out=bits)
        even, odd = bits[:words], bits[words:]
        np.right_shift(even, places, out=even)
        np.bitwise_and(odd, upper, out=odd)
        np.bitwise_or(even, odd, out=raw)

    def f16(self, size: int, read: Callable[[int, memoryview], None]) -> None:
        np = self.np
        raw, total, more = self.raw[:size].view(np.float16), self.total[: size // 2], self.more[: size // 2]
        buffer = self.raw.data[:size]
        for n in range(self.count):
            read(n, buffer)
            np.copyto(more if n else total, raw)
            if n:
                np.add(total, more, out=total)
        np.divide(total, np.float32(self.count), out=total)
        np.copyto(raw, total, casting="same_kind")

    def f32(self, size: int, read: Callable[[int, memoryview], None]) -> None:
        np = self.np
        total, more = self.raw[:size].view(np.float32), self.more[: size // 4]
        read(0, self.raw.data[:size])
        for n in range(1, self.count):
            read(n, memoryview(more.view(np.uint8)))
            np.add(total, more, out=total)
        np.divide(total, np.float32(self.count), out=total)

    def of_block(self, span: Span, done: int, size: int) -> memoryview:
        """The mean of `size` bytes of a span, `done` bytes from its start. Raises ValueError when it is not finite."""

        def read(n: int, buffer: memoryview) -> None:
            path, offset = span.sources[n]
            read_into(path, offset + done, buffer)

        with self.np.errstate(all="ignore"):
            self.kinds[span.dtype](size, read)
        made, limit = self.raw[:size], INFINITY[span.dtype]
        width = 8 * SIZES[span.dtype]
        signed, unsigned = made.view(f"i{width // 8}"), made.view(f"u{width // 8}")
        if signed.max() >= limit or unsigned.max() >= limit | 1 << (width - 1):
            bad = (unsigned & ((1 << (width - 1)) - 1)) >= limit
            raise ValueError(span.start + done + int(bad.argmax()) * width // 8)
        return made.data


@dataclass
class Job:
    """What the workers find in memory when they are forked."""

    shards: list[Shard]
    ring: mmap.mmap  # AHEAD chunks a worker, shared with the parent
    count: int  # inputs


job: Job
mean: Mean

Task = tuple[int, int, int]  # shard, chunk in it, slot of the ring


def begin(what: Job) -> None:
    global job, mean
    close_all()  # the parent's: files have one position and one read-ahead for all who share them
    job, mean = what, Mean(what.count)


def work(task: Task) -> None:
    """Make one chunk, in its slot and in the file. Raises Failure naming a tensor whose mean is not finite."""
    number, which, slot = task
    shard = job.shards[number]
    spans = shard.chunks[which]
    first = spans[0].start
    out = memoryview(job.ring)[slot * CHUNK : (slot + 1) * CHUNK]
    for span in spans:
        for done in range(0, span.size, BLOCK):
            size = min(BLOCK, span.size - done)
            at = span.start - first + done
            try:
                out[at : at + size] = mean.of_block(span, done, size)
            except ValueError as error:
                name = shard.names[bisect_right(shard.starts, error.args[0]) - 1]
                raise Failure(
                    f"{shard.path.name}: the mean of tensor {name} is not finite; a checkpoint is broken"
                ) from None
    write_from(shard.path, len(shard.head) + first, out[: spans[-1].start + spans[-1].size - first])


# --- the whole ---------------------------------------------------------------------------------------------------


def write_means(
    target: Path, shards: dict[str, list[str]], layouts: list[Layout], workers: int | None = None
) -> dict[str, str]:
    """Write the means as the files `shards` (name -> tensors, in order) of `target`; returns the sha256 of each.

    The hashes are those of what was computed, not of what the disk has made of it. Raises Failure and OSError.
    """
    files = {file for layout in layouts for file, _, _ in layout.values()}
    offsets = {file: read_offsets(file) for file in sorted(files)}
    planned = [plan(target / file, names, layouts, offsets) for file, names in shards.items()]
    for shard in planned:
        with open(shard.path, "wb") as file:
            file.write(shard.head)
            file.truncate(len(shard.head) + shard.size)
    processes = max(1, min(cores(workers), MOST, sum(len(shard.chunks) for shard in planned)))
    slots = AHEAD * processes
    progress = Progress("average: bytes", sum(shard.size for shard in planned))
    digests = [hashlib.sha256(shard.head) for shard in planned]
    written = 0

    def tasks() -> Iterator[Task]:
        turns = count()
        for number, shard in enumerate(planned):
            for which, chunk in enumerate(shard.chunks):
                for span in chunk:  # its turn comes when the chunks before it are done; the disk may begin now
                    for path, offset in span.sources:
                        os.posix_fadvise(descriptor(path), offset, span.size, os.POSIX_FADV_WILLNEED)
                yield number, which, next(turns) % slots

    ring = mmap.mmap(-1, slots * CHUNK)
    try:
        with Workers(processes, begin, (Job(planned, ring, len(layouts)),)) as pool:
            for (number, which, slot), _ in pool.ordered(work, tasks(), slots):
                chunk = planned[number].chunks[which]
                size = chunk[-1].start + chunk[-1].size - chunk[0].start
                digests[number].update(memoryview(ring)[slot * CHUNK : slot * CHUNK + size])
                written += size
                progress.show(written)
            pool.close()
    finally:
        close_all()
    return {shard.path.name: digest.hexdigest() for shard, digest in zip(planned, digests, strict=True)}
