"""Whether an answer is right by the rule that the released models were measured with.

The rule is that of NeMo-Skills 0f7bd733 nemo_skills/code_execution/math_grader.py:200-560, its oddities included, for
they are in the published numbers: a difference of 1 in 10,000 passes, so does a factor of 100, TeX counts as far as
it can be read, and 10^6 in plain text is Python's exclusive or, 12. One thing differs: upstream lets Python evaluate
an answer, in its sandbox. Here only what expression.py knows is evaluated.
"""

import io
import math
import re
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from functools import lru_cache
from typing import Any

from sft.eval.grading.expression import evaluated, time_limit

TOLERANCE = 1e-4  # math_grader.py:374
LONGEST = 1000  # characters of an answer that are looked at (math_grader.py:396)
SECONDS = 5  # of each of four steps, half of upstream's: what takes longer is no right answer

UNITS = (
    *("degree", "cm", "centimeter", "meter", "mile", "second", "minute", "hour", "week", "month", "year", "foot"),
    *("feet", "inch", "yard", "p.m.", "PM"),  # regular expressions, dots and all
)
UNIT = tuple(re.compile(rf"{unit}(es)?(s)? *(\^[0-9]+)?") for unit in UNITS)
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
WRAPPED = tuple(
    re.compile(rf"^\\{command}\{{(.+?)\}}$") for command in ("text", "mathrm", "mathcal", "textbf", "textit")
)
LARGE = (("million", "*10^6"), ("billion", "*10^9"), ("trillion", "*10^12"))
REMOVED = ("\\!", "\\%", "\\$", "$", "%", "^{\\circ}")
THOUSANDS = re.compile(r"(\d),(\d\d\d)($|\D)")
NUMBER = re.compile(r"-?\d{1,15}")


# --- the form in which answers are compared ----------------------------------------------------------------------


def money_or_percent(text: str) -> str:
    """math_grader.py:353-366: $5 is 5, and so is 5%."""
    if re.match(r"\$\d+(\.\d+)?", text):
        return text[1:]
    if re.fullmatch(r"\d+(\.\d+)?\\?%", text):
        return text.replace("\\%", "").replace("%", "")
    return text


def without_unit(text: str) -> str:
    """math_grader.py:146-166: what stands before the only \\text{...}, unless nothing does; else without its braces."""
    if "\\text" in text:
        parts = re.split(r"\\text\s*{\s*", text)
        if len(parts) == 2 and parts[0] not in ("", "("):
            return parts[0]
    if "\\text{" in text:
        return re.sub(r"\\text{([^}]+)}", r"\1", text)
    if "\\mbox{" in text:
        before, _ = text.split("\\mbox{")  # two of them are an error upstream, too, which counts as wrong
        return before
    return text


def with_braces(text: str) -> str:
    """math_grader.py:100-128: \\frac12 and \\frac1{72} get the braces that they lack."""
    while "\\frac " in text:
        text = text.replace("\\frac ", "\\frac")
    head, *rest = text.split("\\frac")
    made = head
    for part in rest:
        if not part.startswith("{"):
            if len(part) < 2:
                return text
            below = part[1:] if part[1] == "{" else "{" + part[1] + "}" + part[2:]
            part = "{" + part[0] + "}" + below
        made += "\\frac" + part
    return made


def without_commas(text: str) -> str:
    while (found := THOUSANDS.sub(r"\1\2\3", text)) != text:
        text = found
    return text


def whole(text: str) -> str | None:
    """A number without its zeros and commas, where it is a whole one."""
    try:
        number = float(without_commas(text))
        if abs(number - round(number)) > 1e-7:
            return None
        return str(int(float(text.replace(",", "").split("_")[0])))
    except (ValueError, OverflowError):
        return None


def form(text: str) -> str:
    """math_grader.py:221-319. Raises ValueError for two \\mbox."""
    text = text.replace("\\left", "").replace("\\right", "")
    text = re.sub(r"\s*\\text{\s*(or|and)\s*}\s*", ",", text)
    text = without_unit(re.sub(r",\s*,", ",", text))
    if "\\in " in text:
        text = text.split("\\in ")[1].strip()
    for wrapped in WRAPPED:
        if found := wrapped.search(text):
            text = found[1]
    for mark in REMOVED:
        text = text.replace(mark, "")
    text = text.replace(" or ", " , ").replace(" and ", " , ")
    for word, factor in LARGE:
        text = text.replace(word, factor)
    for unit in UNIT:
        text = unit.sub("", text)
    if "day" in text and not any(day in text for day in WEEKDAYS):
        text = re.sub(r"days?", "", text)
    text = re.sub(r"\^ *\\circ", "", text)
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    text = with_braces(re.sub(r"\\sqrt(\s*\w+)", r"\\sqrt{\1}", text))
    text = re.sub(r"([0-9]) +([0-9])", r"\1+\2", re.sub("- *", "-", text))
    text = re.sub(r"(\d+) *\\frac{(\d+)}{(\d+)}", r"\1 + \2/\3", text).replace(" ", "")
    return whole(text) or text


# --- the comparison ----------------------------------------------------------------------------------------------


def float_of(text: str) -> float | None:
    try:
        return float(text.replace("{,}" if "{,}" in text else ",", ""))
    except ValueError:
        return None


def near(gold: float, found: float) -> bool:
    """Equal except for 1 in 10,000, or so after a change to or from percent (math_grader.py:404-420)."""
    return any(math.isclose(value, found, rel_tol=TOLERANCE) for value in (gold / 100, gold, gold * 100))


def whole_numbers(gold: str, answer: str) -> bool | None:
    """The verdict on two plain whole numbers; None for anything else."""
    if NUMBER.fullmatch(gold) and NUMBER.fullmatch(answer):
        return near(float(gold), float(answer))
    return None


def interval(text: str) -> str:
    """math_grader.py:690-712: sympy's Interval(1, 2) in brackets."""
    for name, left, right in (("", "[", "]"), (".Ropen", "[", ")"), (".Lopen", "(", "]"), (".open", "(", ")")):
        if found := re.match(rf"^Interval{re.escape(name)}\((.*)\)$", text):
            return left + found[1] + right
    return text


def each(gold: Sequence[str], found: Sequence[str]) -> bool:
    return len(gold) == len(found) and all(equal(ours, theirs) for ours, theirs in zip(gold, found, strict=True))


def equal(gold: str, answer: str | None) -> bool:
    """Whether the rule takes `answer` for `gold`. None never is."""
    if answer is None:
        return False
    try:
        gold, found = form(money_or_percent(gold)), form(money_or_percent(answer))[:LONGEST]
    except ValueError:
        return False
    if found.strip().lower() == gold.strip().lower():
        return True
    ours, theirs = float_of(gold), float_of(found)
    if ours is not None and theirs is not None:
        return near(ours, theirs)
    if not found:
        return False
    gold, found = gold.strip(), interval(found.strip())
    ends, other = (found[:1], found[-1:]), gold[:1]
    alike = (ends == ("[", "]") and other != "(") or (ends == ("(", ")") and other != "[")
    left, right = (text.strip("[]()") if alike else text for text in (found, gold))
    brackets = str.maketrans("", "", "{}()")
    if left.translate(brackets) == right.translate(brackets):
        return True
    if not gold:
        return False
    same_ends = ends == (gold[0], gold[-1]) and found[0] in "([" and found[-1] in ")]"
    if same_ends and each(gold[1:-1].split(","), found[1:-1].split(",")):
        return True
    if "," in found and found.count(",") == gold.count(","):
        return each(gold.split(","), found.split(","))
    if found.startswith("Point") and (gold[0], gold[-1]) == ("(", ")"):
        inside = found[found.find("(") + 1 : -1]
        if each(gold[1:-1].split(","), inside.split(",")):
            return True
    return symbolic(gold, found)


def tex(text: str) -> Any:
    """sympy's value of the TeX that a text begins with. Raises LaTeXParsingError and others.

    This is what sympy's parse_latex does, which refuses antlr 4.13, math-verify's, though its tables are read by it.
    """
    from antlr4 import CommonTokenStream, InputStream
    from sympy.parsing.latex import _parse_latex_antlr as sympys

    listener = sympys.MathErrorListener(text)
    with redirect_stdout(io.StringIO()):  # where antlr says that its version is another
        lexer = sympys.LaTeXLexer(InputStream(text))
        parser = sympys.LaTeXParser(CommonTokenStream(lexer))
    for part in (lexer, parser):
        part.removeErrorListeners()
        part.addErrorListener(listener)
    return sympys.convert_relation(parser.math().relation())


@lru_cache(maxsize=1024)
def read(text: str) -> Any:
    """A sympy value, or the text itself where neither reader can make one of it."""
    readers: tuple[Callable[[str], Any], ...] = (evaluated, tex)
    for reader in readers:
        with suppress(Exception), time_limit(SECONDS):
            return reader(text)
    return text


def symbolic(gold: str, found: str) -> bool:
    """Whether the difference is nothing, or the values are near (math_grader.py:515-545)."""
    import sympy

    ours, theirs = read(gold), read(found)
    with suppress(Exception), time_limit(SECONDS):
        if sympy.simplify(theirs - ours) == 0:
            return True
    with suppress(Exception), time_limit(SECONDS):
        return math.isclose(sympy.N(theirs), sympy.N(ours), rel_tol=TOLERANCE)
    return False
