"""Which of a problem's generations are kept."""

from array import array
from pathlib import Path
from typing import Any, NamedTuple

from sft.data.generations.blocks import BLOCK_BYTES, INDEX, INDEX_FIELDS
from sft.data.generations.options import Options
from sft.data.generations.rules import EDITS, enabled
from sft.rows import spool

# --- between the passes: which rows, in which order ----------------------------------------------------------------


class Chosen(NamedTuple):
    """What `choose` says of the rows."""

    dropped: dict[str, int]
    changed: dict[str, int]
    rows: int
    cuts: list[int]  # where in their order a block ends


def choose(task: tuple[Options, Path]) -> Chosen:
    """Write the PLACEs of the rows that stay to folder/order, in their order, from the INDEX in folder/index.

    In a process of its own: numpy starts threads, and its memory goes back when it is done.
    """
    import numpy as np

    options, folder = task
    # An empty file cannot be mapped.
    size = (folder / "index").stat().st_size // INDEX.size
    table = np.memmap(folder / "index", np.dtype(INDEX_FIELDS), "r") if size else np.zeros(0, np.dtype(INDEX_FIELDS))
    dropped: dict[str, int] = {}

    def groups(hashes: Any) -> tuple[Any, Any]:
        """Position of the first of each group of equal hashes, ascending, and the number of each hash's group."""
        order = np.lexsort((hashes[:, 1], hashes[:, 0]))  # stable
        new = np.zeros(len(order), bool)
        new[:1] = True
        for half in hashes[:, 0], hashes[:, 1]:
            ordered = half[order]
            new[1:] |= ordered[1:] != ordered[:-1]
        member = np.empty(len(order), np.int64)
        member[order] = np.cumsum(new) - 1
        firsts = order[new]
        rank = np.empty(len(firsts), np.int64)
        rank[np.argsort(firsts)] = np.arange(len(firsts))
        return np.sort(firsts), rank[member]

    rows = np.arange(size)
    if options.deduplicate:  # preprocessing.py:180
        rows, _ = groups(table["source"])
    dropped["duplicates"] = size - len(rows)

    verdicts, changes = table["dropped"][rows], table["changed"][rows]
    changed = {}
    for number, name in enumerate(enabled(options)):
        if name in EDITS:
            changed[name] = int((changes >> number & 1).sum())
        else:
            dropped[name] = int((verdicts == number + 1).sum())
    rows = rows[verdicts == 0]

    # Problems in the order in which they first appear, solutions of each in input order (preprocessing.py:222).
    _, problem = groups(table["problem"][rows])
    order = np.argsort(problem, kind="stable")
    rows, problem = rows[order], problem[order]

    if kind := options.code_text_filter:  # filters.py:399
        code = table["code"][rows].astype(bool)
        solutions, with_code = np.bincount(problem), np.bincount(problem[code], minlength=problem.max(initial=-1) + 1)
        most = (with_code > solutions // 2)[problem]
        wanted = {
            "all": code,
            "majority_code": code | ~most,
            "majority_text": code == most,
            "any_code": code == (with_code > 0)[problem],
        }[kind]
        dropped["code_text_filter"] = int((~wanted).sum())
        rows, problem, code = rows[wanted], problem[wanted], code[wanted]
        order = np.lexsort((~code, problem))  # those with code first, stable
        rows, problem = rows[order], problem[order]

    # preprocessing.py:264-306, except for as many rows as asked for: there upstream keeps none.
    number, before = options.num_output_samples, len(rows)
    if options.downsampling_method == "fair" and number < before:
        solutions = np.bincount(problem)
        begin = np.cumsum(solutions) - solutions
        rows = rows[np.lexsort((problem, np.arange(before) - begin[problem]))[:number]]
    if options.shuffle:
        # random's own order: that of upstream, which shuffles as many rows.
        import random

        positions = array("q", rows.astype("<i8").tobytes())
        random.Random(options.random_seed).shuffle(positions)
        rows = np.frombuffer(positions, np.int64)
    if options.downsampling_method == "random":
        rows = rows[:number]
    if number:
        dropped["downsampling"] = before - len(rows)

    before = len(rows)
    firsts, _ = groups(table["result"][rows])  # preprocessing.py:371
    rows = rows[firsts]
    dropped["duplicates_after_filters"] = before - len(rows)

    places = np.empty(len(rows), np.dtype(spool.PLACE))
    for field in places.dtype.names or ():
        places[field] = table[field][rows]
    places.tofile(folder / "order")
    cuts = np.flatnonzero(np.diff(np.cumsum(places["length"].astype(np.int64)) // BLOCK_BYTES)) + 1
    return Chosen(dropped, changed, len(rows), [*cuts.tolist(), len(rows)] if len(rows) else [])
