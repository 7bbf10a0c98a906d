"""make convert: a checkpoint becomes a folder of Hugging Face that is the trained model."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import Repo, failed, ok
from sft.lib.errors import Failure
from sft.model.tokenizer import name_end_of_turn
from sft.rows.chat import END_OF_TURN, ENDS


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
        assert tokenizer.chat_template.endswith(original.chat_template)
        assert tokenizer.get_vocab() == original.get_vocab()
        # A chat without a system message gets the empty one of every row, not the base's default.
        bare = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
        assert bare == "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nx<|im_end|>\n"
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


@pytest.mark.parametrize("what", ["shape", "a missing tensor", "NaN"])
@pytest.mark.slow
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


def test_a_step_of_an_earlier_training_is_refused(finished: Repo) -> None:
    """Trained over with the same recipe and data: the converted steps that lie there are not this training's."""
    (finished.run_dir() / "train/DONE").unlink()
    ok(finished.stage("train", "mini", "--check"))  # writes DONE anew
    failed(finished.stage("convert"), "step_40 was made from other inputs (train was", "move it away")


def test_a_llama_ends_at_its_own_token_and_keeps_its_scaled_rope(prepared: Repo, tmp_path: Path) -> None:
    """Llama 3.1 ends a turn with <|eot_id|>, and older servers read its RoPE from flat keys only."""
    folder = tmp_path / "llama"
    shutil.copytree(prepared.work / "models/mini", folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with pytest.raises(Failure, match="is not one token of the tokenizer"):
        name_end_of_turn(folder, ENDS["llama3"])
    tokenizer.add_special_tokens({"additional_special_tokens": [ENDS["llama3"]]})
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling |= {"original_max_position_embeddings": 8192}
    config |= {"rope_parameters": {"rope_theta": 500000.0, **scaling}}
    config.pop("rope_theta", None)
    (folder / "config.json").write_text(json.dumps(config))
    end = name_end_of_turn(folder, ENDS["llama3"])
    assert end == len(tokenizer) - 1 and AutoTokenizer.from_pretrained(folder).eos_token == "<|eot_id|>"
    fixed = json.loads((folder / "config.json").read_text())
    assert (fixed["eos_token_id"], fixed["rope_theta"], fixed["rope_scaling"]) == (end, 500000.0, scaling)
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == end


@pytest.mark.slow
def test_steps_are_matched_by_their_whole_name(finished: Repo) -> None:
    """Neighbours whose names contain the steps', or are contained in them, are not averaged."""
    convert, target = finished.run_dir() / "convert", finished.run_dir() / "average"
    before = finished.done(target)["outputs"]
    shutil.rmtree(target)
    for name in ("step_4", "step_400", "step_500", "step_5", "old_step_60"):
        shutil.copytree(convert / "step_50", convert / name)
        rewrite(next((convert / name).glob("*.safetensors")), lambda t: t["model.norm.weight"].fill_(9))
    ok(finished.stage("average"))
    done = finished.done(target)
    weights_of = [name for name in before if name.endswith(".safetensors")]
    assert [done["outputs"][name] for name in weights_of] == [before[name] for name in weights_of]
    assert done["steps"] == [40, 50, 60]
    shutil.rmtree(target)
    shutil.rmtree(convert / "step_40")
    failed(finished.stage("average"), "step_40 is not finished")
