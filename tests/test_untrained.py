"""A token that a base never learned, and an adapter over it: said before anything is trained."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from conftest import Repo
from little import END_OF_TURN, LORA, RECIPE, SPECIAL, little
from untrained import untrained
from verdicts import judge_trained


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return little(Repo(tmp_path_factory.mktemp("little") / "repo")).work / "models/Little-Llama"


def changed(base: Path, folder: Path, how: str, token: int, other: int) -> Path:
    shutil.copytree(base, folder)
    weights = load_file(folder / "model.safetensors")
    head = weights["lm_head.weight"]
    if how == "zero":
        head[token] = 0
    elif how == "tiny":
        head[token] = head[token] * 1e-4
    elif how == "same":
        head[token] = head[other]
    elif how == "half":
        head[token] = head[token] * 0.5
    elif how == "input":  # only what reads it: tied or not, an answer is ended by what writes it
        weights["model.embed_tokens.weight"][token] = 0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("", ""),
        ("zero", "its row of lm_head.weight is next to zero"),
        ("tiny", "its row of lm_head.weight is next to zero"),
        ("same", "its row of lm_head.weight is that of token "),
        ("half", ""),
        ("input", ""),
    ],
)
def test_tokens_that_were_never_trained(base: Path, tmp_path: Path, how: str, words: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    end, other = (tokenizer.convert_tokens_to_ids(name) for name in (END_OF_TURN, SPECIAL[2]))
    folder = changed(base, tmp_path / "model", how, end, other)
    specials = [tokenizer.convert_tokens_to_ids(name) for name in SPECIAL]
    found = untrained(folder, end, specials)
    assert found.startswith(words) and bool(found) == bool(words)
    if how == "same":
        assert found.endswith(f"{other}, bit by bit")
    adapter, full = RECIPE | {key: str(value) for key, value in LORA.items()}, RECIPE
    level, sentence = judge_trained(tokenizer, folder, adapter, END_OF_TURN)
    if words:
        assert level == "WARNING" and "start from the Instruct model" in sentence and words in sentence
        assert judge_trained(tokenizer, folder, full, END_OF_TURN) == (
            "ok",
            f"the base has never learned {END_OF_TURN} ({end}): {found}; full training teaches it",
        )
    else:
        assert level == "ok" and "has learned" in sentence
