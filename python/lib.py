"""What every stage needs: one-line errors, atomic writes, hashes, and the DONE manifest.

Standard library only: the checks that run before anything is queued must not wait for an import of torch.
"""

import errno
import hashlib
import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
START = time.time()
# What decides what a run does: a change of these makes the code "dirty", and a snapshot holds these.
CODE = ("scripts", "sbatch", "python", "recipes", "docker")


class Failure(Exception):
    """A mistake or a state that the user can mend; shown as one line, without a traceback."""

    def __init__(self, message: str, status: int = 1):
        super().__init__(message)
        self.status = status


class Interrupted(Failure):
    """A failure after which what is finished already is kept, for the next run to go on from."""


def usage(message: str) -> NoReturn:
    """Raise the failure that ends with exit status 2: the call itself was wrong."""
    raise Failure(message, status=2)


def run(main: Callable[[], int | None]) -> NoReturn:
    """Call `main`, turn what users can mend into one line on stderr, and exit."""
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


def log(message: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {message}", flush=True)


def ratio(part: float, whole: float, form: str = ",.0f") -> str:
    """part / whole for people, in the format `form`; "-" where whole is not above zero.

    A measured time may be 0.0, for it is rounded or the clock stands, and below it when the clock was set back; a
    count or a size may be nothing.
    """
    return f"{part / whole:{form}}" if whole > 0 else "-"


class Progress:
    """Rows or bytes done, rate and remaining time, at most one line every few seconds."""

    def __init__(self, what: str, total: int | None = None, every: float = 5.0):
        self.what, self.total, self.every = what, total, every
        self.start = self.shown = time.time()

    def show(self, done: int, share: float | None = None) -> None:
        """done: units so far; share: of the whole work, where it is better known than the number of units."""
        now = time.time()
        if now - self.shown < self.every or done == 0:
            return
        self.shown = now
        spent = now - self.start
        share = done / self.total if self.total else share
        of = f" of {self.total:,}" if self.total else f", {share:.0%}" if share else ""
        left = f", {spent / share - spent:.0f} s left" if share else ""
        log(f"{self.what}: {done:,}{of}{left} ({ratio(done, spent)}/s)")


# --- files -----------------------------------------------------------------------------------------------------


def sha256(path: Path) -> str:
    """Hex digest of a file's content, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write `value` beside `path`, flush it to disk, and rename it into place."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=2, ensure_ascii=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """Parse a JSON file; a broken one is named with the position of the fault."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise Failure(f"{path}: not valid JSON ({error}); restore the file") from None


def read_jsonl(path: Path, torn_tail: bool = False) -> Iterator[dict[str, Any]]:
    """Rows of a JSON Lines file; a malformed line is named by file and number.

    torn_tail: accept (and drop) an unfinished last line, as a killed writer leaves it.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("not an object")
            except ValueError as error:
                if torn_tail and not line.endswith(b"\n"):
                    return
                raise Failure(f"{path}:{number}: malformed JSON line ({error}); mend or remove it") from None
            yield row


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a scratch folder beside `target`; it becomes `target` by rename if the block succeeds.

    Whatever a killed predecessor left under the scratch name is removed first.
    """
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        if target.exists():
            raise Failure(f"{target} appeared while it was being made; is another run writing it?")
        part.rename(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


@contextmanager
def resumable_folder(target: Path, identity: dict[str, Any]) -> Iterator[Path]:
    """Like new_folder, but what an interrupted predecessor of the same `identity` left is there to go on from.

    Kept after Ctrl-C, a kill, a full disk and Interrupted; removed after any other Failure and by a run of another
    identity (a JSON value).
    """
    part = target.with_name(f".{target.name}.part")
    record = part / "IDENTITY"
    if not record.is_file() or read_json(record) != identity:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        write_json(record, identity)
    try:
        yield part
        if target.exists():
            raise Failure(f"{target} appeared while it was being made; is another run writing it?")
        record.unlink()
        part.rename(target)
    except Failure as failure:
        if not isinstance(failure, Interrupted):
            shutil.rmtree(part, ignore_errors=True)
        raise


# --- DONE: what a stage made, from what, with which code ---------------------------------------------------------


def code_identity() -> dict[str, Any]:
    """Commit of the running code and whether it was changed; from the snapshot's record, else from git."""
    record = ROOT / "SNAPSHOT"
    if record.is_file():
        return read_json(record)

    def git(*command: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *command], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != ROOT:
            raise FileNotFoundError
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", *CODE))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "unknown", "dirty": True}


def recipe_hash(keys: dict[str, str]) -> str:
    """sha256 of the sorted KEY=VALUE lines."""
    return hashlib.sha256("".join(f"{k}={v}\n" for k, v in sorted(keys.items())).encode()).hexdigest()


def peak_memory() -> int:
    """Bytes: the larger of this process' and its largest child's peak resident size."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) * 1024


def write_done(folder: Path, keys: dict[str, str], inputs: dict[str, str], **facts: Any) -> dict[str, Any]:
    """Write `folder`/DONE, the last file of a stage.

    keys: the recipe keys that the stage depends on; inputs: name -> sha256 of what it read.
    facts: counts, outputs (name -> sha256) and whatever else the stage has to report.
    """
    done = {
        "code": code_identity(),
        "recipe_sha256": recipe_hash(keys),
        "recipe": dict(sorted(keys.items())),
        "inputs": inputs,
        "seconds": round(time.time() - START, 1),
        "peak_memory_bytes": peak_memory(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    } | facts
    write_json(folder / "DONE", done)
    return done


def describe(folder: Path, known: dict[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """outputs (file -> sha256) and bytes (file -> size) of a folder: what DONE says of a stage's result.

    known: hashes of files that need not be read for it.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != "DONE")
    return {
        "outputs": {path.name: (known or {}).get(path.name) or sha256(path) for path in files},
        "bytes": {path.name: path.stat().st_size for path in files},
    }


def read_done(folder: Path, remedy: str) -> dict[str, Any]:
    """The manifest of a finished stage; Failure with `remedy` when the stage has not finished."""
    if not (folder / "DONE").is_file():
        raise Failure(f"{folder} is not finished; {remedy}")
    return read_json(folder / "DONE")


def is_done(folder: Path, keys: dict[str, str], inputs: dict[str, str]) -> bool:
    """True when `folder` holds the finished result of just these keys and inputs.

    Raises Failure when it holds the result of others: results of two recipes never share a folder.
    """
    if not (folder / "DONE").is_file():
        return False
    done = read_json(folder / "DONE")
    for what, old, new in (
        ("another recipe", done.get("recipe", {}), keys),
        ("other inputs", done.get("inputs", {}), inputs),
    ):
        names = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
        if names:
            name = names[0]
            change = f"{name} was {str(old.get(name))[:24]}, is now {str(new.get(name))[:24]}"
            raise Failure(f"{folder} was made from {what} ({change}); move it away or set another WORK")
    return True
