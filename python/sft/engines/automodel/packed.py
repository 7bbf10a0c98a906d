"""Packed rows for nemo-automodel: each item is one optimizer step, of exactly GLOBAL_BATCH rows in their order.

A dataset of our own because the packers of nemo-automodel 0.7.0 hold all tokenized data in memory, put the rows in
another order (`neat`) or need Transformer Engine (`thd`), and give a step a fixed number of packs, thus any number of
rows. Here a step's rows are those that it has without packing, and only its number of micro-batches varies.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from sft.lib.errors import Failure
from sft.rows.dataset import SftDataset, Tokenizer
from sft.rows.packing import deal, fill

Batch = dict[str, torch.Tensor]


class PackedSteps(IterableDataset):
    """The steps of a run; an item is the list of micro-batches that one replica computes for a step.

    The rows are a stream without end: the file over and over, each time in another order with `shuffle`. Step s
    is rows s * global_batch and following of it, put in bins of at most seq_len tokens. All replicas have the same
    number of bins, as FSDP's collectives need it. The state is the number of the next step.
    """

    def __init__(
        self,
        path: str,
        seq_len: int,
        end_of_turn: str,
        global_batch: int,
        steps: int,
        shuffle: bool,
        seed: int,
        tokenizer: Tokenizer,
    ):
        self.rows = SftDataset(path, seq_len, end_of_turn, tokenizer)
        self.seq_len, self.global_batch, self.steps = seq_len, global_batch, steps
        self.shuffle, self.seed = shuffle, seed
        self.replicas, self.replica = 1, 0
        self.next = 0
        self.orders: dict[int, np.ndarray] = {}

    def shard(self, replicas: int, replica: int) -> "PackedSteps":
        """Called by the engine: the share of one replica of every step."""
        self.replicas, self.replica = replicas, replica
        return self

    def numbers(self, step: int) -> list[int]:
        """The row numbers of a step (from 0), in the order of training."""
        first = step * self.global_batch
        places = (divmod(i, len(self.rows)) for i in range(first, first + self.global_batch))
        return [self.order(epoch, place) for epoch, place in places]

    def order(self, epoch: int, place: int) -> int:
        """The row at a place of an epoch."""
        if not self.shuffle:
            return place
        if epoch not in self.orders:  # a step can end one epoch and begin the next
            self.orders = {e: o for e, o in self.orders.items() if e == epoch - 1}
            self.orders[epoch] = np.random.default_rng([self.seed, epoch]).permutation(len(self.rows))
        return int(self.orders[epoch][place])

    def batches(self, step: int) -> list[Batch]:
        """This replica's micro-batches of a step. Raises Failure naming file and line of a bad row."""
        items = [self.rows[number] for number in self.numbers(step)]
        bins = fill([len(item["input_ids"]) for item in items], self.seq_len)
        try:
            bins = deal(bins, self.replicas)
        except ValueError as error:
            raise Failure(f"{self.rows.path}: {error}; raise GLOBAL_BATCH or take fewer GPUs") from None
        return [join([items[i] for i in rows]) for rows in bins[self.replica :: self.replicas]]

    def __iter__(self) -> Iterator[list[Batch]]:
        """Steps from the next one on, each tokenized while the one before it is trained on."""
        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(self.batches, self.next)
            while self.next < self.steps:
                batches = coming.result()
                self.next += 1
                if self.next < self.steps:
                    coming = ahead.submit(self.batches, self.next)
                yield batches

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.next = state["step"]


def join(items: list[dict[str, list[int]]]) -> Batch:
    """One micro-batch of the rows of a bin: input_ids, labels, position_ids, documents, each int64[1, tokens].

    position_ids start from 0 with every row; documents counts the rows from 1, see block_causal.
    """
    lengths = [len(item["input_ids"]) for item in items]
    joined = {
        "input_ids": [token for item in items for token in item["input_ids"]],
        "labels": [label for item in items for label in item["labels"]],
        "position_ids": [position for length in lengths for position in range(length)],
        "documents": [number for number, length in enumerate(lengths, 1) for _ in range(length)],
    }
    return {name: torch.tensor([values]) for name, values in joined.items()}


def block_causal(documents: torch.Tensor) -> torch.Tensor:
    """bool[batch, 1, n, n] of int[batch, n]: a token sees those before it, and itself, of its own document.

    It is the mask that nemo-automodel 0.7.0 gives to sdpa for a pack (components/datasets/utils.py:518-548).
    """
    same = documents[:, :, None] == documents[:, None, :]
    return same.tril()[:, None]
