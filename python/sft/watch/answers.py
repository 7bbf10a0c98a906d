"""How far an evaluation is, from what its jobs write beside the answers every few seconds."""

import time
from pathlib import Path

from sft.lib.errors import Failure
from sft.lib.files import read_json
from sft.lib.progress import ratio
from sft.watch.pace import duration

LEAST = 0.01  # of all answers: what is left cannot be told from fewer, which load and warm up what answers
QUIET = 120  # seconds after which a job that wrote nothing does not count as answering


def answering(run: Path) -> tuple[str, str]:
    """(progress, time left) of the evaluation that is under way below a run's folder; nothing where none is."""
    parts = sorted(run.glob(".eval*.part"), key=lambda part: part.stat().st_mtime)
    records = [record for path in parts[-1:] for record in map(read, path.glob("*.progress.json")) if record]
    if not records:
        return "", ""
    done, total = sum(r["done"] for r in records), read(parts[-1] / "total.json").get("answers", 0)
    live = [record for record in records if time.time() - record["time"] < QUIET and record["seconds"] > 0]
    if not live:
        return f"{done:,}/{total:,} answers, none in the last {QUIET} s", ""
    tokens = sum(record["tokens"] / record["seconds"] for record in live)
    made = sum(record["made"] / record["seconds"] for record in live)
    enough = made > 0 and sum(record["made"] for record in live) >= LEAST * total
    left = duration((total - done) / made) if enough and total > done else ""
    return f"{done:,}/{total:,} answers, {ratio(tokens, 1)} tokens/s", left


def read(path: Path) -> dict[str, float]:
    """A record; {} for one that is being replaced."""
    try:
        return read_json(path) if path.is_file() else {}
    except (Failure, OSError):
        return {}
