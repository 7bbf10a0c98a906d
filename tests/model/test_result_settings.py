"""What a base's own settings must not do to a result: limits, sampling, types, positions of a published base."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import convert
from conftest import Repo
from sft.model import adapter
from sft.model.tokenizer import name_end_of_turn
from sft.rows.chat import END_OF_TURN

# Qwen2.5-7B's and Qwen2.5-7B-Instruct's, as published.
BASE = {
    "bos_token_id": 5,
    "do_sample": False,
    "eos_token_id": 5,
    "max_new_tokens": 2048,
    "transformers_version": "4.37.0",
}
INSTRUCT = {
    "bos_token_id": 5, "pad_token_id": 5, "do_sample": True, "eos_token_id": [], "repetition_penalty": 1.05,
    "temperature": 0.7, "top_p": 0.8, "top_k": 20, "transformers_version": "4.37.0",
}  # fmt: skip


def change(file: Path, **values: Any) -> None:
    config = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(config | values))


@pytest.mark.parametrize("generation", [BASE, INSTRUCT, INSTRUCT | {"trust_remote_code": True}, None])
def test_a_result_has_no_limits_of_its_base(prepared: Repo, tmp_path: Path, generation: dict[str, Any] | None) -> None:
    """Through convert itself: base and export both have what a result must not have."""
    start, exported, target = (tmp_path / name for name in ("start", "exported", "target"))
    shutil.copytree(prepared.work / "models/mini", start)
    own = json.loads((start / "config.json").read_text())
    change(start / "tokenizer_config.json", model_max_length=4096, is_local=True, local_files_only=True)
    shutil.copytree(start, exported)
    change(exported / "config.json", use_cache=False, _name_or_path="/somewhere/models/mini", max_length=20, top_p=0.8)
    for folder in (start, exported):
        (folder / "generation_config.json").unlink(missing_ok=True)
        if generation is not None:
            (folder / "generation_config.json").write_text(json.dumps(generation))
    target.mkdir()
    convert.convert(exported, start, target, END_OF_TURN)

    config, made, tokenizer = (
        json.loads((target / f"{name}.json").read_text())
        for name in ("config", "generation_config", "tokenizer_config")
    )
    end = config["eos_token_id"]
    assert made["eos_token_id"] == end and set(made) <= {"bos_token_id", "eos_token_id", "pad_token_id"}
    assert made.get("bos_token_id") == (5 if generation else own.get("bos_token_id"))
    assert config["use_cache"] is True and config["dtype"] == config["torch_dtype"] == "float32"
    assert not {"_name_or_path", "max_length", "top_p"} & set(config)
    assert tokenizer["model_max_length"] == config["max_position_embeddings"] == 131072
    assert not {"is_local", "local_files_only", "trust_remote_code"} & set(tokenizer)


def test_a_list_of_stops_stays(prepared: Repo, tmp_path: Path) -> None:
    """Llama 3.1's Instruct models stop at three tokens."""
    folder = tmp_path / "model"
    shutil.copytree(prepared.work / "models/mini", folder)
    end = name_end_of_turn(folder, END_OF_TURN)
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [1, 2, end], "temperature": 0.6, "top_p": 0.9})
    )
    name_end_of_turn(folder, END_OF_TURN)
    found = json.loads((folder / "generation_config.json").read_text())
    assert found["eos_token_id"] == [1, 2, end] and not {"temperature", "top_p"} & set(found)
    assert adapter.name_end_of_turn is name_end_of_turn, "merged adapters take the same way"
