"""Convert and average: what comes out is right, and what is broken is refused."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import average
import convert
from conftest import Repo, failed, ok
from lib import Failure
from openmath import END_OF_TURN, ENDS


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def test_converted_folders_load_stop_and_keep_their_rope(trained: Repo) -> None:
    base = trained.work / "models/mini"
    for folder in [trained.run_dir() / "convert" / f"step_{s}" for s in (40, 50, 60)] + [trained.run_dir() / "average"]:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
        loaded = AutoModelForCausalLM.from_pretrained(folder)
        assert loaded.config.eos_token_id == loaded.generation_config.eos_token_id == tokenizer.eos_token_id == end
        assert loaded.config.rope_parameters["rope_theta"] == 500000.0
        assert loaded.config.max_position_embeddings == 131072
        config = json.loads((folder / "config.json").read_text())
        assert config["rope_theta"] == 500000.0, "a server with transformers 4 reads the flat key"
        original = AutoTokenizer.from_pretrained(base)
        assert original.eos_token != END_OF_TURN, "the base stops elsewhere, as Qwen2.5-Math does"
        assert tokenizer.chat_template == original.chat_template and tokenizer.get_vocab() == original.get_vocab()
        steps = trained.done(folder).get("step"), trained.done(folder).get("steps")
        assert steps in ((40, None), (50, None), (60, None), (None, [40, 50, 60]))


def test_a_converted_step_is_the_trained_model(trained: Repo) -> None:
    """Bit for bit the tensors that the engine exported: conversion lost nothing on the way."""
    folder = trained.run_dir() / "convert/step_50"
    exported = next((trained.run_dir() / "train/checkpoints").glob("epoch_*_step_49")) / "model/consolidated"
    ours, theirs = weights(folder), {}
    for file in exported.glob("*.safetensors"):
        theirs |= load_file(file)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    assert {k for k in theirs if k != "lm_head.weight"} == {k for k in ours if k != "lm_head.weight"}


def test_the_average_is_the_float32_mean_rounded_once(trained: Repo) -> None:
    folders = [trained.run_dir() / "convert" / f"step_{s}" for s in (40, 50, 60)]
    mean, parts = weights(trained.run_dir() / "average"), [weights(folder) for folder in folders]
    for name, tensor in mean.items():
        assert torch.equal(tensor, (parts[0][name] + parts[1][name] + parts[2][name]) / 3), name
    index = json.loads((trained.run_dir() / "average/model.safetensors.index.json").read_text())
    assert [Path(f).name for f in index["metadata"]["averaged_from"]] == ["step_40", "step_50", "step_60"]
    assert index["weight_map"].keys() == mean.keys()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_shards_and_dtypes(dtype: torch.dtype, tmp_path: Path) -> None:
    """Two shards, three models of random values, a scalar and an empty tensor among them."""
    generator = torch.Generator().manual_seed(0)
    for m in range(3):
        folder = tmp_path / f"m{m}"
        folder.mkdir()
        shards = {
            "model-00001-of-00002.safetensors": {"a": (7, 5), "b": ()},
            "model-00002-of-00002.safetensors": {"c": (3,), "empty": (0, 4)},
        }
        for file, tensors in shards.items():
            made = {n: torch.randn(s, generator=generator).to(dtype) for n, s in tensors.items()}
            save_file(made, folder / file, metadata={"format": "pt"})
        weight_map = {name: file for file, tensors in shards.items() for name in tensors}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        (folder / "config.json").write_text("{}")
    target = tmp_path / "mean"
    target.mkdir()
    average.average([tmp_path / f"m{m}" for m in range(3)], target)
    for file in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        parts = [load_file(tmp_path / f"m{m}" / file) for m in range(3)]
        for name, tensor in load_file(target / file).items():
            wanted = ((parts[0][name].float() + parts[1][name].float() + parts[2][name].float()) / 3).to(dtype)
            assert tensor.dtype == dtype and torch.equal(tensor, wanted), name


def test_integers_have_no_mean(tmp_path: Path) -> None:
    for m in ("m0", "m1"):
        (tmp_path / m).mkdir()
        save_file({"q": torch.ones(3, dtype=torch.int8)}, tmp_path / m / "model.safetensors")
    with pytest.raises(Failure, match="I8, which has no mean"):
        average.check_alike([tmp_path / "m0", tmp_path / "m1"])


def step_file(repo: Repo, step: int = 50) -> Path:
    return next((repo.run_dir() / "convert" / f"step_{step}").glob("*.safetensors"))


def rewrite(file: Path, change) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


BROKEN = {
    "shape": (lambda t: t.update({"model.norm.weight": torch.ones(33)}), "model.norm.weight is F32 [33]"),
    "dtype": (lambda t: t.update({"model.norm.weight": torch.ones(32).half()}), "model.norm.weight is F16 [32]"),
    "a missing tensor": (lambda t: t.pop("model.norm.weight"), "model.norm.weight is only in one"),
    "NaN": (lambda t: t["model.norm.weight"].fill_(float("nan")), "model.norm.weight is not finite"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_average_refuses_a_broken_step(what: str, finished: Repo) -> None:
    shutil.rmtree(finished.run_dir() / "average")
    change, words = BROKEN[what]
    rewrite(step_file(finished), change)
    failed(finished.stage("average"), words)
    assert not [p for p in finished.run_dir().iterdir() if "average" in p.name and p.suffix != ".lock"], "half-written"


def test_average_refuses_a_truncated_or_missing_step(finished: Repo) -> None:
    shutil.rmtree(finished.run_dir() / "average")
    file = step_file(finished)
    file.write_bytes(file.read_bytes()[:-1])
    failed(finished.stage("average"), str(file), "truncated")
    shutil.rmtree(file.parent)
    failed(finished.stage("average"), "step_50 is not finished", "make convert")
    failed(finished.call("scripts/submit.sh", "average", "mini", "1"), "step 50 is not converted", "make convert")
    assert not [p for p in finished.run_dir().iterdir() if "average" in p.name and p.suffix != ".lock"], "half-written"


@pytest.mark.parametrize("what", ["shape", "a missing tensor", "NaN"])
def test_convert_refuses_a_broken_checkpoint(what: str, finished: Repo) -> None:
    shutil.rmtree(finished.run_dir() / "convert")
    exported = next((finished.run_dir() / "train/checkpoints").glob("epoch_*_step_49")) / "model/consolidated"
    file = next(exported.glob("*.safetensors"))
    rewrite(file, BROKEN[what][0])
    message = failed(finished.stage("convert"))
    assert "model.norm.weight" in message
    assert [p.name for p in (finished.run_dir() / "convert").iterdir()] == ["step_40"], "half-written"


def test_convert_refuses_truncated_and_unsaved_steps(finished: Repo) -> None:
    shutil.rmtree(finished.run_dir() / "convert")
    folder = next((finished.run_dir() / "train/checkpoints").glob("epoch_*_step_59"))
    file = next((folder / "model/consolidated").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[: 1 << 12])
    failed(finished.stage("convert", "mini", "--step", 60), str(file), "truncated")
    (folder / ".incomplete").touch()  # as nemo-automodel leaves a save that was interrupted
    failed(finished.stage("convert"), "step 60 is not saved (saved: 10 20 30 40 50)")
    failed(finished.stage("convert", "mini", "--step", 45), "step 45 is not saved")
    assert list((finished.run_dir() / "convert").iterdir()) == []


def test_a_rerun_skips_and_another_recipe_is_refused(finished: Repo) -> None:
    out = ok(finished.call("scripts/submit.sh", "train", "mini", "1"))
    for words in (
        "already at the last step",
        "step 50 is already there",
        "average is already there",
        "eval is already there",
    ):
        assert words in out, words
    finished.edit("recipes/mini.round1.env", "=40,50,60", "=50,60")
    ok(finished.stage("convert"))
    failed(finished.stage("average"), "AVERAGE_STEPS was 40,50,60, is now 50,60")
    finished.edit("recipes/mini.env", "\nLR=1e-3", "\nLR=2e-3")
    failed(finished.call("scripts/submit.sh", "train", "mini", "1"), "LR: 1e-3, now 2e-3")


def test_a_step_of_an_earlier_training_is_refused(finished: Repo) -> None:
    """Trained over with the same recipe and data: the converted steps that lie there are not this training's."""
    (finished.run_dir() / "train/DONE").unlink()
    ok(finished.stage("train", "mini", "--check"))  # writes DONE anew
    failed(finished.stage("convert"), "step_40 was made from other inputs (train was", "move it away")


def test_a_full_disk_leaves_nothing_half_written(finished: Repo, small_disk: Path) -> None:
    """convert/ and average/ on a file system that holds one model of half a megabyte, but not three."""
    run = finished.run_dir()
    for name in ("convert", "average"):
        shutil.rmtree(run / name)
    (run / "convert").mkdir()
    subprocess.run(["mount", "--bind", small_disk, run / "convert"], check=True)
    try:
        (run / "convert/ballast").write_bytes(b"x" * 900_000)
        failed(finished.stage("convert"), "no space left")
        assert [p.name for p in (run / "convert").iterdir()] == ["ballast"]
    finally:
        subprocess.run(["umount", run / "convert"], check=True)
    ok(finished.stage("convert"))
    target = small_disk / "mean"
    (small_disk / "ballast").write_bytes(b"x" * 900_000)
    of = [run / "convert" / f"step_{s}" for s in (40, 50, 60)]
    failed(finished.python("average", "--of", *of, "--to", target), "no space left")
    assert [p.name for p in small_disk.iterdir()] == ["ballast"]


def test_a_llama_ends_at_its_own_token_and_keeps_its_scaled_rope(prepared: Repo, tmp_path: Path) -> None:
    """Llama 3.1 ends a turn with <|eot_id|>, and older servers read its RoPE from flat keys only."""
    folder = tmp_path / "llama"
    shutil.copytree(prepared.work / "models/mini", folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with pytest.raises(Failure, match="is not one token of the tokenizer"):
        convert.name_end_of_turn(folder, ENDS["llama3"])
    tokenizer.add_special_tokens({"additional_special_tokens": [ENDS["llama3"]]})
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling |= {"original_max_position_embeddings": 8192}
    config |= {"rope_parameters": {"rope_theta": 500000.0, **scaling}}
    config.pop("rope_theta", None)
    (folder / "config.json").write_text(json.dumps(config))
    end = convert.name_end_of_turn(folder, ENDS["llama3"])
    assert end == len(tokenizer) - 1 and AutoTokenizer.from_pretrained(folder).eos_token == "<|eot_id|>"
    mended = json.loads((folder / "config.json").read_text())
    assert (mended["eos_token_id"], mended["rope_theta"], mended["rope_scaling"]) == (end, 500000.0, scaling)
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == end
