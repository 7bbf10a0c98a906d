"""The live session inside the jail: cells in, what they print out, one JSON line each. Its only import is IPython.

Started by its text, `python -c <this file> <settings>`, so that nothing of the host need be mounted for it. The model's
code runs in this very process, and can do to it what it likes: whoever listens must believe no line without the nonce
of its own request, and drop the session at the first one.

What a cell prints is made into text as NeMo-Skills did. release: 0f7bd73 nemo_skills/code_execution/sandbox.py:180-268,
today: 8b18f39 nemo_skills/code_execution/local_sandbox/local_sandbox_server.py:334-360, 631-634.
"""

import base64
import ctypes
import fcntl
import io
import json
import os
import re
import resource
import signal
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout, suppress
from typing import Any

MOST = 1_000_000  # characters of a cell's output that are kept before they are cut
CUT = "<output cut>"
ANSI = re.compile(r"\x1B(?:[@-Z\\-_]|\[[0-?]*[ -/]*[@-~])")
PROMPT = re.compile(r"^Out\[\d+\]: ", re.MULTILINE)
COUNTS = re.compile(r"Out\[[01]\]: ")  # of a cell that is not counted: 1, of one with a top-level await 0
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 1, 38, 22, 2  # prctl.h, seccomp.h


class Capped(io.StringIO):
    """Takes any amount, and keeps the first MOST characters."""

    def write(self, text: str) -> int:
        room = MOST - self.tell()
        if room > 0:
            super().write(text[:room])
        return len(text)


def simplified(text: str) -> str:
    lines = ANSI.sub("", text).split("\n")
    return "\n".join(line for line in lines if not line.strip().startswith("File <ipython-"))


def cleaned(text: str, style: str, most: int) -> str:
    """What the model is shown of a stream."""
    if style == "release":
        text = COUNTS.sub("", text).strip()
        text = simplified(text[:most] + CUT if len(text) > most else text)
        text = text + "\n" if text else ""
    else:
        text = PROMPT.sub("", simplified(text)).strip()
        text = text + "\n" if text else ""
        text = text[:most] + CUT if len(text) > most else text
    return text.encode("utf-8", "replace").decode()  # a lone surrogate cannot be stored


def install(program: bytes) -> None:
    """End with whoever started this process, and load a seccomp filter into it. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    steps = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_void_p))

    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    whole = Program(len(program) // 8, ctypes.addressof(steps))
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(whole), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "no seccomp filter could be installed")


def new_shell() -> Any:
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    shell = InteractiveShell(config=config)
    shell.InteractiveTB.set_mode(mode="Plain")
    return shell


def main(settings: dict[str, Any]) -> None:
    for name, most in settings["limits"].items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))
    answers = os.fdopen(fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 64), "w")
    requests = os.fdopen(fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 64))
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):
        os.dup2(nothing, number)
    if settings["filter"]:
        install(base64.b64decode(settings["filter"]))
    style, most, home, busy = settings["style"], settings["most"], os.getpid(), False
    shell = new_shell()
    if style == "release":
        warnings.filterwarnings("ignore")
    os.dup2(nothing, 2)  # until here it tells why there is no session
    os.close(nothing)

    def interrupt(*_: object) -> None:
        if busy:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    print(json.dumps({"nonce": settings["nonce"]}), file=answers, flush=True)
    for line in requests:
        request = json.loads(line)
        with suppress(ChildProcessError):  # what the last cell left was killed
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        out, err, failed = Capped(), Capped(), True
        try:
            with redirect_stdout(out), redirect_stderr(err):
                shell.execution_count, busy = 1, True  # of Out[1], which `cleaned` takes away
                result = shell.run_cell(request["code"], store_history=False)
                busy = False
            failed = bool(result.error_before_exec or result.error_in_exec)
        except BaseException as error:
            err.write(f"{type(error).__name__}: {error}\n")
        busy = False
        if os.getpid() != home:  # the cell forked, and its child came back from it, too
            os._exit(0)
        with suppress(ValueError):
            signal.signal(signal.SIGINT, interrupt)
        answer = {"nonce": request["nonce"], "failed": failed}
        answer |= {"stdout": cleaned(out.getvalue(), style, most), "stderr": cleaned(err.getvalue(), style, most)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
