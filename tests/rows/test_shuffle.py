"""The file that is written past the page cache: whatever the sizes of its lines, its bytes are theirs."""

import errno
import os
import random
from pathlib import Path

import pytest

from sft.rows import shuffle


@pytest.mark.parametrize("direct", [True, False])
def test_a_stream_writes_every_byte_whatever_the_lengths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direct: bool
) -> None:
    monkeypatch.setattr(shuffle, "CHUNK", 2 * shuffle.PAGE)
    opened = os.open

    def without_direct(path: Path, flags: int, *mode: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument", str(path))
        return opened(path, flags, *mode)

    if not direct:
        monkeypatch.setattr(os, "open", without_direct)
    draw = random.Random(0)
    for lengths in (
        [],
        [0],
        [1],
        [8191],
        [8192],
        [8193],
        [4096] * 5,
        [40000, 3],
        [draw.randrange(20000) for _ in range(50)],
    ):
        lines = [os.urandom(n) for n in lengths]
        stream = shuffle.Stream(tmp_path / "out")
        stream.write([memoryview(line) for line in lines])
        stream.close()
        assert (tmp_path / "out").read_bytes() == b"".join(lines)
        assert stream.bytes == sum(lengths)


def test_a_full_disk_is_an_error_of_the_stream(small_disk: Path) -> None:
    stream = shuffle.Stream(small_disk / "out")
    with pytest.raises(OSError, match="No space left"):
        for _ in range(4):
            stream.write([memoryview(bytes(1 << 20))] * 4)
    with pytest.raises(OSError, match="No space left"):
        stream.close()


def test_a_line_larger_than_a_block_has_one_of_its_own(tmp_path: Path) -> None:
    writer = shuffle.ShardWriter(tmp_path / "shard", "name", 1, 3, 100)
    lines = [b"a" * n + b"\n" for n in (10, 20, 500, 30, 99, 100, 7)]
    for line in lines:
        writer.add(line)
    shard = writer.close()
    assert [b.rows for b in shard.blocks] == [2, 1, 1, 1, 1, 1]
    got = [bytes(line) for group in shuffle.in_order([shard], 1, 3) for line in group]
    assert got == lines
    mixed = [bytes(line) for group in shuffle.shuffled([shard], 1, 3) for line in group]
    assert sorted(mixed) == sorted(lines)


def test_a_shard_that_is_cut_short_is_an_error(tmp_path: Path) -> None:
    writer = shuffle.ShardWriter(tmp_path / "shard", "name", 1, 2, 1000)
    for n in range(100):
        writer.add(b"%d\n" % n)
    shard = writer.close()
    os.truncate(shard.path, 50)
    with pytest.raises(OSError, match="too short"):
        list(shuffle.in_order([shard], 1, 2))


def test_blocks_grow_so_that_a_slice_stays_worth_reading() -> None:
    for total in (0, 10**6, 10**9, 10**10, 10**11, 10**12):
        size = shuffle.block_size(total)
        assert size >= shuffle.SMALLEST_BLOCK
        assert total < 10**10 or size * size / total >= shuffle.SMALLEST_SLICE * 0.99
    assert shuffle.block_size(77 * 10**9) < 80 << 20  # the published data set
