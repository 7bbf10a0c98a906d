"""The rows as the engines see them: input and output tokenized apart, loss on the answer and its end of turn.

SftDataset is what nemo-automodel trains on: a dataset of our own because those of 0.7.0 mask pre-rendered text wrongly
(a prompt tokenized with a trailing blank, no loss on the first answer token, a second BOS) or hold the whole file in
memory. VIEWS says of every engine what enters a batch of a row; `fill` is how packed.py puts rows together, `pack`
how NeMo-RL does.
"""

import json
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from lib import Failure

IGNORE = -100  # torch's cross entropy leaves such a label out


class Tokenizer(Protocol):
    def encode(self, text: str, add_special_tokens: bool) -> list[int]: ...


def tokenize(tokenizer: Tokenizer, prompt: str, answer: str, end_of_turn: str) -> tuple[list[int], list[int]]:
    """Token ids of a row and its labels, both of length n, labels not yet shifted.

    Prompt and answer are tokenized apart, as NeMo-RL does (7ea279a nemo_rl/data/llm_message_utils.py:165-199), and
    nothing is added. Labels are IGNORE on the prompt; on the answer they are its ids up to and including
    `end_of_turn`. What the template writes after that token (a newline, in ChatML) is dropped: no server generates it.
    Raises ValueError when the answer does not close with `end_of_turn`.
    """
    text, close, rest = answer.rpartition(end_of_turn)
    if not close or rest.strip():
        raise ValueError(f"output does not end with {end_of_turn}")
    source = tokenizer.encode(prompt, add_special_tokens=False)
    target = tokenizer.encode(text + close, add_special_tokens=False)
    return source + target, [IGNORE] * len(source) + target


class SftDataset:
    """Map-style rows of an input/output JSONL file, read from disk one at a time.

    Only the offsets of the lines are held in memory: 8 bytes a row.
    """

    def __init__(self, path: str, seq_len: int, end_of_turn: str, tokenizer: Tokenizer):
        self.path, self.seq_len, self.end_of_turn, self.tokenizer = Path(path), seq_len, end_of_turn, tokenizer
        self.offsets = line_offsets(self.path)
        self.file = None

    def __len__(self) -> int:
        return len(self.offsets)

    def text(self, index: int) -> tuple[str, str]:
        """Prompt and answer of a row, as the file has them. Raises Failure naming file and line."""
        if self.file is None:  # opened late: each worker process needs its own
            self.file = open(self.path, "rb")
        self.file.seek(self.offsets[index])
        try:
            row = json.loads(self.file.readline())
            if not all(isinstance(row[field], str) for field in ("input", "output")):
                raise TypeError("input or output is not text")
            return row["input"], row["output"]
        except KeyError as error:
            raise self.failure(index, f"field {error} is not there") from None
        except (ValueError, TypeError) as error:
            raise self.failure(index, error) from None

    def failure(self, index: int, why: object) -> Failure:
        return Failure(f"{self.path}:{index + 1}: {why}; run make data again")

    def row(self, index: int) -> tuple[list[int], list[int]]:
        """Ids and unshifted labels of a row. Raises Failure naming file and line."""
        prompt, answer = self.text(index)
        try:
            return tokenize(self.tokenizer, prompt, answer, self.end_of_turn)
        except ValueError as error:
            raise self.failure(index, error) from None

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        """input_ids, labels (the next token, IGNORE where there is no loss) and attention_mask, of length n - 1."""
        return self.item(*self.row(index))

    def item(self, ids: list[int], labels: list[int]) -> dict[str, list[int]]:
        """What the trainer gets of a row's ids and unshifted labels, see __getitem__.

        A row longer than seq_len keeps its place in the batch but carries no loss, as in NeMo-RL
        (7ea279a nemo_rl/data/processors.py:169-178): an answer without its end would teach not to stop.
        """
        if len(ids) > self.seq_len:
            ids = ids[: self.seq_len]
            labels = [IGNORE] * self.seq_len
        return {"input_ids": ids[:-1], "labels": labels[1:], "attention_mask": [1] * (len(ids) - 1)}


def line_offsets(path: Path) -> Sequence[int]:
    """Byte offset of every line of a file, as an int64 array."""
    offsets, position = [0], 0
    with open(path, "rb") as file:
        while block := file.read(1 << 24):
            found = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == 10)
            offsets.append(found + position + 1)
            position += len(block)
    return np.concatenate([np.atleast_1d(o) for o in offsets]).astype(np.int64)[:-1]


# --- what enters a batch of a row, by engine ---------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """A row as it enters an engine's batch, before the labels are shifted by one.

    prompt, answer: numbers of tokens of either, as the engine tokenizes them. ids: int[n], all of them or, of a row
    that is masked, what is left; `split` of them are the prompt's. loss: bool[n], whether a token is a target of the
    loss. positions: how many of ids the model computes on. over: by how many tokens the row is too long; 0: it fits.
    """

    prompt: int
    answer: int
    ids: list[int]
    split: int
    loss: list[bool]
    positions: int
    over: int


def automodel_view(dataset: SftDataset, index: int) -> View:
    """A row as SftDataset gives it. Raises Failure for one that it refuses."""
    ids, labels = dataset.row(index)
    item = dataset.item(ids, labels)
    prompt = labels.count(IGNORE)
    seen, targets = item["input_ids"], [IGNORE, *item["labels"]]
    if targets[-1] != IGNORE:  # the last token is asked for but not given
        seen = [*seen, targets[-1]]
    loss = [target != IGNORE for target in targets[: len(seen)]]
    over = max(0, len(ids) - dataset.seq_len)
    return View(prompt, len(ids) - prompt, seen, min(prompt, len(seen)), loss, len(item["input_ids"]), over)


def nemo_rl_view(dataset: SftDataset, index: int) -> View:
    """A row as NeMo-RL's SFT sees it with the passthrough template and add_bos=false, add_eos=false.

    Prompt and answer are tokenized apart, nothing is added (7ea279a nemo_rl/data/llm_message_utils.py:598-640), and
    every token of the answer carries loss, with the newline after the end of turn (165-199; the very first token of a
    row is no target, nemo_rl/algorithms/loss/loss_functions.py:818). A row of seq_len tokens or more is masked: of
    each message the first min(4, seq_len // 2) tokens stay in the batch (nemo_rl/data/processors.py:169-178).
    v0.7.0 has the same rules.
    """
    prompt, answer = (dataset.tokenizer.encode(text, add_special_tokens=False) for text in dataset.text(index))
    sizes = len(prompt), len(answer)
    over = max(0, sum(sizes) - dataset.seq_len + 1)
    if over:
        kept = min(4, dataset.seq_len // 2)
        prompt, answer = prompt[:kept], answer[:kept]
    loss = [i > 0 and i >= len(prompt) and not over for i in range(len(prompt) + len(answer))]
    return View(*sizes, prompt + answer, len(prompt), loss, len(loss), over)


VIEWS: dict[str, Callable[[SftDataset, int], View]] = {"automodel": automodel_view, "nemo-rl": nemo_rl_view}


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
