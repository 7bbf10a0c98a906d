"""The report: figures that can be checked by hand, estimates near them, and what it says without a tokenizer."""

import json
from pathlib import Path

import pytest

from conftest import Repo, failed, ok
from sft.recipe.keys import Recipe
from sft.rows import lengths as rows_lengths
from sft.rows.chat import END_OF_TURN
from sft.rows.dataset import SftDataset
from sft.rows.lengths import Lengths, count, percentile, too_long
from tools import report


@pytest.fixture
def ready(copy: Repo) -> Repo:
    """Data and model of mini, without the report that the data stage may have made."""
    return copy


def figures(repo: Repo) -> dict:
    return json.loads((repo.run_dir() / "report" / "DONE").read_text())["report"]


def test_the_figures_are_those_of_the_trainer(ready: Repo) -> None:
    """Every row is counted, and the counts are those of the rows that the automodel engine is given."""
    from transformers import AutoTokenizer

    out = ok(ready.call("scripts/tool.sh", "report", "mini", "1"))
    tokenizer = AutoTokenizer.from_pretrained(ready.work / "models" / "mini")
    rows = SftDataset(str(ready.work / "data/mini/round1/all.jsonl"), 256, END_OF_TURN, tokenizer)
    lengths = sorted(len(rows.row(i)[0]) for i in range(len(rows)))
    loss = sum(label != -100 for i in range(len(rows)) for label in rows[i]["labels"])
    made = figures(ready)
    assert made["whole"] and made["rows"] == made["counted"] == len(rows) == 260 and made["standard_error"] == 0
    assert made["tokens"]["total"] == sum(lengths) and made["tokens"]["supervised"] == loss
    assert made["tokens"]["p50"] == lengths[129] and made["tokens"]["p90"] == lengths[233]
    assert made["tokens"]["p99"] == lengths[257] and made["tokens"]["max"] == lengths[-1]
    assert (made["steps_per_epoch"], made["rows_left_over"], made["epochs"]) == (32, 4, 60 * 8 / 260)
    assert sum(made["histogram"]["rows"]) == 260
    assert -(-sum(lengths) * 8 // 260 // 256) <= made["bins_per_batch"] <= 8
    assert f"tokens      {sum(lengths):>15,}  ± 0.0%, from every row" in out
    assert (ready.run_dir() / "report/lengths.png").read_bytes()[:4] == b"\x89PNG"
    assert (ready.run_dir() / "report/report.txt").read_text() in out


def test_rows_that_are_too_long_are_counted(ready: Repo) -> None:
    ready.derive("short", SEQ_LEN=100)
    lengths = count((ready.work / "data/mini/round1/all.jsonl", ready.work / "models/mini", "<|im_end|>", [0]))
    assert len(lengths.total) == 1
    ok(ready.call("scripts/tool.sh", "report", "short", "1"))
    made = json.loads((ready.run_dir("short") / "report/DONE").read_text())["report"]
    assert 0 < made["over_seq_len"] < 1 and made["tokens"]["supervised"] < figures_of_all(ready)["tokens"]["supervised"]
    for engine in ("automodel", "nemo2"):
        recipe: Recipe = {"ENGINE": engine, "SEQ_LEN": 100}
        assert too_long(recipe, 101) and not too_long(recipe, 100)
    recipe = {"ENGINE": "nemo-rl", "SEQ_LEN": 100}
    assert too_long(recipe, 100) and not too_long(recipe, 99)


def figures_of_all(repo: Repo) -> dict:
    ok(repo.call("scripts/tool.sh", "report", "mini", "1"))
    return figures(repo)


def test_a_sample_is_near_the_whole_and_says_so(ready: Repo) -> None:
    whole = figures_of_all(ready)
    out = ok(ready.call("scripts/tool.sh", "report", "mini", "1", ROWS=80))
    sample = figures(ready)
    assert not sample["whole"] and sample["counted"] == 80 and "from a random sample of 80" in out
    error = sample["standard_error"] * sample["tokens"]["total"]
    assert error > 0 and abs(sample["tokens"]["total"] - whole["tokens"]["total"]) < 5 * error
    assert sample["tokens"]["max"] == whole["tokens"]["max"]  # the longest rows are always counted


def test_rows_of_a_file_that_is_not_shuffled_are_drawn(ready: Repo) -> None:
    path = ready.work / "data/mini/round1/all.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    first, whole = report.choose(path, {"rows": {"all": 260}, "shuffled": True}, 50, 1)
    assert not whole and first == [sum(map(len, lines[:i])) for i in range(50)]
    drawn, whole = report.choose(path, {"rows": {"all": 260}}, 50, 1)
    assert not whole and len(set(drawn)) == 50 and drawn != first and max(drawn) > max(first)
    starts = {sum(map(len, lines[:i])) for i in range(260)}
    assert set(drawn) <= starts
    assert report.choose(path, {"rows": {"all": 260}}, 260, 1) == (sorted(starts), True)


def test_a_report_is_kept_while_it_is_true_and_made_again_after(ready: Repo) -> None:
    ok(ready.call("scripts/tool.sh", "report", "mini", "1"))
    assert "is already there" in ok(ready.call("scripts/tool.sh", "report", "mini", "1"))
    done = ready.work / "data/mini/round1/DONE"
    record = json.loads(done.read_text())
    record["outputs"]["all.jsonl"] = "0" * 64
    done.write_text(json.dumps(record))
    assert "is already there" not in ok(ready.call("scripts/tool.sh", "report", "mini", "1"))
    assert json.loads((ready.run_dir() / "report/DONE").read_text())["inputs"]["data"] == "0" * 64


@pytest.mark.slow
def test_what_is_missing_is_named(repo: Repo, ready: Repo, tmp_path: Path) -> None:
    failed(
        ready.call("scripts/tool.sh", "report", "mini", "1", WORK=tmp_path / "none"),
        "run: make data MODEL=mini ROUND=1",
    )
    out = ok(ready.call("scripts/data.sh", "mini", "1", WORK=tmp_path / "w"))
    assert "no tokenizer yet; for token lengths run: make model MODEL=mini ROUND=1" in out
    failed(
        ready.call("scripts/tool.sh", "report", "mini", "1", WORK=tmp_path / "w"),
        "has no tokenizer.json; run: make model",
    )
    made = ok(
        ready.call("scripts/tool.sh", "report", "mini", "1", WORK=tmp_path / "w", TOKENIZER=ready.work / "models/mini")
    )
    assert "from every row" in made
    path = tmp_path / "w/data/mini/round1/all.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"output"', b'"answer"', 1))
    (tmp_path / "w/runs/mini/round1/report/DONE").unlink()
    line = failed(
        ready.call("scripts/tool.sh", "report", "mini", "1", WORK=tmp_path / "w", TOKENIZER=ready.work / "models/mini"),
        "the row at byte 0 is not input and output (KeyError: 'output')",
    )
    assert str(path) in line


def test_percentiles_are_values_that_occur() -> None:
    ordered = list(range(1, 101))
    assert [percentile(ordered, p) for p in (0.5, 0.9, 0.99, 1.0)] == [50, 90, 99, 100]
    assert percentile([7], 0.5) == 7


def test_the_packed_estimate_is_right_where_it_can_be_told() -> None:
    """Rows of 100 and 156 tokens in bins of 256: two a bin, so a batch of 8 rows takes 4 full ones."""
    recipe = {"SEQ_LEN": 256, "GLOBAL_BATCH": 8, "ENGINE": "nemo-rl", "CP": 1, "TP": 1, "STEPS": 10}
    found = Lengths(prompt=[40, 40] * 4, answer=[60, 116] * 4)
    made = rows_lengths.figures(recipe, 800, found, False, 1)
    assert (made["bins_per_batch"], made["bin_fill"], made["steps_per_epoch_packed"]) == (4, 1.0, 50)
    assert made["steps_per_epoch"] == 100 and made["tokens"]["total"] == 128 * 800
    # nemo-automodel packs rows as they come, each by one token shorter: its last is only asked for.
    made = rows_lengths.figures(
        recipe | {"ENGINE": "automodel"}, 800, rows_lengths.Lengths([40] * 8, [89] * 8), False, 1
    )
    assert (made["bins_per_batch"], made["bin_fill"]) == (4, 1.0)
