"""Reading and writing files: whole or not at all, with errors that name file and line."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sft.lib.errors import Failure

ROOT = Path(__file__).resolve().parents[3]


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
                raise Failure(f"{path}:{number}: malformed JSON line ({error}); fix or remove it") from None
            yield row


def pinned(name: str) -> str:
    """A value of docker/versions.env. Raises Failure when it is not there."""
    path = ROOT / "docker/versions.env"
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}="):
            return line.partition("=")[2]
    raise Failure(f"{path} has no {name}; restore the file")


def trim_torn_line(path: Path) -> None:
    """Drop the unfinished last line that a killed writer left, so that the next record starts a line of its own."""
    if path.is_file():
        with open(path, "rb+") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)
