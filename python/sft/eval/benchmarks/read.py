"""The rows of a benchmark, in one form whatever its source: id, problem, expected_answer, subset, all of them text."""

import hashlib
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sft.lib.errors import Failure
from sft.lib.files import read_jsonl
from sft.rows.files import open_parquet, unreadable

Row = dict[str, str]

# NeMo-Skills 8b18f39 nemo_skills/dataset/hle/prepare.py:49-57: category Math, without those that show a picture.
HLE = ("id", "question", "answer", "category", "image")


def git_hash(path: Path) -> str:
    """git's own hash of a file's content: what `git hash-object` prints."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def text_of(row: dict[str, Any], names: tuple[str, ...], place: str) -> str:
    """The first of these fields that is there; a number as text, whole ones without a point. Raises Failure."""
    for name in names:
        value = row.get(name)
        if isinstance(value, float) and math.isfinite(value) and value == int(value):
            value = int(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        if isinstance(value, str) and value.strip():
            return value
    raise Failure(f"{place}: field {names[0]!r} is not there, or empty; fix or remove the row")


def skills_rows(path: Path) -> Iterator[Row]:
    """NeMo-Skills' own files, and a user's: problem and expected_answer, with id and subset where they are given."""
    for number, row in enumerate(read_jsonl(path), 1):
        place = f"{path}:{number}"
        yield {
            "id": str(row["id"]) if isinstance(row.get("id"), str | int) else str(number - 1),
            "problem": text_of(row, ("problem",), place),
            "expected_answer": text_of(row, ("expected_answer",), place),
            "subset": str(row.get("subset") or row.get("subset_for_metrics") or ""),
        }


def gsm8k_rows(path: Path) -> Iterator[Row]:
    """grade-school-math: the answer is what follows ####. Its test split needs none of upstream's corrections, which
    are of train (NeMo-Skills 8b18f39 nemo_skills/dataset/gsm8k/prepare.py:26-39, 56-65)."""
    for number, row in enumerate(read_jsonl(path), 1):
        place = f"{path}:{number}"
        found = re.search(r"####\s*(-?[\d,]*\.?\d+)\s*$", text_of(row, ("answer",), place))
        if found is None:
            raise Failure(f"{place}: no number after #### in answer; fetch the file again")
        value = float(found[1].replace(",", ""))
        answer = str(int(value)) if value == int(value) else str(value)
        problem = text_of(row, ("question",), place)
        yield {"id": f"gsm8k-{number - 1}", "problem": problem, "expected_answer": answer, "subset": ""}


def math_rows(path: Path) -> Iterator[Row]:
    """MATH, by Qwen2.5-Math and by prm800k: the field answer is the expected one."""
    for number, row in enumerate(read_jsonl(path), 1):
        place = f"{path}:{number}"
        name = row.get("unique_id")
        yield {
            "id": name if isinstance(name, str) and name else str(number - 1),
            "problem": text_of(row, ("problem",), place),
            "expected_answer": text_of(row, ("answer", "expected_answer"), place),
            "subset": "",
        }


def hle_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa

    file, number = open_parquet(path, list(HLE)), 0
    try:
        for batch in file.iter_batches(columns=list(HLE), batch_size=64):
            for row in batch.to_pylist():
                number += 1
                if row["category"] != "Math" or row["image"]:
                    continue
                place = f"{path}: row {number}"
                yield {
                    "id": text_of(row, ("id",), place),
                    "problem": text_of(row, ("question",), place),
                    "expected_answer": text_of(row, ("answer",), place),
                    "subset": "",
                }
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from None


FORMS = {"skills": skills_rows, "gsm8k": gsm8k_rows, "math": math_rows, "hle": hle_rows}


def rows_of(form: str, files: list[Path]) -> list[Row]:
    """All rows of a benchmark. Raises Failure naming the row that is not as it must be, or whose id is taken."""
    rows = [row for path in files for row in FORMS[form](path)]
    seen: set[str] = set()
    for row in rows:
        if row["id"] in seen:
            raise Failure(f"{files[0]}: two problems have the id {row['id']!r}; give each its own")
        seen.add(row["id"])
    return rows
