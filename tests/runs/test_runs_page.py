"""The page of make runs in a real browser: at a desk and on a phone, light and dark, with many runs."""

import re
from pathlib import Path
from typing import Any

import many
import pytest

from browser import Tab, picture
from conftest import ROOT

pytestmark = pytest.mark.slow
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
BEYOND = """() => [...document.querySelectorAll("section *, h1, p")]
    .filter((node) => node.getBoundingClientRect().right > innerWidth + 0.5 || node.getBoundingClientRect().left < -0.5)
    .map((node) => node.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of several runs: done, under way, queued, broken, with long names, thousands of steps, many scores."""
    work = tmp_path_factory.mktemp("several") / "work"
    many.several(work)
    table = many.runs(work)
    states = dict(re.findall(r"^(\S+) +1 +(\S+(?: \S+)*)  ", table, re.MULTILINE))
    assert states == {
        "math-7b": "done", "math-1.5b": "train runs", "thinking-lora": "train is queued", many.LONG: "eval runs",
        "dolly-sft": "unfinished", "squad-lora": "unfinished", "tiny": "done",
    }  # fmt: skip
    return work / "index.html"


def overlaps(one: Tab) -> list[list[str]]:
    """Texts of a plot that lie on one another."""
    return one.page.evaluate("""() => [...document.querySelectorAll("svg")].flatMap((svg) => {
        const texts = [...svg.querySelectorAll("text")].map((text) => [text.textContent, text.getBoundingClientRect()]);
        return texts.flatMap(([a, x], i) => texts.slice(i + 1).filter(([, y]) =>
            x.left < y.right && y.left < x.right && x.top < y.bottom && y.top < x.bottom).map(([b]) => [a, b]));
    })""")


@pytest.mark.parametrize("options", [{}, PHONE], ids=["desk", "phone"])
def test_nothing_is_cut_off(tab: Any, site: Path, options: dict[str, Any]) -> None:
    """What is too wide for a phone is the table, which scrolls in a box of its own."""
    one = tab(site, **options)
    assert one.wide() == 0 and one.page.evaluate(BEYOND) == [] and overlaps(one) == []
    box = "(({scrollWidth, clientWidth}) => scrollWidth > clientWidth)(document.querySelector('.wide'))"
    assert one.page.evaluate(box) == bool(options)
    texts = one.page.evaluate("""() => [...document.querySelectorAll("svg text")].map((text) =>
        parseFloat(getComputedStyle(text).fontSize) * Math.hypot(text.getScreenCTM().a, text.getScreenCTM().b))""")
    assert len(texts) > 20 and min(texts) >= 9.5 and max(texts) <= 16, "readable at either width"
    outside = one.page.evaluate("""() => [...document.querySelectorAll("svg text")].filter((text) => {
        const [a, b] = [text, text.ownerSVGElement].map((node) => node.getBoundingClientRect());
        return a.left < b.left - 0.5 || a.right > b.right + 0.5 || a.top < b.top - 0.5 || a.bottom > b.bottom + 0.5;
    }).map((text) => text.textContent)""")
    assert outside == []


def test_every_run_has_its_section_and_every_plot_its_titles(tab: Any, site: Path) -> None:
    one = tab(site)
    assert one.page.eval_on_selector_all("section h2", "all => all.map((one) => one.textContent)") == [
        f"{made.name} round 1" for made in many.RUNS
    ]
    titles = one.page.eval_on_selector_all("svg", "all => all.map((one) => one.querySelectorAll('.axis').length)")
    assert titles == [2] * 5
    broken = one.page.text_content("#squad-lora-round1")
    assert "train/RUN: not valid JSON" in broken and "restore the file" in broken
    assert "There are no steps and no scores yet." in one.page.text_content("#thinking-lora-round1")
    bars = one.page.eval_on_selector_all("#math-7b-round1 .bar", "all => all.map((one) => one.textContent)")
    assert bars == [
        "baseline10.0%", "trained50.0%", "baseline12.5%", "trained62.5%", "trained75.0%", "trained5.0%", "trained90.0%",
    ]  # fmt: skip
    shares = one.page.evaluate("""() => [...document.querySelectorAll("#math-7b-round1 .fill")].map((fill) =>
        fill.getBoundingClientRect().width / fill.parentElement.clientWidth)""")
    assert shares == pytest.approx([0.1, 0.5, 0.125, 0.625, 0.75, 0.05, 0.9], abs=0.01)


def test_the_keyboard_leads_to_a_section_and_back(tab: Any, site: Path) -> None:
    """Tab comes to the table's box, then to each run in turn; from a section it comes to the way back."""
    one = tab(site)
    for made in many.RUNS[:3]:
        one.keys(*["Tab"] * (2 if made is many.RUNS[0] else 1))
        assert one.page.evaluate("document.activeElement.textContent") == made.name
        assert one.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    one.keys("Enter")
    assert one.page.evaluate("location.hash") == "#thinking-lora-round1"
    top = "document.querySelector(':target').getBoundingClientRect().top"
    assert 0 <= one.page.evaluate(top) < one.page.evaluate("innerHeight / 2")
    one.keys("Tab")
    assert one.page.evaluate("document.activeElement.textContent") == "all runs"
    one.keys("Enter")
    assert one.page.evaluate("scrollY") == 0


def test_text_is_readable_in_light_and_dark(tab: Any, site: Path) -> None:
    papers = set()
    for scheme in ("light", "dark"):
        one = tab(site, color_scheme=scheme)
        names = ("h1", ".hint", "td", "td a", "td .trouble", "section .trouble", ".facts", "svg text", "svg .axis")
        assert one.faint(*names, ".bar", "header a") == [], scheme
        papers.add(one.page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(papers) == 2


def test_fifty_runs_open_at_once(tab: Any, tmp_path: Path) -> None:
    work = tmp_path / "work"
    many.several(work, 50)
    many.runs(work)
    times = []
    for _ in range(3):
        one = tab(work / "index.html")
        times.append(one.milliseconds())
    assert min(times) < 2000 and one.page.evaluate("document.querySelectorAll('section').length") == 50
    assert len(set(one.page.eval_on_selector_all("section", "all => all.map((one) => one.id)"))) == 50
    assert (work / "index.html").stat().st_size < 2e6


def test_the_picture_in_the_documents_is_of_this_page(browser: Any, site: Path, tmp_path: Path) -> None:
    """By its size: the letters are those of the machine that took it."""
    picture(browser, site, tmp_path / "runs.png", *many.WINDOW)
    header = [(file / "runs.png").read_bytes()[16:24] for file in (tmp_path, ROOT / "docs/images")]
    assert header[0] == header[1] and (ROOT / "docs/images/runs.png").stat().st_size < 150_000
