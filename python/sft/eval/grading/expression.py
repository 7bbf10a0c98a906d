"""An expression in plain text, evaluated as sympy's parse_expr does, but nothing else than arithmetic.

parse_expr hands its text to Python's eval, and an answer is a stranger's text. So the code that sympy makes of it is
looked at first: numbers, letters, operators and the functions listed here pass, nothing that has an attribute, an
index or a string.
"""

import ast
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

CONSTANTS = {"pi", "E", "I", "oo", "zoo", "nan", "GoldenRatio", "EulerGamma"}
FUNCTIONS = {
    *("Symbol", "Integer", "Float", "Rational", "factorial", "factorial2", "sqrt", "cbrt", "root", "exp", "log", "ln"),
    *("sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "sinh", "cosh", "tanh", "Abs", "floor"),
    *("ceiling", "binomial", "gcd", "lcm", "Min", "Max", "Mod", "re", "im", "sign"),
}
NODES = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.Load)
LARGEST = 20_000  # an exponent, or what has a factorial taken of it, in plain digits


class TooLong(Exception):
    """The time that a step may take is over."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TooLong after so many seconds of wall time; in a main thread only, for others hear no signal."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@cache
def names() -> dict[str, Any]:
    import sympy

    return {"__builtins__": {}} | {name: getattr(sympy, name) for name in CONSTANTS | FUNCTIONS}


def allowed(node: ast.AST) -> bool:
    """Whether a tree of sympy's code is arithmetic."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):  # of Symbol('x') and Float('0.5')
            return re.fullmatch(r"[\w.]+", node.value) is not None
        return isinstance(node.value, int | float)
    if isinstance(node, ast.Name):
        return node.id in CONSTANTS
    if isinstance(node, ast.Call):
        named = isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS and not node.keywords
        return named and all(allowed(argument) for argument in node.args) and small(node)
    return isinstance(node, NODES) and small(node) and all(allowed(child) for child in ast.iter_child_nodes(node))


def digits(node: ast.AST) -> int | None:
    """The number, of Integer(5); None for anything else."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Integer" and node.args:
        value = node.args[0]
        return value.value if isinstance(value, ast.Constant) and isinstance(value.value, int) else None
    return None


def small(node: ast.AST) -> bool:
    """Whether powers and factorials are of a size that can be written out; a tower of powers is not."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        exponent = digits(node.right)
        return not (isinstance(node.right, ast.BinOp) and isinstance(node.right.op, ast.Pow)) and (
            exponent is None or exponent <= LARGEST
        )
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.startswith("factorial"):
        argument = digits(node.args[0]) if node.args else None
        return argument is None or argument <= LARGEST
    return True


def evaluated(text: str) -> Any:
    """sympy's value of an expression. Raises ValueError for what is none, and whatever sympy does."""
    from sympy.parsing.sympy_parser import eval_expr, standard_transformations, stringify_expr

    code = stringify_expr(text, {}, dict(names()), standard_transformations)
    if not allowed(ast.parse(code.strip(), mode="eval")):
        raise ValueError(f"{text[:50]}: not arithmetic")
    return eval_expr(code, {}, dict(names()))
