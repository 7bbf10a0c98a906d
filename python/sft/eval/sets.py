"""The multiple-choice sets that a recipe is evaluated on: GPQA main and diamond, and 26 subjects of MMLU.

What is kept and how it is named are facts of NeMo 8cfedd7 tutorials/llm/reasoning/evaluation/prepare_dataset.py:28-322.
There the choices of GPQA are shuffled by one generator that all sets share, so their order depends on which sets are
prepared; here each row has a generator of its own, from SEED and the question, and a question of diamond has the order
of main.
"""

import csv
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sft.lib.done import describe, is_done, new_folder, read_done, write_done
from sft.lib.errors import Failure
from sft.lib.file_sets import check_shards
from sft.lib.files import pinned, sha256
from sft.lib.hub import download
from sft.lib.progress import log
from sft.rows.files import open_parquet, unreadable

SEED = 42  # prepare_dataset.py:28
LETTERS = "ABCD"
# set -> repository of the hub, its files there, rows that the whole set makes here
# (facts of how they are read, checked when they are); which revision is in docker/versions.env.
HUB: dict[str, tuple[str, str, int]] = {
    "gpqa_main": ("Idavidrein/gpqa", "gpqa_main.csv", 448),
    "gpqa_diamond": ("Idavidrein/gpqa", "gpqa_diamond.csv", 198),
    "mmlu": ("cais/mmlu", "all/test-*.parquet", 4658),
}
# The supercategories math, health, physics, biology, chemistry, computer science and engineering of MMLU's authors.
SUBJECTS = {
    *("abstract_algebra", "college_mathematics", "elementary_mathematics", "high_school_mathematics"),
    *("high_school_statistics", "anatomy", "clinical_knowledge", "college_medicine", "human_aging"),
    *("medical_genetics", "nutrition", "professional_medicine", "virology", "astronomy", "college_physics"),
    *("conceptual_physics", "high_school_physics", "college_biology", "high_school_biology", "college_chemistry"),
    *("high_school_chemistry", "college_computer_science", "computer_security", "high_school_computer_science"),
    *("machine_learning", "electrical_engineering"),
}
GPQA = ("Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")

Row = dict[str, str]


def row_of(question: str, choices: list[str], right: int, subject: str) -> Row:
    """A row of test.jsonl. right: place of the right choice, from 0."""
    named = {f"Choice {n}": choice for n, choice in enumerate(choices, 1)}
    return {"Question": question} | named | {"Answer": LETTERS[right], "Subject": subject}


def csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, fields) of a CSV file. Raises Failure naming the line that cannot be read."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        try:
            for fields in reader:
                yield reader.line_num, fields
        except (csv.Error, UnicodeDecodeError) as error:
            raise Failure(f"{path}:{reader.line_num + 1}: malformed CSV ({error}); fetch the file again") from None


def gpqa_rows(path: Path) -> Iterator[Row | None]:
    """The rows of GPQA's CSV, choices shuffled; None for one that lacks a field, which upstream skips too.

    Blanks around texts go: in the CSV they sometimes tell the right choice from the others.
    """
    rows = csv_rows(path)
    _, head = next(rows, (0, []))
    for name in GPQA:
        if name not in head:
            raise Failure(f"{path}: no column {name!r} among {', '.join(head)[:100]}; fetch the file again")
    places = [head.index(name) for name in GPQA]
    subject = head.index("Subdomain") if "Subdomain" in head else None
    for line, fields in rows:
        if len(fields) != len(head):
            raise Failure(f"{path}:{line}: {len(fields)} fields, not {len(head)}; fix or remove it")
        question, *choices = (fields[place].strip() for place in places)
        if not question or not all(choices):
            yield None
            continue
        order = list(range(4))
        random.Random(f"{SEED} {question}").shuffle(order)
        shuffled = [choices[n] for n in order]
        yield row_of(question, shuffled, order.index(0), "" if subject is None else fields[subject].strip())


def mmlu_csv_rows(folder: Path) -> Iterator[Row | None]:
    """The rows of the kept subjects in the authors' layout: <subject>_test.csv without a header."""
    for subject in sorted(SUBJECTS):
        path = folder / f"{subject}_test.csv"
        if not path.is_file():
            continue
        for line, fields in csv_rows(path):
            if len(fields) != 6 or len(fields[5]) != 1 or fields[5] not in LETTERS:
                raise Failure(f"{path}:{line}: not a question, four choices and a letter A to D; fix or remove it")
            yield row_of(fields[0], fields[1:5], LETTERS.index(fields[5]), subject)


def mmlu_parquet_rows(path: Path) -> Iterator[Row | None]:
    """The rows of the kept subjects in the hub's layout."""
    import pyarrow as pa

    columns = ["question", "subject", "choices", "answer"]
    file, number = open_parquet(path, columns), 0
    try:
        for batch in file.iter_batches(columns=columns):
            for row in batch.to_pylist():
                number += 1
                if row["subject"] in SUBJECTS:
                    yield mmlu_row(row, f"{path}: row {number}")
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from None


def mmlu_row(row: dict[str, Any], place: str) -> Row:
    choices, right = row["choices"], row["answer"]
    texts = [row["question"], *choices] if isinstance(choices, list) else []
    if len(texts) != 5 or not all(isinstance(text, str) for text in texts) or right not in range(4):
        raise Failure(f"{place}: not a question, four choices and an answer from 0 to 3; fix or remove it")
    return row_of(texts[0], texts[1:], right, row["subject"])


def files_of(name: str, source: Path) -> list[Path]:
    """The files of a set below a folder: as the hub has them, or MMLU's as its authors do. Raises Failure."""
    _, pattern, _ = HUB[name]
    patterns = [pattern, pattern.rpartition("/")[2]]
    if name == "mmlu":
        patterns += ["test/*_test.csv", "data/test/*_test.csv", "*_test.csv"]
    for each in patterns:
        if found := sorted(source.glob(each)):
            check_shards(found)
            return found
    raise Failure(f"{source} has no {' or '.join(dict.fromkeys(patterns))}; give the folder that has")


def rows_of(name: str, files: list[Path]) -> Iterator[Row | None]:
    """The rows of a set; None for one that is skipped."""
    if name != "mmlu":
        for path in files:
            yield from gpqa_rows(path)
    elif files[0].suffix == ".csv":
        yield from mmlu_csv_rows(files[0].parent)
    else:
        for path in files:
            yield from mmlu_parquet_rows(path)


def fetch(name: str, target: Path) -> tuple[Path, str]:
    """(folder, commit) of a set's files, downloaded at most once. Raises Failure."""
    repo, pattern, _ = HUB[name]
    try:
        return target, download(repo, pinned(f"{name.split('_')[0].upper()}_REVISION"), target, "dataset", [pattern])
    except Failure as failure:
        if repo != "Idavidrein/gpqa":
            raise
        raise Failure(f"{failure}; it is gated: accept its terms on the hub, and set HF_TOKEN") from None


def prepare(name: str, work: Path, given: Path | None) -> None:
    """Write WORK/data/<name>/, unless it is there. Raises Failure."""
    target = work / "data" / name
    if given is None and (target / "DONE").is_file():
        log(f"eval-data: {target} is already there, {read_done(target, '')['rows']['all']:,} rows")
        return
    source, revision = (given, "local") if given else fetch(name, target.with_name(f"{name}.source"))
    files = files_of(name, source)
    inputs = {str(path.relative_to(source)): sha256(path) for path in files}
    keys = {"SET": name, "SEED": str(SEED)}
    if is_done(target, keys, inputs):
        log(f"eval-data: {target} is already there")
        return
    expected = HUB[name][2]
    with new_folder(target) as part:
        rows = list(rows_of(name, files))
        kept = [row for row in rows if row is not None]
        if not kept:
            raise Failure(f"{source}: no row of {name} in it; fetch it again")
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
        (part / "test.jsonl").write_text(text, encoding="utf-8")
        warning = "" if len(kept) == expected else f"{len(kept):,} rows, where the whole set makes {expected:,}"
        facts = {"revision": revision, "rows": {"all": len(kept)}, "skipped": len(rows) - len(kept), "seed": SEED}
        write_done(part, keys, inputs, **facts, expected=expected, warning=warning, **describe(part))
    log(f"eval-data: {name}: {len(kept):,} rows, {len(rows) - len(kept)} skipped for a missing field, in {target}")
    if warning:
        log(f"eval-data: warning: {name}: {warning}")
