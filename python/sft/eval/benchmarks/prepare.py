"""A benchmark below WORK/data/bench/: test.jsonl, and DONE with its commit, hashes and counts."""

import json
from collections import Counter
from pathlib import Path

from sft.eval.benchmarks.fetch import files_of
from sft.eval.benchmarks.pins import Pin
from sft.eval.benchmarks.read import Row, rows_of
from sft.lib.done import describe, is_done, new_folder, read_done, write_done
from sft.lib.errors import Failure
from sft.lib.files import read_jsonl, sha256
from sft.lib.progress import log


def folder_of(work: Path, name: str) -> Path:
    return work / "data" / "bench" / name


def check_rows(pin: Pin, rows: list[Row]) -> dict[str, int]:
    """Problems of each subset. Raises Failure when they are not as many as the benchmark has."""
    counts = Counter(row["subset"] for row in rows if row["subset"])
    if not rows:
        raise Failure(f"{pin.name}: no problem in {pin.path}; give a file that has some")
    if pin.rows and len(rows) != pin.rows:
        raise Failure(f"{pin.name} has {len(rows):,} problems, where {pin.rows:,} were published; give that version")
    if pin.subsets and counts != pin.subsets:
        raise Failure(f"{pin.name} has the subsets {dict(counts)}, not {pin.subsets}; give that version")
    return dict(sorted(counts.items()))


def prepare(pin: Pin, work: Path, given: Path | None) -> Path:
    """Write WORK/data/bench/<name>/, unless it is there; returns it. Raises Failure."""
    target = folder_of(work, pin.name)
    if pin.origin != "local" and given is None and (target / "DONE").is_file():
        done = read_done(target, "")
        if done["recipe"].get("COMMIT") == pin.commit:
            log(f"eval-data: {target} is already there, {done['rows']['all']:,} problems")
            return target
    files, commit = files_of(pin, target.with_name(f"{pin.name}.source"), given)
    inputs = {path.name: sha256(path) for path in files}
    keys = {"BENCH": pin.name, "COMMIT": pin.commit}
    if is_done(target, keys, inputs):
        log(f"eval-data: {target} is already there")
        return target
    rows = rows_of(pin.form, files)
    subsets = check_rows(pin, rows)
    with new_folder(target) as part:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (part / "test.jsonl").write_text(text, encoding="utf-8")
        facts = {"revision": commit, "repo": pin.repo, "rows": {"all": len(rows)} | subsets}
        write_done(part, keys, inputs, **facts, **describe(part))
    log(f"eval-data: {pin.name}: {len(rows):,} problems, in {target}")
    return target


def load(work: Path, name: str, remedy: str) -> list[Row]:
    """The problems of a benchmark, in their order. Raises Failure when they are not there, or not all of them."""
    folder = folder_of(work, name)
    done = read_done(folder, remedy)
    path = folder / "test.jsonl"
    rows = [{key: str(value) for key, value in row.items()} for row in read_jsonl(path)]
    if len(rows) != done["rows"]["all"]:
        raise Failure(f"{path} has {len(rows):,} problems, not {done['rows']['all']:,}; remove {folder}, and {remedy}")
    return rows
