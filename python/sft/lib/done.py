"""DONE, the manifest of a finished folder: what it was made from, and whether it is what is wanted."""

import fcntl
import hashlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sft.lib.errors import Failure, Interrupted
from sft.lib.files import ROOT, read_json, sha256, write_json
from sft.lib.progress import START, peak_memory

# What decides what a run does: a change of these makes the code "dirty", and a snapshot holds these.
CODE = ("scripts", "sbatch", "python", "recipes", "docker")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a scratch folder beside `target`; it becomes `target` by rename if the block succeeds.

    Whatever a killed predecessor left under the scratch name is removed first.
    """
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)  # a Ctrl-C may come right after it
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
    part = open_part(target, identity)
    record = part / "IDENTITY"
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


def open_part(target: Path, identity: dict[str, Any], several: bool = False) -> Path:
    """The scratch folder of `target`, with what runs of the same identity have put there.

    several: jobs may call this at once; a lock beside it lets the first one make the folder.
    """
    part = target.with_name(f".{target.name}.part")
    record = part / "IDENTITY"
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.with_name(f".{target.name}.opening"), "a") if several else nullcontext() as lock:
        if lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not record.is_file() or read_json(record) != identity:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            write_json(record, identity)
    return part


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


def code_hash(*folders: str) -> str:
    """Hash of the code in these folders of the library: a stage resumes only with the code it began with."""
    library = Path(__file__).resolve().parents[1]
    files = sorted(file for folder in folders for file in (library / folder).rglob("*.py"))
    return recipe_hash({str(file.relative_to(library)): sha256(file) for file in files})


def recipe_hash(keys: dict[str, str]) -> str:
    """sha256 of the sorted KEY=VALUE lines."""
    return hashlib.sha256("".join(f"{k}={v}\n" for k, v in sorted(keys.items())).encode()).hexdigest()


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
