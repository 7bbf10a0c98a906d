"""Rows that workers have written to files, put together in another order without holding them in memory.

A worker writes its rows one behind another and keeps their sizes. numpy makes the order of all rows, and a place of 16
bytes for each. A chunk of the output is then read from the files in their own direction, and written at once.
"""

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from itertools import groupby, pairwise
from operator import itemgetter
from os import POSIX_FADV_WILLNEED, posix_fadvise, preadv
from pathlib import Path
from typing import Any

CHUNK = 8 << 20  # bytes of the output in memory
BATCH = 1 << 16  # rows whose places are looked up at a time
LONGEST = 16
SMALLEST_BLOCK = 8 << 20
SMALLEST_SLICE = 32 << 10  # of a bucket in a block
PLACE = [("offset", "<u8"), ("length", "<u4"), ("file", "<u4")]  # of a row

Files = Sequence[Path] | Mapping[int, Path]  # by a PLACE's file


def place(lengths: Any, file: int) -> Any:
    """PLACE of each row of a file, by their sizes in bytes."""
    import numpy as np

    found = np.empty(len(lengths), PLACE)
    found["length"], found["file"] = lengths, file
    found["offset"] = np.cumsum(lengths, dtype=np.uint64) - found["length"]
    return found


def read(files: Files, places: Any) -> bytearray:
    """The rows of `places`, one behind another. Raises OSError for a file that is too short."""
    import numpy as np

    ends = np.cumsum(places["length"], dtype=np.int64)
    order = np.lexsort((places["offset"], places["file"]))
    there, at = places[order], (ends - places["length"])[order]
    # What lies together in a file and in the output is read at once.
    ends_there = there["offset"] + there["length"]
    first = np.ones(len(order), bool)
    first[1:] = (there["file"][1:] != there["file"][:-1]) | (there["offset"][1:] != ends_there[:-1])
    first[1:] |= at[1:] != at[:-1] + there["length"][:-1]
    starts = np.flatnonzero(first)
    sizes = np.add.reduceat(there["length"], starts, dtype=np.int64) if len(starts) else starts
    columns = (there["file"][starts], there["offset"][starts], at[starts], sizes)
    slices = list(zip(*(column.tolist() for column in columns), strict=True))
    buffer = bytearray(int(ends[-1])) if len(ends) else bytearray()
    view = memoryview(buffer)
    for fetch in (True, False):  # all are asked for first: the disk can fetch them in any order
        for file, mine in groupby(slices, itemgetter(0)):
            with open(files[file], "rb", buffering=0) as opened:
                for _, offset, to, size in mine:
                    if fetch:
                        posix_fadvise(opened.fileno(), offset, size, POSIX_FADV_WILLNEED)
                    elif preadv(opened.fileno(), [view[to : to + size]], offset) != size:
                        raise OSError(f"{files[file]} is too short")
    return buffer


def in_order(places: Any, order: Any) -> Iterator[Any]:
    """places[order], some rows at a time."""
    return (places[order[first : first + BATCH]] for first in range(0, len(order), BATCH))


def chunks(files: Files, batches: Iterable[Any]) -> Iterator[bytearray]:
    """The rows of arrays of PLACE, in pieces of whole rows and about CHUNK bytes."""
    import numpy as np

    for places in batches:
        ends = np.cumsum(places["length"], dtype=np.int64)
        cuts = np.searchsorted(ends, np.arange(CHUNK, ends[-1] if len(ends) else 0, CHUNK), "right")
        for start, end in pairwise(np.unique(np.concatenate([[0], cuts, [len(places)]])).tolist()):
            yield read(files, places[start:end])


@dataclass
class Written:
    """What was written to a file. longest: (bytes, offset) of its longest rows, longest first."""

    rows: int
    bytes: int
    sha256: str
    longest: list[tuple[int, int]]


def write(files: Files, batches: Iterable[Any], target: Path) -> Written:
    """Write the rows of arrays of PLACE as one file, and hash it on the way. Raises OSError."""
    import numpy as np

    digest, rows, size = hashlib.sha256(), 0, 0
    longest: list[tuple[int, int]] = []
    with open(target, "wb", buffering=0) as out:
        for places in batches:
            for chunk in chunks(files, [places]):
                digest.update(chunk)
                left = memoryview(chunk)
                while left:  # a full disk takes a part, then raises
                    left = left[out.write(left) :]
            ends = size + np.cumsum(places["length"], dtype=np.int64)
            top = np.argsort(places["length"], kind="stable")[-LONGEST:]
            found = zip(places["length"][top].tolist(), (ends - places["length"])[top].tolist(), strict=True)
            longest = nlargest(LONGEST, [*longest, *found])
            rows, size = rows + len(places), int(ends[-1]) if len(ends) else size
    return Written(rows, size, digest.hexdigest(), longest)


# --- a random order ----------------------------------------------------------------------------------------------


def block_size(total: int) -> int:
    """Bytes of a shard, and of the blocks and buckets of the order, for `total` bytes of rows.

    The number of shards grows with the square root of the total as soon as there would be thousands.
    """
    return max(SMALLEST_BLOCK, int((total * SMALLEST_SLICE) ** 0.5))


def blocks(lengths: list[int], size: int) -> Iterator[int]:
    """Rows of each block of at most `size` bytes; a larger row is a block of its own."""
    rows = fill = 0
    for length in lengths:
        if rows and fill + length > size:
            yield rows
            rows = fill = 0
        rows, fill = rows + 1, fill + length
    if rows:
        yield rows


def shuffled(shards: Iterable[tuple[str, Any]], seed: int, buckets: int, block: int) -> Any:
    """The rows of all shards, numbered from 0, in random order: int64 [rows].

    They go to buckets at random, then each bucket is shuffled. Every order is as likely as any other. It depends only
    on the rows' sizes, on how they were cut into shards and on the seed, not on the number of workers.

    shards: name, which is the same in every run over the same input and seeds the draws, and bytes of each row.
    """
    import numpy as np

    bucket = [
        np.array(random.Random(f"{seed} {name} {n}").choices(range(buckets), k=rows), np.uint32)
        for name, lengths in shards
        for n, rows in enumerate(blocks(lengths.tolist(), block))
    ]
    drawn = np.concatenate(bucket) if bucket else np.empty(0, np.uint32)
    found = np.argsort(drawn, kind="stable")
    ends = np.cumsum(np.bincount(drawn, minlength=buckets)).tolist()
    for n, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        rows = found[start:end].tolist()
        random.Random(f"{seed} bucket {n}").shuffle(rows)
        found[start:end] = rows
    return found
