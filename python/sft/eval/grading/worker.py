"""One grading process: a line of JSON in, [number, gold, answer], one out, [number, right, how].

    python worker.py RULE BYTES

Started by pool.py. It imports the rule, which takes seconds, and forks a child that grades; in place of one that was
killed, or that is not to be trusted any more, another, which takes none. A child's first line is [its process], a line
[] says that it is gone. BYTES: of memory that it may have. What libraries print goes nowhere.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TextIO

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # where the package sft is

PR_SET_PDEATHSIG = 1  # linux/prctl.h
ENDED = 99  # the status of a child that has read all there is


def main() -> None:
    mortal()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    lines, out = os.dup(0), os.fdopen(os.dup(1), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    from sft.eval.grading.rules import RULES

    rule = RULES[sys.argv[1]]
    rule("\\frac{1}{2}", "0.25")  # imports what it needs
    while True:
        child = os.fork()
        if not child:
            mortal()
            resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
            grade(rule, os.fdopen(lines), out)
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) == ENDED:
            return
        out.write("[]\n")


def mortal() -> None:
    """Never without the one that waits for this process."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def grade(rule: Callable[[str, str], bool], lines: TextIO, out: TextIO) -> NoReturn:
    out.write(f"[{os.getpid()}]\n")
    for line in lines:
        number, gold, answer = json.loads(line)
        how, verdict = "rule", False
        try:
            verdict = bool(rule(gold, answer))
        except MemoryError:
            how = "memory"
        except RecursionError:
            how = "recursion"
        except Exception as error:  # sympy raises whatever an odd answer leads it to
            how = type(error).__name__
        out.write(json.dumps([number, verdict, how]) + "\n")
        if how in ("memory", "recursion"):  # what is left of this process is not to be trusted
            os._exit(1)
    os._exit(ENDED)


if __name__ == "__main__":
    main()
