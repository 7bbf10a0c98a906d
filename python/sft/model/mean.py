"""The mean of the tensors of several safetensors folders, in pieces: float32 sums in order, one rounding.

Threads read and average the pieces; the caller's thread hashes and writes them in order. Memory is a few MiB per
thread, however large the tensors: the library would map whole files, and save only what is whole in memory. Nothing
here imports torch, which takes longer than averaging a small model.
"""

import hashlib
import json
import os
import struct
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from sft.lib.errors import Failure
from sft.lib.progress import Progress
from sft.lib.workers import cores

CHUNK = 1 << 17  # elements of a piece: its sums stay in a core's cache
AHEAD = 3  # pieces per thread that are begun, or wait for an earlier one to be written
MOST = 8  # threads; one thread hashes no more than eight can average

SIZES = {"F32": 4, "F16": 2, "BF16": 2}  # bytes of an element, by safetensors' names
STORED = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # for numpy, which has no bfloat16

Tensor = tuple[Path, tuple[int, ...], str]  # file, shape, dtype
Layout = dict[str, Tensor]  # by name


@dataclass
class Piece:
    """Some elements of a tensor. sources: per input, an open file and the offset of the first of them in it."""

    tensor: str
    dtype: str
    count: int
    sources: list[tuple[int, int]]


def size_of(tensor: Tensor) -> int:
    """Bytes."""
    return SIZES[tensor[2]] * prod(tensor[1])


def read_offsets(file: Path) -> dict[str, int]:
    """Tensor name -> offset of its first byte in a safetensors file that the library has found valid."""
    with open(file, "rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header = json.loads(opened.read(length))
    return {name: 8 + length + one["data_offsets"][0] for name, one in header.items() if name != "__metadata__"}


def head_of(names: list[str], layout: Layout) -> bytes:
    """What a file of these tensors, in this order, begins with.

    The format is 8 bytes of header length, a JSON header padded to 8 bytes, and the tensors' bytes in its order
    (safetensors' README, "Format").
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        _, shape, dtype = layout[name]
        start, end = end, end + size_of(layout[name])
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def mean(piece: Piece) -> memoryview:
    """The rounded mean of a piece, as bytes. Raises Failure where it is not finite, or an input ends early."""
    import numpy as np

    raw = np.empty(piece.count, STORED[piece.dtype])
    buffer, total, bfloat16 = raw.data.cast("B"), np.empty(0, np.float32), piece.dtype == "BF16"
    # In place throughout: the system would fetch the pages of new arrays anew for each piece.
    with np.errstate(all="ignore"):
        for n, (file, offset) in enumerate(piece.sources):
            if os.preadv(file, [buffer], offset) != len(buffer):
                raise Failure(f"tensor {piece.tensor} was truncated while it was being read; make its folder again")
            part = raw
            if bfloat16:  # the upper half of a float32
                part = raw.astype(np.uint32)
                part <<= 16
                part = part.view(np.float32)
            if n:
                total += part
            else:
                total = part.astype(np.float32, copy=not bfloat16)
        total /= np.float32(len(piece.sources))
        if bfloat16:
            # To nearest, ties to even: add half of the last place, less one where that place is even, and cut.
            # Infinities and NaNs made of bfloat16 have nothing in the lower half, so they stay what they are.
            bits = total.view(np.uint32)
            last = bits >> 16
            last &= 1
            last += 0x7FFF
            bits += last
            np.right_shift(bits, 16, out=last)
            raw[:] = last
        else:
            raw[:] = total
    if not np.isfinite(total if bfloat16 else raw).all():
        raise Failure(f"the mean of tensor {piece.tensor} is not finite; a checkpoint is broken")
    return buffer


def pieces(
    names: list[str], layouts: list[Layout], offsets: dict[Path, dict[str, int]], files: dict[Path, int]
) -> Iterator[Piece]:
    """The tensors in pieces of at most CHUNK elements, in order. files: each input's open file."""
    for name in names:
        _, shape, dtype = layouts[0][name]
        inputs = [layout[name][0] for layout in layouts]
        for first in range(0, prod(shape), CHUNK):
            sources = [(files[file], offsets[file][name] + first * SIZES[dtype]) for file in inputs]
            yield Piece(name, dtype, min(CHUNK, prod(shape) - first), sources)


def means(pool: ThreadPoolExecutor, tasks: Iterable[Piece], ahead: int) -> Iterator[memoryview]:
    """The mean of each piece, in their order; at most `ahead` are held at a time."""
    running: deque[Future[memoryview]] = deque()
    for task in tasks:
        running.append(pool.submit(mean, task))
        if len(running) == ahead:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


def write_means(
    target: Path, shards: dict[str, list[str]], layouts: list[Layout], workers: int | None = None
) -> dict[str, str]:
    """Write the means as the files `shards` (name -> tensors, in order) of `target`; returns the sha256 of each.

    The hashes are those of what was computed, not of what the disk has made of it. Raises Failure and OSError.
    """
    offsets = {file: read_offsets(file) for file in sorted({t[0] for layout in layouts for t in layout.values()})}
    threads, written, digests = min(cores(workers), MOST), 0, {}
    progress = Progress("average: bytes", sum(map(size_of, layouts[0].values())))
    with ThreadPoolExecutor(threads) as pool:
        for shard, names in shards.items():
            head = head_of(names, layouts[0])
            digest = hashlib.sha256(head)
            with ExitStack() as opened:
                inputs = {layout[name][0] for layout in layouts for name in names}
                files = {file: opened.enter_context(open(file, "rb")).fileno() for file in inputs}
                out = opened.enter_context(open(target / shard, "wb"))
                out.write(head)
                for made in means(pool, pieces(names, layouts, offsets, files), AHEAD * threads):
                    digest.update(made)
                    out.write(made)
                    written += len(made)
                    progress.show(written)
            digests[shard] = digest.hexdigest()
    return digests
