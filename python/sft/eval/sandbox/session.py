"""A live session of the model's code, from outside: cells go in, the text that the model is shown comes back.

One session a generation. A cell that takes too long is interrupted, then killed with all that it started; the next one
begins in a new process, in which the good cells are run again. So the state is a notebook's, and after a restart what
NeMo-Skills gave to the models at their release, where each call ran the good cells anew (0f7bd73
nemo_skills/code_execution/sandbox.py:180-268). Good: it wrote nothing to stderr and has no traceback.

What is left of the processes that a cell started goes when it answers: only the session itself lives on.
"""

import json
import os
import secrets
import selectors
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Self

from sft.eval.sandbox import memory
from sft.eval.sandbox.jail import Jail, launch
from sft.lib.errors import Failure

START = 60.0  # seconds until IPython is there, on a busy machine
GRACE = 0.5  # between SIGINT and SIGKILL, as in NeMo-Skills 8b18f39 local_sandbox_server.py:149
LOOK = 0.05  # seconds between two looks at the memory
ENDS = 20.0  # the longest that a killed jail may take to be gone
LINE = 256 * 1024  # bytes of an answer: two streams of `most` characters, as JSON
TRACEBACK = "Traceback (most recent call last)"

Status = Literal["ok", "error", "timeout", "dead"]


@dataclass(frozen=True)
class Texts:
    """What the model is told where NeMo-Skills changed it. most: characters of a stream that are kept."""

    style: str
    timed_out: str
    most: int = 1000


# 0f7bd73 nemo_skills/code_execution/sandbox.py:262. A protocol has the same.
RELEASE = Texts("release", "Timed out\n")


@dataclass(frozen=True)
class Result:
    """Of a cell. seconds: wall time, with a restart; detail: why a session ended; replayed: cells run again for it."""

    stdout: str
    stderr: str
    status: Status
    seconds: float
    detail: str = ""
    replayed: int = 0

    @property
    def text(self) -> str:
        return self.stdout + self.stderr


class Ended(Exception):
    """The session is of no more use; the message says why."""


class Late(Exception):
    """No answer in time."""


class Session:
    """Use it in a `with` block, or close it: a jail does not outlive its process, but it does outlive this object."""

    def __init__(self, jail: Jail, texts: Texts = RELEASE, timeout: float = 10.0):
        self.jail, self.texts, self.timeout = jail, texts, timeout
        self.good: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.handles: list[int] = []  # pidfds of the namespace's first process and of the worker
        self.chain: list[int] = []
        self.buffer = b""
        self.started = ""  # the nonce on the command line of the running worker

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- cells --------------------------------------------------------------------------------------------------

    def run(self, code: str, timeout: float | None = None) -> Result:
        """Run a cell. Whatever it does, this returns, and the next one finds a session.

        timeout: seconds. Raises Failure when no session can be started.
        """
        limit, began = timeout or self.timeout, time.monotonic()
        if self.process and not self.sound():
            self.close()
        replayed = self.restore() if self.process is None else 0
        try:
            answer = self.ask(code, limit)
        except Late:
            # Slow but well-behaved code leaves a session as it is after a Ctrl-C.
            try:
                self.interrupt()
                self.wait(GRACE)
                self.tidy()
            except (Ended, Late):
                self.close()
            text = self.texts.timed_out.format(seconds=limit)
            return Result("", text, "timeout", time.monotonic() - began, replayed=replayed)
        except Ended as reason:
            self.close()
            text = self.texts.timed_out.format(seconds=limit)
            return Result("", text, "dead", time.monotonic() - began, str(reason), replayed)
        out, err = answer["stdout"], answer["stderr"]
        if not err and TRACEBACK not in out:
            self.good.append(code)
        status: Status = "error" if answer["failed"] else "ok"
        return Result(out, err, status, time.monotonic() - began, replayed=replayed)

    def ask(self, code: str, limit: float) -> dict[str, Any]:
        """The worker's answer to a cell. Raises Late and Ended."""
        self.nonce = secrets.token_hex(16)
        request = json.dumps({"nonce": self.nonce, "code": code}).encode() + b"\n"
        until = time.monotonic() + limit
        self.send(request, until)
        answer = self.wait(until - time.monotonic())
        self.tidy()
        return answer

    def restore(self) -> int:
        """Start a process with the state of the good cells, as far as they run again; returns their number."""
        self.start()
        try:
            for code in self.good:
                self.ask(code, self.timeout)
        except (Ended, Late):
            self.close()
            self.good = []
            self.start()
        return len(self.good)

    # --- the protocol -------------------------------------------------------------------------------------------

    def sound(self) -> bool:
        """Whether the worker waits for a cell: it lives, and has said nothing unasked."""
        assert self.process and self.process.stdout
        spoken = self.buffer or ready(self.process.stdout.fileno(), selectors.EVENT_READ, 0)
        return not spoken and not any(map(memory.ended, self.chain))

    def send(self, request: bytes, until: float) -> None:
        """Raises Late when the worker does not take it, Ended when it has gone."""
        assert self.process and self.process.stdin
        number = self.process.stdin.fileno()
        while request:
            left = until - time.monotonic()
            if left <= 0:
                raise Late
            if not ready(number, selectors.EVENT_WRITE, min(left, LOOK)):
                continue
            try:
                request = request[os.write(number, request) :]
            except BlockingIOError:
                continue
            except OSError:
                raise Ended("it has ended") from None

    def wait(self, seconds: float) -> dict[str, Any]:
        """The answer with the nonce of the last request. Raises Late and Ended."""
        assert self.process and self.process.stdout
        number, until = self.process.stdout.fileno(), time.monotonic() + seconds
        look = time.monotonic() + LOOK
        while b"\n" not in self.buffer:
            now = time.monotonic()
            if now >= until:
                raise Late
            if now >= look:
                self.weigh()
                look = time.monotonic() + LOOK
            if ready(number, selectors.EVENT_READ, min(until - now, LOOK)):
                data = os.read(number, 65536)
                if not data:
                    raise Ended("it has ended")
                self.buffer += data
                if len(self.buffer) > LINE:
                    raise Ended("it wrote more than an answer to the protocol")
        line, _, self.buffer = self.buffer.partition(b"\n")
        try:
            answer = json.loads(line)
            good = isinstance(answer, dict) and secrets.compare_digest(str(answer["nonce"]), self.nonce)
        except (ValueError, KeyError, TypeError, RecursionError):
            good = False
        if not good or not all(isinstance(answer.get(name, ""), str) for name in ("stdout", "stderr")):
            raise Ended("it wrote what is no answer to the protocol")
        return {"stdout": "", "stderr": "", "failed": False} | answer

    def weigh(self) -> None:
        """Raises Ended when the processes hold more memory than all of them may."""
        assert self.process
        most = self.jail.limits.memory
        if (held := memory.held(memory.tree(self.process.pid), most)) > most:
            raise Ended(f"its processes held {held / 2**20:,.0f} MiB")

    # --- the processes ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Raises Failure when the worker does not come up."""
        self.nonce = self.started = secrets.token_hex(16)
        settings = {"nonce": self.nonce, "style": self.texts.style, "most": self.texts.most}
        self.buffer = b""
        try:
            self.process, errors = launch(self.jail.isolation.kind, self.jail.python, self.jail.limits, settings)
        except (OSError, subprocess.SubprocessError) as error:
            raise Failure(f"the sandbox does not start: {error}; see that /bin/sh and bwrap are there") from None
        try:
            assert self.process.stdin
            os.set_blocking(self.process.stdin.fileno(), False)
            self.wait(START)
            self.chain = memory.tree(self.process.pid)
            self.handles = [os.pidfd_open(pid) for pid in dict.fromkeys((self.chain[:2][-1], self.chain[-1]))]
        except (Ended, Late, OSError):
            said = os.pread(errors, 10_000, 0).decode(errors="replace").strip().splitlines()
            self.close()
            why = said[-1] if said else "it said nothing"
            raise Failure(f"the sandbox does not start ({why}); rebuild it by scripts/sandbox.sh") from None
        finally:
            os.close(errors)

    def interrupt(self) -> None:
        with suppress(OSError):
            signal.pidfd_send_signal(self.handles[-1], signal.SIGINT)

    def tidy(self) -> None:
        """Kill what a cell left running. Raises Ended when there always is more, and when the worker has gone."""
        assert self.process
        for _ in range(10):
            found = memory.tree(self.process.pid)
            if any(map(memory.ended, self.chain)):
                raise Ended("it has ended")
            left = [pid for pid in found if pid not in self.chain and not memory.ended(pid)]
            if not left:
                return
            for pid in left:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        raise Ended("it left processes that do not end")

    def close(self) -> None:
        """End the session with all of its processes; they are gone when this returns."""
        if self.process is None:
            return
        with suppress(OSError):
            if self.handles:  # the first process of a namespace takes all others with it
                signal.pidfd_send_signal(self.handles[0], signal.SIGKILL)
        if self.jail.isolation.kind == "none":
            for pid in memory.tree(self.process.pid):
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        if self.handles:
            ready(self.handles[0], selectors.EVENT_READ, ENDS)
        with suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                with suppress(OSError):
                    pipe.close()
        for handle in self.handles:
            os.close(handle)
        self.process, self.handles, self.chain, self.buffer = None, [], [], b""


def ready(number: int, event: int, seconds: float) -> bool:
    """Whether a descriptor, of any number, can be read or written within so many seconds."""
    with selectors.DefaultSelector() as selector:
        selector.register(number, event)
        return bool(selector.select(max(0.0, seconds)))
