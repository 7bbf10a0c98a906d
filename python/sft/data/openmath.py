"""OpenMathReasoning's rows: the prompts, their rendering, and the second round's filter.

Rules: NeMo-Skills 8b18f39 docs/releases/openmathreasoning/training.md:18-50 and 160-214, the published scripts, except
for one thing: the tir counter is the whole number after "Remaining code executions: ", of which they take the first
digit.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sft.rows.chat import END_OF_TURN, chatml

Row = dict[str, Any]

# NeMo-Skills 8b18f39 nemo_skills/prompt/config/{generic/math,openmath/tir}.yaml; genselect comes formatted.
PROMPTS = {
    "cot": "Solve the following math problem. Make sure to put the answer (and only answer) inside \\boxed{{}}.\n\n"
    "{problem}",
    "tir": "Solve the following math problem, integrating natural language reasoning with Python code executions.\n"
    "You may perform up to {total_code_executions} Python code calls to assist your reasoning.\n"
    "Make sure to put the answer (and only answer) inside \\boxed{{}}.\n\n"
    "{problem}",
    "genselect": "{problem}",
}
CLOSE = f"{END_OF_TURN}\n"
REMAINING = "Remaining code executions: "


def code_executions(solution: str) -> int:
    """The call budget that a tir solution was generated under: the first remaining count plus the call it follows.

    Raises ValueError when the text says neither how many remain nor that none do.
    """
    at = solution.find(REMAINING)
    if at >= 0 and (number := re.compile(r"\s*(\d+)").match(solution, at + len(REMAINING))):
        return int(number[1]) + 1
    if "You have run out of code executions!" in solution:
        return 1
    raise ValueError("tir solution names no number of remaining code executions")


@cache
def user_turn(split: str, executions: int = 0) -> tuple[str, str]:
    """What stands before and after the problem in the user's turn."""
    before, after = PROMPTS[split].format(problem="\0", total_code_executions=executions).split("\0")
    return before, after


@cache
def frame(split: str, executions: int = 0) -> tuple[str, str]:
    """What stands before and after the problem in the whole prompt."""
    before, after = chatml("\0".join(user_turn(split, executions))).split("\0")
    return before, after


def ending(solution: str) -> str:
    """The answer as the chat template closes it."""
    return solution + CLOSE  # not an f-string, which would make text of a null


def text_of(row: Row, field: str) -> str:
    """Raises ValueError naming a field that is missing, null or not text."""
    value = row.get(field, ...)
    if not isinstance(value, str):
        what = "not there" if value is ... else "null" if value is None else type(value).__name__
        raise ValueError(f"field {field!r} is {what}, no text")
    return value


def format_row(split: str, row: Row) -> dict[str, str]:
    """{input, output} of a source row. Raises ValueError naming what is missing."""
    problem, solution = text_of(row, "problem"), text_of(row, "generated_solution")
    before, after = frame(split, code_executions(solution) if split == "tir" else 0)
    return {"input": before + problem + after, "output": ending(solution)}


def format_messages(split: str, row: Row) -> dict[str, Any]:
    """{messages} of a source row: the same turns for engines that render the template themselves."""
    problem, solution = text_of(row, "problem"), text_of(row, "generated_solution")
    before, after = user_turn(split, code_executions(solution) if split == "tir" else 0)
    turns = (("system", ""), ("user", before + problem + after), ("assistant", solution))
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@dataclass
class Filter:
    """Keep hard problems' long solutions. Rules and their order: training.md:175-184 of the published script."""

    splits: Sequence[str]
    sources: Sequence[str]
    max_pass_rate: float
    min_tokens: int
    tokenizer: Path

    COLUMNS = ("problem_source", "pass_rate_72b_tir")

    def cheap(self, source: Any, rate: Any) -> str | None:
        """The name of the rule by which a row goes, as far as its text is not needed. Raises ValueError."""
        for name, value in zip(self.COLUMNS, (source, rate), strict=True):
            if value is ...:
                raise ValueError(f"field {name!r} is not there, which the filter needs")
        if not isinstance(source, str | None):
            raise ValueError(f"field 'problem_source' is {type(source).__name__}, no text")
        if source not in self.sources:
            return "problem_source"
        if rate == "n/a":
            return "pass_rate"
        try:
            number = math.nan if isinstance(rate, bool) else float(rate)
        except (TypeError, ValueError):
            number = math.nan
        if math.isnan(number):  # which is above no rate, so the row would stay
            raise ValueError(f"pass_rate_72b_tir is {rate!r}, neither 'n/a' nor a number")
        return "pass_rate" if number > self.max_pass_rate else None

    def load(self) -> None:
        """Load the tokenizer now: before the rows, its parsing takes memory that they can have afterwards."""
        token_counter(self.tokenizer)

    def long_enough(self, split: str, solution: str) -> bool:
        return split == "genselect" or token_counter(self.tokenizer).at_least(solution, self.min_tokens)


@cache
def token_counter(folder: Path) -> Any:
    from sft.rows.tokens import TokenCounter

    return TokenCounter(folder)
