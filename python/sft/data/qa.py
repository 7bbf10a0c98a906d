"""Prepare Dolly or SQuAD as the NeMo 2.0 tutorials do: the same splits, the same text.

Writes training.jsonl, validation.jsonl, test.jsonl and DONE below WORK/data/<dataset>/round<N>/, rows of input and
output; Dolly's with their category, SQuAD's test rows with all of their answers. VARIANT=corrected adds rendered.jsonl,
the training rows as a base model reads running text: BOS before, a blank between, EOS after.

The rules are facts of NeMo 8cfedd7 nemo/collections/llm/gpt/data/dolly.py:96-141 and squad.py:102-152. Which of context
and question comes first in a row of Dolly is drawn there from numpy's global generator without a seed; here it is drawn
with SEED, in both variants, and DONE says so.
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft.lib.done import describe, is_done, new_folder, write_done
from sft.lib.errors import Failure, usage
from sft.lib.file_sets import check_one_form, check_shards
from sft.lib.files import read_jsonl, sha256
from sft.lib.hub import download
from sft.lib.progress import Progress, log
from sft.recipe.keys import Recipe, stage_keys
from sft.recipe.paths import Paths
from sft.rows.chat import ENDS
from sft.rows.files import open_parquet, unreadable

BOS = "<|begin_of_text|>"  # of Llama 3's tokenizer
SPLITS = ("training", "validation", "test")
FILES = {
    "dolly": ["databricks-dolly-15k.jsonl"],
    "squad": ["plain_text/train-*.parquet", "plain_text/validation-*.parquet"],
}
COLUMNS = {"dolly": ["instruction", "context", "response", "category"], "squad": ["context", "question", "answers"]}
# Of all rows, as dolly.py:96 writes it: 1 - 0.80 - 0.15 is a little less than 0.05, and decides a row.
DOLLY_VALIDATION = 0.15
DOLLY_TEST = 1 - 0.80 - DOLLY_VALIDATION
SQUAD_VALIDATION = 0.05

Row = dict[str, Any]


@dataclass
class Rows:
    """Source rows and, for the errors that name them, where each is from."""

    rows: list[Row] = field(default_factory=list)
    places: list[str] = field(default_factory=list)


def files_of(source: Path, prefix: str) -> list[Path]:
    """The parquet or JSONL files whose names start with `prefix`, also below plain_text/ and data/ as the hub has
    them. Raises Failure when there are none."""
    folders = [source, source / "plain_text", source / "data"]
    found = sorted(
        path
        for folder in folders
        if folder.is_dir()
        for path in folder.iterdir()
        if path.name.startswith(prefix) and path.suffix in (".parquet", ".jsonl")
    )
    if not found:
        raise Failure(f"{source} has no {prefix}*.parquet or {prefix}*.jsonl; set DATA_SRC to the folder that has")
    check_one_form(found, prefix)
    check_shards(found)
    return found


def read(path: Path, columns: list[str]) -> Iterator[tuple[str, Row]]:
    """(place, row) of a parquet or JSONL file. Raises Failure naming file and line, or file and column."""
    if path.suffix == ".jsonl":
        for number, row in enumerate(read_jsonl(path), 1):
            yield f"{path}:{number}", row
        return
    import pyarrow as pa

    file, number = open_parquet(path, columns), 0
    try:
        for batch in file.iter_batches(columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}: row {number}", row
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from None


def read_all(files: Iterable[Path], columns: list[str]) -> Rows:
    """All rows of some files, in their order."""
    found, progress = Rows(), Progress("data: rows read")
    for path in files:
        for place, row in read(path, columns):
            found.rows.append(row)
            found.places.append(place)
            progress.show(len(found.rows))
    if not found.rows:
        raise Failure(f"{', '.join(map(str, files))}: no rows; fetch it again")
    return found


def text_of(row: Row, name: str, place: str) -> str:
    """A field that must be text. Raises Failure naming place and field."""
    value = row.get(name, ...)
    if not isinstance(value, str):
        what = "not there" if value is ... else "null" if value is None else type(value).__name__
        raise Failure(f"{place}: field {name!r} is {what}, no text; fix or remove it")
    return value


# --- rows --------------------------------------------------------------------------------------------------------


def dolly_row(row: Row, place: str, draw: Any) -> Row:
    """The tutorial's row of one of Dolly's. draw: numpy's RandomState, asked only for rows with a context."""
    texts = {name: text_of(row, name, place) for name in COLUMNS["dolly"]}
    prompt, context = texts["instruction"], texts["context"].strip()
    if context:
        prompt = prompt.strip()
        if not prompt:
            raise Failure(f"{place}: field 'instruction' is empty, but there is a context; fix or remove it")
        first, last = (context, prompt) if draw.randint(0, 2) == 0 else (prompt, context)
        prompt = f"{first}\n\n{last}"
    return {"input": prompt, "output": texts["response"], "category": texts["category"]}


def squad_row(row: Row, place: str, test: bool) -> Row:
    """The tutorial's row of one of SQuAD's: the first answer, a test row has all of them beside it."""
    context, question = text_of(row, "context", place), text_of(row, "question", place)
    answers = row.get("answers")
    texts = answers.get("text") if isinstance(answers, dict) else None
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise Failure(f"{place}: field 'answers' has no list 'text' of one answer or more; fix or remove it")
    made: Row = {"input": f"Context: {context} Question: {question} Answer:", "output": texts[0]}
    return made | ({"original_answers": texts} if test else {})


def rendered(row: Row) -> Row:
    """A training row of the corrected variant: the answer begins with the blank that running text has there."""
    return {"input": BOS + row["input"], "output": f" {row['output']}{ENDS['none']}"}


# --- splits ------------------------------------------------------------------------------------------------------


def split_of(numbers: list[int], share: float, seed: int) -> tuple[list[int], list[int]]:
    """(rest, drawn) as datasets.Dataset.train_test_split(test_size=share, seed=seed) deals rows out, in its order.

    Raises Failure for too few rows.
    """
    from datasets import Dataset

    try:
        parts = Dataset.from_dict({"row": numbers}).train_test_split(test_size=share, seed=seed)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise Failure(f"{len(numbers)} rows cannot be split ({reason}); give the whole data set") from None
    return list(parts["train"]["row"]), list(parts["test"]["row"])


def dolly(source: list[Path], seed: int) -> dict[str, list[Row]]:
    """Dolly's splits: 80, 15 and 5 per cent."""
    import numpy as np

    found = read_all(source, COLUMNS["dolly"])
    both = DOLLY_VALIDATION + DOLLY_TEST
    training, held = split_of(list(range(len(found.rows))), both, seed)
    validation, test = split_of(held, DOLLY_TEST / both, seed)
    draw = np.random.RandomState(seed)
    return {
        name: [dolly_row(found.rows[n], found.places[n], draw) for n in numbers]
        for name, numbers in zip(SPLITS, (training, validation, test), strict=True)
    }


def squad(train: list[Path], validation: list[Path], seed: int) -> dict[str, list[Row]]:
    """SQuAD's splits: 5 per cent of its training rows for validation, its own validation rows for the test."""
    found, tested = (read_all(files, COLUMNS["squad"]) for files in (train, validation))
    kept, held = split_of(list(range(len(found.rows))), SQUAD_VALIDATION, seed)
    parts = {"training": (found, kept), "validation": (found, held), "test": (tested, range(len(tested.rows)))}
    return {
        name: [squad_row(rows.rows[n], rows.places[n], name == "test") for n in numbers]
        for name, (rows, numbers) in parts.items()
    }


# --- the stage ---------------------------------------------------------------------------------------------------


def write(path: Path, rows: Iterable[Row]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def source_folder(recipe: Recipe, paths: Paths, given: Path | None) -> tuple[Path, str]:
    """(folder of the source files, revision): the folder given, else downloaded, at most once. Raises Failure."""
    if given:
        if not given.is_dir():
            raise Failure(f"DATA_SRC={given} is not a folder; give the one that holds the parquet or JSONL files")
        return given, "local"
    if recipe["DATASET_SOURCE"] != "hub":
        usage(
            f"DATASET_SOURCE={recipe['DATASET_SOURCE']} is not driven with SCHEMA={recipe['SCHEMA']}; set hub, or give "
            "DATA_SRC"
        )
    source = paths.dataset / "source"
    patterns = FILES[recipe["SCHEMA"]]
    return source, download(recipe["DATASET"], recipe["DATASET_REVISION"], source, "dataset", patterns)


def make(args: argparse.Namespace, recipe: Recipe, paths: Paths) -> None:
    """What `make data` does for Dolly and SQuAD. Raises Failure."""
    schema = recipe["SCHEMA"]
    keys, seed = stage_keys(recipe, "data"), recipe["SEED"]
    source, revision = source_folder(recipe, paths, args.source)
    prefixes = ("",) if schema == "dolly" else ("train", "validation")
    files = [files_of(source, prefix) for prefix in prefixes]
    inputs = {str(path.relative_to(source)): sha256(path) for group in files for path in group}
    if is_done(paths.data, keys, inputs):
        log(f"data: {paths.data} is already there")
        return
    splits = dolly(files[0], seed) if schema == "dolly" else squad(files[0], files[1], seed)
    seeds = {"split": seed} | ({"context_order": seed} if schema == "dolly" else {})
    with new_folder(paths.data) as part:
        for name, rows in splits.items():
            write(part / f"{name}.jsonl", rows)
        if recipe["VARIANT"] == "corrected":
            write(part / paths.rows.name, map(rendered, splits["training"]))
        counts = {name: len(rows) for name, rows in splits.items()}
        write_done(
            part,
            keys,
            inputs,
            revision=revision,
            seeds=seeds,
            read=counts,
            dropped={},
            rows={"all": counts["training"]} | counts,
            shuffled=True,
            **describe(part),
        )
    log(f"data: {', '.join(f'{name} {n:,}' for name, n in counts.items())} rows in {paths.data}")
