"""The filters of sft-data: what each drops or changes.

Rules: NeMo-Skills 8b18f39 nemo_skills/training/data_preparation_utils/filters.py, with the texts and the order of
config/math_sft.yaml.
"""

import re
from collections.abc import Callable
from pathlib import Path

from sft.data.generations import arithmetic
from sft.data.generations.options import COUNTER, Options, Row

# Literal texts of the filters below, math_sft.yaml:111-168, and filters.py:40-41.
CODE_ERRORS = ("Traceback (most recent call last)", "<output cut>", "Timed out", "SyntaxError")
VERIFICATION = (
    "Let's verify this with Python",
    "Let's verify this using Python",
    "Let's confirm this with Python",
    "Let's use Python to plot",
    "Let's verify this solution using Python",
    "Let's use Python to verify",
    "Let's confirm this result with some Python",
)
PREFIX = "My solution:\n"
BOXED = re.compile(r"\\boxed\{([^}]*)\}")
REMAINING = re.compile(r"Remaining code executions: (\d+)")

KEPT, CHANGED, DROPPED = range(3)
Filter = Callable[[Row], int]


def drop_if(test: Callable[[str], bool], key: str) -> Filter:
    return lambda row: DROPPED if test(row[key]) else KEPT


def change(edit: Callable[[str], str], key: str) -> Filter:
    def apply(row: Row) -> int:
        old = row[key]
        row[key] = edit(old)
        return CHANGED if row[key] != old else KEPT

    return apply


def contains(*texts: str) -> Callable[[str], bool]:
    return lambda text: any(t in text for t in texts)


def lacks(*texts: str) -> Callable[[str], bool]:
    return lambda text: not all(t in text for t in texts)


def incomplete(row: Row) -> bool:
    """Whether a generation was cut off: what upstream means to ask (preprocessing.py:388).

    Null is what servers say of one that still goes on. Raises ValueError when the field is not text.
    """
    reason = row.get("finish_reason", "stop")
    if reason is not None and not isinstance(reason, str):
        raise ValueError(f"field 'finish_reason' is {type(reason).__name__}, no text")
    return reason != "stop"


def minority(votes: int, share: float) -> Filter:
    """Drops rows whose answer has fewer votes, or a smaller share of all; those without votes stay (filters.py:225)."""

    def apply(row: Row) -> int:
        ours, total = row.get("majority_votes"), row.get("total_votes")
        if ours is None or total is None:
            return KEPT
        for name, value in (("majority_votes", ours), ("total_votes", total)):
            if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
                raise ValueError(f"field {name!r} is {value!r}, no number"[:100])
        return DROPPED if ours < votes or ours < total * share else KEPT

    return apply


def trim(text: str) -> str:
    """The text up to the end of the line on which its last \\boxed{} ends (filters.py:319, math_grader.py:139)."""
    begin = text.rfind("\\boxed")
    if not text.startswith("\\boxed{", begin):
        return text
    depth = 0
    for brace in re.finditer("[{}]", text[begin:]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            newline = text.find("\n", begin + brace.end())
            return text if newline < 0 else text[:newline]
    return text


def count_code_executions(key: str) -> Filter:
    """Adds the budget of code calls that a solution was generated under; 0 where it names none (filters.py:165).

    The whole number, of which upstream loses the last digit where nothing follows it on its line.
    """

    def apply(row: Row) -> int:
        first = REMAINING.search(row[key])
        none_left = "You have run out of code executions!" in row[key]
        row[COUNTER] = int(first[1]) + 1 if first else int(none_left)
        return CHANGED

    return apply


def outlier(key: str, folder: str, low: int | None, high: int | None, low_in_chars: bool = False) -> Filter:
    """Drops rows by the tokens of a field; None: no limit, where upstream crashes (filters.py:278)."""
    from sft.rows.tokens import TokenCounter

    counter = TokenCounter(Path(folder))

    def test(text: str) -> bool:
        if low is not None and not (len(text) >= low if low_in_chars else counter.at_least(text, low)):
            return True
        return high is not None and counter.at_least(text, high + 1)

    return drop_if(test, key)


def problem_outlier(o: Options, _: set[str]) -> Filter:
    return outlier(o.input_key, o.tokenizer, o.min_problem_length, o.max_problem_length)


def solution_outlier(o: Options, _: set[str]) -> Filter:
    low, high = o.min_solution_length, o.max_solution_length
    return outlier(o.output_key, o.tokenizer, low, high, o.use_chars_for_min_length)


# In the order of math_sft.yaml:98-225. What makes each from the options and the contaminated problems.
FILTERS: dict[str, Callable[[Options, set[str]], Filter]] = {
    "drop_incomplete": lambda o, _: lambda row: DROPPED if incomplete(row) else KEPT,
    "drop_multi_boxed": lambda o, _: drop_if(lambda text: len(BOXED.findall(text)) > 1, o.output_key),
    "remove_contaminated": lambda o, bad: drop_if(bad.__contains__, o.input_key),
    "remove_code_errors": lambda o, _: drop_if(contains(*CODE_ERRORS), o.output_key),
    "remove_matplotlib": lambda o, _: drop_if(contains("from matplotlib", "import matplotlib"), o.output_key),
    "remove_no_code": lambda o, _: drop_if(lacks("<tool_call>", "</tool_call>"), o.output_key),
    "remove_no_think_tags": lambda o, _: drop_if(lacks("</think>"), o.output_key),
    "remove_verification_code": lambda o, _: drop_if(contains(*VERIFICATION), o.output_key),
    "majority_filter": lambda o, _: minority(o.min_majority_votes or 0, o.min_majority_percentage or 0.0),
    "trim_prefix": lambda o, _: change(lambda text: text.removeprefix(PREFIX), o.output_key),
    "trim_solutions": lambda o, _: change(trim, o.output_key),
    "drop_incorrect_arithmetic": lambda o, _: drop_if(arithmetic.wrong, o.output_key),
    "split_arithmetic": lambda o, _: change(arithmetic.split, o.output_key),
    "remove_len_outlier_problems": problem_outlier,
    "remove_len_outlier_solutions": solution_outlier,
    "add_code_execution_counts": lambda o, _: count_code_executions(o.output_key),
}


# Those that change rows; the others drop them.
EDITS = ("trim_prefix", "trim_solutions", "split_arithmetic", "add_code_execution_counts")


def enabled(options: Options) -> list[str]:
    return [name for name in FILTERS if getattr(options, name)]
