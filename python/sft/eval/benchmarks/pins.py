"""The benchmarks that have a name: where each comes from, and what it must be.

pins.json holds them, not docker/versions.env: a benchmark's commit means nothing without its file, checksum and number
of rows, and those five are read together. What is there of each:

    from, repo, commit, path  a file of a GitHub repository, or files of a data set of the hub
    sha256, or git            the file's hash, or git's own of it (a blob's SHA-1) where only that is known
    rows, subsets             how many problems; of each subset
    form                      how its rows are written: read.py

hle-math has no commit: upstream pins none (NeMo-Skills 8b18f39 nemo_skills/dataset/hle/prepare.py:72), and the set is
gated. main is resolved once, DONE names the commit, and the number of rows decides.
"""

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from sft.lib.errors import usage

FILE = Path(__file__).with_name("pins.json")


@dataclass(frozen=True)
class Pin:
    """One benchmark. rows 0: as many as there are. path: from the repository's root, a pattern for the hub."""

    name: str
    origin: str  # github, hub or local
    repo: str
    commit: str
    path: str
    form: str
    rows: int
    sha256: str = ""
    git: str = ""
    subsets: dict[str, int] = field(default_factory=dict)


@cache
def pins() -> dict[str, Pin]:
    table: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return {name: Pin(name, fields.pop("from"), **fields) for name, fields in table.items()}


def local(path: Path) -> Pin:
    """A file of the user's own, of problem and expected_answer; its name is that of the file."""
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in path.stem.lower()).strip(".-")
    return Pin(f"local-{name or 'file'}", "local", "", "", str(path), "skills", 0)


def chosen(text: str) -> list[tuple[Pin, int | None]]:
    """BENCH=aime24:64,gsm8k,my/problems.jsonl: each benchmark, and how many samples of it where that is said.

    Raises Failure for what is neither a name nor a file.
    """
    found: list[tuple[Pin, int | None]] = []
    for word in text.split(","):
        name, colon, number = word.strip().rpartition(":")
        samples = int(number) if colon and number.isascii() and number.isdigit() else None
        name = word.strip() if samples is None else name
        if samples == 0:
            usage(f"BENCH={word}: no sample is no evaluation; give a number from 1 up")
        if name in pins():
            pin = pins()[name]
        elif Path(name).suffix == ".jsonl":
            if not Path(name).is_file():
                usage(f"BENCH={name}: no such file; give a JSONL file of problem and expected_answer")
            pin = local(Path(name))
        else:
            usage(f"BENCH={name}: no such benchmark; it is one of {', '.join(pins())}, or a file that ends in .jsonl")
        if pin.name in {other.name for other, _ in found}:
            usage(f"BENCH={text} names {pin.name} twice; leave one out")
        found.append((pin, samples))
    return found
