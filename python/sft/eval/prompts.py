"""The evaluation sets: which prompt a row becomes, and what its answer is graded by."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.data.openmath import PROMPTS
from sft.eval import letters
from sft.eval.grades import boxed, correct
from sft.eval.letters import published_letter
from sft.eval.metrics import MEASURES, answer_part, answer_scores, mean, thinks
from sft.lib.done import read_done
from sft.lib.errors import Failure, usage
from sft.lib.files import read_jsonl
from sft.recipe.keys import Recipe
from sft.recipe.paths import Paths
from sft.rows.chat import chatml, render

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
    letter, published = letters.letter(text), published_letter(text)
    verdicts = {"correct": letter == problem["Answer"], "published_correct": published == problem["Answer"]}
    return {"answer": letter, "published_answer": published, "think": thinks(text)} | verdicts


def grade_qa(problem: Row, text: str) -> Row:
    return answer_scores(text, problem.get("original_answers") or [problem["output"]])


# Of each kind of set: the fields that a row must have, its grade, and figure -> mean of that grade.
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
        {"accuracy": field("correct"), "published_regex": field("published_correct")} | THOUGHT,
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


# --- what is asked -----------------------------------------------------------------------------------------------


@dataclass
class Task:
    """A set in one mode: its rows, and the prompt of each."""

    name: str
    mode: str
    kind: str
    rows: list[Row]
    prompts: list[str]


def kind_of(recipe: Recipe, name: str) -> str:
    if name in QA:
        return "qa"
    return "choice" if name in CHOICE else "thinking" if recipe.get("SCHEMA") == "nemotron" else "math"


def test_file(recipe: Recipe, paths: Paths, name: str, again: str) -> Path:
    """The rows of a set. Raises Failure when they are not there, saying what makes them."""
    folder, remedy = paths.work / "data" / name, f"run: make data {again}"
    if name in QA:
        if recipe.get("SCHEMA") != name:
            usage(f"EVAL_SET={name} needs SCHEMA={name}, of which it takes the test rows; change one")
        read_done(paths.data, remedy)
        return paths.data / "test.jsonl"
    if name in CHOICE:
        read_done(folder, f"run: make eval-data {again}")
        return folder / "test.jsonl"
    path = folder / "source" / "test.jsonl"
    if not path.is_file():
        raise Failure(f"{path} is missing; {remedy}")
    return path


def read_rows(path: Path, kind: str, most: int | None) -> list[Row]:
    """The first rows of a set, all of them without `most`. Raises Failure for a row without a field."""
    rows: list[Row] = []
    for number, row in enumerate(read_jsonl(path), 1):
        if most is not None and number > most:
            break
        for name in KINDS[kind].fields:
            if not isinstance(row.get(name), str):
                raise Failure(f"{path}:{number}: field {name!r} is not there, or no text; make the set again")
        rows.append(row)
    if not rows:
        raise Failure(f"{path} has no rows; make the set again")
    return rows


def chat(tokenizer: Any, mode: str, user: str) -> str:
    """The prompt by the tokenizer's own template, up to the open turn of the assistant."""
    turns = [{"role": "system", "content": f"detailed thinking {mode}"}, {"role": "user", "content": user}]
    return render(tokenizer, turns, prompt=True)


def tasks_of(recipe: Recipe, name: str, rows: list[Row], tokenizer: Any) -> list[Task]:
    """A set in each of its modes. Raises Failure for a tokenizer without the template that it takes."""
    kind, published = kind_of(recipe, name), recipe.get("VARIANT") == "published"
    if kind == "math":
        return [Task(name, PLAIN, kind, rows, [chatml(PROMPTS["cot"].format(problem=row["problem"])) for row in rows])]
    if kind == "qa":
        return [Task(name, PLAIN, kind, rows, [("" if published else BOS) + row["input"] for row in rows])]
    if not tokenizer.chat_template:
        raise Failure(f"{tokenizer.name_or_path}: the tokenizer has no chat template; start from an Instruct model")
    users = [CHOICE_PROMPT.format_map(row) if kind == "choice" else row["problem"] for row in rows]
    modes = MODES[:1] if published else MODES
    return [Task(name, mode, kind, rows, [chat(tokenizer, mode, user) for user in users]) for mode in modes]
