"""The page of a run: what is in it, that nothing in it can run, and that it is the same each time."""

import base64
import hashlib
import json
import re
import tracemalloc
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import made
import pytest

from conftest import Repo, ok
from sft.eval.kinds import KINDS
from sft.eval.scores.published import REPRODUCES, table
from sft.lib.errors import Failure
from sft.results import tables
from sft.results.page import answers, chunks, figures
from sft.results.page.build import page
from sft.results.page.chunks import Chunks
from sft.results.page.markup import data, escaped, fill
from sft.results.scores import scores_of

VOID = {"meta", "br", "link", "img", "path", "use", "line", "rect"}


class Page(HTMLParser):
    """Every start tag with its attributes, the text of each script, and all text."""

    def __init__(self, file: Path):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text, self.cells = "", []
        self.inside = ""
        self.feed(file.read_text(encoding="ascii"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, text: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += text
        elif self.inside != "style":
            self.text += text
            if self.cells:
                self.cells[-1] += text


def build(folder: Path, result: dict[str, Any]) -> Page:
    part = folder / "results"
    part.mkdir(parents=True)
    page(result, made.METRICS, [folder / "eval"], part)
    return Page(part / "index.html")


def texts(folder: Path) -> list[dict[str, Any]]:
    """The rows of a folder of chunks, in their order."""
    rows = []
    for number in range(len(list(folder.iterdir()))):
        script = (folder / f"{number}.js").read_text(encoding="ascii")
        packed = re.fullmatch(r'generations\("([A-Za-z0-9+/=]*)"\);\n', script)
        assert packed, script[:80]
        rows += json.loads(zlib.decompress(base64.b64decode(packed[1])))
    return rows


# --- rows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row, letter",
    [
        ({"correct": True, "answer": "1", "finish": "stop"}, "R"),
        ({"correct": True, "answer": "1", "truncated": True}, "r"),
        ({"correct": False, "answer": "2", "truncated": False}, "W"),
        ({"correct": False, "answer": "2", "finish": "length"}, "T"),
        ({"correct": False, "answer": None, "finish": "stop"}, "N"),
        ({"correct": False, "answer": None, "finish": "length"}, "C"),
        ({"exact_match": 1.0, "f1": 1.0, "truncated": False}, "R"),
        ({"exact_match": 0.0, "f1": 0.5, "truncated": False}, "W"),
    ],
)
def test_a_letter_per_answer(row: dict[str, Any], letter: str) -> None:
    assert answers.letter(row) == letter


def read(tmp_path: Path, rows: list[dict[str, Any]]) -> answers.Answers:
    made.write(tmp_path / "rows.jsonl", rows)
    with Chunks(tmp_path / "made") as folder:
        return answers.read(tmp_path / "rows.jsonl", "trained", "set", "plain", folder)


def test_rows_of_one_answer_are_numbered(tmp_path: Path) -> None:
    """As make eval writes them: the problem's text is the question, and there is no sample."""
    rows = []
    for number, text in enumerate(("\\boxed{1}", "", "2")):
        row = {"problem": f"{number}?", "expected_answer": "1"}
        rows.append(row | {"generation": text, "truncated": text == "2"} | KINDS["math"].grade(row, text))
    found = read(tmp_path, rows)
    assert (found.problems, found.samples, found.grid) == (["1", "2", "3"], 1, "RNC")
    assert list(found.characters) == [9, 0, 1] and not found.tokens
    one = {"question": "0?", "generation": "\\boxed{1}", "answer": "1", "expected": "1"}
    assert texts(tmp_path / "made")[0] == one


def test_choices_and_free_answers(tmp_path: Path) -> None:
    choice = {"Question": "Which?", **{f"Choice {n}": f"c{n}" for n in range(1, 5)}, "Answer": "B"}
    free = {"input": "Who?", "output": "Ann", "original_answers": ["Ann", "Anna"]}
    rows = [
        choice | {"generation": "B", "truncated": False} | KINDS["choice"].grade(choice, "The final answer is B."),
        free | {"generation": "Ann", "truncated": False} | KINDS["qa"].grade(free, "Ann"),
    ]
    assert read(tmp_path, rows).grid == "RR"
    one, other = texts(tmp_path / "made")
    assert one["question"] == "Which?\nA. c1\nB. c2\nC. c3\nD. c4" and one["expected"] == "B"
    assert one["more"]["published_correct"] == "true"
    assert other["question"] == "Who?" and other["expected"] == ["Ann", "Anna"] and other["more"]["f1"] == "1.0"


def sample(problem: str, number: int, correct: bool, **more: Any) -> dict[str, Any]:
    row = {"problem": problem, "sample": number, "text": f"{problem}{number}", "answer": "1", "correct": correct}
    return row | {"finish": "stop", "tokens": 5} | more


def test_samples_in_any_order(tmp_path: Path) -> None:
    rows = [
        sample("b", 1, True),
        sample("a", 0, False),
        sample("b", 0, False),
        sample("a", 2, True),
        sample("b", 2, True),
    ]
    found = read(tmp_path, rows)
    assert (found.problems, found.samples, found.grid) == (["b", "a"], 3, "WRRW.R")
    record = found.record()
    assert record["rows"] == [2, 0, 4, 1, -1, 3] and "strides" not in record and list(found.tokens) == [5] * 5


@pytest.mark.parametrize("order, strides", [("problem", (2, 1)), ("sample", (1, 2))])
def test_rows_in_order_are_not_listed(tmp_path: Path, order: str, strides: tuple[int, int]) -> None:
    rows = [sample(problem, number, True) for problem in "ab" for number in (0, 1)]
    rows.sort(key=lambda row: (row["problem"] if order == "problem" else row["sample"], row["sample"]))
    record = read(tmp_path, rows).record()
    assert record["strides"] == strides and "rows" not in record


def test_a_sample_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="name sample 7; restore the file"):
        read(tmp_path, [sample("a", 7, True)])


def test_turns_without_a_whole_generation(tmp_path: Path) -> None:
    turns = [{"text": "one ", "code": "1", "output": "2 ", "status": "timeout"}, {"text": "three"}]
    row = sample("a", 0, True, turns=turns)
    del row["text"]
    read(tmp_path, [row])
    assert texts(tmp_path / "made")[0]["generation"] == "one 2 three"
    assert texts(tmp_path / "made")[0]["runs"] == ["timeout"]


# --- chunks ------------------------------------------------------------------------------------------------------


def test_chunks_are_small(tmp_path: Path) -> None:
    sizes = [chunks.SIZE // 3] * 7 + [2 * chunks.SIZE] + [10] * (chunks.ROWS + 1)
    with Chunks(tmp_path / "made") as folder:
        for number, size in enumerate(sizes):
            folder.add({"n": number, "text": "x" * size})
    assert folder.first == [0, 2, 4, 6, 7, 8, 8 + chunks.ROWS]
    assert [row["n"] for row in texts(tmp_path / "made")] == list(range(len(sizes)))


def test_a_failed_chunk_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), Chunks(tmp_path / "made") as folder:
        folder.add({"text": "x"})
        (tmp_path / "made").rmdir()


def test_rows_are_not_held(tmp_path: Path) -> None:
    """Of 60 MB of generations a few chunks are in memory at a time."""
    rows = made.rows_of(samples=2, length=110_000, seed=1)
    made.write(tmp_path / "rows.jsonl", rows)
    assert (tmp_path / "rows.jsonl").stat().st_size > 50e6
    tracemalloc.start()
    with Chunks(tmp_path / "made") as folder:
        answers.read(tmp_path / "rows.jsonl", "trained", "set", "cot", folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24e6


# --- the page ----------------------------------------------------------------------------------------------------


def test_nothing_is_loaded_and_one_script_may_run(tmp_path: Path) -> None:
    found = build(tmp_path, made.run(tmp_path / "eval"))
    assert not [(tag, attrs) for tag, attrs in found.tags if {"src", "srcset", "action", "data"} & attrs.keys()]
    assert not {"link", "img", "iframe", "object", "base"} & {tag for tag, _ in found.tags}
    links = [value for _, attrs in found.tags for name, value in attrs.items() if name.endswith("href")]
    assert links and all(str(link).startswith("#") for link in links), "marks of the figures"
    assert not [attrs for _, attrs in found.tags if any(name.startswith("on") for name in attrs)]
    policy = next(attrs["content"] for tag, attrs in found.tags if "http-equiv" in attrs) or ""
    digest = base64.b64encode(hashlib.sha256(found.scripts[1].encode()).digest()).decode()
    assert len(found.scripts) == 2 and f"'sha256-{digest}'" in policy and "default-src 'none'" in policy
    ids = [attrs["id"] for _, attrs in found.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_the_answers_are_in_the_page(tmp_path: Path) -> None:
    found = build(tmp_path, made.run(tmp_path / "eval", samples=2))
    records = json.loads(found.scripts[0])
    assert records == json.loads((tmp_path / "results/answers.json").read_text())
    keys = [f"{model}.comp-math-24-25.{mode}" for model in ("baseline", "trained") for mode in ("cot", "tir")]
    assert [record["key"] for record in records] == keys
    one = records[3]
    rows = [json.loads(line) for line in (tmp_path / "eval/trained.comp-math-24-25.tir.jsonl").open()]
    assert len(one["grid"]) == len(rows) == 512 and one["strides"] == [1, 256] and one["subsets"][-1] == "hmmt-24-25"
    assert sum(letter in "Rr" for letter in one["grid"]) == sum(row["correct"] for row in rows)
    shown = texts(tmp_path / "results/generations/trained.comp-math-24-25.tir")
    assert [row["generation"] for row in shown] == [row["generation"] for row in rows]


def test_the_matrix(tmp_path: Path) -> None:
    """62.0 against 61.6 published, which may be 0.05 more; then 3.1 points and 11.6 points away."""

    def rates(value: float) -> dict[str, Any]:
        rate = {"value": value, "error_samples": 0.5, "error_problems": 6.0}
        return {
            "problems": 30, "k": 64, "n": 1920, "pass@1[avg-of-64]": rate, "pass@64": rate,
            "maj@64": {"first": rate | {"value": 80.0}, "mean": rate | {"value": 1.0}},
            "no_answer": 1.25, "truncated": 2.5, "tokens": 9876.5, "calls": None,
            "curves": {"k": [1, 64], "pass@k": [value, 90], "pass@1[avg-of-k]": [value, value],
                       "maj@k": {"first": [1, 2], "mean": [1, 2]}},
        }  # fmt: skip

    for value, label in ((62.0, "inside the sampling error"), (64.7, "inside the docs' 6 points"), (50.0, "outside")):
        result = made.result({"trained": {"comp-math-24-25/aime24": {"cot": rates(value)}}})
        score = scores_of(result)[0]
        assert score.verdict and score.theirs == "61.6" and score.verdict.label == label
        assert score.verdict.sampling == pytest.approx(1.96 * 2**0.5 * 0.5 + 0.05, abs=1e-4)
        found = build(tmp_path / label, result)
        cells = [" ".join(cell.split()) for cell in found.cells]
        assert f"{value} ± 0.5" in cells[cells.index("pass@1") + 1] and label in cells[cells.index("pass@1") + 1]
        assert f"published 61.6, {value - 61.6:+.1f}" in cells[cells.index("pass@1") + 1]
        assert "80.0 ± 0.5" in cells[cells.index("maj@64") + 1], "of tied answers the first"
        assert "no answer 1.2, truncated 2.5, tokens 9,876" in cells[cells.index("answers") + 1]
        text = tables.table(result)
        sign = f"| {value} ± 0.5 | 61.6 | {value - 61.6:+.1f} | {label} |"
        assert f"| trained | comp-math-24-25/aime24 | cot | 30 x 64 | pass@1 {sign}" in text
        assert f"pass@1 - -> {value} ± 0.5 (published 61.6, {value - 61.6:+.1f}: {label})" in tables.summary(result)[0]
    today = made.result({"trained": {"aime24": {"cot": rates(62.0)}}}, protocol={"name": "today", "tie": "mean"})
    assert [score.value for score in scores_of(today)] == [62.0, 1.0, 62.0]


def test_only_whole_benchmarks_are_compared_with_published_ones() -> None:
    rate = {"value": 61.6, "error_samples": 0.5, "error_problems": 6.0}
    part = {"problems": 29, "k": 1, "n": 29, "pass@1[avg-of-1]": rate}
    whole = part | {"problems": 30}
    for model, mode, rates, compared in (
        ("trained", "cot", whole, True), ("trained", "cot", part, False), ("baseline", "cot", whole, False),
        ("trained", "off", whole, False),
    ):  # fmt: skip
        score = scores_of(made.result({model: {"aime24": {mode: rates}}}))[0]
        assert (score.published is not None) == compared, (model, mode)
    other = made.result({"trained": {"aime24": {"cot": whole}}}, model="tiny", round="1")
    assert scores_of(other)[0].verdict is None


def test_comparisons_by_the_model_itself_are_compared_with_the_published_ones() -> None:
    rate = {"value": 83.3, "error_samples": 1.0, "error_problems": 6.0}
    figures = {"problems": 30, "k": 64, "n": 1920, "pass@1[avg-of-64]": rate, "pass@64": rate}
    figures["maj@64"] = {"first": rate, "mean": rate}
    scores = {s.metric: s for s in scores_of(made.result({"trained": {"aime24": {"genselect": figures}}}))}
    assert scores["maj@64"].theirs == "83.3" and scores["pass@1"].published is None


def test_every_recipe_reproduces_what_the_table_has() -> None:
    assert {name for names in REPRODUCES.values() for name in names} <= {row.model for row in table()}


def test_a_share_has_the_error_of_its_problems() -> None:
    """Of 100 problems 50: (50 + 2) / 104 is a half, whose error is 100 * sqrt(0.25 / 104) = 4.9029."""
    score = scores_of(made.result({"trained": {"s": {"plain": {"n": 100, "pass@1": 0.5, "no_answer": 0.0}}}}))[0]
    assert (score.value, score.over) == (50.0, "problems") and score.error == pytest.approx(4.9029, abs=1e-4)


def test_what_is_not_recorded_is_said_to_be_so(tmp_path: Path) -> None:
    scores = {"trained": {"s": {"plain": {"n": 4, "pass@1": 0.5, "no_answer": 0.0, "truncated": 0.0}}}}
    bare = build(tmp_path / "bare", made.result(scores))
    assert bare.text.count("not recorded") == 6  # image, engine, version, hardware, GPU hours, protocol
    machine = {"image": "sqsh:1", "engine": "vllm", "engine_version": "0.9", "hardware": "8 x H100", "gpu_hours": 12.5}
    full = build(
        tmp_path / "full", made.result(scores, machine=machine, protocol={"name": "published", "tie": "first"})
    )
    assert "not recorded" not in full.text and all(str(value) in full.text for value in machine.values())


def test_the_same_run_makes_the_same_bytes(tmp_path: Path) -> None:
    result = made.run(tmp_path / "one/eval", samples=2)
    (tmp_path / "two").mkdir()
    (tmp_path / "two/eval").symlink_to(tmp_path / "one/eval")
    for name in ("one", "two"):
        build(tmp_path / name, result)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one/results").rglob("*.*"))
    assert len(files) >= 6
    for file in files:
        if (tmp_path / "one" / file).is_file():
            assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


# --- hostile text ------------------------------------------------------------------------------------------------


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    found = build(tmp_path, made.hostile_run(tmp_path / "eval"))
    assert len(found.scripts) == 2 and not {"iframe", "img", "b"} & {tag for tag, _ in found.tags}
    record = json.loads(found.scripts[0])[0]
    assert record["problems"] == [f"{n} {text[:60]}" for n, text in enumerate(made.HOSTILE)]
    shown = texts(tmp_path / "results/generations" / f"trained.{made.ODD}.cot")
    assert [row["generation"] for row in shown[::2]] == made.HOSTILE
    assert made.HOSTILE[0] in found.text and made.HOSTILE[1] in found.text and "\\u001b[31mred" in found.text


def test_text_as_html_and_as_data() -> None:
    assert escaped("<a href=\"'&\x00\u202e\ud800") == "&lt;a href=&quot;&#x27;&amp;\\u0000\\u202e\\ud800"
    made_ = data({"a": "</script><!--&\u2028\ud800"})
    assert not set("<>&") & set(made_) and made_.isascii() and json.loads(made_) == {"a": "</script><!--&\u2028\ud800"}
    assert fill("{{a}}{{b}}", {"a": "{{b}}", "b": "é"}) == b"{{b}}&#233;"


def test_figures_take_the_colours_of_the_page() -> None:
    svg = figures.loss("x", {1: {"loss": 2.0}, 2: {"loss": 1.0}})
    assert svg.startswith("<svg") and "currentColor" in svg and "var(--line1)" in svg
    assert not re.findall(r"#[0-9a-f]{6}\b", svg) and "<style" not in svg and "<metadata" not in svg
    assert svg == figures.loss("x", {1: {"loss": 2.0}, 2: {"loss": 1.0}})


# --- the stage ---------------------------------------------------------------------------------------------------


def test_results_has_the_page(trained: Repo) -> None:
    folder = trained.run_dir() / "results"
    records = json.loads((folder / "answers.json").read_text())
    scores = json.loads((folder / "results.json").read_text())["scores"]
    assert [record["key"] for record in records] == ["baseline.mini.cot", "trained.mini.cot"]
    for record in records:
        right = sum(letter in "Rr" for letter in record["grid"])
        assert right / 300 == pytest.approx(scores[record["model"]]["mini"]["cot"]["pass@1"], abs=5e-5)
        rows = texts(folder / "generations" / record["key"])
        assert len(rows) == 300 and all(row["question"] and row["expected"] for row in rows)
    inputs = trained.done(trained.run_dir() / "eval")["inputs"]
    text = Page(folder / "index.html").text
    assert "mini, round 1" in text and inputs["trained"] in text and inputs["test mini"] in text


def test_answers_that_are_gone_are_said_to_be(finished: Repo) -> None:
    import shutil

    shutil.rmtree(finished.run_dir() / "results")
    (finished.run_dir() / "eval/baseline.mini.cot.jsonl").unlink()
    assert "the page has no answers of it" in ok(finished.stage("results"))
    assert [r["model"] for r in json.loads((finished.run_dir() / "results/answers.json").read_text())] == ["trained"]
