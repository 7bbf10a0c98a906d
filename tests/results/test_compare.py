"""make compare: two runs side by side."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import made
import pytest
from test_page import Page

from conftest import ROOT, Repo, failed, ok
from sft.lib.errors import Failure
from sft.results.compare import changed, changes, open_results, pairs
from sft.results.page.build import page


def figures(right: int, n: int = 100) -> dict[str, Any]:
    return {"n": n, "pass@1": right / n, "no_answer": 0.0, "truncated": 0.0}


def rows(right: int, n: int = 100) -> list[dict[str, Any]]:
    return [
        {"problem": f"{p}?", "generation": "", "answer": "1", "correct": p < right, "truncated": False}
        for p in range(n)
    ]


def run(folder: Path, right: int, **facts: Any) -> Path:
    """A run with so many of 100 problems right, the first ones."""
    made.write(folder / "eval/trained.s.plain.jsonl", rows(right))
    result = made.result({"trained": {"s": {"plain": figures(right)}}}, **facts)
    (folder / "results").mkdir()
    (folder / "results/results.json").write_text(json.dumps(result))
    page(result, made.METRICS, [folder / "eval"], folder / "results")
    return folder


@pytest.mark.parametrize("right, label", [(62, "inside the sampling error"), (64, "outside")])
def test_a_difference_is_judged_by_both_errors(tmp_path: Path, right: int, label: str) -> None:
    """50 of 100: an error of 4.90; 62 or 64: 4.77 or 4.72. So 1.96 * hypot(4.90, ...) is 13.4 or 13.3 points."""
    a, b = (open_results(str(run(tmp_path / name, of))) for name, of in (("a", 50), ("b", right)))
    (pair,) = pairs(a, b)
    assert pair.label == label and pair.difference == pytest.approx(right - 50)
    assert pair.sampling == pytest.approx(13.4, abs=0.1)


def test_problems_that_changed(tmp_path: Path) -> None:
    a, b = (open_results(str(run(tmp_path / name, of))) for name, of in (("a", 50), ("b", 53)))
    ((key, (count, found)),) = changed(a, b).items()
    assert (key, count, [change.problem for change in found]) == ("trained.s.plain", 100, ["51", "52", "53"])
    assert {change.difference for change in found} == {100.0} and found[0].places == (50, 50)


def test_what_differs(tmp_path: Path) -> None:
    a = open_results(str(run(tmp_path / "a", 50)))
    b = open_results(str(run(tmp_path / "b", 50, recipe={"LR": "2e-4", "NEW": "1"}, machine={"engine": "vllm"})))
    assert changes(a, a) == []
    assert changes(a, b) == [
        ("BASE_MODEL", "Qwen/Qwen2.5-Math-1.5B", "-"), ("LR", "1e-4", "2e-4"), ("STEPS", "10000", "-"),
        ("NEW", "-", "1"), ("engine", "not recorded", "vllm"),
    ]  # fmt: skip


def test_the_command(tmp_path: Path, repo: Repo) -> None:
    """Results, runs and results.json are taken alike; the page is one file, whose links lead to the runs' own."""
    a, b = run(tmp_path / "a", 50), run(tmp_path / "b", 64)
    shown = ok(repo.call("make", "-s", "compare", f"A={a}", f"B={b}/results"))
    assert "s    trained  plain  pass@1  50.0 ± 4.9  64.0 ± 4.7  +14.0       outside" in shown
    assert "trained.s.plain: of 100 problems 14 better, 0 worse" in shown
    (made_,) = (repo.work / "compare").iterdir()
    found = Page(made_)
    assert "of 100 problems 14 better, 0 worse" in found.text and str(made_) in shown
    links = [attrs["href"] or "" for tag, attrs in found.tags if tag == "a"]
    assert len(links) == 2 + 2 * 14 and all((made_.parent / link.split("#")[0]).is_file() for link in links)
    again = ok(repo.call("make", "-s", "compare", f"A={a}/results/results.json", f"B={b}"))
    assert again.splitlines()[2:-1] == shown.splitlines()[2:-1] and len(list((repo.work / "compare").iterdir())) == 1


def test_committed_results_can_be_compared(repo: Repo) -> None:
    shown = ok(repo.call("make", "-s", "compare", f"A={ROOT}/results/tiny", f"B={ROOT}/results/tiny-reasoning"))
    assert "problems that changed are not known: both need answers.json" in shown and "LORA_RANK" in shown


def test_it_needs_nothing_but_python(repo: Repo) -> None:
    """-S: no installed package is found; so it runs on a login node."""
    both = [ROOT / "results/tiny", ROOT / "results/tiny-reasoning"]
    ok(repo.call(sys.executable, "-S", "-E", "python/runs/compare.py", *both, "--work", repo.work))


def test_what_cannot_be_compared(repo: Repo, tmp_path: Path) -> None:
    failed(repo.call("make", "-s", "compare", "A=results/tiny"), "A or B is missing; name two runs", status=(2,))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/results.json").write_text("{}")
    good = ROOT / "results/tiny"
    for other, words in ((tmp_path, "holds no results.json; name"), (tmp_path / "broken", "has no 'model'; make")):
        failed(repo.python("runs/compare", good, other, "--work", repo.work), words)
    for file, text in (("results.json", '{"scores": {"trained": {"s": 1}}}'), ("answers.json", '[{"key": "k"}]')):
        shutil.rmtree(tmp_path / "bad", ignore_errors=True)
        shutil.copytree(good, tmp_path / "bad")
        old = json.loads((good / file).read_text()) if file == "results.json" else {}
        (tmp_path / "bad" / file).write_text(json.dumps(old | json.loads(text)) if old else text)
        words = "does not hold what make results writes; make"
        failed(repo.python("runs/compare", good, tmp_path / "bad", "--work", repo.work), words)
    assert not (repo.work / "compare").exists()
    with pytest.raises(Failure, match=r"holds no results\.json"):
        open_results(str(good / "loss.png"))


def test_hostile_names_stay_text(tmp_path: Path, repo: Repo) -> None:
    result = made.hostile_run(tmp_path / "eval")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(result | {"steps": 1 + len(name), "round": "1"}))
        page(result, made.METRICS, [tmp_path / "eval"], tmp_path / name)
    shown = repo.python("runs/compare", tmp_path / "a", tmp_path / "b", "--work", repo.work, LC_ALL="C.UTF-8")
    failed(shown, "is no name of a recipe; make the results again")
