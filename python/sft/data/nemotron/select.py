"""Which of the curated rows are trained on: shares by category, held-out rows, no copies."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.data.nemotron.rules import FILTERS, MODES
from sft.data.nemotron.shards import TRAINING, UNUSED, VALIDATION, Curated, Job, read_index
from sft.lib.errors import Failure
from sft.recipe.keys import Recipe

STRATA = 10  # classes of length within which rows are held out
TENTHS = 10


# --- which rows: copies, hold-out, sample ------------------------------------------------------------------------


def lowest(values: Any, among: Any, count: int) -> Any:
    """A mask of the `count` rows of the mask `among` with the lowest values; of equal ones the first."""
    import numpy as np

    if count <= 0:
        return np.zeros(len(values), bool)
    found = values[among]
    if count >= len(found):
        return among.copy()
    found.partition(count - 1)
    edge = found[count - 1]
    del found
    chosen = among & (values < edge)
    ties = np.flatnonzero(among & (values == edge))
    chosen[ties[: count - int(chosen.sum())]] = True
    return chosen


def copies(values: Any) -> Any:
    """A mask of the rows whose value an earlier row has; a sixteenth of them is sorted at a time."""
    import numpy as np

    found = np.zeros(len(values), bool)
    top = np.concatenate([(values[i : i + (1 << 20)] >> np.uint64(60)).astype(np.uint8) for i in starts(values)])
    for n in range(16):
        at = np.flatnonzero(top == n)
        at = at[np.argsort(values[at], kind="stable")]
        found[at[1:][values[at[1:]] == values[at[:-1]]]] = True
    return found


def histogram(values: Any, among: Any) -> Any:
    """How many rows of the mask `among` have each value, some at a time: bincount makes eight bytes of each."""
    import numpy as np

    found = np.zeros(int(values.max()) + 1, np.int64)
    for i in starts(values):
        found += np.bincount(values[i : i + (1 << 20)][among[i : i + (1 << 20)]], minlength=len(found))
    return found


def starts(values: Any) -> range:
    return range(0, max(1, len(values)), 1 << 20)


def shares(sizes: list[int], count: int) -> list[int]:
    """`count` split in proportion to sizes, in whole numbers: the largest remainders are rounded up."""
    total = sum(sizes) or 1
    parts = [size * count // total for size in sizes]
    order = sorted(range(len(sizes)), key=lambda i: (-(sizes[i] * count % total), i))
    for i in order[: count - sum(parts)]:
        parts[i] += 1
    return parts


def position(mode: str, n: int, other: int, chunk: int) -> int:
    """The place in the file of the nth row of a mode, from 0, when there are `other` rows of the other mode."""
    before = n // chunk if mode == "on" else n // chunk + 1
    return n + min(other, before * chunk)


def on_before(place: int, on: int, off: int, chunk: int) -> int:
    """Rows with reasoning on among the first `place` of the file."""
    low, high = 0, on
    while low < high:
        middle = (low + high) // 2
        if position("on", middle, off, chunk) < place:
            low = middle + 1
        else:
            high = middle
    return low


@dataclass
class Selection:
    """What becomes of the rows that passed the filters; all counts by mode."""

    training: dict[str, int]
    validation: dict[str, int]
    left_out: dict[str, int]
    duplicates: dict[str, int]
    tokens: dict[str, Any]


def select(job: Job, made: list[Curated], recipe: Recipe, source: Path) -> Selection:
    """Decide on every row that passed, and write it to job.folder/state, one byte per row in the order of the shards.

    Copies of a row (same prompt and answer) are dropped, except the first. Rows are held out by mode and length, in the
    shares
    that these have, and drawn from the rest by mode; or the first of the finished file are taken, as published. All
    draws come of the rows' text and SEED. Memory: some 26 bytes a row. Raises Failure when no row is left.
    """
    import numpy as np

    rows = sum(shard.all_rows() for shard in made)
    if not rows:
        raise Failure(
            f"the filters leave none of {sum(sum(s.read.values()) for s in made):,} rows of {source}; {why(made)}"
        )
    draws, lengths = np.empty(rows, np.uint64), np.empty(rows, np.uint32)
    is_on, at = np.zeros(rows, bool), 0
    for shard in made:
        index, end = read_index(job.folder, shard.name), at + shard.all_rows()
        draws[at:end], lengths[at:end] = index["draw"], index["completion"]
        is_on[at : at + shard.rows["on"]] = True
        at = end
    masks: dict[str, Callable[[], Any]] = {"on": lambda: is_on, "off": lambda: ~is_on}
    unique = ~copies(draws) if recipe["CURATE_DEDUPLICATE"] else np.ones(rows, bool)
    duplicates = {mode: int((masks[mode]() & ~unique).sum()) for mode in MODES}

    held, asked = np.zeros(rows, bool), recipe["CURATE_VAL_ROWS"]
    left = int(unique.sum())
    if asked >= left:
        raise Failure(f"CURATE_VAL_ROWS={asked} of {left:,} rows leave none to train on; lower it or give more data")
    if asked:
        counts = shares([int((masks[mode]() & unique).sum()) for mode in MODES], asked)
        for mode, count in zip(MODES, counts, strict=True):
            numbers = histogram(lengths, masks[mode]() & unique)
            below = np.cumsum(numbers)
            classes = np.minimum(STRATA * np.maximum(below - 1, 0) // max(1, below[-1]), STRATA - 1).astype(np.uint8)
            sizes = [int(numbers[classes == n].sum()) for n in range(STRATA)]
            for n, part in enumerate(shares(sizes, count)):
                mine = masks[mode]() & unique
                mine[mine] = classes[lengths[mine]] == n
                held |= lowest(draws, mine, part)
    wanted = recipe["CURATE_ROWS"]
    pool = {mode: int((masks[mode]() & unique & ~held).sum()) for mode in MODES}
    taken = dict(pool)
    if 0 < wanted < sum(pool.values()):
        if recipe["CURATE_TAKE"] == "head":
            taken["on"] = on_before(wanted, pool["on"], pool["off"], recipe["CURATE_CHUNK"])
            taken["off"] = wanted - taken["on"]
            by = lengths
        else:
            taken = dict(zip(MODES, shares([pool[mode] for mode in MODES], wanted), strict=True))
            by = draws
        chosen = np.zeros(rows, bool)
        for mode in MODES:
            chosen |= lowest(by, masks[mode]() & unique & ~held, taken[mode])
    else:
        chosen = unique & ~held
    state = np.full(rows, UNUSED, np.uint8)
    state[held], state[chosen] = VALIDATION, TRAINING
    state.tofile(job.folder / "state")
    return Selection(
        taken,
        {mode: int((masks[mode]() & held).sum()) for mode in MODES},
        {mode: pool[mode] - taken[mode] for mode in MODES},
        duplicates,
        count_tokens(job.folder, made, state),
    )


def count_tokens(folder: Path, made: list[Curated], state: Any) -> dict[str, Any]:
    """Tokens of the training rows: in all, of completions, of the longest row."""
    total = completion = longest = at = 0
    for shard in made:
        index = read_index(folder, shard.name)[state[at : at + shard.all_rows()] == TRAINING]
        total, completion = total + int(index["total"].sum()), completion + int(index["completion"].sum())
        longest, at = max(longest, int(index["total"].max(initial=0))), at + shard.all_rows()
    return {"total": total, "completion": completion, "longest": longest}


def why(made: list[Curated]) -> str:
    """What an empty result comes of, most likely."""
    gone = Counter({name: sum(s.dropped[mode][name] for s in made for mode in MODES) for name in FILTERS})
    name, count = gone.most_common(1)[0]
    return f"{count:,} go by {name}, check the CURATE_ keys"
