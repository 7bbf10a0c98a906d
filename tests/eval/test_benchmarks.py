"""Benchmarks by name: what is fetched is what is pinned, and a broken download goes on."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest

from conftest import ROOT, Repo, failed, ok
from sft.eval.benchmarks import fetch, pins, prepare, read
from sft.lib.errors import Failure

ROWS = [{"id": f"a-{n}", "problem": f"What is {n}?", "expected_answer": str(n)} for n in range(30)]
TEXT = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def pin(**changes: Any) -> pins.Pin:
    made = pins.Pin("aime24", "github", "o/r", "c" * 40, "d/aime24/test.txt", "skills", 30, sha256(TEXT).hexdigest())
    return replace(made, **changes)


class Server(BaseHTTPRequestHandler):
    """A GitHub of one file, that breaks off after so many bytes. Only on the loopback."""

    breaks: ClassVar[int | None] = None
    content: ClassVar[bytes] = TEXT
    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.asked.append((self.path, wanted))
        start = int(re.sub(r"\D", "", wanted)) if wanted else 0
        if "missing" in self.path:
            self.send_error(404)
            return
        if start >= len(self.content) and wanted:
            self.send_error(416)
            return
        body = self.content[start:]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.breaks is None else body[: self.breaks])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    server = HTTPServer(("127.0.0.1", 0), Server)
    monkeypatch.setenv("GITHUB_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setattr(Server, "breaks", None)
    monkeypatch.setattr(Server, "content", TEXT)
    monkeypatch.setattr(Server, "asked", [])
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield Server
    server.shutdown()
    server.server_close()


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_pins_are_whole() -> None:
    table = pins.pins()
    counts = {name: found.rows for name, found in table.items()}
    assert counts == {
        **{"comp-math-24-25": 256, "aime24": 30, "aime25": 30, "hle-math": 975},
        **{"gsm8k": 1319, "math": 5000, "math-500": 500},
    }
    assert sum(table["comp-math-24-25"].subsets.values()) == 256
    for name, found in table.items():
        if found.origin == "github":
            assert re.fullmatch("[0-9a-f]{40}", found.commit), name
            assert bool(re.fullmatch("[0-9a-f]{64}", found.sha256)) != bool(re.fullmatch("[0-9a-f]{40}", found.git))
        assert found.form in read.FORMS
    versions = dict(
        line.split("=", 1) for line in (ROOT / "docker/versions.env").read_text().splitlines() if line[:1] > "#"
    )
    assert table["aime24"].commit.startswith(versions["NEMO_SKILLS_COMMIT"])


def test_git_names_a_file_by_this_hash(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"hello\n")
    assert read.git_hash(tmp_path / "f") == "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object


def test_a_download_is_checked_and_kept(github: type[Server], tmp_path: Path) -> None:
    folder = prepare.prepare(pin(), tmp_path, None)
    assert lines(folder / "test.jsonl") == [row | {"subset": ""} for row in ROWS]
    done = json.loads((folder / "DONE").read_text())
    assert done["revision"] == "c" * 40 and done["rows"] == {"all": 30} and done["inputs"].keys() == {"test.txt"}
    assert github.asked == [(f"/o/r/raw/{'c' * 40}/d/aime24/test.txt", None)]
    prepare.prepare(pin(), tmp_path, None)
    assert len(github.asked) == 1
    assert prepare.load(tmp_path, "aime24", "make it")[29]["expected_answer"] == "29"
    with pytest.raises(Failure, match="COMMIT was c"):  # another version of it does not take its place
        prepare.prepare(pin(commit="d" * 40), tmp_path, None)


def test_a_broken_download_goes_on_where_it_stopped(github: type[Server], tmp_path: Path) -> None:
    github.breaks = 700
    with pytest.raises(Failure, match=r"stopped early; run it again to resume|cannot be read"):
        prepare.prepare(pin(), tmp_path, None)
    assert not (tmp_path / "data/bench/aime24").exists()
    github.breaks = None
    prepare.prepare(pin(), tmp_path, None)
    assert [wanted for _, wanted in github.asked] == [None, "bytes=700-"]


def test_a_whole_part_is_not_asked_for_again(github: type[Server], tmp_path: Path) -> None:
    part = tmp_path / "data/bench/aime24.source/test.txt.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(TEXT)
    assert len(lines(prepare.prepare(pin(), tmp_path, None) / "test.jsonl")) == 30


def test_another_file_than_the_pinned_one_is_refused(github: type[Server], tmp_path: Path) -> None:
    github.content = TEXT + b'{"problem": "more", "expected_answer": "1"}\n'
    with pytest.raises(Failure, match=r"is not aime24 as pinned: its sha256 .*; run it again"):
        prepare.prepare(pin(), tmp_path, None)
    assert not list(tmp_path.rglob("*.part")), "what is wrong is not resumed"
    github.content = TEXT
    prepare.prepare(pin(), tmp_path, None)


def test_errors_of_a_download_name_a_remedy(github: type[Server], tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"answers 404; .*BENCH_SRC=dir"):
        prepare.prepare(pin(path="missing/test.txt"), tmp_path, None)


@pytest.mark.parametrize("name", ["d/aime24/test.txt", "aime24/test.txt", "aime24.jsonl", "aime24.txt", "test.txt"])
def test_files_from_a_folder(tmp_path: Path, name: str) -> None:
    path = tmp_path / "src" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(TEXT)
    assert len(lines(prepare.prepare(pin(), tmp_path, tmp_path / "src") / "test.jsonl")) == 30


@pytest.mark.parametrize(
    "rows,changes,words",
    [
        (ROWS[:29], {}, "has 29 problems, where 30 were published"),
        ([], {}, "no problem in"),
        ([*ROWS[:29], ROWS[0]], {}, "two problems have the id 'a-0'"),
        ([*ROWS[:29], {"id": "x", "problem": "?"}], {}, "test.txt:30: field 'expected_answer' is not there"),
        (
            [*ROWS[:29], {"id": "x", "problem": " ", "expected_answer": "1"}],
            {},
            "field 'problem' is not there, or empty",
        ),
        ([*ROWS[:29], {"id": "x", "problem": "?", "expected_answer": True}], {}, "field 'expected_answer'"),
        (ROWS, {"subsets": {"hmmt": 30}}, "has the subsets"),
    ],
)
def test_other_problems_than_the_published_ones_are_refused(
    tmp_path: Path, rows: list[dict[str, Any]], changes: dict[str, Any], words: str
) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/test.txt").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(Failure, match=words):
        prepare.prepare(pin(sha256="", **changes), tmp_path, tmp_path / "src")
    assert not (tmp_path / "data/bench/aime24").exists()


def test_a_subset_is_a_row_s_own(tmp_path: Path) -> None:
    path = tmp_path / "f"
    rows = [{"problem": "p", "expected_answer": 7.0, "subset_for_metrics": "hmmt-24-25"}]
    path.write_text(json.dumps(rows[0]) + "\n")
    assert read.rows_of("skills", [path]) == [
        {"id": "0", "problem": "p", "expected_answer": "7", "subset": "hmmt-24-25"}
    ]


@pytest.mark.parametrize(
    "answer,expected",
    [
        ("work\n#### 18", "18"),
        ("#### 1,080", "1080"),
        ("#### -5", "-5"),
        ("####3.50", "3.5"),
        ("#### 2 eggs", None),
        ("18", None),
    ],
)
def test_gsm8k(tmp_path: Path, answer: str, expected: str | None) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps({"question": "q", "answer": answer}) + "\n")
    if expected is None:
        with pytest.raises(Failure, match=r"test.jsonl:1: no number after ####"):
            read.rows_of("gsm8k", [path])
    else:
        (row,) = read.rows_of("gsm8k", [path])
        assert row == {"id": "gsm8k-0", "problem": "q", "expected_answer": expected, "subset": ""}


def test_math(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    row = {"problem": "p", "answer": "\\frac{1}{2}", "solution": "s", "unique_id": "test/algebra/1.json"}
    path.write_text(json.dumps(row) + "\n" + json.dumps({"problem": "p2", "answer": "2"}) + "\n")
    assert [(row["id"], row["expected_answer"]) for row in read.rows_of("math", [path])] == [
        ("test/algebra/1.json", "\\frac{1}{2}"),
        ("1", "2"),
    ]


def test_hle_keeps_mathematics_without_pictures(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def row(name: str, category: str, image: str | None) -> dict[str, str | None]:
        return {"id": name, "question": f"{name}?", "answer": "1", "category": category, "image": image}

    rows = [row("a", "Math", ""), row("b", "Math", "data:image/png"), row("c", "Physics", ""), row("d", "Math", None)]
    (tmp_path / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data/test-00000-of-00001.parquet")
    files = fetch.from_folder(pins.pins()["hle-math"], tmp_path)
    assert [row["id"] for row in read.rows_of("hle", files)] == ["a", "d"]
    with pytest.raises(Failure, match="hle-math has 2 problems, where 975 were published"):
        prepare.prepare(pins.pins()["hle-math"], tmp_path / "work", tmp_path)


@pytest.mark.parametrize(
    "text,names",
    [
        ("aime24", [("aime24", None)]),
        ("aime24:64,gsm8k", [("aime24", 64), ("gsm8k", None)]),
        ("FILE", [("local-my-problems", None)]),
        ("FILE:16,math-500:4", [("local-my-problems", 16), ("math-500", 4)]),
    ],
)
def test_names(tmp_path: Path, text: str, names: list[tuple[str, int | None]]) -> None:
    path = tmp_path / "My problems.jsonl"
    path.write_text("")
    assert [(found.name, samples) for found, samples in pins.chosen(text.replace("FILE", str(path)))] == names


@pytest.mark.parametrize(
    "text,words",
    [
        ("aime2024", "no such benchmark; it is one of comp-math-24-25"),
        ("aime24:0", "give a number from 1 up"),
        ("aime24,aime24:4", "names aime24 twice"),
        ("nowhere.jsonl", "no such file"),
        ("", "no such benchmark"),
    ],
)
def test_wrong_names(text: str, words: str) -> None:
    with pytest.raises(Failure, match=words) as caught:
        pins.chosen(text)
    assert caught.value.status == 2


def test_the_tool(repo: Repo, tmp_path: Path) -> None:
    problems = tmp_path / "mine.jsonl"
    problems.write_bytes(TEXT)
    ok(repo.call("scripts/tool.sh", "eval-data", "mini", "1", BENCH=problems))
    folder = repo.work / "data/bench/local-mine"
    assert len(lines(folder / "test.jsonl")) == 30 and (folder / "DONE").is_file()
    assert "already there" in ok(repo.call("scripts/tool.sh", "eval-data", "mini", "1", BENCH=problems))
    failed(
        repo.call("scripts/tool.sh", "eval-data", "mini", "1", BENCH="aime24", BENCH_SRC=tmp_path), "has no nemo_skills"
    )
    failed(repo.call("scripts/tool.sh", "eval-data", "mini", "1", BENCH="gsm9k"), "no such benchmark")
    repo.env["GITHUB_ENDPOINT"] = "http://127.0.0.1:9"
    failed(repo.stage("tools/eval_data", "mini", "--bench", "gsm8k"), "cannot be read", "GITHUB_ENDPOINT", "BENCH_SRC")
    repo.env |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
    failed(repo.stage("tools/eval_data", "mini", "--bench", "hle-math"), "BENCH_SRC=dir")


def test_a_recipe_names_a_benchmark_as_its_set(repo: Repo, tmp_path: Path) -> None:
    repo.derive("benched", EVAL_SET="aime24")
    failed(repo.stage("tools/eval_data", "benched", "--bench-source", tmp_path), "has no nemo_skills/dataset/aime24")
    from sft.eval.tasks import test_file
    from sft.recipe.paths import Paths

    recipe = {
        "BASE_MODEL": "a/b",
        "DATASET": "c/d",
        "START_FROM": "base",
        "AVERAGE_STEPS": (1, 2),
        "SCHEMA": "openmath",
    }
    paths = Paths(repo.work, "benched", "1", recipe)
    with pytest.raises(Failure, match="run: make eval-data MODEL=benched"):
        test_file(recipe, paths, "aime24", "MODEL=benched")
    (tmp_path / "aime24.jsonl").write_bytes(TEXT)
    prepare.prepare(pin(), repo.work, tmp_path)
    assert test_file(recipe, paths, "aime24", "MODEL=benched") == repo.work / "data/bench/aime24/test.jsonl"
