"""The graded answers of an evaluation: read row by row, kept as one letter each; the texts go to chunks.

Rows are of two forms. Those of k samples name problem and sample. Those of one greedy answer have the problem's text
instead, and are numbered as they come, from 1.
"""

import json
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft.lib.errors import Failure
from sft.lib.files import read_jsonl
from sft.results.page.chunks import Chunks

RIGHT, RIGHT_CUT, WRONG, WRONG_CUT, NONE, NONE_CUT, MISSING = "RrWTNC."
ABOUT = 400  # characters of a field that the page does not know
KNOWN = {"problem", "question", "sample", "prompt", "text", "generation", "turns", "answer", "expected_answer"}
KNOWN |= {"Question", "Answer", "Choice 1", "Choice 2", "Choice 3", "Choice 4", "input", "output", "original_answers"}
KNOWN |= {"correct", "truncated", "finish", "tokens", "subset", "calls", "place"}


@dataclass
class Answers:
    """What is known of one model's answers to one set in one mode, without their texts.

    grid: a letter per problem and sample, problem by problem. rows: the number of each letter's row. first: of each
    chunk, the number of its first row. tokens: lengths, [] where one of them was not counted; characters: likewise.
    """

    model: str
    name: str
    mode: str
    problems: list[str] = field(default_factory=list)
    subsets: list[str] = field(default_factory=list)
    samples: int = 0
    grid: str = ""
    rows: list[int] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    tokens: "array[int]" = field(default_factory=lambda: array("I"))
    characters: "array[int]" = field(default_factory=lambda: array("I"))

    @property
    def key(self) -> str:
        return f"{self.model}.{self.name}.{self.mode}"

    def record(self) -> dict[str, Any]:
        """As JSON, for the page and for make compare. strides: of rows in order, in place of each one's number."""
        samples, problems = self.samples, len(self.problems)
        strides = next((pair for pair in ((samples, 1), (1, problems)) if self.in_order(*pair)), None)
        return {
            "key": self.key, "model": self.model, "set": self.name, "mode": self.mode,
            "problems": self.problems, "subsets": self.subsets if any(self.subsets) else [],
            "samples": samples, "grid": self.grid, "first": self.first,
        } | ({"strides": strides} if strides else {"rows": self.rows})  # fmt: skip

    def in_order(self, problem: int, sample: int) -> bool:
        """Whether a row's number is problem and sample, each times its stride."""
        wanted = (p * problem + s * sample for p in range(len(self.problems)) for s in range(self.samples))
        return all(row == number for row, number in zip(self.rows, wanted, strict=True))


def letter(row: dict[str, Any]) -> str:
    """Right, wrong or without an answer; lower case, T or C: cut at the limit of tokens."""
    right = row["correct"] if "correct" in row else row.get("exact_match") == 1
    cut = bool(row.get("truncated", row.get("finish") == "length"))
    if right:
        return RIGHT_CUT if cut else RIGHT
    if "answer" in row and row["answer"] is None:
        return NONE_CUT if cut else NONE
    return WRONG_CUT if cut else WRONG


def generation(row: dict[str, Any]) -> str:
    text = row.get("generation", row.get("text"))
    if text is None:
        text = "".join(turn.get("text", "") + turn.get("output", "") for turn in row.get("turns") or ())
    return str(text)


def shown(row: dict[str, Any], text: str) -> dict[str, Any]:
    """What the page shows of an answer, opened."""
    question = row.get("question") or row.get("Question") or row.get("input")
    if not question and "sample" not in row:
        question = row.get("problem")
    choices = [f"{chr(64 + n)}. {row[f'Choice {n}']}" for n in range(1, 5) if f"Choice {n}" in row]
    expected = row.get("expected_answer", row.get("Answer"))
    if expected is None:
        expected = row.get("original_answers") or row.get("output")
    found = {
        "question": "\n".join([str(question), *choices]) if question else None,
        "prompt": row.get("prompt"),
        "generation": text,
        "answer": row.get("answer"),
        "expected": expected,
        "tokens": row.get("tokens"),
        "calls": row.get("calls"),
        "runs": [turn.get("status") for turn in row.get("turns") or () if "code" in turn],
        "more": {name: about(value) for name, value in row.items() if name not in KNOWN and value is not None},
    }
    return {name: value for name, value in found.items() if value not in (None, [], {})}


def about(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= ABOUT else text[:ABOUT] + "..."


def read(path: Path, model: str, name: str, mode: str, chunks: Chunks) -> Answers:
    """All rows of a file, one at a time. Of two rows with one problem and sample the later one counts."""
    found = Answers(model, name, mode)
    numbers: dict[str, int] = {}
    at: dict[tuple[int, int], tuple[str, int]] = {}
    for count, row in enumerate(read_jsonl(path)):
        text = generation(row)
        problem = str(row["problem"]) if "sample" in row else str(row.get("place", count) + 1)
        if problem not in numbers:
            numbers[problem] = len(numbers)
            found.problems.append(problem)
            found.subsets.append(str(row.get("subset") or ""))
        at[numbers[problem], int(row.get("sample", 0))] = (letter(row), count)
        found.characters.append(len(text))
        if isinstance(row.get("tokens"), int):
            found.tokens.append(row["tokens"])
        chunks.add(shown(row, text))
    if len(found.tokens) < len(found.characters):
        found.tokens = array("I")
    found.samples = max((sample for _, sample in at), default=-1) + 1
    if found.samples > len(at) or min((sample for _, sample in at), default=0) < 0:
        raise Failure(f"{path}: {len(at):,} rows name sample {found.samples - 1}; restore the file, or run eval again")
    nothing = (MISSING, -1)
    cells = [at.get((p, s), nothing) for p in range(len(numbers)) for s in range(found.samples)]
    found.grid = "".join(cell for cell, _ in cells)
    found.rows = [row for _, row in cells]
    found.first = chunks.first
    return found
