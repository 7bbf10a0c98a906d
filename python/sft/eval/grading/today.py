"""Whether an answer is right by the rule of today's NeMo-Skills (8b18f39 nemo_skills/evaluation/math_grader.py:33-134).

In this order: a gold that is one letter A to J is a choice; two answers that normalize to the same text are equal; two
that are both words, or both digits, are nothing else; the rest is math-verify's, with 15 digits.
"""

import re
from functools import lru_cache
from typing import Any

LETTERS = tuple("ABCDEFGHIJ")
PERCENT = re.compile(r"(\d+\.?\d*)(?:\\%|%)")
LITERAL = re.compile(r"[a-zA-Z ,]+|[0-9 ]+")
MATH = re.compile(r"\$.*\$|\\\(.*\\\)|\\\[.*\\\]|\\boxed\{", re.DOTALL)


def bare(text: str) -> str:
    """Without the percent sign of a number, and without what ends a sentence (math_grader.py:33-43)."""
    found = PERCENT.fullmatch(text)
    return (found[1] if found else text).rstrip(".\\")


@lru_cache(maxsize=4096)
def normalized(text: str) -> str:
    from latex2sympy2_extended import NormalizationConfig, normalize_latex

    return normalize_latex(text, NormalizationConfig())


@lru_cache(maxsize=4096)
def choice(text: str) -> Any:
    from math_verify import StringExtractionConfig, parse

    return parse(text, [StringExtractionConfig(strings=LETTERS)])


@lru_cache(maxsize=1024)
def parsed(text: str) -> Any:
    from math_verify import LatexExtractionConfig, parse

    return parse(text if MATH.search(text) else f"${text}$", [LatexExtractionConfig()])


def equal(gold: str, answer: str | None) -> bool:
    """Whether the rule takes `answer` for `gold`. None never is."""
    from math_verify import verify

    if answer is None:
        return False
    if gold.strip() in LETTERS and verify(choice(gold), choice(answer)):
        return True
    gold, answer = bare(gold), bare(answer)
    ours, theirs = normalized(gold), normalized(answer)
    same = ours.replace(" ", "") == theirs.replace(" ", "")
    if same or (LITERAL.fullmatch(ours) and LITERAL.fullmatch(theirs)):
        return same
    return bool(verify(parsed(gold), parsed(answer), numeric_precision=15, timeout_seconds=10))
