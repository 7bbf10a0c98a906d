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
