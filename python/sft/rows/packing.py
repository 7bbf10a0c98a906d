"""Which rows are computed together: packs of several rows, and their share for each process."""

from bisect import bisect
from collections.abc import Sequence

# --- packing -----------------------------------------------------------------------------------------------------


def fill(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Bins of row numbers in their order: a row that does not fit any more opens the next bin.

    lengths: int[n], none above `capacity`, which raises ValueError.
    """
    bins: list[list[int]] = []
    free = 0
    for row, length in enumerate(lengths):
        if length > capacity:
            raise ValueError(f"a row of {length} tokens does not go into a bin of {capacity}")
        if not bins or length > free:
            bins.append([])
            free = capacity
        bins[-1].append(row)
        free -= length
    return bins


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Bins of row numbers, none of which sums up to more than `capacity` tokens: NeMo-RL's "modified first fit
    decreasing" (7ea279a and v0.7.0 nemo_rl/data/packing/algorithms.py:476-640), with its order of bins and rows.

    Johnson and Garey's heuristic, except that the rows which fit beside no large one go to the emptiest bin so far, not
    to the first that has room. lengths: int[n], each padded already. Raises ValueError for a row of no tokens or of
    more than the capacity.
    """
    for length in lengths:
        if not 0 < length <= capacity:
            raise ValueError(f"a row of {length} tokens does not go into a bin of {capacity}")

    def of_size(low: float, high: float, largest_first: bool) -> list[int]:
        rows = (i for i, length in enumerate(lengths) if low < length <= high)
        return sorted(rows, key=lengths.__getitem__, reverse=largest_first)

    large = of_size(capacity / 2, capacity, True)
    medium = of_size(capacity / 3, capacity / 2, True)
    small = of_size(capacity / 6, capacity / 3, False)
    tiny = of_size(0, capacity / 6, False)
    bins, free = [[i] for i in large], [capacity - lengths[i] for i in large]

    def put(bin_: int, row: int) -> None:
        bins[bin_].append(row)
        free[bin_] -= lengths[row]

    for b in range(len(bins)):  # beside each large row the largest medium one that fits
        fitting = next((i for i in medium if lengths[i] <= free[b]), None)
        if fitting is not None:
            medium.remove(fitting)
            put(b, fitting)
    for b in reversed(range(len(bins))):  # else the smallest of the small ones, with the largest that fits beside both
        if len(bins[b]) == 1 and len(small) >= 2 and lengths[small[0]] + lengths[small[1]] <= free[b]:
            put(b, small.pop(0))
            fitting = next(i for i in reversed(small) if lengths[i] <= free[b])
            small.remove(fitting)
            put(b, fitting)
    rest = sorted(medium + small + tiny, key=lengths.__getitem__, reverse=True)
    for b in range(len(bins)):
        for i in list(rest):
            if lengths[i] <= free[b]:
                rest.remove(i)
                put(b, i)
    others: list[tuple[int, list[int]]] = []  # (tokens, rows), the emptiest first
    for i in rest:
        tokens, rows = others.pop(0) if others and others[0][0] + lengths[i] <= capacity else (0, [])
        tokens += lengths[i]
        others.insert(bisect(others, tokens, key=lambda bin_: bin_[0]), (tokens, [*rows, i]))
    return bins + [rows for _, rows in others]


def deal(bins: list[list[int]], replicas: int) -> list[list[int]]:
    """The bins and, where their number is not a multiple of `replicas`, new ones of a single row each, taken off those
    with the most rows; bin b is then trained on by replica b % replicas.

    As NeMo-RL (7ea279a nemo_rl/data/packing/algorithms.py:91-160, nemo_rl/distributed/batched_data_dict.py:598-660).
    Raises ValueError when there are too few rows.
    """
    bins = [list(rows) for rows in bins]
    missing = -len(bins) % replicas
    order = sorted(range(len(bins)), key=lambda b: (len(bins[b]), b), reverse=True)
    spare = [b for b in order for _ in bins[b][1:]]
    if missing > len(spare):
        raise ValueError(f"{sum(map(len, bins))} rows do not fill a bin for each of {replicas} replicas")
    return bins + [[bins[b].pop()] for b in spare[:missing]]
