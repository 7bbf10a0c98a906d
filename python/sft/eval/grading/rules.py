"""The rules by which an answer is compared with the expected one, by name.

    release  what the released models were measured with: release.py
    today    what NeMo-Skills does now: today.py
    values   this project's own, which decides what the two get wrong: sft/eval/grading/values.py

And how an answer is taken from a generation, by name: `strict`, upstream's at both times, and `boxed`, ours.
"""

import re
from collections.abc import Callable
from functools import partial

from sft.eval.grading import release, today
from sft.eval.grading.values import boxed, correct

LONGEST = 2000  # characters of an answer that a rule sees; the longest of the published benchmarks' has 200
DEEPEST = 100  # brackets in each other
PLAIN = re.compile(r"-?\d{1,15}")

Rule = Callable[[str, str | None], bool]
RULES: dict[str, Rule] = {"release": release.equal, "today": today.equal, "values": correct}


def strict(text: str) -> str | None:
    """The content of the last \\boxed{...}, which has to be written just so; None without one, or when it never closes
    (NeMo-Skills 8b18f39 nemo_skills/evaluation/math_grader.py:139-183, and the same at 0f7bd73)."""
    start = text.rfind("\\boxed")
    if start < 0:
        return None
    depth = 0
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if text[place] == "}" and depth == 0:
            found = text[start : place + 1]
            return found[len("\\boxed{") : -1] if found.startswith("\\boxed{") else None
    return None


EXTRACT: dict[str, Callable[[str], str | None]] = {"strict": strict, "boxed": boxed}


def too_much(text: str) -> str:
    """Why a text is not looked at: its length, or how deep its brackets go; nothing where neither is too much."""
    if len(text) > LONGEST:
        return f"over {LONGEST:,} characters"
    depth = deepest = 0
    for character in text:
        depth += 1 if character in "{([" else -1 if character in "})]" else 0
        deepest = max(deepest, depth)
    return f"over {DEEPEST} brackets in each other" if deepest > DEEPEST else ""


def at_once(rule: str, gold: str, answer: str | None) -> tuple[bool, str] | None:
    """(verdict, how) where it takes no computer algebra: most answers are whole numbers. None where it does."""
    if answer is None or not answer.strip():
        return False, "no answer"
    if gold.strip() == answer.strip():
        return True, "literal"
    if PLAIN.fullmatch(gold) and PLAIN.fullmatch(answer):
        if rule == "release":
            return release.near(float(gold), float(answer)), "literal"
        if rule == "values" or not ("-" in gold or "-" in answer):
            return (int(gold) == int(answer) and (rule == "values" or len(gold) == len(answer))), "literal"
    if reason := too_much(answer) or too_much(gold):
        return False, reason
    return None


def rule_named(name: str) -> Rule:
    """A rule as one function, bounds and all; runs in this process, without a limit of time."""
    return partial(bounded, name)


def bounded(name: str, gold: str, answer: str | None) -> bool:
    verdict = at_once(name, gold, answer)
    return RULES[name](gold, answer) if verdict is None else verdict[0]
