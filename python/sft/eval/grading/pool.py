"""Grading in processes that are killed when they take too long: no answer is lost, and none holds up the others.

    with Grader("release") as grader:
        verdicts = grader.verdicts([("138", "138"), ("\\frac12", "0.5")])

math-verify's own time limit is an alarm, which an `except Exception` inside sympy may swallow, and which waits for as
long as one operation on a large number takes. So each pair has a deadline here, and what misses it counts as wrong, by
name: Verdict.how.
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from sft.eval.grading.rules import RULES, at_once
from sft.lib.errors import Failure
from sft.lib.workers import cores

WORKER = Path(__file__).with_name("worker.py")
# Of a processor, for one pair; math-verify's own limits come to 5 for each answer and 10 for both, release.py's to 20.
SECONDS = 25.0
PATIENCE = 4  # times as long by the clock: a busy machine must not make a right answer wrong
START = 180.0  # until a process has imported sympy; a busy file system takes a minute
MEMORY = 3 << 30  # bytes of a process
SPOILT = ("memory", "recursion")  # after these a child ends: worker.py
NO_START = "a grading process did not start; try: python -c 'import math_verify, sympy', and run: make setup"
DECIDED = ("literal", "rule", "no answer")

Pair = tuple[str, str | None]


@dataclass(frozen=True)
class Verdict:
    """how: literal, rule, no answer; else what kept the rule from deciding, which counts as wrong: time, memory,
    recursion, a crash, a bound, or the name of an exception."""

    correct: bool
    how: str

    @property
    def decided(self) -> bool:
        return self.how in DECIDED


def used(pid: int) -> float:
    """Seconds of a processor that a process has used; endless where the kernel does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return float("inf")


@dataclass
class Process:
    """A worker: what it is at, since when, when to look at it, and what it has said so far of its next line.

    grading: its child, once that is ready. number: of the pair, in the order that it was given them. begun: by the
    clock, and seconds of a processor that the child had used by then.
    """

    child: subprocess.Popen[bytes]
    deadline: float
    at: Pair | None = None
    number: int = 0
    begun: tuple[float, float] = (0.0, 0.0)
    grading: int | None = None
    said: bytes = field(default=b"")

    def kill_child(self) -> None:
        if self.grading is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.grading, signal.SIGKILL)
        self.grading = None


class Grader:
    """Worker processes for one rule, and a memory of what they have said; they live as long as the `with` block."""

    def __init__(self, rule: str, processes: int | None = None, seconds: float = SECONDS, memory: int = MEMORY):
        """processes: default one a core. seconds, memory: bounds of one pair. Raises KeyError for no rule."""
        self.rule, self.seconds, self.memory = rule, seconds, memory
        self.known: dict[Pair, Verdict] = {}
        self.waiting: deque[Pair] = deque()
        self.crashed: set[Pair] = set()
        self.processes = cores(processes)
        self.running: list[Process] = []
        self.selector = selectors.DefaultSelector()
        RULES[rule]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.waiting.clear()
        for process in list(self.running):
            self.end(process)
        self.selector.close()

    def start(self) -> None:
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        child = subprocess.Popen(
            [sys.executable, "-E", str(WORKER), self.rule, str(self.memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        assert child.stdout
        os.set_blocking(child.stdout.fileno(), False)
        process = Process(child, time.monotonic() + START)
        self.running.append(process)
        self.selector.register(child.stdout, selectors.EVENT_READ, process)

    def end(self, process: Process) -> None:
        assert process.child.stdin and process.child.stdout
        self.running.remove(process)
        self.selector.unregister(process.child.stdout)
        process.kill_child()
        process.child.kill()
        process.child.wait()
        process.child.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            process.child.stdin.close()

    def verdicts(self, pairs: Iterable[Pair], tick: Callable[[int], None] | None = None) -> list[Verdict]:
        """The verdict on each (gold, answer), in their order. tick: called with the number that is decided, for
        progress. Raises Failure when no process can start; nothing else that a pair does raises."""
        order, waiting = list(pairs), self.waiting
        for pair in dict.fromkeys(order):
            if pair in self.known:
                continue
            told = at_once(self.rule, *pair)
            if told is None:
                waiting.append(pair)
            else:
                self.known[pair] = Verdict(*told)
        left = len(waiting)
        while left:
            while len(self.running) < min(self.processes, left):
                self.start()
            for process in self.running:
                self.give(process)
            nearest = min(process.deadline for process in self.running)
            for key, _ in self.selector.select(max(0.0, nearest - time.monotonic())):
                left -= self.hear(key.data)
            for process in list(self.running):
                left -= self.look(process)
            if tick:
                tick(len(self.known))
        return [self.known[pair] for pair in order]

    def give(self, process: Process) -> None:
        """The next pair, to a process that has none. A pair is shorter than a pipe is long, so this never waits."""
        if process.grading is None or process.at is not None:
            return
        if not self.waiting:
            process.deadline = float("inf")
            return
        process.at, now = self.waiting.popleft(), time.monotonic()
        process.begun = (now, used(process.grading))
        process.deadline = now + self.seconds
        process.number += 1
        assert process.child.stdin
        try:
            process.child.stdin.write(json.dumps([process.number, *process.at]).encode() + b"\n")
            process.child.stdin.flush()
        except BrokenPipeError:  # it has died while idle: its end is heard next, and the pair goes to another
            self.waiting.appendleft(process.at)
            process.at = None

    def hear(self, process: Process) -> int:
        """Take what a process says; returns how many pairs that decides."""
        if process not in self.running:
            return 0
        assert process.child.stdout
        said = process.child.stdout.read()
        if said is None:
            return 0
        if not said:
            if process.grading is None and not process.number:
                raise Failure(NO_START)
            self.end(process)
            return self.lost(process, "crash")
        process.said += said
        decided = 0
        while b"\n" in process.said:
            line, process.said = process.said.split(b"\n", 1)
            match json.loads(line):
                case [int(pid)]:
                    process.grading, process.deadline = pid, float("inf")
                case []:
                    process.grading, process.deadline = None, time.monotonic() + START
                    decided += self.lost(process, "crash")
                case [process.number, verdict, how] if process.at is not None:
                    self.known[process.at] = Verdict(verdict, how)
                    process.at = None
                    decided += 1
                    if how in SPOILT:
                        process.grading, process.deadline = None, time.monotonic() + START
        return decided

    def look(self, process: Process) -> int:
        """End a process whose time is over, or give it what it has not had of its own; returns how many pairs that
        decides."""
        now = time.monotonic()
        if process.deadline > now:
            return 0
        if process.grading is None:
            raise Failure(NO_START)
        clock, before = process.begun
        rest = self.seconds - (used(process.grading) - before)
        if rest > 0 and now < clock + PATIENCE * self.seconds:
            process.deadline = min(now + max(rest, 0.05), clock + PATIENCE * self.seconds)
            return 0
        process.kill_child()
        process.deadline = now + START
        return self.lost(process, "time")

    def lost(self, process: Process, how: str) -> int:
        """The child that was at a pair is no more; returns how many pairs that decides.

        A pair gets a second child after a crash: the system kills for memory whom it likes.
        """
        pair, process.at = process.at, None
        if pair is None:
            return 0
        if how == "crash" and pair not in self.crashed:
            self.crashed.add(pair)
            self.waiting.append(pair)
            return 0
        self.known[pair] = Verdict(False, how)
        return 1


def undecided(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """How many answers count as wrong because the rule did not come to a verdict, by what kept it."""
    return dict(Counter(verdict.how for verdict in verdicts if not verdict.decided))
