"""Arithmetic in the text of a solution: find it, check it, write it out step by step. No text is ever executed.

Results are those of NeMo-Skills 8b18f39 nemo_skills/training/data_preparation_utils/arithmetic_utils.py and of the two
filters that use it (filters.py:183 and :333), which hand what a model wrote to Python's eval. Here the text is parsed
by Python's grammar and nothing but numbers and operators is evaluated, within limits on sizes: beyond them an
expression is left alone, as is one that is not arithmetic.
"""

import ast
import math
import operator
import re
from collections.abc import Callable, Iterator

Number = int | float | complex

MAX_LENGTH = 2000  # characters of an expression
MAX_WORK = 4_000_000  # characters of all steps of all expressions of a text, about: under a second
MAX_BITS = 100_000  # of an integer: 30,000 digits
TOLERANCE = 1e-4  # relative, as filters.py:184

OPERATORS = "+-/*"
TOKEN = re.compile(r"(?<!\d)-\d+(?:\.\d+)?|\d+(?:\.\d+)?|\*\*|[+*/()-]")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
NEGATIVE = re.compile(r"(?<!\d)(-\d+(?:\.\d+)?)")
# Where an expression can be. Beyond ASCII there are blanks and digits, too; each is looked at.
RUN = re.compile(r"[0-9+\-/*()\x80-\U0010ffff][\s0-9.+\-/*=()\x80-\U0010ffff]*")

PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, "**": 3}
STEP: dict[str, Callable[[float, float], Number]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "**": operator.pow,
}


def expressions(text: str) -> Iterator[tuple[str, int]]:
    """The arithmetic expressions of a text, with the position at which each begins (arithmetic_utils.py:56).

    Those with two operators or more; but at a full stop that follows no digit, whatever has been collected so far,
    and the collecting continues without that full stop.
    """
    for run in RUN.finditer(text):
        span = run[0]
        if "." not in span and sum(map(span.count, OPERATORS)) < 2:
            continue
        found: list[str] = []
        start = 0
        for at, char in enumerate(span, run.start()):
            if not found:
                start = at
            if char.isspace():
                if found:
                    found.append(char)
            elif char == ".":
                if found and found[-1].isdigit():
                    found.append(char)
                elif found and len(found) <= MAX_LENGTH:
                    yield "".join(found).rstrip(), start
            elif char.isdigit() or char in "+-/*()" or (char == "=" and found):
                found.append(char)
            elif char != "=":
                yield from whole(found, start)
                found = []
        yield from whole(found, start)


def whole(found: list[str], start: int) -> Iterator[tuple[str, int]]:
    if len(found) <= MAX_LENGTH and sum(map(found.count, OPERATORS)) >= 2:
        yield "".join(found).rstrip(), start


def affordable(text: str) -> Iterator[tuple[str, int]]:
    """The expressions of a text until their steps would take more than MAX_WORK."""
    left = MAX_WORK
    for expression, start in expressions(text):
        left -= len(expression) * (1 + sum(map(expression.count, OPERATORS)))
        if left < 0:
            return
        yield expression, start


def solve(expression: str) -> list[str]:
    """The expression and what is left of it after each operation, in the order in which they are carried out.

    Left to right by precedence, powers too; in floats, shown as integers where they are (arithmetic_utils.py:155).
    Raises ValueError where that is not possible.
    """
    if len(expression) > MAX_LENGTH:
        raise ValueError("too long")
    steps = [expression]
    try:
        while len(tokens := list(TOKEN.finditer(expression))) > 1:
            result, start, end = operate(tokens)
            left, right = expression[:start], expression[end:]
            if left.endswith("(") and right.startswith(")"):
                left, right = left[:-1], right[1:]
            expression = f"{left}{result}{right}"
            steps.append(expression)
    except (ArithmeticError, LookupError) as error:
        raise ValueError(f"not to be solved ({error})") from None
    return steps


def operate(tokens: list[re.Match[str]]) -> tuple[int | float, int, int]:
    """The result of the first operation to carry out, and where in the text its operands begin and end.

    Raises LookupError where operators, operands and parentheses do not match, ArithmeticError, ValueError.
    """
    numbers: list[re.Match[str]] = []
    waiting: list[str] = []
    for token in tokens:
        if NUMBER.fullmatch(token[0]):
            numbers.append(token)
        elif token[0] == "(":
            waiting.append("(")
        elif token[0] == ")":
            if waiting[-1] != "(":
                break
            waiting.pop()
        elif waiting and waiting[-1] != "(" and PRECEDENCE[waiting[-1]] >= PRECEDENCE[token[0]]:
            break
        else:
            waiting.append(token[0])
    first, second = numbers[-2], numbers[-1]
    result = STEP[waiting[-1]](float(first[0]), float(second[0]))
    if isinstance(result, complex):
        raise ValueError("complex")
    return int(result) if math.isfinite(result) and result == int(result) else result, first.start(), second.end()


def merge(steps: list[str]) -> str:
    """The steps as one line, joined by equals signs, negative numbers in parentheses (arithmetic_utils.py:178)."""
    shown = [NEGATIVE.sub(r"(\1)", step) for step in steps[:-1]]
    return re.sub(r"\s+", " ", " = ".join([*shown, steps[-1].strip()]))


def value(text: str) -> Number:
    """What Python's eval would say of an arithmetic expression. Raises ValueError for anything else, or too large."""
    if len(text) > MAX_LENGTH:
        raise ValueError("too long")
    try:
        return evaluate(ast.parse(text.lstrip(" \t"), mode="eval").body)  # eval, too, strips just these
    except (SyntaxError, ArithmeticError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"no arithmetic ({error})") from None


def evaluate(node: ast.AST) -> Number:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return node.value
    if isinstance(node, ast.UnaryOp) and type(node.op) in (ast.UAdd, ast.USub):
        operand = evaluate(node.operand)
        return operand if isinstance(node.op, ast.UAdd) else -operand
    if isinstance(node, ast.BinOp) and type(node.op) in BINARY:
        result = BINARY[type(node.op)](evaluate(node.left), evaluate(node.right))
        if isinstance(result, int) and result.bit_length() > MAX_BITS:
            raise ValueError("too large")
        return result
    raise ValueError("no arithmetic")


def power(base: Number, exponent: Number) -> Number:
    if (
        isinstance(base, int)
        and isinstance(exponent, int)
        and abs(base) > 1
        and exponent > 0
        and base.bit_length() * exponent > MAX_BITS
    ):
        raise ValueError("too large")
    return base**exponent


BINARY: dict[type[ast.AST], Callable[..., Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: power,
}


def wrong(text: str) -> bool:
    """Whether an equation in the text does not hold: its first part, solved, against its last (filters.py:183).

    What is not arithmetic, or too large, is not wrong.
    """
    for expression, _ in affordable(text):
        first, *others = expression.split("=")
        if not others:
            continue
        try:
            left, right = value(solve(first)[-1]), value(others[-1])
            if isinstance(left, complex) or isinstance(right, complex):
                continue
            if not math.isclose(left, right, rel_tol=TOLERANCE):
                return True
        except (ValueError, OverflowError):  # the last: integers beyond a float
            continue
    return False


def split(text: str) -> str:
    """The text with every equation `expression = result` that holds exactly written out in steps (filters.py:333).

    Where expressions overlap (see `expressions`) upstream writes their text twice; here the later one is left alone.
    """
    pieces, done = [], 0
    for expression, start in affordable(text):
        first, *others = expression.split("=")
        if len(others) != 1 or start < done or not text.startswith(expression, start):
            continue
        try:
            steps = solve(first)
            holds = value(steps[-1]) == value(others[0])
        except ValueError:
            continue
        if holds:
            pieces += text[done:start], merge(steps)
            done = start + len(expression)
    return "".join(pieces) + text[done:]
