"""The page in a real browser, without a window: Debian's chromium, driven by playwright."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made
import psutil
import pytest

from sft.results.compare import changed, open_results
from sft.results.page.build import page
from sft.results.page.comparison import comparison

pytestmark = pytest.mark.slow
CELL, OPEN, READY = "#strip .cell.on", "#answer[open]", "#answer[data-state=ready]"


def at(one: Any) -> tuple[int, int]:
    """(problem, sample) of the cell that is chosen."""
    found = re.fullmatch(r"c-(\d+)-(\d+)", one.page.get_attribute(CELL, "id"))
    assert found
    return int(found[1]), int(found[2])


def opened(one: Any) -> str:
    """The title of the answer that is open."""
    one.page.wait_for_selector(READY)
    return str(one.page.text_content("#a-title"))


def build(folder: Path, result: dict[str, Any]) -> Path:
    (folder / "results").mkdir()
    page(result, made.METRICS, [folder / "eval"], folder / "results")
    return folder / "results/index.html"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 samples of 256 problems, two modes, both models."""
    folder = tmp_path_factory.mktemp("small")
    return build(folder, made.run(folder / "eval"))


@pytest.fixture(scope="module")
def large() -> Iterator[Path]:
    """64 samples of 256 problems, an answer of 100,000 characters, about 32k tokens; 2 GB, so removed at once."""
    folder = Path(tempfile.mkdtemp(prefix="page-"))
    yield build(folder, made.run(folder / "eval", samples=64, length=100_000, models=("trained",), modes=("cot",)))
    shutil.rmtree(folder)


def test_keyboard(tab: Any, small: Path) -> None:
    one = tab(small)
    one.page.focus("#strip")
    assert at(one) == (0, 0)
    one.keys("ArrowRight", "ArrowDown", "ArrowDown", "ArrowUp")
    assert at(one) == (1, 1)
    one.keys("ArrowLeft", "ArrowLeft")
    assert at(one) == (0, 3), "the last sample of the problem before"
    one.keys("Enter")
    assert opened(one) == "comp-math-24-25, trained, cot: problem aime24-0, sample 3"
    one.keys("ArrowRight")
    assert "problem aime24-1, sample 0" in opened(one)
    one.keys("Escape")
    assert one.page.query_selector(OPEN) is None and at(one) == (1, 0)
    assert one.page.evaluate("document.activeElement.id") == "strip"
    one.keys(*["ArrowDown"] * 60)
    assert at(one) == (61, 0) and one.page.is_visible(CELL), "it scrolls along"
    one.keys(*["ArrowUp"] * 70)
    assert at(one) == (0, 0)


def test_an_answer_is_taken_apart(tab: Any, small: Path) -> None:
    one = tab(small)
    one.page.select_option("#run", label="comp-math-24-25, trained, tir")
    one.page.click("#strip .cell.right")
    assert "trained, tir" in opened(one)
    for part, text in ((".thought", "wait"), (".code", "print(3 + 4)"), (".output", "7"), (".text", "\\boxed{")):
        assert text in one.page.text_content(f"#a-body {part} pre"), part
    assert one.page.text_content("#a-body dl").startswith("grade\u2713 right")
    one.page.click("#next")
    opened(one)
    one.page.click("#close")
    assert one.page.query_selector(OPEN) is None


def test_filters(tab: Any, small: Path) -> None:
    one = tab(small)
    every = int(one.page.get_attribute("#strip", "aria-rowcount"))
    for name, letters, kind in (("wrong", "WT", "wrong"), ("no answer", "NC", "none"), ("truncated", "rTC", "cut")):
        one.page.click(f"#filters [data-filter='{name}']")
        grid = one.page.evaluate("JSON.parse(document.getElementById('answers').textContent)[2].grid")
        rows = sum(any(one in letters for one in grid[at : at + 4]) for at in range(0, len(grid), 4))
        assert 0 < rows < every == 256 and one.page.get_attribute("#strip", "aria-rowcount") == str(rows)
        assert f"{name} {sum(one in letters for one in grid):,}" == one.page.text_content(
            "#filters [aria-pressed=true]"
        )
        one.page.focus("#strip")
        for _ in range(5):
            problem, sample = at(one)
            assert grid[4 * problem + sample] in letters, (name, kind)
            one.keys("ArrowRight")
    one.page.click("#filters [data-filter='all']")
    assert one.page.get_attribute("#strip", "aria-rowcount") == "256"


def test_a_link_opens_an_answer(tab: Any, small: Path) -> None:
    one = tab(small)
    one.page.click("#strip .cell.wrong")
    title = opened(one)
    address = one.page.evaluate("location.href")
    other = tab(small)
    other.page.goto("about:blank")
    other.page.goto(address)
    assert opened(other) == title
    other.asked.remove("about:blank") if "about:blank" in other.asked else None


def test_a_comparison_leads_to_the_answers(tab: Any, tmp_path: Path) -> None:
    for name, samples in (("a", 2), ("b", 4)):
        folder = tmp_path / name
        result = made.run(folder / "eval", samples=samples)
        build(folder, result)
        (folder / "results/results.json").write_text(json.dumps(result))
    a, b = (open_results(str(tmp_path / name)) for name in "ab")
    target = tmp_path / "compare.html"
    target.write_bytes(comparison(a, b, target))
    one = tab(target, viewport={"width": 360, "height": 740})
    assert one.wide() == 0
    change = changed(a, b)["baseline.comp-math-24-25.cot"][1][0]
    one.page.click("details table a >> nth=1")
    assert f"baseline, cot: problem {change.problem}, sample 0" in opened(one)


def test_a_phone(tab: Any, small: Path) -> None:
    one = tab(small, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    assert one.wide() == 0
    assert one.page.evaluate("document.querySelector('#strip .cell').getBoundingClientRect().width") >= 24
    one.page.tap("#strip .cell.wrong")
    opened(one)
    assert one.wide() == 0
    box = one.page.evaluate(
        "(({left, right}) => [left, right])(document.querySelector('#answer').getBoundingClientRect())"
    )
    assert box[0] >= 0 and box[1] <= 360
    assert one.page.evaluate(
        "document.querySelector('#a-body').scrollWidth <= document.querySelector('#a-body').clientWidth"
    )


def test_light_and_dark(tab: Any, small: Path) -> None:
    """Text and chips have a contrast of at least 4.5 on what is behind them, in both."""
    names = ("h1", ".hint", ".error", ".chip.outside", ".cell.right", ".cell.wrong", ".cell.none", ".cell.cut")
    papers = set()
    for scheme in ("light", "dark"):
        one = tab(small, color_scheme=scheme)
        assert one.faint(*names, "button[aria-pressed=true]") == [], scheme
        papers.add(one.page.evaluate("getComputedStyle(document.body).backgroundColor"))
        line = one.page.evaluate("getComputedStyle(document.querySelector('figure svg text')).fill")
        assert line == one.page.evaluate("getComputedStyle(document.body).color"), "figures follow"
    assert len(papers) == 2


def test_generations_that_are_not_there(tab: Any, small: Path, tmp_path: Path) -> None:
    alone = tmp_path / "index.html"
    shutil.copy(small, alone)
    one = tab(alone)
    one.page.click("#strip .cell.right")
    one.page.wait_for_selector("#answer[data-state=failed]")
    assert "keep generations/ and index.html together" in one.page.text_content("#a-body")
    assert one.wrong and all("ERR_FILE_NOT_FOUND" in text for text in one.wrong)
    one.wrong.clear()


def test_hostile_generations_do_nothing(tab: Any, tmp_path: Path) -> None:
    one = tab(build(tmp_path, made.hostile_run(tmp_path / "eval")))
    elements = one.page.evaluate("document.querySelectorAll('script, iframe, img, b').length")
    one.page.focus("#strip")
    one.keys("Enter")
    for number, text in enumerate(made.HOSTILE):
        assert f"problem {number} " in opened(one)
        if text and text[0] not in "\x00h\u2028<" and len(text) < 1000:
            assert one.page.text_content("#a-body .text pre") == text
        assert one.page.evaluate("document.querySelectorAll('script, iframe, img, b').length") == elements
        one.keys("ArrowRight", "ArrowRight") if number + 1 < len(made.HOSTILE) else None
    one.keys("Escape")
    for number in (0, 1, 5, 6, 7):
        one.page.click(f"#c-{number}-0")
        opened(one)
        shown = one.page.text_content("#a-body")
        assert not re.search("[\x00-\x08\x0e-\x1f\x7f\u202e\u2066]", shown)
        assert {5: "\\u001b[31mred", 6: "half a pair: \\ud800 and \\udfff, a whole one: \U0001f600", 7: "\\u202e"}.get(
            number, made.HOSTILE[number]
        ) in shown
        one.keys("Escape")
    assert one.page.evaluate("window.hacked") is None


def renderers() -> int:
    """Bytes of the largest process of a page."""
    children = psutil.Process().children(recursive=True)
    pages = [child for child in children if "--type=renderer" in " ".join(child.cmdline())]
    return max(child.memory_info().rss for child in pages)


def test_a_large_run_opens_at_once_and_stays_small(tab: Any, large: Path) -> None:
    """In under 2 s, and under 500 MB when 300 answers were opened."""
    times = []
    for _ in range(3):
        one = tab(large)
        times.append(one.milliseconds())
    assert min(times) < 2000
    one.page.focus("#strip")
    one.keys("Enter")
    for _ in range(300):
        opened(one)
        one.keys("ArrowRight")
    assert len(one.page.text_content("#a-body")) > 15_000
    one.page.wait_for_function("document.scripts.length === 2")  # those of the chunks that are loaded ahead go, too
    assert sum("/generations/" in url for url in one.asked) > 50
    assert renderers() < 500e6
