"""Whether an answer is the expected one: math-verify, and around it what it gets wrong (its 0.9.0).

math-verify takes two numbers for equal when their difference is small in absolute terms: 1/2004! and 1/2006!
(its grader.py:190, evalf with chop; Math-Verify#14, #64). It takes sqrt(1/n) and 1/sqrt(n) for different, for it
allows every complex n, and it knows no list that goes on. So in this order:

1. Both are written the same, except for blanks, marks of another script and what encloses all of it: equal. Names in
   capitals and letters of a choice are compared as such (same_choice, same_name).
2. A list that goes on ("1,2,...,n") is compared as it is written, no other way.
3. Both are expressions: their values decide, to 380 digits or more; of those with letters, at every one of some
   points where both are real numbers. Tuples, sets, intervals and x = ... are compared by their members.
4. All else, decimals and percentages too, is math-verify's.
"""

import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from fractions import Fraction
from functools import lru_cache
from typing import Any

# Digits to compute with, and to compare: the first pair tells most numbers apart, the second those that are close, the
# third those as large as 2004!.
PRECISIONS = ((50, 30), (400, 380), (20_000, 19_900))
MOST = 1e9  # the natural logarithm of the largest power, and the largest factorial, that are computed
# One value per letter, at each point; powers, roots and denominators of them are all different.
POINTS = (
    ("1.7320508", "2.2360679", "0.6180339", "3.3166247"),
    ("0.4142135", "0.8284271", "2.6457513", "1.1180339"),
    ("7.1414284", "5.0990195", "4.3588989", "6.0827625"),
    ("-1.3027756", "2.1925824", "0.5615528", "3.7015621"),
    ("-2.4494897", "-0.7015621", "-1.6055512", "-3.1231056"),
)
SAME = {
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d", "-"),
    "\u2205": "\\emptyset ",
    "\u2026": "\\ldots ",
    "\u22ef": "\\ldots ",
    "\u00a0": " ",
    "\u2009": " ",
    "\u202f": " ",
}
EMPTY = re.compile(r"\\varnothing(?![a-zA-Z])|^\s*\\\{\s*\\\}\s*$")
DOTS = re.compile(r"\\(?:[lc]?dots[cbmio]?)(?![a-zA-Z])|(?<![\d.])\.\.\.(?!\.)")
BLANKS = re.compile(r"\s+|\\[,;:!> ]|\\(?:left|right|quad|qquad|displaystyle)(?![a-zA-Z])")
BOXED = re.compile(r"\\boxed(?:\s*(?P<brace>\{)|\s*(?P<number>-?\d+(?:\.\d+)?))")
ENCLOSED = re.compile(
    r"\$([^$]*)\$|\\\((.*)\\\)|\\\[(.*)\\\]|\\(?:text|textbf|textit|textrm|mathrm|mathbf|boldsymbol)\s*\{([^{}]*)\}",
    re.DOTALL,
)
PERCENT = re.compile(r"(-?\d*\.?\d+)\s*(\\?%)?")
MODULO = re.compile(r"\s*(?:\\pmod\s*(?:\{[^{}]*\}|\d+)|\(\s*\\bmod\s*[^()]*\)|\\bmod\s*(?:\{[^{}]*\}|\d+))\s*$")
NAME = re.compile(r"[A-Z]{2,}")
LISTED = re.compile(r"(\\\{|\(|\[|)\s*(-?\d+(?:\s*,\s*-?\d+)+)\s*(\\\}|\)|\]|)")
DRESS = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|boldsymbol)\s*(?=\{)|[{}$*_]")
HEADED = re.compile(r"[(\[]?([A-J])(?:[)\].:]+(?:\s.*)?)?", re.DOTALL)
STATED = re.compile(r".*\b(?i:answer|option|choice)(?:\s+(?i:is))?\s*:?\s*[(\[]?([A-J])[)\]]?\.?", re.DOTALL)


def boxed(text: str) -> str | None:
    """The content of the last \\boxed{...}, with braces matched, or the number after a \\boxed without braces.

    None when there is none, and when the last one never closes.
    """
    boxes = list(BOXED.finditer(text))
    if not boxes:
        return None
    found = boxes[-1]
    if found["number"]:
        return found["number"]
    depth = 0
    for i in range(found.start("brace"), len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[found.start("brace") + 1 : i]
    return None


def plain(text: str) -> str:
    """The text with ASCII's minus, one sign for the empty set and one for what is left out."""
    for mark, same in SAME.items():
        text = text.replace(mark, same)
    return DOTS.sub(r"\\ldots ", EMPTY.sub(r"\\emptyset ", text)).strip()


@lru_cache(maxsize=1024)
def parsed(text: str) -> Any:
    """What math-verify makes of an answer; the expected one comes again with each sample."""
    from math_verify import parse

    return parse(f"${text}$")


def correct(expected: str, answer: str | None) -> bool:
    """Whether two answers in TeX are equal; an answer that is none, or empty, never is."""
    from math_verify import verify

    if answer is None or not answer.strip():
        return False
    ours = unwrapped(plain(expected))
    theirs = without_modulus(ours, unwrapped(plain(answer)))
    if BLANKS.sub("", ours) == BLANKS.sub("", theirs):
        return True
    for same in (same_choice, same_name, same_list, same_percent):
        if (verdict := same(ours, theirs)) is not None:
            return verdict
    if "\\ldots" in ours + theirs:
        return False
    gold, found = parsed(ours), parsed(theirs)
    if gold and found and not ("%" in ours or "%" in theirs):
        with suppress(Exception):  # sympy raises whatever an odd answer leads it to; then math-verify has its say
            if (equal := decide(gold[0], found[0])) is not None:
                return equal
    return bool(verify(gold, found))


def decide(gold: Any, found: Any) -> bool | None:
    """Whether two parsed answers are equal by their values; None where these do not tell."""
    import sympy

    if isinstance(gold, str) or isinstance(found, str):
        return None
    gold, found = imaginary(*as_sets(*unwrap(gold, found)))
    for kind in (sympy.Tuple, sympy.FiniteSet):
        if isinstance(gold, kind) and isinstance(found, kind) and len(gold.args) == len(found.args):
            return members(gold.args, found.args) if kind is sympy.Tuple else any_order(gold.args, found.args)
    if isinstance(gold, sympy.Interval) and isinstance(found, sympy.Interval):
        if (gold.left_open, gold.right_open) != (found.left_open, found.right_open):
            return False
        return members((gold.start, gold.end), (found.start, found.end))
    if not isinstance(gold, sympy.Expr) or not isinstance(found, sympy.Expr):
        return None
    if gold == found:
        return True
    if gold.has(sympy.Float) or found.has(sympy.Float):  # a decimal is as exact as it is written
        return None
    return same_values(gold, found)


def unwrap(gold: Any, found: Any) -> tuple[Any, Any]:
    """Of x = 3 its right side, where the other has the same left side, or none."""
    import sympy

    sides = [side if isinstance(side, sympy.Eq) and side.lhs.is_Symbol else None for side in (gold, found)]
    left, right = sides
    if left is not None and right is not None:
        return (left.rhs, right.rhs) if left.lhs == right.lhs else (gold, found)
    return (gold if left is None else left.rhs), (found if right is None else right.rhs)


def as_sets(gold: Any, found: Any) -> tuple[Any, Any]:
    """An inequality in one letter as the interval that it means, where the other is an interval."""
    import sympy
    from sympy.core.relational import Relational

    def as_set(one: Any, other: Any) -> Any:
        wanted = (
            isinstance(one, Relational | sympy.And) and isinstance(other, sympy.Interval) and len(one.free_symbols) == 1
        )
        if not wanted:
            return one
        # Of a letter that may be complex, sympy makes no set.
        return one.subs(next(iter(one.free_symbols)), sympy.Symbol("x", real=True)).as_set()

    return as_set(gold, found), as_set(found, gold)


def imaginary(gold: Any, found: Any) -> tuple[Any, Any]:
    """The letter i as the imaginary unit, where the other has no letter at all: i is sqrt(-1)."""
    import sympy

    def read(one: Any, other: Any) -> Any:
        if not isinstance(one, sympy.Expr) or not isinstance(other, sympy.Expr) or other.free_symbols:
            return one
        return one.subs({letter: sympy.I for letter in one.free_symbols if letter.name == "i"})

    return read(gold, found), read(found, gold)


def members(gold: Sequence[Any], found: Sequence[Any]) -> bool | None:
    verdicts = [decide(ours, theirs) for ours, theirs in zip(gold, found, strict=True)]
    return False if False in verdicts else None if None in verdicts else True


def any_order(gold: Sequence[Any], found: Sequence[Any]) -> bool | None:
    """Whether each of `gold` has a partner of its own in `found`; both have as many."""
    left = list(found)
    for ours in gold:
        verdicts = [decide(ours, theirs) for theirs in left]
        if True in verdicts:
            left.pop(verdicts.index(True))
        else:
            return None if None in verdicts else False
    return True


def same_values(gold: Any, found: Any) -> bool | None:
    import mpmath

    letters = sorted(gold.free_symbols | found.free_symbols, key=str)
    if len(letters) > len(POINTS[0]):
        return None
    for digits, compared in PRECISIONS:
        told, largest = False, mpmath.mpf(1)
        with mpmath.workdps(digits):
            for point in POINTS if letters else ((),):
                at = {letter: mpmath.mpf(place) for letter, place in zip(letters, point, strict=False)}
                try:
                    ours, theirs = value(gold, at), value(found, at)
                except (ArithmeticError, ValueError, TypeError, NotImplementedError, AttributeError):
                    if letters:
                        continue
                    return None
                if not (mpmath.isfinite(ours) and mpmath.isfinite(theirs)):
                    continue
                if letters and not (is_real(ours, compared) and is_real(theirs, compared)):
                    continue
                told = True
                if size := abs(ours):
                    largest = max(largest, size, 1 / size)
                if abs(ours - theirs) > mpmath.mpf(10) ** -compared * max(abs(ours), abs(theirs)):
                    return False
            if not told:
                return None
            # Of numbers with more digits than are compared, equal leading ones say little.
            if digits > PRECISIONS[0][0] and largest < mpmath.mpf(10) ** (compared - 80):
                return True
    return None


def is_real(number: Any, digits: int) -> bool:
    import mpmath

    return abs(mpmath.im(number)) <= mpmath.mpf(10) ** -digits * max(1, abs(mpmath.re(number)))


def value(expression: Any, at: dict[Any, Any]) -> Any:
    """mpmath's value of a sympy expression, to its working precision; at: the value of each letter.

    Not sympy's own, which would write out 9^(9^9). Raises ArithmeticError for what is too large to compute, TypeError
    or NotImplementedError for what is not a number.
    """
    import mpmath

    if expression in at:
        return at[expression]
    if expression.is_Rational:
        return mpmath.mpf(int(expression.p)) / int(expression.q)
    arguments = [value(argument, at) for argument in expression.args]
    if expression.is_Add:
        return sum(arguments[1:], arguments[0])  # not fsum, which would write 9^(9^9) + 1 out
    if expression.is_Mul:
        return math.prod(arguments[1:], start=arguments[0])
    if expression.is_Pow:
        base, power = arguments
        exponent = expression.exp
        if exponent.is_Rational and exponent.q % 2 and exponent.q > 1 and not mpmath.im(base) and mpmath.re(base) < 0:
            base = -base  # the real root, as in answers, not the principal one
            sign = -1 if exponent.p % 2 else 1
            return sign * mpmath.power(base, power)
        if base == 0 or (size := abs(power * mpmath.log(base))) <= MOST:
            return mpmath.power(base, power)
        raise ArithmeticError(f"a power of {size} digits")
    if any(abs(argument) > MOST for argument in arguments):  # 100! digits of pi are needed for sin(100!)
        raise ArithmeticError(f"{type(expression).__name__} of a number that is too large")
    function: Callable[..., Any] | None = FUNCTIONS.get(type(expression).__name__)
    if function is not None:
        return function(*arguments)
    if not expression.args and expression.is_number and expression.is_finite:  # pi, E, I
        return mpmath.mpmathify(expression.evalf(mpmath.mp.dps)) if expression.is_real else mpmath.mpc(0, 1)
    raise NotImplementedError(type(expression).__name__)


def log(number: Any, base: Any = None) -> Any:
    import mpmath

    return mpmath.log(number) if base is None else mpmath.log(number) / mpmath.log(base)


def of_mpmath(name: str) -> Callable[..., Any]:
    import mpmath

    return getattr(mpmath, name)


# sympy's class -> its value.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "log": log,
    "factorial": lambda number: of_mpmath("factorial")(number),
    "Abs": abs,
    "UnevaluatedExpr": lambda inner: inner,
    **{
        name: lambda number, name=name: of_mpmath(name)(number)
        for name in ("exp", "sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "sinh", "cosh", "tanh")
    },
}


# --- forms that people read alike, and that computer algebra does not ------------------------------------------------


def unwrapped(text: str) -> str:
    """Without marks of mathematics or a type face around all of it, and without the full stop that ends a sentence."""
    while True:
        bare = text.strip()
        if bare.endswith(".") and not bare.endswith(".."):
            bare = bare[:-1].rstrip()
        found = ENCLOSED.fullmatch(bare)
        if found:
            bare = next(group for group in found.groups() if group is not None)
        if bare == text:
            return text
        text = bare


def without_modulus(gold: str, answer: str) -> str:
    """70 \\pmod{1000} is 70 where the expected answer names no modulus: a remainder was asked for."""
    return answer if "mod" in gold else MODULO.sub("", answer)


def same_choice(gold: str, answer: str) -> bool | None:
    """Of an expected letter A to J: whether "B. 12" or "The answer is B" names it. None for any other pair."""
    if not re.fullmatch("[A-J]", gold.strip()):
        return None
    bare = DRESS.sub("", answer).strip()
    found = HEADED.fullmatch(bare) or STATED.fullmatch(bare)
    return None if found is None else found[1] == gold.strip()


def same_name(gold: str, answer: str) -> bool | None:
    """Of two names in capitals, such as AB of a segment: whether they are one. They are no products of letters."""
    if NAME.fullmatch(gold) and NAME.fullmatch(answer):
        return gold == answer
    return None


def same_list(gold: str, answer: str) -> bool | None:
    """Whether {98,118} is 98,118: one that stands in brackets tells that the other is no number with thousands.

    True, or None for what this does not tell; an order counts where both have round or square brackets.
    """
    ours, theirs = (LISTED.fullmatch(re.sub(r"\\left|\\right", "", text).strip()) for text in (gold, answer))
    if not ours or not theirs or not (ours[1] or theirs[1] or ", " in ours[2] or ", " in theirs[2]):
        return None
    left, right = ([int(number) for number in found[2].split(",")] for found in (ours, theirs))
    ordered = ours[1] in ("(", "[") and theirs[1] in ("(", "[")
    brackets = (ours[1], ours[3]) == (theirs[1], theirs[3]) or not ordered
    return True if brackets and (left == right if ordered else sorted(left) == sorted(right)) else None


def same_percent(gold: str, answer: str) -> bool | None:
    """Whether 20.0% is 20, or 0.2: an answer names the share, or its figure. None for any other pair."""
    ours, theirs = PERCENT.fullmatch(gold), PERCENT.fullmatch(answer)
    if not ours or not theirs or bool(ours[2]) == bool(theirs[2]):
        return None
    share, number = (ours, theirs) if ours[2] else (theirs, ours)
    figure, other = Fraction(share[1]), Fraction(number[1])
    return other in (figure, figure / 100)
