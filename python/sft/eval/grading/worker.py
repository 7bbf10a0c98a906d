"""One grading process: a line of JSON in, [number, gold, answer], one out, [number, right, how].

    python worker.py RULE BYTES

Started and killed by pool.py. BYTES: of memory that it may have. What libraries print goes nowhere.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # where the package sft is

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # never without the one that waits for us
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    lines, out = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    from sft.eval.grading.rules import RULES

    rule = RULES[sys.argv[1]]
    rule("\\frac{1}{2}", "0.25")  # imports what it needs
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
    out.write("[]\n")
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
            return


if __name__ == "__main__":
    main()
