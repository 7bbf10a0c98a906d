"""A token that a base never learned, and an adapter over it: said before anything is trained."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from conftest import Repo
from little import END_OF_TURN, LORA, RECIPE, SPECIAL, little, write_model
from sft.inspect.verdicts import judge_trained
from sft.lib.errors import Failure
from sft.model.untrained import untrained


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
    elif how in ("near", "aside"):  # 3% of its length from the other, as the base of Llama 3.1; and 30%
        noise = torch.randn(head.shape[1], generator=torch.Generator().manual_seed(1))
        head[token] = head[other] + (0.03 if how == "near" else 0.3) * head[other].norm() * noise / noise.norm()
    elif how == "padding":  # the matrix has rows for no token, as Qwen's
        row = torch.full((1, head.shape[1]), 0.02)
        weights["lm_head.weight"] = torch.cat([head, row, row])
        weights["lm_head.weight"][token] = row * 1.01
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
        ("same", "its row of lm_head.weight is as good as that of token "),
        ("near", "its row of lm_head.weight is as good as that of token "),
        ("aside", ""),
        ("padding", "its row of lm_head.weight is as good as that of no token"),
        ("half", ""),
        ("input", ""),
    ],
)
def test_tokens_that_were_never_trained(base: Path, tmp_path: Path, how: str, words: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    end, other = (tokenizer.convert_tokens_to_ids(name) for name in (END_OF_TURN, SPECIAL[2]))
    folder = changed(base, tmp_path / "model", how, end, other)
    specials = [tokenizer.convert_tokens_to_ids(name) for name in SPECIAL]
    found = untrained(folder, end, specials, len(tokenizer))
    assert found.startswith(words) and bool(found) == bool(words)
    if how in ("same", "near"):
        assert found.endswith(f"token {other}")
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


def test_a_base_that_reads_and_writes_with_one_matrix(tmp_path: Path) -> None:
    write_model(tmp_path / "model", ["a b c"], tied=True)
    weights = load_file(tmp_path / "model/model.safetensors")
    weights["model.embed_tokens.weight"][4] = 0  # the fifth of SPECIAL
    assert untrained(tmp_path / "model", 4, [0, 1, 2, 3], 320) == ""
    save_file(weights, tmp_path / "model/model.safetensors", metadata={"format": "pt"})
    assert SPECIAL[4] == END_OF_TURN
    assert untrained(tmp_path / "model", 4, [0, 1, 2, 3], 320) == (
        "its row of model.embed_tokens.weight is next to zero"
    )


def test_a_token_that_the_model_cannot_have(base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert judge_trained(tokenizer, base, RECIPE, "<|im_end|>") == (
        "WRONG",
        "<|im_end|> is not a special token, so nothing can be said of it; see end of turn",
    )
    with pytest.raises(
        Failure, match=r"lm_head.weight has \d+ rows, none for token 9999; remove it and run make model"
    ):
        untrained(base, 9999, [], len(tokenizer))
