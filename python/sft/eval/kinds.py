"""The kinds of evaluation sets: the fields of their rows, what an answer is graded by, and the figures of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sft.eval import letters
from sft.eval.grading.values import boxed, correct
from sft.eval.letters import harness_letter, published_letter
from sft.eval.metrics import MEASURES, answer_part, answer_scores, mean, thinks

QA = ("squad", "dolly")
CHOICE = ("gpqa_main", "gpqa_diamond", "mmlu")
MODES = ("on", "off")
PLAIN = "plain"  # the mode of a set that has none
BOS = "<|begin_of_text|>"
# The prompt of the tutorial, its indentation included (NeMo 8cfedd7 tutorials/llm/reasoning/evaluation/
# deploy_and_get_responses.py:53-58).
CHOICE_PROMPT = (
    "Given the following question and four candidate answers (A, B, C and D), choose the best answer.\n"
    "        Question: {Question} A. {Choice 1} B. {Choice 2} C. {Choice 3} D. {Choice 4}\n"
    "        For simple problems, directly provide the answer with minimal explanation. For complex problems, use "
    "step-by-step format. Always conclude with: The final answer is [the_answer_letter], where the "
    "[the_answer_letter] is one of A, B, C or D."
)

Row = dict[str, Any]


# --- grades ------------------------------------------------------------------------------------------------------


def grade_math(problem: Row, text: str) -> Row:
    answer = boxed(text)
    return {"answer": answer, "correct": correct(problem["expected_answer"], answer)}


def grade_thinking(problem: Row, text: str) -> Row:
    """Only what comes after the last thought counts."""
    rest = answer_part(text)
    return grade_math(problem, rest or "") | {"think": thinks(text)}


def grade_choice(problem: Row, text: str) -> Row:
    found = {"": letters.letter(text), "published_": published_letter(text), "harness_": harness_letter(text)}
    verdicts = {f"{whose}correct": letter == problem["Answer"] for whose, letter in found.items()}
    return {f"{whose}answer": letter for whose, letter in found.items()} | {"think": thinks(text)} | verdicts


def grade_qa(problem: Row, text: str) -> Row:
    return answer_scores(text, problem.get("original_answers") or [problem["output"]])


# Per kind of set: the fields that a row must have, its grade, and figure -> mean of that grade.
@dataclass(frozen=True)
class Kind:
    fields: tuple[str, ...]
    grade: Callable[[Row, str], Row]
    figures: dict[str, Callable[[Row], float]]


def field(name: str) -> Callable[[Row], float]:
    return lambda row: row[name]


CUT = {"no_answer": lambda row: row["answer"] is None, "truncated": field("truncated")}
THOUGHT = CUT | {"think": field("think")}
KINDS = {
    "math": Kind(("problem", "expected_answer"), grade_math, {"pass@1": field("correct")} | CUT),
    "thinking": Kind(("problem", "expected_answer"), grade_thinking, {"accuracy": field("correct")} | THOUGHT),
    "choice": Kind(
        ("Question", "Choice 1", "Choice 2", "Choice 3", "Choice 4", "Answer"),
        grade_choice,
        {
            "accuracy": field("correct"),
            "published_regex": field("published_correct"),
            "harness_regex": field("harness_correct"),
        }
        | THOUGHT,
    ),
    "qa": Kind(
        ("input", "output"),
        grade_qa,
        {name: field(name) for name in MEASURES} | {"truncated": field("truncated")},
    ),
}


def figures(kind: str, rows: list[Row]) -> dict[str, Any]:
    """n and the rates of graded rows."""
    rates = {name: mean([float(of(row)) for row in rows]) for name, of in KINDS[kind].figures.items()}
    return {"n": len(rows)} | rates
