"""Quotients of what is measured: a clock that does not move, or goes back, and counts and sizes of nothing."""

import shutil
import sys
import time
from pathlib import Path

import pytest

from conftest import ROOT, Repo, failed, ok
from sft.lib.errors import Failure
from sft.lib.progress import Progress, ratio
from sft.plan.lengths import from_report
from sft.rows.lengths import Lengths, figures
from tools import report

sys.path.insert(0, str(ROOT / "tests" / "bench"))

import average_bench
import curation_bench
import data_bench
import gpu_bench
from measure import Usage


@pytest.mark.parametrize(
    "part, whole, form, text",
    [
        (9000, 4.5, ",.0f", "2,000"),
        (1, 3, ".1%", "33.3%"),
        (0, 3, ".0%", "0%"),
        (260, 0.0, ",.0f", "-"),
        (0, 0, ".1%", "-"),
        (260, -0.1, ",.0f", "-"),  # the clock was set back
    ],
)
def test_ratios_for_people(part: float, whole: float, form: str, text: str) -> None:
    assert ratio(part, whole, form) == text


@pytest.mark.parametrize("moves", [0.0, -3600.0])
@pytest.mark.slow
def test_the_first_stages_need_no_clock_that_moves(repo: Repo, tmp_path: Path, moves: float) -> None:
    """time.time() gives the same for ever, or was set back by an hour after the start: data, its report, the base."""
    started = "hasattr(sys.modules.get('sft.lib.progress'), 'START')"
    clock = f"import sys, time\ntime.time = lambda: 1.7e9 + {moves} * {started}\n"
    (tmp_path / "sitecustomize.py").write_text(clock)
    out = ok(repo.stage("data", PYTHONPATH=tmp_path))
    assert "data: 260 rows (cot 200, tir 40, genselect 20)" in out and "; - rows read a second" in out
    assert repo.done(repo.work / "data/mini/round1")["seconds"] == moves
    ok(repo.stage("model", PYTHONPATH=tmp_path))
    assert "from every row" in ok(repo.stage("tools/report", PYTHONPATH=tmp_path))


def test_progress_with_a_clock_that_is_set_back(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    times = iter([100.0, 100.0, 40.0, 110.0])
    monkeypatch.setattr(time, "time", lambda: next(times))
    progress = Progress("rows", every=0.0)
    for done in (7, 8, 20):
        progress.show(done, 0.5)
    assert [line.split("] ")[1] for line in capsys.readouterr().out.splitlines()] == [
        "rows: 7, 50%, 0 s left (-/s)",
        "rows: 20, 50%, 10 s left (2/s)",
    ]


def lengths(prompt: list[int], answer: list[int], **changes: object) -> dict:
    keys = {"SEQ_LEN": 100, "GLOBAL_BATCH": 2, "ENGINE": "automodel", "STEPS": 10, "TP": 1, "CP": 1} | changes
    return figures(keys, 4, Lengths(prompt, answer), False, 1234)


def test_a_report_on_rows_without_tokens() -> None:
    made = lengths([0, 0], [0, 0])
    assert made["standard_error"] == 0.0 and made["tokens"]["mean"] == 0
    text = report.render({"rows": {"all": 4}}, made, {"STEPS": 10})
    assert "with loss               0  about - of them" in text


@pytest.mark.parametrize("prompt, answer", [([0, 0], [0, 0]), ([90, 90], [60, 70])])
def test_nothing_is_planned_of_rows_that_carry_no_loss(prompt: list[int], answer: list[int]) -> None:
    """Rows without tokens, and rows that are all too long: a step would have 0 tokens."""
    recipe = {"PACKING": False, "GLOBAL_BATCH": 2, "SEQ_LEN": 100}
    with pytest.raises(Failure, match=r"no row has a token .* SEQ_LEN=100, says the data report; raise SEQ_LEN"):
        from_report(recipe, lengths(prompt, answer))


def test_plan_says_so_in_one_line(prepared: Repo, repo: Repo) -> None:
    """The whole way: a report on rows that are all longer than SEQ_LEN, then plan, which train asks for its jobs."""
    shutil.copytree(prepared.work, repo.work, symlinks=True)
    repo.derive("short", SEQ_LEN=8)
    out = ok(repo.stage("tools/report", "short"))
    assert "100.00%  of rows for SEQ_LEN=8; they carry no loss" in out
    failed(repo.stage("tools/plan", "short"), "SEQ_LEN=8", "raise SEQ_LEN")


@pytest.mark.parametrize("key", ["num_attention_heads", "decoder_sparse_step"])
def test_a_config_with_a_zero_is_named(repo: Repo, key: str) -> None:
    from sft.plan.shapes import PUBLISHED, from_config

    config = next(dict(c) for c in PUBLISHED.values() if (c["model_type"] == "qwen3_moe") == (key[0] == "d"))
    config.pop("head_dim", None)
    with pytest.raises(Failure, match=r"x/config.json: ZeroDivisionError: .*; restore the file: make model"):
        from_config(config | {key: 0}, "x/config.json")


@pytest.mark.parametrize("tokens, seconds", [([], 1.0), ([0], 1.0), ([5], 0.0)])
def test_a_step_that_took_no_time_is_no_measurement(tokens: list[int], seconds: float) -> None:
    with pytest.raises(Failure, match="by the clock"):
        gpu_bench.step_figures(None, 0, tokens, seconds)


def test_the_benches_tables_of_nothing() -> None:
    """Runs that took no time by the clock, and whose memory nobody saw; the larger one took no longer."""
    nothing = Usage(0.0, 0, 0)
    data = object.__new__(data_bench.Bench)
    data.sizes = (100, 500)
    names = ("make data", "published script", "plain copies")
    data.runs = [data_bench.Run(what, r, n, nothing, 1) for what in names for r in ("1", "2") for n in (100, 500)]
    text = data.table()
    assert "round 1: - times as fast at 100 rows, - times on the margin; five times the rows take - times" in text
    assert "round 1 takes - times what plain copies" in text
    curation = object.__new__(curation_bench.Bench)
    curation.workers = 2
    curation.runs = [data_bench.Run("x", "1", n, nothing, 1) for n in (100, 100, 200)]
    assert "- times as fast with 2 workers; twice the rows take - times the memory" in curation.table()
    average = object.__new__(average_bench.Bench)
    average.size, average.times, average.files, average.dropped = 3 << 30, 1, [], "nothing dropped"
    average.runs = [
        average_bench.Run(what, cached, nothing)
        for what in (average_bench.UPSTREAM, average_bench.OURS, average_bench.PLAIN)
        for cached in (True, False)
    ]
    assert "cached: - times as fast as the upstream algorithm; - times what" in average.table()
