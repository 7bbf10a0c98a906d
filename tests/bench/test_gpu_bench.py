"""The GPU benchmark: its shape, its synthetic rows, its arithmetic by hand, and a whole run of it on a CPU."""

import argparse
import json
import math
import re
import statistics
import sys
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import gpu_bench
import pytest

from conftest import Repo, failed
from sft.lib.errors import Failure
from sft.plan import shapes
from sft.recipe.keys import LINEAR
from sft.recipe.read import load

DEFAULTS = argparse.Namespace(layers=32, hidden=4096, vocab=128256, seq_len=8192, mean_length=3500.0, bins=8)
TINY = ("--layers=2", "--hidden=64", "--vocab=512", "--seq-len=128", "--mean-length=40", "--bins=2", "--steps=2")


def test_the_shape_is_llama31_8b() -> None:
    published = shapes.from_config(shapes.PUBLISHED["meta-llama/Llama-3.1-8B"], "")
    shape = gpu_bench.shape_of(DEFAULTS)
    assert shape == published and shape.parameters == 8_030_261_248
    assert shape.lora_parameters(64, LINEAR) == 167_772_160
    # What is measured is the recipe's adapter and sequence.
    recipe = load(gpu_bench.MODEL, gpu_bench.ROUND)
    assert (recipe["LORA_RANK"], recipe["LORA_ALPHA"], recipe["SEQ_LEN"]) == (64, 128, 8192)
    assert recipe["LORA_TARGETS"] == LINEAR


def test_settings_are_words_for_knobs() -> None:
    base = gpu_bench.knobs_of("sdpa")
    assert base == {knob: words[0] for knob, words in gpu_bench.KNOBS.items()}
    made = gpu_bench.knobs_of("flash+chunked+recompute")
    assert made == base | {"attention": "flash", "loss": "chunked", "memory": "recompute"}
    words = [word for words in gpu_bench.KNOBS.values() for word in words]
    assert len(words) == len(set(words))
    for setting in gpu_bench.DEFAULTS:
        gpu_bench.knobs_of(setting)
    assert len(set(gpu_bench.DEFAULTS)) == len(gpu_bench.DEFAULTS)
    for setting, why in (
        ("fast", "no setting 'fast'; join some of"),
        ("", "no setting ''"),
        ("sdpa+flash", "says attention twice; keep one of sdpa, flash"),
        ("sdpa+tefp8", "tefp8 needs Transformer Engine's layers; add te"),
    ):
        with pytest.raises(Failure, match=re.escape(why)):
            gpu_bench.knobs_of(setting)


@pytest.mark.parametrize("mean,seq_len", [(3500, 8192), (40, 128), (500, 8192)])
def test_documents_have_the_mean_that_is_asked_for(mean: int, seq_len: int) -> None:
    lengths = list(islice(gpu_bench.document_lengths(mean, seq_len), 20_000))
    assert sum(lengths) / len(lengths) == pytest.approx(mean, rel=0.04)
    assert min(lengths) >= 2 and max(lengths) <= seq_len
    assert lengths == list(islice(gpu_bench.document_lengths(mean, seq_len), 20_000))
    bins = list(islice(gpu_bench.in_order(iter(lengths), seq_len), 50))
    assert [n for bin_ in bins for n in bin_] == lengths[: sum(map(len, bins))]
    for bin_, following in pairwise(bins):
        assert sum(bin_) <= seq_len < sum(bin_) + following[0]


def test_packed_rows_are_apart() -> None:
    """The masks that each attention gets let a token see its own document only, and labels are the next token."""
    import torch

    from sft.engines.automodel.packed import block_causal

    rows = gpu_bench.Documents(64, 20.0, 3, True, 100)
    row = rows[1]
    used = sum(rows.bins[1])
    assert len(rows) == 3 and {len(values) for values in row.values()} == {64}
    assert row["labels"][: used - 1] == row["input_ids"][1:used] and set(row["labels"][used:]) <= {-100}
    assert row["position_ids"][:used] == [i for n in rows.bins[1] for i in range(n)]
    block = gpu_bench.collate([row], "block")["attention_mask"]
    documents = torch.tensor([row["attention_mask"]])
    assert torch.equal(block[:, :, :used, :used], block_causal(documents)[:, :, :used, :used])
    varlen = gpu_bench.collate([row], "varlen")
    ends = [sum(rows.bins[1][:i]) for i in range(len(rows.bins[1]) + 1)]
    assert varlen["cu_seq_lens_q"].tolist() == ends + [64] * (used < 64) and "attention_mask" not in varlen
    thd = gpu_bench.collate([row], "thd")
    assert thd["seq_lens"][0].tolist() == rows.bins[1] and thd["seq_lens_padded"].sum() == 64
    assert set(gpu_bench.collate([row], "positions")) == {"input_ids", "labels", "position_ids"}
    alone = gpu_bench.Documents(64, 20.0, 5, False, 100)
    assert [len(alone[i]["input_ids"]) for i in range(5)] == [n for (n,) in alone.bins]


def test_a_steps_figures_by_hand() -> None:
    """One layer of h=8 with 2 heads of 4, 1 of keys, f=28, V=32: 8*8 + 2*8*4 + 8*8 + 3*8*28 + 32*8 weights multiply."""
    args = argparse.Namespace(layers=1, hidden=8, vocab=32)
    shape = shapes.Shape(1, 8, 2, 1, 4, 28, 32, False)
    assert gpu_bench.model_config(args)["intermediate_size"] == 28
    weights = 64 + 64 + 64 + 672 + 256
    assert shape.matmul_parameters == weights == 1120
    # 500 adapter parameters, rows of 3 and 5 tokens in 2 seconds.
    made = gpu_bench.step_figures(shape, 500, [3, 5], 2.0)
    assert made["tokens_per_s"] == 4
    assert made["flops_per_s"] == (4 * 1120 * 8 + 6 * 500 * 8 + 6 * 1 * 8 * (9 + 25)) / 2
    # 2000 steps of 256 rows of 3,500 tokens at the aim: 1.792e9 tokens in 35.6 hours.
    assert gpu_bench.hours(512_000, 3500, 14_000) == pytest.approx(35.56, abs=0.01)


def test_why_a_setting_failed_is_one_line() -> None:
    log = "Traceback ...\nerror: OutOfMemoryError: CUDA out of memory. Tried to allocate 7.83 GiB. GPU 0 has ...\n"
    assert gpu_bench.reason_of(log, 1) == "out of memory, asking for 7.83 GiB more"
    assert gpu_bench.reason_of("error: ImportError: no flash_attn\n", 1) == "ImportError: no flash_attn"
    assert gpu_bench.reason_of("a log\n", -9) == "killed by signal 9"
    assert gpu_bench.reason_of("", 3) == "ended with status 3 and no word"


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, str, Path]:
    """(JSON, Markdown, output, folder) of a real run of two settings, one of which this machine cannot do."""
    repo = Repo(tmp_path_factory.mktemp("bench") / "repo")
    out = repo.root / "out"
    command = (sys.executable, "tests/bench/gpu_bench.py", "--device=cpu", *TINY, "--warmup=1", f"--out={out}")
    result = repo.call(*command, "--settings=sdpa+chunked,flash", timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads((out / "cpu.json").read_text()), (out / "cpu.md").read_text(), result.stdout, out


@pytest.mark.slow
def test_a_run_has_all_that_is_needed_to_make_it_again(smoke: tuple[dict[str, Any], str, str, Path]) -> None:
    made, text, output, out = smoke
    assert made["complete"] and sorted(p.name for p in out.iterdir()) == ["cpu.json", "cpu.md"]
    assert (made["gpu"], made["driver"], made["cuda"]) == ("cpu", None, None)
    assert made["versions"]["nemo-automodel"] == "0.7.0" and made["versions"]["torch"]
    assert (
        made["command"].startswith("python tests/bench/gpu_bench.py --device=cpu --layers=2")
        and "commit" in made["code"]
    )
    assert made["run"] == {
        "layers": 2, "hidden": 64, "vocab": 512, "seq_len": 128, "mean_length": 40.0, "bins": 2, "steps": 2,
        "warmup": 1, "mean_length_source": "as given", "rank": 64, "alpha": 128, "recipe_steps": 2000, "batch": 256,
    }  # fmt: skip
    assert [row["setting"] for row in made["rows"]] == ["sdpa+chunked", "flash"]
    for words in ("| sdpa+chunked | ", made["command"], made["code"]["commit"], "4 FLOPs a frozen weight", "torch 2"):
        assert words in text
    assert "tokens/s" in output and "sdpa+chunked" in output and f"written to {out / 'cpu'}.json" in output


@pytest.mark.slow
def test_the_mfu_of_a_run_by_hand(smoke: tuple[dict[str, Any], str, str, Path]) -> None:
    """From the lengths of the documents, the seconds of a step, and the measured rate of matrix products."""
    made, *_ = smoke
    row = made["rows"][0]
    # h=64, 4 heads of 16, 1 of keys, f=224, V=512, two layers; rank 64 on all seven linear layers.
    weights = 2 * (64 * 64 * 2 + 2 * 64 * 16 + 3 * 64 * 224) + 512 * 64
    adapter = 2 * 64 * (2 * (64 + 64) + 2 * (64 + 16) + 3 * (64 + 224))
    assert (made["shape"]["matmul_parameters"], made["shape"]["adapter_parameters"]) == (weights, adapter)
    bins = list(islice(gpu_bench.in_order(gpu_bench.document_lengths(40.0, 128), 128), 6))
    ratios = []
    for step in (1, 2):  # those after the warm-up
        lengths = [n for bin_ in bins[2 * step : 2 * step + 2] for n in bin_]
        flops = (4 * weights + 6 * adapter) * sum(lengths) + 6 * 2 * 64 * sum(n * n for n in lengths)
        ratios.append(flops / sum(lengths))
    assert min(ratios) * 0.99 < row["flops_per_s"] / row["tokens_per_s"] < max(ratios) * 1.01
    assert row["mfu"] == row["flops_per_s"] / made["matmul_flops"] > 0
    assert made["matmul_flops"] == max(size["flops_per_s"] for size in made["matmul"])
    assert row["hours"] == pytest.approx(512_000 * 40 / row["tokens_per_s"] / 3600)
    tokens = [sum(map(sum, bins[2 * i : 2 * i + 2])) for i in (1, 2)]
    rates = [count / seconds for count, seconds in zip(tokens, row["seconds"], strict=True)]
    assert row["tokens_per_s"] == pytest.approx(statistics.median(rates))
    assert row["step_seconds"] == statistics.median(row["seconds"])
    # Random weights know nothing: each of 512 tokens is as likely.
    assert row["loss"] == pytest.approx(math.log(512), rel=0.1) and row["peak_memory_bytes"] > 2**26


@pytest.mark.slow
def test_a_setting_that_cannot_be_is_a_row_with_its_reason(smoke: tuple[dict[str, Any], str, str, Path]) -> None:
    """And the run goes on."""
    made, text, output, _ = smoke
    row = made["rows"][1]
    assert set(row) == {"setting", "reason"} and "\n" not in row["reason"]
    assert row["reason"].startswith("ImportError: FlashAttention2 ")
    assert f"| flash | - | - | - | - | - | {row['reason']} |" in text and row["reason"] in output


def test_what_the_engine_replaces_is_no_figure_of_the_setting() -> None:
    """nemo-automodel takes another loss, attention or precision where it cannot do what it was asked for."""
    import torch

    class Model(torch.nn.Linear):
        config = argparse.Namespace(_attn_implementation="sdpa")

    shape = gpu_bench.shape_of(argparse.Namespace(layers=1, hidden=64, vocab=32))
    Model.__module__ = "nemo_automodel.components.models.llama.model"
    masked = type("MaskedCrossEntropy", (torch.nn.Module,), {})()
    engine = argparse.Namespace(model_parts=[Model(2, 2)], loss_fn=masked)
    for setting, words in (
        ("chunked", "asked for ChunkedCrossEntropy, the engine has MaskedCrossEntropy; "),
        ("flash", "asked for flash_attention_2, the engine has sdpa; "),
        ("bf16", "asked for adapters in torch.bfloat16, the engine has "),
        ("sdpa", "trained parameters, the engine has 6; "),
    ):
        with pytest.raises(Failure, match=re.escape(words)):
            gpu_bench.check_engine(engine, gpu_bench.knobs_of(setting), shape, 4)


def test_wrong_calls_end_in_one_line(repo: Repo) -> None:
    failed(repo.call(sys.executable, "tests/bench/gpu_bench.py"), "there is no GPU", "--device cpu", status=(1,))
    for option, words in (
        ("--settings=sdpa,fast", "no setting 'fast'"),
        ("--steps=0", "--steps=0; give a number from 1"),
        ("--warmup=-1", "--warmup=-1; give a number from 0"),
        ("--hidden=100", "--hidden=100 does not divide into heads"),
        ("--mean-length=5000", "--mean-length=5000; give a number from 2, below half of --seq-len=8192"),
    ):
        failed(repo.call(sys.executable, "tests/bench/gpu_bench.py", option), words, status=(2,))
    assert not (repo.root / "results").exists()


def test_the_mean_length_is_the_data_reports(repo: Repo) -> None:
    assert gpu_bench.counted_mean(repo.work) is None
    folder = repo.work / "runs/reasoning-lora/round1/report"
    folder.mkdir(parents=True)
    (folder / "DONE").write_text(json.dumps({"report": {"tokens": {"mean": 1234.5}}}))
    assert gpu_bench.counted_mean(repo.work) == 1234.5
    (folder / "DONE").write_text("{}")
    with pytest.raises(Failure, match="is not a report; remove it, or name --mean-length"):
        gpu_bench.counted_mean(repo.work)
