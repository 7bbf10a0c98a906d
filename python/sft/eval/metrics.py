"""Scores of answers: SQuAD's EM, token F1 and ROUGE-L, and the share that thinks.

The rules are facts of NeMo 8cfedd7: scripts/metric_calculation/peft_metric_calc.py:40-131 for questions and answers,
tutorials/llm/reasoning/evaluation/evaluate_responses.py:23-31 for multiple choice.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

OPEN, CLOSE = "<think>", "</think>"
PUNCTUATION = str.maketrans("", "", string.punctuation)


# --- questions and answers ---------------------------------------------------------------------------------------


def normalize(text: str) -> str:
    """SQuAD's form of an answer: lower case, no ASCII punctuation, no articles, single blanks."""
    bare = text.lower().translate(PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def exact_match(prediction: str, label: str) -> float:
    """1.0 when both are the same in SQuAD's form."""
    return float(normalize(prediction) == normalize(label))


def token_f1(prediction: str, label: str) -> float:
    """F1 of the two bags of words in SQuAD's form; 0.0 without a common word, even when both are empty."""
    ours, theirs = normalize(prediction).split(), normalize(label).split()
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


@cache
def scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)


def rouge_l(prediction: str, label: str) -> float:
    """F-measure of the longest common subsequence of stemmed words, by the rouge_score library."""
    return float(scorer().score(label, prediction)["rougeL"].fmeasure)


MEASURES: dict[str, Callable[[str, str], float]] = {"exact_match": exact_match, "f1": token_f1, "rougeL": rouge_l}


def answer_scores(prediction: str, labels: Sequence[str]) -> dict[str, float]:
    """Each measure, of the label that suits it best. labels: at least one."""
    return {name: max(measure(prediction, label) for label in labels) for name, measure in MEASURES.items()}


# --- thinking ----------------------------------------------------------------------------------------------------


def thinks(text: str) -> bool:
    """Whether an answer has both tags of a thought."""
    return OPEN in text and CLOSE in text


def answer_part(text: str) -> str | None:
    """What comes after the last thought; None when a thought was begun and never ended: there is no answer then."""
    before, tag, after = text.rpartition(CLOSE)
    last = after if tag else before + after
    return None if OPEN in last else last


# --- rows of a table ---------------------------------------------------------------------------------------------


def mean(values: Sequence[float]) -> float:
    """Rounded to four digits, as every rate here."""
    return round(sum(values) / len(values), 4)


def score_rows(scores: dict[str, Any]) -> list[tuple[str, str, str, dict[str, Any]]]:
    """(model, set, mode, figures) of an evaluation's scores[model][set][mode]."""
    return [
        (model, name, mode, figures)
        for model, sets in scores.items()
        for name, modes in sets.items()
        for mode, figures in modes.items()
    ]


def latest_last(evals: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Folder -> manifest of a run's evaluations, the newest last, and after it the recipe's own, eval/."""
    return dict(sorted(evals.items(), key=lambda item: (item[0] == "eval", item[1]["finished"])))


def merged(evals: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """scores[model][set][mode] of all evaluations; of what two have measured, the later one's in that order.

    So a try of a few rows does not stand for the recipe's own evaluation.
    """
    scores: dict[str, Any] = {}
    for done in reversed(evals.values()):
        for model, name, mode, figures in score_rows(done["scores"]):
            scores.setdefault(model, {}).setdefault(name, {}).setdefault(mode, figures)
    return scores


def in_words(figures: dict[str, Any]) -> str:
    """The figures of a task in a line: shares of one greedy answer, or scores of k samples with their error."""
    if "k" not in figures:
        return ", ".join(f"{what} {rate:.1%}" for what, rate in figures.items() if what not in ("n", "calls"))
    k = figures["k"]
    mean, voted, passed = figures[f"pass@1[avg-of-{k}]"], figures[f"maj@{k}"], figures[f"pass@{k}"]
    return (
        f"pass@1[avg-of-{k}] {mean['value']:.1f}% ± {mean['error_samples']:.1f}, "
        f"maj@{k} {voted['first']['value']:.1f}%, pass@{k} {passed['value']:.1f}%, "
        f"no answer {figures['no_answer']:.1f}%, truncated {figures['truncated']:.1f}%"
    )


def first(figures: dict[str, Any]) -> tuple[str, float]:
    """The first figure alone: its name, and its value from 0 to 1."""
    if "k" in figures:
        name = f"pass@1[avg-of-{figures['k']}]"
        return name, figures[name]["value"] / 100
    return next((what, float(value)) for what, value in figures.items() if what != "n")
