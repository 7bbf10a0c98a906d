"""The rows as they are trained on: input and output tokenized apart, loss on the answer and its end of turn.

SftDataset is what nemo-automodel trains on: a dataset of our own because those of 0.7.0 mask pre-rendered text wrongly
(a prompt tokenized with a trailing blank, no loss on the first answer token, a second BOS) or hold the whole file in
memory.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from sft.lib.errors import Failure

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
        self.file: BinaryIO | None = None

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


def line_offsets(path: Path) -> Any:
    """Byte offset of every line of a file, as an int64 array."""
    offsets: list[Any] = [0]
    position = 0
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
