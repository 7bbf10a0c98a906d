"""Whether a base model ever learned a token: an adapter on the linear layers cannot teach it one that it did not."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import convert
from lib import read_json

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
SAMPLE = 512  # rows that stand for all tokens
# A row that was never trained keeps its start: next to zero (Llama 3's reserved tokens, its base's <|eot_id|>) or the
# same as its neighbours'. Rows of trained tokens are of one size within a factor of ten.
SMALL = 1e-2


def rows_of(folder: Path, name: str, ids: Sequence[int]) -> Any:
    """Rows of a matrix of a model, float32[len(ids), width], read one by one; None where it has no such matrix."""
    import torch
    from safetensors import safe_open

    found = convert.tensors(folder).get(name)
    if found is None:
        return None
    with safe_open(found[0], framework="pt") as opened:
        matrix = opened.get_slice(name)
        return torch.stack([matrix[i : i + 1][0].float() for i in ids if i < found[1][0]])


def untrained(folder: Path, token: int, others: Sequence[int]) -> str:
    """Why a token seems never to have been trained, "" where it does not.

    others: ids of special tokens that it is compared with. Looked at is what writes the token, lm_head, or the
    embeddings where the two are tied.
    """
    tied = read_json(folder / "config.json").get("tie_word_embeddings", False)
    name = EMBEDDING if tied or HEAD not in convert.tensors(folder) else HEAD
    size = int(read_json(folder / "config.json")["vocab_size"])
    step = max(1, size // SAMPLE)
    typical = rows_of(folder, name, range(0, size, step)).abs().amax(dim=1).median()
    own = rows_of(folder, name, [token])[0]
    if own.abs().max() < SMALL * typical:
        return f"its row of {name} is next to zero"
    same = [i for i in others if i != token and i < size and bool((rows_of(folder, name, [i])[0] == own).all())]
    return f"its row of {name} is that of token {same[0]}, bit by bit" if same else ""
