"""GPQA and MMLU in the layouts that they come in."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from conftest import Repo, failed, ok
from sft.eval import sets
from sft.lib.errors import Failure

MODEL = "reasoning-lora"


def write_csv(path: Path, rows: list[list[str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def gpqa(path: Path, questions: list[str]) -> Path:
    head = ["Record ID", *sets.GPQA, "Subdomain"]
    rows = [
        [f"id{q}", f"{q}?", f" right {q}\n", f"wrong 1 {q}", f"wrong 2 {q}", f"x, {q}", "Optics"] for q in questions
    ]
    return write_csv(path, [head, *rows])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_gpqa(repo: Repo, tmp_path: Path) -> None:
    questions = [f"q{n}" for n in range(40)]
    gpqa(tmp_path / "src/gpqa_main.csv", questions)
    gpqa(tmp_path / "src/gpqa_diamond.csv", questions[10:20])
    for name in ("gpqa_main", "gpqa_diamond"):
        ok(repo.stage("tools/eval_data", MODEL, "--set", name, "--source", tmp_path / "src"))
    rows = {name: lines(repo.work / "data" / name / "test.jsonl") for name in ("gpqa_main", "gpqa_diamond")}
    for row, q in zip(rows["gpqa_main"], questions, strict=True):
        choices = [row[f"Choice {n}"] for n in range(1, 5)]
        assert row["Question"] == f"{q}?" and row["Subject"] == "Optics"
        assert sorted(choices) == sorted([f"right {q}", f"wrong 1 {q}", f"wrong 2 {q}", f"x, {q}"])
        assert choices["ABCD".index(row["Answer"])] == f"right {q}"
    assert {row["Answer"] for row in rows["gpqa_main"]} == set("ABCD")
    assert rows["gpqa_diamond"] == rows["gpqa_main"][10:20]  # whatever else is prepared, and in whatever order
    done = repo.done(repo.work / "data/gpqa_main")
    assert done["rows"] == {"all": 40} and done["seed"] == 42 and "448" in done["warning"] and done["skipped"] == 0
    assert done["inputs"].keys() == {"gpqa_main.csv"} and done["outputs"].keys() == {"test.jsonl"}


def test_a_row_without_a_field_is_skipped_and_counted(tmp_path: Path) -> None:
    path = gpqa(tmp_path / "gpqa_main.csv", ["a", "b"])
    with open(path, "a", newline="") as file:
        csv.writer(file).writerow(["id", "c?", "right", "", "w", "w", "Optics"])
    rows = list(sets.gpqa_rows(path))
    assert [row is None for row in rows] == [False, False, True]


def test_the_whole_sets_have_the_expected_sizes() -> None:
    """26 of 57 subjects; the sizes of the published test files, from hendrycks/test, make 4,658 questions."""
    sizes = (100, 100, 378, 270, 216, 135, 265, 173, 223, 100, 306, 272, 166, 152, 102, 235, 151, 144, 310, 100, 203)
    assert sum((*sizes, 100, 100, 100, 112, 145)) == sets.HUB["mmlu"][2]
    assert len(sets.SUBJECTS) == 26 == len((*sizes, 100, 100, 100, 112, 145))


def test_mmlu_in_both_layouts(repo: Repo, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    asked = [("anatomy", 'Which "bone", if any?', "C"), ("virology", "Which?", "A"), ("philosophy", "Why?", "B")]
    for subject, question, right in asked:
        write_csv(tmp_path / f"csv/data/test/{subject}_test.csv", [[question, "p", "q", "r", "s", right]])
    rows = [
        {"question": q, "subject": s, "choices": ["p", "q", "r", "s"], "answer": "ABCD".index(a)} for s, q, a in asked
    ]
    (tmp_path / "parquet/all").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "parquet/all/test-00000-of-00001.parquet")
    made = []
    for layout in ("csv", "parquet"):
        work = repo.work / layout
        command = ("tools/eval_data", MODEL, "1", "--work", work, "--set", "mmlu", "--source", tmp_path / layout)
        assert "warning: mmlu: 2 rows, where the whole set makes 4,658" in ok(repo.python(*command))
        made.append(lines(work / "data/mmlu/test.jsonl"))
        assert "already there" in ok(repo.python(*command))
    assert (
        made[0]
        == made[1]
        == [
            {
                "Question": q,
                "Choice 1": "p",
                "Choice 2": "q",
                "Choice 3": "r",
                "Choice 4": "s",
                "Answer": a,
                "Subject": s,
            }
            for s, q, a in asked[:2]
        ]
    )


@pytest.mark.parametrize(
    "name,file,content,words",
    [
        ("gpqa_main", "gpqa_main.csv", b"Question,Answer\nq,a\n", "no column 'Correct Answer'"),
        ("gpqa_main", "gpqa_main.csv", b"", "no column 'Question'"),
        ("gpqa_main", "gpqa_main.csv", b"HEAD\nq,r\n", "gpqa_main.csv:2: 2 fields, not 5"),
        ("gpqa_main", "gpqa_main.csv", b"HEAD\n", "no row of gpqa_main in it"),
        ("gpqa_main", "gpqa_main.csv", b"HEAD\n\xff,b,c,d,e\n", "malformed CSV"),
        ("gpqa_diamond", "gpqa_main.csv", b"HEAD\n", "has no gpqa_diamond.csv"),
        ("mmlu", "test/anatomy_test.csv", b"q,a,b,c,d,A\nq,a,b,c,d,E\n", "anatomy_test.csv:2: not a question"),
        ("mmlu", "test/anatomy_test.csv", b"q,a,b,c,A\n", "anatomy_test.csv:1: not a question"),
        ("mmlu", "test/philosophy_test.csv", b"q,a,b,c,d,A\n", "no row of mmlu in it"),
        ("mmlu", "test-0.parquet", b"PAR1", "test-0.parquet: cannot be read as parquet"),
    ],
)
def test_bad_files(repo: Repo, tmp_path: Path, name: str, file: str, content: bytes, words: str) -> None:
    path = tmp_path / "src" / file
    path.parent.mkdir(parents=True)
    path.write_bytes(content.replace(b"HEAD", ",".join(sets.GPQA).encode()))
    failed(repo.stage("tools/eval_data", MODEL, "--set", name, "--source", tmp_path / "src"), words, status=(1,))
    assert not list(repo.work.rglob("test.jsonl"))


@pytest.mark.parametrize(
    "change",
    [{"answer": 4}, {"answer": None}, {"choices": ["a", "b", "c"]}, {"choices": None}, {"question": None}],
)
def test_bad_rows_of_mmlu(change: dict[str, Any]) -> None:
    good = {"question": "q", "subject": "anatomy", "choices": ["a", "b", "c", "d"], "answer": 3}
    assert sets.mmlu_row(good, "f: row 1")["Answer"] == "D"
    with pytest.raises(Failure, match="f: row 1: not a question, four choices"):
        sets.mmlu_row(good | change, "f: row 1")


def test_a_gated_set_says_what_it_takes(repo: Repo) -> None:
    repo.env |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_DOWNLOAD_TIMEOUT": "1", "HF_TOKEN": "hf_secret"}
    line = failed(repo.stage("tools/eval_data", MODEL), "accept its terms", "HF_TOKEN", "DATA_SRC=dir")
    assert "hf_secret" not in line
    failed(repo.call("scripts/tool.sh", "eval-data", "mini", "1"), "EVAL_SET of recipe mini has none of gpqa_main")
    failed(repo.call("scripts/tool.sh", "eval-data", MODEL, "1", DATA_SRC="/nonexistent"), "is not a folder")
