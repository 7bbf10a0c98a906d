"""Errors as the user sees them: one line with the remedy, exit status 2 for wrong use."""

import errno
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import NoReturn, cast


class Failure(Exception):
    """A mistake or a state that the user can fix; shown as one line, without a traceback."""

    def __init__(self, message: str, status: int = 1):
        super().__init__(message)
        self.status = status


class Interrupted(Failure):
    """A failure after which what is finished already is kept, for the next run to go on from."""


def usage(message: str) -> NoReturn:
    """Raise the failure that ends with exit status 2: the call itself was wrong."""
    raise Failure(message, status=2)


@contextmanager
def hidden(module: str) -> Iterator[None]:
    """Meanwhile `module` cannot be imported, for libraries that make do without it; an imported one stays."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = cast(ModuleType, None)  # Python's own mark of what cannot be imported
    try:
        yield
    finally:
        del sys.modules[module]


def without_torch() -> None:
    """Let transformers, in this process, make do without torch, whose import takes four seconds and 270 MB.

    Tokenizers and configurations are the same; there are no models. Others can import torch as ever.
    """
    logging.getLogger("transformers").addFilter(lambda record: "PyTorch was not found" not in record.getMessage())
    with hidden("torch"):
        from transformers.utils.import_utils import is_torch_available

        is_torch_available()  # it remembers the answer


def run(main: Callable[[], int | None]) -> NoReturn:
    """Call `main`, turn what users can fix into one line on stderr, and exit."""
    gc.set_threshold(50_000)  # the libraries make a million objects that stay: importing takes an eighth less
    logging.getLogger("torchao").setLevel(logging.ERROR)  # it warns of each GPU kernel that is not for this machine
    interrupted = False

    def interrupt(*_: object) -> NoReturn:
        # An import that is under way may answer with an error of its own: remember what it really was.
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # a background job of a script is not to be interrupted
        signal.signal(signal.SIGINT, interrupt)
    try:
        try:
            sys.exit(main() or 0)
        except BaseException:
            if interrupted:
                print("error: interrupted; run the same command again to go on", file=sys.stderr)
                sys.exit(130)
            raise
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        sys.exit(failure.status)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        hint = {
            errno.ENOSPC: "no space left; free some, or set WORK to another disk, and run it again",
            errno.EDQUOT: "disk quota exceeded; free some space, or set WORK to another disk",
            errno.EACCES: "permission denied; make it accessible, or set WORK to a folder of yours",
            errno.EROFS: "read-only file system; set WORK to a writable folder",
            errno.ENOENT: "no such file or folder; run the stage before this one",
        }.get(error.errno or 0)
        if hint is None and "No space left" in str(error):
            hint = "no space left; free some, or set WORK to another disk, and run it again"
        if hint is None:
            raise
        print(f"error: {error.filename or error.strerror}: {hint}", file=sys.stderr)
        sys.exit(1)
