"""Folders that lack a file, or hold the same rows twice: refused, by every reader of a folder."""

import json
import shutil
from pathlib import Path

import pytest

from conftest import Repo, failed, ok
from sft.data import qa
from sft.data.generations import options
from sft.data.nemotron import fetch
from sft.eval import sets
from sft.lib import file_sets
from sft.lib.errors import Failure
from sft.model.folder import tensors
from sft.rows import files


def touch(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name}\n")
    return [folder / name for name in names]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["cot-00000-of-00003.parquet", "cot-00002-of-00003.parquet"], "1 of the 3 files cot-*-of-00003.parquet are"),
        (["cot-00001-of-00002.parquet"], "number 0 is the first"),
        (["a-00001-of-00003.safetensors", "a-00003-of-00003.safetensors"], "number 2 is the first"),
        (["cot-00000-of-00001.parquet"], None),
        (["a-00001-of-00002.safetensors", "a-00002-of-00002.safetensors"], None),
        (["cot-00000-of-00002.parquet", "cot-00001-of-00002.parquet", "tir-00000-of-00001.parquet"], None),
        (["cot.jsonl", "cot-1.jsonl"], None),  # not by that rule
    ],
)
def test_missing_shards(tmp_path: Path, names: list[str], words: str | None) -> None:
    if words is None:
        file_sets.check_shards(touch(tmp_path, *names))
    else:
        with pytest.raises(Failure) as caught:
            file_sets.check_shards(touch(tmp_path, *names))
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("names", "forms"),
    [
        (["cot.jsonl", "cot.bak.jsonl", "cot-old.jsonl", "cot-00000-of-00001.parquet"], 4),
        (["cot.jsonl", "cot.parquet"], 2),
        (["cot.jsonl", "data/cot.jsonl"], 2),
        (["cot-00000-of-00001.parquet", "cot-00000-of-00002.parquet", "cot-00001-of-00002.parquet"], 2),
        (["cot-1.jsonl", "cot-2.jsonl", "cot-10.jsonl"], 1),
        (["data/cot-00000-of-00002.parquet", "data/cot-00001-of-00002.parquet"], 1),
    ],
)
def test_two_forms_of_a_split(tmp_path: Path, names: list[str], forms: int) -> None:
    """Each is read alone; together their rows would count twice."""
    touch(tmp_path, *names)
    if forms == 1:
        assert len(files.source_files(tmp_path, "cot")) == len(names)
    else:
        with pytest.raises(Failure, match=f"split cot is there in {forms} forms: .*; move all but one away"):
            files.source_files(tmp_path, "cot")
    touch(tmp_path / "other", "cot.xjsonl", "cot.jsonl.txt", "cotton.jsonl", "cot.jsonl")
    assert files.source_files(tmp_path / "other", "cot") == [tmp_path / "other/cot.jsonl"]


def test_every_reader_of_a_folder_looks(tmp_path: Path) -> None:
    touch(tmp_path / "qa", "train-00000-of-00002.parquet")
    with pytest.raises(Failure, match="1 of the 2 files train"):
        qa.files_of(tmp_path / "qa", "train")
    touch(tmp_path / "qa2", "train.jsonl", "plain_text/train-00000-of-00001.parquet")
    with pytest.raises(Failure, match="train is there in 2 forms"):
        qa.files_of(tmp_path / "qa2", "train")
    touch(
        tmp_path / "mmlu",
        *(f"{sets.HUB['mmlu'][1].rpartition('/')[0].replace('*', 'law')}/test-00001-of-00002.parquet",),
    )
    with pytest.raises(Failure, match="1 of the 2 files test"):
        sets.files_of("mmlu", tmp_path / "mmlu")
    touch(
        tmp_path / "nano", "SFT/chat/chat.jsonl", "old/chat.jsonl", "SFT/math/math_v1.jsonl", "SFT/math/math_v1.1.jsonl"
    )
    with pytest.raises(Failure, match=r"has chat in 2 places: SFT/chat and old/chat\.jsonl"):
        fetch.source_files(tmp_path / "nano", ["chat"])
    assert len(fetch.source_files(tmp_path / "nano", ["math"])) == 2
    with pytest.raises(Failure, match="1 of the 2 files model"):
        tensors(touch(tmp_path / "model", "model-00001-of-00002.safetensors")[0].parent)
    [one] = touch(tmp_path / "gen", "output-rs0.jsonl")
    with pytest.raises(Failure, match="is matched twice"):
        options.find_files("input_files", f"{one},{tmp_path}/gen/output-rs*.jsonl")


def test_a_copy_of_a_file_is_not_read_as_more_rows(copy: Repo, tmp_path: Path) -> None:
    given, work = tmp_path / "given", tmp_path / "work"
    shutil.copytree(copy.work / "data/mini/source", given)
    (given / "cot-00000-of-00001.parquet").unlink()
    lines = [json.dumps({"problem": f"{n}+1?", "generated_solution": "s"}) + "\n" for n in range(50)]
    for name, rows in (("cot-1.jsonl", lines[:30]), ("cot-2.jsonl", lines[30:]), ("cot-3.jsonl", lines[:30])):
        (given / name).write_text("".join(rows))
    data = ("scripts/data.sh", "mini", "1")
    env = {"DATA_SRC": given, "WORK": work, "REPORT": "none"}
    failed(copy.call(*data, **env), "cot-1.jsonl and", "cot-3.jsonl are the same file; move one away")
    assert not list(work.glob("data/*/round1/DONE"))
    (given / "cot-3.jsonl").unlink()
    assert "cot 50" in ok(copy.call(*data, **env))
    generation = json.dumps(
        {"problem": "1+1?", "generation": "\\boxed{2}", "expected_answer": "2", "symbolic_correct": True}
    )
    for name in ("output-rs0.jsonl", "output-rs1.jsonl"):
        (tmp_path / name).write_text(generation + "\n")
    sft = ("make", "-s", "sft-data", "NAME=mine")
    line = failed(copy.call(*sft, f"INPUT={tmp_path}/output-rs*.jsonl"), "are the same file; move one away")
    assert "output-rs0.jsonl and" in line
