"""The data stage: prompts, splits, order, and what happens to broken input and full disks."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import data
import openmath
import tiny
from conftest import Repo, failed, ok
from lib import Failure


def test_prompts_are_the_published_ones() -> None:
    """Expected strings written out by hand from NeMo-Skills 8b18f39 prompt/config/{generic/math,openmath/tir}.yaml."""
    row = {"problem": "1+{x}?", "generated_solution": "So \\boxed{2}"}
    system = "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n"
    end = "<|im_end|>\n<|im_start|>assistant\n"
    math = "Solve the following math problem. Make sure to put the answer (and only answer) inside \\boxed{}.\n\n1+{x}?"
    assert openmath.format_row("cot", row) == {"input": system + math + end, "output": "So \\boxed{2}<|im_end|>\n"}
    assert openmath.format_row("genselect", row)["input"] == system + "1+{x}?" + end
    row["generated_solution"] = "Remaining code executions: 12. Remaining code executions: 11."
    tir = (
        "Solve the following math problem, integrating natural language reasoning with Python code executions.\n"
        "You may perform up to 13 Python code calls to assist your reasoning.\n"
        "Make sure to put the answer (and only answer) inside \\boxed{}.\n\n1+{x}?"
    )
    assert openmath.format_row("tir", row)["input"] == system + tir + end


def test_the_prompt_is_what_the_chat_template_renders(prepared: Repo) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(prepared.work / "models" / "mini")
    turns = [{"role": "system", "content": ""}, {"role": "user", "content": "a\nb"}]
    assert openmath.chatml("a\nb") == tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    turns.append({"role": "assistant", "content": "c"})
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    assert whole == openmath.chatml("a\nb") + "c" + openmath.END_OF_TURN + "\n"


def test_code_executions() -> None:
    assert openmath.code_executions("x Remaining code executions: 7. y Remaining code executions: 6.") == 8
    assert openmath.code_executions("Remaining code executions: 10.") == 11  # the published script reads the 1 only
    assert openmath.code_executions("You have run out of code executions! ...") == 1
    with pytest.raises(ValueError, match="names no number"):
        openmath.code_executions("no budget at all")


def test_generated_data_has_the_published_schema_and_an_unseen_test_set(prepared: Repo) -> None:
    source = prepared.work / "data" / "mini" / "source"
    training = set()
    for split in ("cot", "tir", "genselect"):
        table = pq.read_table(source / f"{split}-00000-of-00001.parquet")
        assert tuple(table.column_names) == tiny.COLUMNS
        for row in table.to_pylist():
            assert row["inference_mode"] == split
            training.add(frozenset(re.findall(r"\d+", row["problem"].split("Solution 0")[0])))
    held = [json.loads(line) for line in (source / "test.jsonl").read_text().splitlines()]
    assert len(held) >= 200
    for row in held:
        numbers = re.findall(r"\d+", row["problem"])
        assert sum(map(int, numbers)) == int(row["expected_answer"])
        assert frozenset(numbers) not in training


def test_rows_are_all_there_shuffled_and_described(prepared: Repo) -> None:
    folder = prepared.work / "data" / "mini" / "round1"
    done = prepared.done(folder)
    splits = [(folder / f"{s}.jsonl").read_text().splitlines() for s in ("cot", "tir", "genselect")]
    joined = [line for split in splits for line in split]
    mixed = (folder / "all.jsonl").read_text().splitlines()
    assert [len(s) for s in splits] == [200, 40, 20] == [done["rows"][s] for s in ("cot", "tir", "genselect")]
    assert sorted(mixed) == sorted(joined) and mixed != joined
    digest = subprocess.run(["sha256sum", folder / "all.jsonl"], capture_output=True, text=True, check=True).stdout
    assert done["outputs"]["all.jsonl"] == digest.split()[0]
    assert done["code"].keys() >= {"commit", "dirty"} and len(done["inputs"]) == 3


def test_the_shuffle_depends_on_the_seed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"{i}\n" for i in range(5000)]
    (tmp_path / "in").write_text("".join(lines))
    orders = []
    for seed in (1, 1, 2):
        data.shuffle([tmp_path / "in"], tmp_path / "out", seed)
        orders.append((tmp_path / "out").read_text())
    assert orders[0] == orders[1] != orders[2]
    monkeypatch.setattr(data, "BUCKET_BYTES", 1000)  # 24 buckets
    data.shuffle([tmp_path / "in"], tmp_path / "out", 1)
    many = (tmp_path / "out").read_text().splitlines(keepends=True)
    assert sorted(many) == sorted(lines) and many != lines
    assert not list(tmp_path.glob("bucket*"))
    # Every region of the input reaches every region of the output.
    first = [int(line) for line in many[:500]]
    assert min(first) < 100 and max(first) > 4900


def test_a_rerun_skips_and_other_data_is_refused(copy: Repo) -> None:
    before = (copy.work / "data/mini/round1/DONE").stat().st_mtime_ns
    assert "already there" in ok(copy.call("scripts/data.sh", "mini", "1"))
    assert (copy.work / "data/mini/round1/DONE").stat().st_mtime_ns == before
    copy.edit("recipes/mini.round1.env", "GENERATE_PROBLEMS=200", "GENERATE_PROBLEMS=300")
    failed(copy.call("scripts/data.sh", "mini", "1"), "GENERATE_PROBLEMS was 200, is now 300")


def test_a_local_source_takes_the_place_of_the_download(copy: Repo, tmp_path: Path) -> None:
    """qwen7b's own data stage on files of the published schema; JSONL and parquet mixed, below data/ as on the hub."""
    source = tmp_path / "OpenMathReasoning"
    shutil.copytree(copy.work / "data/mini/source", source / "data")
    rows = pq.read_table(source / "data/tir-00000-of-00001.parquet").to_pylist() * 30
    (source / "data/tir-00000-of-00001.parquet").unlink()
    (source / "data/tir.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    out = ok(copy.call("scripts/data.sh", "qwen7b", "1", DATA_SRC=source))
    assert "cot 200, tir 1,200, genselect 20" in out
    assert (copy.work / "data/openmathreasoning/round1/DONE").is_file()
    failed(copy.call("scripts/data.sh", "qwen7b", "2", DATA_SRC=source), "filters its rows")
    failed(copy.call("scripts/data.sh", "qwen7b", "1", DATA_SRC=tmp_path / "no"), "is not a folder")
    failed(copy.call("scripts/data.sh", "qwen7b", "1", DATA_SRC=tmp_path), "has no cot")


def broken_source(copy: Repo, tmp_path: Path) -> Path:
    source = tmp_path / "source"
    shutil.copytree(copy.work / "data/mini/source", source)
    shutil.rmtree(copy.work / "data/mini/round1")
    return source


def test_a_truncated_parquet_is_named(copy: Repo, tmp_path: Path) -> None:
    source = broken_source(copy, tmp_path)
    file = source / "tir-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    failed(copy.call("scripts/data.sh", "mini", "1", DATA_SRC=source), str(file), "cannot be read as parquet")
    assert not list((copy.work / "data/mini").glob("*round1*")), "half-written"


def test_malformed_jsonl_is_named_by_file_and_line(copy: Repo, tmp_path: Path) -> None:
    source = broken_source(copy, tmp_path)
    (source / "cot-00000-of-00001.parquet").unlink()
    good = json.dumps({"problem": "p", "generated_solution": "s"})
    file = source / "cot.jsonl"
    for line, words in (
        ('{"problem": "x"', "malformed"),
        (json.dumps({"problem": "\ud800", "generated_solution": "s"}), "surrogates not allowed"),
        ("[1]", "malformed"),
        ('{"problem": "x"}', "generated_solution"),
    ):
        file.write_text(f"{good}\n{good}\n{line}\n{good}\n")
        message = failed(copy.call("scripts/data.sh", "mini", "1", DATA_SRC=source), words, str(file))
        assert f"{file}:3:" in message or "row 3" in message
    assert not list((copy.work / "data/mini").glob("*round1*")), "half-written"


def test_a_tir_row_without_a_budget_is_named(copy: Repo, tmp_path: Path) -> None:
    source = broken_source(copy, tmp_path)
    (source / "tir-00000-of-00001.parquet").unlink()
    (source / "tir.jsonl").write_text('{"problem": "p", "generated_solution": "s"}\n')
    failed(copy.call("scripts/data.sh", "mini", "1", DATA_SRC=source), "row 1: tir solution names no number")


def test_a_full_disk_leaves_nothing_half_written(copy: Repo, tmp_path: Path, small_disk: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    big = json.dumps({"problem": "p", "generated_solution": "Remaining code executions: 1." + "x" * 4000})
    for split in ("cot", "tir", "genselect"):
        (source / f"{split}.jsonl").write_text((big + "\n") * 300)
    failed(copy.call("scripts/data.sh", "mini", "1", DATA_SRC=source, WORK=small_disk), "no space left")
    left = [p for p in small_disk.rglob("*") if p.is_file() and p.name != ".lock"]
    assert left == []


def test_format_row_names_what_is_missing() -> None:
    with pytest.raises(ValueError, match="problem"):
        openmath.format_row("cot", {"problem": "", "generated_solution": "s"})
    with pytest.raises(Failure):
        source.source_files(Path("/nonexistent"), "cot")
