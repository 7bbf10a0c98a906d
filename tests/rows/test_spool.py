"""The spool: rows from many files in any order; and the order of a shuffled file."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sft.lib.files import sha256
from sft.rows import spool


def spooled(folder: Path, rows: list[list[bytes]]) -> tuple[list[Path], Any]:
    """A file of each list, and the places of all rows in their order."""
    files = [folder / f"rows{n}" for n in range(len(rows))]
    for file, lines in zip(files, rows, strict=True):
        file.write_bytes(b"".join(lines))
    return files, np.concatenate([spool.place(list(map(len, lines)), n) for n, lines in enumerate(rows)])


@pytest.mark.parametrize(("chunk", "batch"), [(1, 1), (100, 7), (5000, 130), (8 << 20, 1 << 16)])
def test_rows_come_in_the_order_asked_for_whatever_their_sizes(
    chunk: int, batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "CHUNK", chunk)
    monkeypatch.setattr(spool, "BATCH", batch)
    draw = random.Random(0)
    rows = [[draw.randbytes(draw.choice((1, 7, 300, 4096))) for _ in range(size)] for size in (40, 0, 1, 90)]
    files, places = spooled(tmp_path, rows)
    lines = [line for lines in rows for line in lines]
    orders = [list(range(131)), list(range(130, -1, -1)), draw.sample(range(131), 131), [5, 5, 6, 40, 5], [77], []]
    for order in orders:
        made = spool.write(files, spool.in_order(places, order), tmp_path / "out")
        wanted = [lines[i] for i in order]
        content = (tmp_path / "out").read_bytes()
        assert content == b"".join(wanted)
        assert (made.rows, made.bytes, made.sha256) == (len(order), len(content), sha256(tmp_path / "out"))
        assert [size for size, _ in made.longest] == sorted(map(len, wanted), reverse=True)[: spool.LONGEST]
        assert all(content[at : at + size] in wanted for size, at in made.longest)
        pieces = list(spool.chunks(files, [places[order]]))
        assert b"".join(pieces) == content
        assert all(len(piece) <= chunk + max(map(len, wanted)) for piece in pieces if wanted)


def test_files_may_be_named_by_any_number(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one two ")
    places = spool.place([4, 4], 77)
    assert spool.read({77: tmp_path / "a"}, places[::-1]) == b"two one "


def test_rows_beyond_4_gb_have_their_places() -> None:
    places = spool.place(np.full(3, 3 << 30, np.uint32), 0)
    assert places["offset"].tolist() == [0, 3 << 30, 6 << 30]


def test_a_file_that_is_cut_short_is_an_error(tmp_path: Path) -> None:
    files, places = spooled(tmp_path, [[b"%d\n" % n for n in range(100)]])
    with open(files[0], "rb+") as file:
        file.truncate(50)
    with pytest.raises(OSError, match="rows0 is too short"):
        spool.write(files, [places], tmp_path / "out")


def test_a_full_disk_is_an_error(tmp_path: Path, small_disk: Path) -> None:
    files, places = spooled(tmp_path, [[bytes(1 << 20)] * 16])
    with pytest.raises(OSError, match="No space left"):
        spool.write(files, [places], small_disk / "out")


def test_a_row_larger_than_a_block_has_one_of_its_own() -> None:
    assert list(spool.blocks([11, 21, 501, 31, 100, 100, 8], 100)) == [2, 1, 1, 1, 1, 1]
    assert list(spool.blocks([50, 50, 1], 100)) == [2, 1] and list(spool.blocks([], 100)) == []


def test_the_order_is_the_one_that_is_written_down_here() -> None:
    """The same seed gives the same file as ever: rows draw buckets by block, and each bucket is shuffled."""
    lengths = [3, 3, 3, 3, 3]
    drawn = [
        *random.Random("7 a 0").choices(range(2), k=2),
        *random.Random("7 a 1").choices(range(2), k=2),
        *random.Random("7 a 2").choices(range(2), k=1),
        *random.Random("7 b 0").choices(range(2), k=2),
    ]
    wanted = []
    for bucket in range(2):
        rows = [row for row, found in enumerate(drawn) if found == bucket]
        random.Random(f"7 bucket {bucket}").shuffle(rows)
        wanted += rows
    found = spool.shuffled([("a", np.array(lengths)), ("b", np.array([3, 3]))], 7, 2, 6)
    assert found.tolist() == wanted and sorted(wanted) == list(range(7))
    assert spool.shuffled([], 7, 2, 6).tolist() == []


def test_blocks_grow_with_the_root_of_the_whole() -> None:
    for total in (0, 10**6, 10**9, 10**10, 10**11, 10**12):
        size = spool.block_size(total)
        assert size >= spool.SMALLEST_BLOCK
        assert total < 10**10 or size * size / total >= spool.SMALLEST_SLICE * 0.99
    assert spool.block_size(77 * 10**9) < 80 << 20  # the published data set
