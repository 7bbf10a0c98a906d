"""Scores of answers: SQuAD's EM, token F1 and ROUGE-L, letters of multiple choice, and the share that thinks.

The rules are facts of NeMo 8cfedd7: scripts/metric_calculation/peft_metric_calc.py:40-131 for questions and answers,
tutorials/llm/reasoning/evaluation/evaluate_responses.py:23-31 for multiple choice. The tutorial's letter is the first
after the very words of its prompt, thoughts included; beside it stands one that reads what people read: `letter`.
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


# --- multiple choice ---------------------------------------------------------------------------------------------

PUBLISHED = re.compile(r"The final answer is ([A-D])")

# What may stand around a letter: quotes, emphasis, brackets, TeX; all of it is taken at once (*+), so that an answer of
# ten thousand stars takes no longer than its length.
AROUND = (
    r"(?:[\s*_`\"'\u201c\u201d\u2018\u2019(\[{$~#>]|\\[()\[\],;]"
    r"|\\(?:text|textbf|textit|mathrm|mathbf|boldsymbol|rm|bf)\b)*+"
)
APART = r"[\w'\u2019-]"  # beside a letter it makes a word of it: D-glucose, D'Alembert
LETTER = (
    rf"(?:([A-D])(?!{APART})|([a-d])(?!{APART})(?!\s+\w))"  # "a" before a word is the article
    r"(?!\s*(?:/|,|&|\bor\b|\band\b)\s*[(\[*]*+[A-Da-d]\b)"  # one of several is none
)
WORDS = (
    "definitely|clearly|certainly|therefore|thus|hence|indeed|simply|probably|likely|most|option|choice|letter|answer"
    "|the|then"
)
FILLER = rf"(?:(?:{WORDS})\b[,:]?{AROUND})*+"
BOXED = rf"\\(?:boxed|fbox)\s*\{{{AROUND}"
# "answer" and the verb or mark that says which; quotes or emphasis may stand before the mark.
SAID = (
    r"(?i:\b(?:answer|option|choice)\b(?:\s+(?:letter|choice|option|here)\b)?[\s*_`\"'\u201d\u2019)]*+"
    rf"(?:\b(?:is|be|are)\b(?!\s+not\b)[\s*_`]*+[:=]?|[:=]|(?<=\s)[-\u2013\u2014]\s){AROUND}{FILLER})"
)
STATED = re.compile(rf"(?:{BOXED}|{SAID}(?:{BOXED})?){LETTER}")
CORRECT = re.compile(rf"(?<!{APART})([A-D])[)\]*_]*+\.?\s+(?i:is|must\s+be)\s+(?:the\s+)?(?i:correct|right|best)\b")
ALONE = re.compile(r"[\W_]*([A-Da-d])[\W_]*")
HEADED = re.compile(r"[\W_]*([A-D])[*_]*[.):](?:\s.*)?")


def published_letter(text: str) -> str | None:
    """The tutorial's letter: the first one after the words of its prompt, wherever they stand."""
    found = PUBLISHED.search(text)
    return found[1] if found else None


def letter(text: str) -> str | None:
    """The choice that an answer ends with: A, B, C or D; None when it names none, or was cut off while thinking.

    Only what comes after the last thought counts. There the last "answer is ..." or \\boxed{...} wins, so a correction
    of itself does; else the last "B is correct"; else an answer that is a letter, alone on its last line or at the
    head of its only one.
    """
    last = answer_part(text)
    if last is None:
        return None
    for pattern in (STATED, CORRECT):
        found = [match for match in pattern.finditer(last)]
        if found:
            return next(group for group in found[-1].groups() if group).upper()
    lines = [line for line in last.splitlines() if line.strip()]
    if not lines:
        return None
    match = ALONE.fullmatch(lines[-1]) or (HEADED.fullmatch(lines[0]) if len(lines) == 1 else None)
    return match[1].upper() if match else None


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
