"""From answers to graded rows and figures: what make eval writes of a task."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sft.eval.grading.judge import Judge
from sft.eval.grading.pool import Grader, undecided
from sft.eval.grading.rules import EXTRACT
from sft.eval.kinds import KINDS, Row, figures
from sft.eval.modes.genselect import Sample as Solution
from sft.eval.modes.genselect import conclusion
from sft.eval.protocols.read import Protocol
from sft.eval.scores.rates import rates
from sft.eval.scores.samples import Sample, subsets
from sft.eval.tasks import Task
from sft.lib.progress import Progress, log

Answers = Callable[[], Iterator[Row]]  # the rows of the samples' files, anew with each call


def solutions(task: Task, answers: Answers, rules: Protocol) -> dict[str, list[Solution]]:
    """problem -> its samples in their order, each with what a comparison shows of it, and the answer."""
    extract, found = EXTRACT[rules.extraction], {}
    for row in answers():
        # All that a summary can be made of: what follows the thoughts, or the end.
        solution = Solution(row["text"][-40_000:], extract(row["text"]))
        found.setdefault(row["problem"], {})[row["sample"]] = solution
    return {problem: [of[number] for number in sorted(of)] for problem, of in found.items()}


def graded(task: Task, answers: Answers, target: Path, rules: Protocol | None, **more: Any) -> dict[str, Any]:
    """Write the graded rows of a task, and return its figures by set; see graded_math for what more is.

    target: appears by rename. Raises Failure.
    """
    whole = target.with_suffix(".whole")
    with open(whole, "w", encoding="utf-8") as file:
        if rules is not None and task.kind == "math":
            found = graded_math(task, answers, file.write, rules, **more)
        else:
            found = graded_each(task, answers, file.write)
    whole.rename(target)
    return found


def line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def graded_each(task: Task, answers: Answers, write: Callable[[str], Any]) -> dict[str, Any]:
    """Sets whose answers are graded by looking at them, one answer of each problem."""
    problems = dict(zip(task.ids, task.rows, strict=True))
    rows = []
    for row in answers():
        problem, cut = problems[row["problem"]], row["finish"] == "length"
        grade = KINDS[task.kind].grade(problem, row["text"])
        made = {"generation": row["text"], "truncated": cut, "tokens": row["tokens"], "seed": row["seed"]} | grade
        write(line(problem | made))
        rows.append({"truncated": cut} | grade)
    return {task.name: figures(task.kind, rows)}


def graded_math(
    task: Task,
    answers: Answers,
    write: Callable[[str], Any],
    rules: Protocol,
    judge: Judge | None = None,
    seed: int = 0,
    solved: dict[str, list[Solution]] | None = None,
) -> dict[str, Any]:
    """Answers to problems of mathematics, compared by the protocol's rule, or by a judge where the protocol has one.

    solved: of genselect, the solutions that are selected among.
    """
    problems = dict(zip(task.ids, task.rows, strict=True))
    extract = EXTRACT[rules.extraction]

    def answered() -> Iterator[Row]:
        for row in answers():
            if solved is None:
                yield row | {"answer": extract(row["text"])}
            else:
                name, of = f"{task.name}/{row['problem']}", solved[row["problem"]]
                yield row | conclusion(rules.mode(task.mode), of, seed, name, row["sample"], row["text"])

    light = [(row["problem"], row["answer"]) for row in answered()]
    progress = Progress(f"eval: {task.name} {task.mode} graded", len(set(light)))
    if judge is not None and task.name in rules.judge:
        cases = [(problems[id_]["problem"], problems[id_]["expected_answer"], answer) for id_, answer in light]
        verdicts: list[Any] = judge.judgements(cases, progress.show)
    else:
        with Grader(rules.comparison) as grader:
            pairs = [(problems[id_]["expected_answer"], answer) for id_, answer in light]
            verdicts = grader.verdicts(pairs, progress.show)
        for how, count in undecided(verdicts).items():
            log(f"eval: {task.name} {task.mode}: {count:,} answers count as wrong, for the rule did not decide: {how}")
    samples = []
    for row, verdict in zip(answered(), verdicts, strict=True):
        problem = problems[row["problem"]]
        subset = problem.get("subset") or ""
        samples.append(
            Sample(
                task.name,
                row["problem"],
                subset,
                row["sample"],
                row["answer"],
                verdict.correct,
                row["tokens"],
                row["finish"],
                row.get("calls"),
            )
        )
        made = {key: value for key, value in row.items() if key not in ("text", "benchmark")}
        made |= {"question": problem["problem"], "expected_answer": problem["expected_answer"], "subset": subset}
        write(line(made | {"generation": row["text"], "correct": verdict.correct, "how": verdict.how}))
    return scores_of(task, samples)


def scores_of(task: Task, samples: list[Sample]) -> dict[str, Any]:
    """The figures of a task and, as <set>/<subset>, of each subset; one greedy answer has plain shares."""
    if task.sampled:
        sizes = {task.name: len(task.rows)}
        return {name: rates(of, task.samples, sizes.get(name)) for name, of in subsets(samples).items()}
    return {
        name: figures(
            "math",
            [{"correct": s.correct, "answer": s.answer, "truncated": s.finish == "length"} for s in of],
        )
        | ({"calls": round(sum(s.calls or 0 for s in of) / len(of), 4)} if of[0].calls is not None else {})
        for name, of in subsets(samples).items()
    }


def decodings(tasks: list[Task]) -> str:
    """How the answers were made, for people; of each mode where they differ."""
    texts = {task.mode: f"{task.decoding}, of at most {task.decoding.max_tokens:,} tokens" for task in tasks}
    if len(set(texts.values())) == 1:
        return texts[tasks[0].mode]
    return "; ".join(f"{mode}: {text}" for mode, text in texts.items())
