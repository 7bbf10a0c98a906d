"""make runs: the table and the page of all runs below WORK."""

import json
import math
import os
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from conftest import Repo, ok
from sft.watch import plot
from sft.watch.overview import collect, rows, state_of
from sft.watch.page import page

SVG = "{http://www.w3.org/2000/svg}"


def write(work: Path, model: str, losses: list[float], **recipe: str) -> Path:
    """A run that has made some steps with nemo-automodel."""
    folder = work / f"runs/{model}/round1"
    (folder / "train/checkpoints").mkdir(parents=True)
    keys = {"ENGINE": "automodel", "STEPS": "60", "NODES": "2", "GPUS_PER_NODE": "8", "DEVICE": "gpu"} | recipe
    (folder / "train/RUN").write_text(json.dumps({"recipe": keys, "code": {"commit": "c" * 40}}))
    lines = (json.dumps({"step": i, "loss": loss}) + "\n" for i, loss in enumerate(losses))
    record = folder / "train/checkpoints/training.jsonl"
    record.write_text("".join(lines))
    os.utime(record, (1e9, 1e9))  # or it would count as training
    (folder / "train/links.jsonl").write_text(json.dumps({"link": 1, "seconds": 1800}) + "\n")
    return folder


def test_runs_are_listed_from_their_files(repo: Repo) -> None:
    """One that is broken does not hide the others; recipes of these names do not exist."""
    write(repo.work, "mine", [4.0, 3.0, 2.5])
    broken = write(repo.work, "broken", [1.0])
    (broken / "train/RUN").write_text("{")
    done = write(repo.work, "tiny", [2.0, 1.0], DEVICE="cpu")
    greedy, voted = {"n": 300, "accuracy": 1.0}, {"k": 4, "pass@1[avg-of-4]": {"value": 41.7}}
    own = {"scores": {"trained": {"tiny": {"cot": greedy}}}, "finished": "2026-01-01T00:00:00Z"}
    more = {"scores": {"trained": {"tiny": {"cot": voted, "tir": voted}}}, "finished": "2026-01-02T00:00:00Z"}
    for stage, content in (("eval", own), ("eval-tiny-4-tir", more), ("results", {})):
        (done / stage).mkdir()
        (done / stage / "DONE").write_text(json.dumps(content))
    out = ok(repo.call("make", "-s", "runs"))
    table = {line.split()[0]: re.split(r"\s{2,}", line) for line in out.splitlines()[:-1]}
    assert table["mine"][1:7] == ["1", "unfinished", "3/60", "2.5000", "8.0", "c" * 12]
    assert table["tiny"][2:6] == ["done", "2/60", "1.0000", "-"]
    assert table["tiny"][-1] == "tiny cot 100.0%, tiny tir 41.7%", "of two of one mode, the recipe's own"
    assert table["broken"][-1].startswith("train/RUN: not valid JSON")
    html = (repo.work / "index.html").read_text()
    assert out.splitlines()[-1] == f"plots: {repo.work}/index.html"
    assert html.count("<section") == 3 and html.count("<svg") == 2, "two curves"
    assert re.findall(r"<span>trained</span>.*<span>(.*)</span>", html) == ["100.0%", "41.7%"]
    assert not re.search(r"https?:|<script|<link|src=|@import|url\(", html), "nothing from elsewhere"
    assert [p.name for p in repo.work.iterdir() if "part" in p.name] == []


def test_what_a_run_is_doing(tmp_path: Path) -> None:
    """By its jobs, where it has some; else by its last finished stage; else by when its last step was written."""
    folder = write(tmp_path, "mine", [2.0, 1.0])
    chain = "".join(
        f"2026-01-01T00:00:00\t{stage}\t{id_}\n" for stage, id_ in (("train", 7), ("train", 8), ("eval", 9))
    )
    (folder / "chain.tsv").write_text(chain)
    waits = {"8": "PENDING", "9": "PENDING"}
    assert state_of(folder, {"7": "RUNNING", **waits}) == "train runs"
    assert state_of(folder, waits) == "train is queued" and state_of(folder, {"9": "COMPLETING"}) == "eval runs"
    assert state_of(folder, {}) == "unfinished"
    os.utime(folder / "train/checkpoints/training.jsonl")
    assert state_of(folder, None) == "train runs", "without Slurm, or where it does not answer"
    assert state_of(folder, {}) == "unfinished", "Slurm says that no job is left"
    (folder / "train/DONE").write_text("{}")
    assert state_of(folder, {}) == "trained"


def test_without_runs_nothing_is_written(repo: Repo) -> None:
    assert "there is no run below" in ok(repo.call("make", "-s", "runs"))
    assert not repo.work.exists()


def drawn(losses: dict[int, float]) -> tuple[list[str], list[str], str]:
    """(texts along the left, texts below, points of the line) of a plot, without the titles of its axes."""
    svg = ElementTree.fromstring(plot.loss_plot("a", losses).replace("<svg ", f'<svg xmlns="{SVG[1:-1]}" '))
    texts = [t for t in svg.iter(f"{SVG}text") if t.get("class") != "axis"]
    titles = [t.text for t in svg.iter(f"{SVG}text") if t.get("class") == "axis"]
    assert titles[0] == "optimizer step" and titles[1] and titles[1].startswith("training loss")
    left = [t.text or "" for t in texts if t.get("text-anchor") == "end"]
    [line] = svg.iter(f"{SVG}polyline")
    return left, [t.text or "" for t in texts if t.get("text-anchor") == "middle"], line.attrib["points"]


def test_a_curve_by_hand() -> None:
    """Steps 1 to 3 over the width between the axis and the right edge; the highest loss on top."""
    left, below, points = drawn({1: 4.0, 2: 3.0, 3: 2.0})
    assert points == "56.0,10.0 196.0,100.0 336.0,190.0"
    assert (left, below) == (["2", "2.5", "3", "3.5", "4"], ["1", "2", "3"])
    assert plot.loss_plot("a", {1: 4.0}) == "" == plot.loss_plot("a", {1: math.nan, 2: 1.0})
    left, below, points = drawn({1: 1.0, 2: 1.0})
    assert left == ["1"] and "nan" not in points


def test_a_loss_that_falls_far_has_a_logarithmic_axis() -> None:
    """10, 1 and 0.1 are equally far apart, and so the middle one is in the middle."""
    left, _, points = drawn({1: 10.0, 2: 1.0, 3: 0.1})
    assert points == "56.0,10.0 196.0,100.0 336.0,190.0"
    assert left == ["0.1", "0.2", "0.5", "1", "2", "5", "10"]
    assert "training loss, logarithmic" in plot.loss_plot("a", {1: 10.0, 2: 1.0})
    assert drawn({1: 1000.0, 2: 0.01})[0] == ["0.01", "0.1", "1", "10", "100", "1000"]
    assert "logarithmic" not in plot.loss_plot("a", {1: 1.0, 2: 0.0})


@pytest.mark.parametrize(
    "low, high, least, wanted",
    [
        (1, 12_000, 1, [2000, 4000, 6000, 8000, 10_000, 12_000]),
        (1, 3, 1, [1, 2, 3]),
        (0.42, 1.1, 0, [0.6, 0.8, 1.0]),
        (7, 7, 0, [7]),
        (-1, 1, 0, [-1, -0.5, 0, 0.5, 1]),
        (2.0000, 2.0001, 0, [2, 2.00002, 2.00004, 2.00006, 2.00008, 2.0001]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, least: float, wanted: list[float]) -> None:
    assert plot.ticks(low, high, 6 if high in (12_000, 2.0001) else 5, least) == wanted


def test_long_curves_are_thinned_by_means() -> None:
    points = plot.curve({step: float(step) for step in range(1, 1201)})
    assert len(points) == 400 and points[0] == (2.0, 2.0) and points[-1] == (1199.0, 1199.0)
    assert plot.curve({1: 1.0, 2: math.inf, 3: 3.0}) == [(1, 1.0), (3, 3.0)]


def test_names_are_text(tmp_path: Path) -> None:
    write(tmp_path, "<b>&", [2.0, 1.0])
    html = page(collect(tmp_path), tmp_path)
    assert "<b>" not in html and "&lt;b&gt;&amp;" in html


def test_a_real_run(trained: Repo) -> None:
    [run] = [run for run in collect(trained.work) if run.model == "mini"]
    assert (run.state, run.step, len(run.metrics), run.trouble) == ("done", 60, 60, "")
    assert rows([run])[1][3:5] == ("60/60", f"{trained.losses()[60]:.4f}")
    html = page([run], trained.work)
    assert len(html.split('points="')[1].split('"')[0].split()) == 60 and "<span>baseline</span>" in html
    assert 'href="runs/mini/round1/results/index.html"' in html
