"""Dolly and SQuAD: the tutorial's splits, its text, and what is wrong with a row."""

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import Repo, failed, ok
from sft.data import qa

Rows = list[dict[str, Any]]


def jsonl(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text().splitlines()]


def dolly_rows(count: int) -> Rows:
    """Every third without a context, as about seven of ten of the real ones are."""
    return [
        {
            "instruction": f" Ask {n} ",
            "context": "" if n % 3 else f"\nText {n} ",
            "response": f"Say {n}",
            "category": "open_qa",
        }
        for n in range(count)
    ]


def squad_rows(count: int, first: str = "x") -> Rows:
    return [
        {
            "id": f"{first}{n}",
            "title": "T",
            "context": f"Text {first}{n}",
            "question": f"What {n}?",
            "answers": {"text": [f"Text {first}", f"{first}{n}"], "answer_start": [0, 5]},
        }
        for n in range(count)
    ]


def parquet(path: Path, rows: Rows) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def prepare(repo: Repo, model: str, round_: str, source: Path) -> Path:
    """Run the stage; returns its folder."""
    ok(repo.python("data", model, round_, "--work", repo.work, "--source", source))
    name = {"llama3-sft": "databricks-dolly-15k", "llama3-lora": "squad"}[model]
    return repo.work / "data" / name / f"round{round_}"


@pytest.mark.slow
def test_the_splits_are_the_tutorials(tmp_path: Path) -> None:
    """Sizes for as many rows as the published sets have, and the very rows that datasets deals out in two steps."""
    from datasets import Dataset

    made = qa.dolly([jsonl(tmp_path / "d.jsonl", dolly_rows(15011))], 1234)
    assert {name: len(rows) for name, rows in made.items()} == {"training": 12008, "validation": 2252, "test": 751}
    whole = Dataset.from_list(dolly_rows(15011))
    test_share = 1 - 0.80 - 0.15
    first = whole.train_test_split(test_size=0.15 + test_share, seed=1234)
    second = first["test"].train_test_split(test_size=test_share / (0.15 + test_share), seed=1234)
    wanted = {"training": first["train"], "validation": second["train"], "test": second["test"]}
    for name, rows in made.items():
        assert [row["output"] for row in rows] == list(wanted[name]["response"]), name

    train, test = jsonl(tmp_path / "t.jsonl", squad_rows(87599)), jsonl(tmp_path / "v.jsonl", squad_rows(10570, "y"))
    made = qa.squad([train], [test], 1234)
    assert {name: len(rows) for name, rows in made.items()} == {"training": 83219, "validation": 4380, "test": 10570}
    assert [row["output"] for row in made["test"][:2]] == ["Text y", "Text y"]


def test_dolly(repo: Repo, tmp_path: Path) -> None:
    source = jsonl(tmp_path / "src/databricks-dolly-15k.jsonl", dolly_rows(300)).parent
    folder = prepare(repo, "llama3-sft", "1", source)
    splits = {name: lines(folder / f"{name}.jsonl") for name in qa.SPLITS}
    assert {name: len(rows) for name, rows in splits.items()} == {"training": 240, "validation": 45, "test": 15}
    orders = {True: 0, False: 0}
    for row in [row for rows in splits.values() for row in rows]:
        n = int(row["output"].removeprefix("Say "))
        assert row["category"] == "open_qa"
        if n % 3:
            assert row["input"] == f" Ask {n} "  # as it is, like upstream: only with a context it is stripped
        else:
            assert row["input"] in (f"Text {n}\n\nAsk {n}", f"Ask {n}\n\nText {n}")
            orders[row["input"].startswith("Text")] += 1
    assert min(orders.values()) > 30
    done = repo.done(folder)
    assert done["seeds"] == {"split": 1234, "context_order": 1234} and done["rows"]["all"] == 240
    assert done["inputs"].keys() == {"databricks-dolly-15k.jsonl"} and done["recipe"]["VARIANT"] == "corrected"
    assert done["outputs"].keys() == done["bytes"].keys() == {f"{name}.jsonl" for name in (*qa.SPLITS, "rendered")}
    rendered = lines(folder / "rendered.jsonl")
    assert rendered == [
        {"input": f"<|begin_of_text|>{row['input']}", "output": f" {row['output']}<|end_of_text|>"}
        for row in splits["training"]
    ]
    published = prepare(repo, "llama3-sft", "published", source)
    assert lines(published / "training.jsonl") == splits["training"]  # seeded there as well
    assert not (published / "rendered.jsonl").exists()


def test_squad_from_parquet_as_the_hub_has_it(repo: Repo, tmp_path: Path) -> None:
    source = tmp_path / "src"
    parquet(source / "plain_text/train-00000-of-00001.parquet", squad_rows(40))
    parquet(source / "plain_text/validation-00000-of-00001.parquet", squad_rows(7, "y"))
    folder = prepare(repo, "llama3-lora", "1", source)
    test, training = lines(folder / "test.jsonl"), lines(folder / "training.jsonl")
    assert test[3] == {
        "input": "Context: Text y3 Question: What 3? Answer:",
        "output": "Text y",
        "original_answers": ["Text y", "y3"],
    }
    assert len(training) == 38 and training[0].keys() == {"input", "output"} and len(test) == 7
    assert repo.done(folder)["seeds"] == {"split": 1234}
    assert "already there" in ok(repo.python("data", "llama3-lora", "1", "--work", repo.work, "--source", source))
    parquet(source / "plain_text/train-00000-of-00001.parquet", squad_rows(41))
    changed = repo.python("data", "llama3-lora", "1", "--work", repo.work, "--source", source)
    failed(changed, "made from other inputs", "train-00000-of-00001.parquet")


@pytest.mark.parametrize(
    "change,words",
    [
        ({"response": None}, ("d.jsonl:3: field 'response' is null",)),
        ({"instruction": 7}, ("d.jsonl:3: field 'instruction' is int",)),
        ({"category": ...}, ("d.jsonl:3: field 'category' is not there",)),
        ({"instruction": " ", "context": "x"}, ("d.jsonl:3: field 'instruction' is empty",)),
    ],
)
def test_bad_rows_of_dolly(repo: Repo, tmp_path: Path, change: dict[str, Any], words: tuple[str, ...]) -> None:
    rows = dolly_rows(20)
    rows[2] = {key: value for key, value in (rows[2] | change).items() if value is not ...}
    source = jsonl(tmp_path / "src/d.jsonl", rows).parent
    failed(repo.stage("data", "llama3-sft", "--source", source), *words, status=(1,))
    assert not list(repo.work.rglob("*.jsonl"))


@pytest.mark.parametrize("answers", [None, "x", {"text": []}, {"text": [None]}, {"answer_start": [1]}])
def test_bad_answers_of_squad(repo: Repo, tmp_path: Path, answers: Any) -> None:
    bad = squad_rows(20)
    bad[6]["answers"] = answers
    jsonl(tmp_path / "src/train.jsonl", bad)
    jsonl(tmp_path / "src/validation.jsonl", squad_rows(3))
    words = ("train.jsonl:7: field 'answers' has no list 'text'",)
    failed(repo.stage("data", "llama3-lora", "--source", tmp_path / "src"), *words, status=(1,))


def test_bad_files(repo: Repo, tmp_path: Path) -> None:
    source = tmp_path / "src"
    failed(repo.stage("data", "llama3-lora", "--source", source), "is not a folder")
    source.mkdir()
    failed(repo.stage("data", "llama3-lora", "--source", source), "has no train*.parquet or train*.jsonl")
    (source / "train.jsonl").write_text('{"context": 1\n')
    jsonl(source / "validation.jsonl", squad_rows(2))
    failed(repo.stage("data", "llama3-lora", "--source", source), "train.jsonl:1: malformed JSON line")
    (source / "train.jsonl").write_text("")
    failed(repo.stage("data", "llama3-lora", "--source", source), "no rows")
    jsonl(source / "train.jsonl", squad_rows(1))
    failed(repo.stage("data", "llama3-lora", "--source", source), "1 rows cannot be split")
    (source / "train.jsonl").unlink()
    (source / "train.parquet").write_bytes(b"PAR1 but no more")
    failed(repo.stage("data", "llama3-lora", "--source", source), "train.parquet: cannot be read as parquet")
    parquet(source / "train.parquet", [{"context": "x"}])
    failed(repo.stage("data", "llama3-lora", "--source", source), "train.parquet: no column 'question'")
    assert not (repo.work / "data").exists() or not list((repo.work / "data").rglob("*.jsonl"))
