"""Whether a base model ever learned a token: an adapter on the linear layers cannot teach it one that it did not."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sft.lib.errors import Failure
from sft.lib.files import read_json
from sft.model.folder import tensors

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
SAMPLE = 512  # rows that stand for all tokens
PADDING = 8  # rows looked at of those behind the tokenizer's last token
# What writes a token is pushed at every step, also where the token never comes: all such rows end up next to one
# constant vector, not at zero and not bit by bit the same (Land and Bartolo 2024, "Fishing for Magikarp", 2.2; Llama
# 3.1's base). Where they were not pushed they keep a start next to zero. What reads a token says less: a row of
# zeros may be that of the padding, which is written all the same.
SMALL = 1e-2  # of the size of trained rows, which is the same within a factor of ten
NEAR = 0.1  # distance of two rows over the longer one's length, a cosine of 0.995; trained ones are about 1 apart


def rows_of(file: Path, name: str, ids: Sequence[int]) -> Any:
    """Rows of a matrix in a safetensors file, float32[len(ids), width], read one by one."""
    import torch
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        matrix = opened.get_slice(name)
        return torch.stack([matrix[i : i + 1][0].float() for i in ids])


def untrained(folder: Path, token: int, others: Sequence[int], known: int) -> str:
    """Why a token seems never to have been trained, "" where it does not.

    others: ids of special tokens that it is compared with. known: tokens of the tokenizer; rows of the matrix behind
    them are of no token, so never trained, and it is compared with them as well. Looked at is what writes the token:
    lm_head, or the embeddings where the two are tied. Raises Failure where the matrix or the row is missing.
    """
    config, found = read_json(folder / "config.json"), tensors(folder)
    name = EMBEDDING if config.get("tie_word_embeddings", False) or HEAD not in found else HEAD
    if name not in found:
        raise Failure(f"{folder} has no tensor {name}; remove it and run make model again")
    file, (size, _), _ = found[name]
    if not 0 <= token < size:
        raise Failure(f"{folder}: {name} has {size} rows, none for token {token}; remove it and run make model again")
    typical = rows_of(file, name, range(0, size, max(1, size // SAMPLE))).abs().amax(dim=1).median()
    own = rows_of(file, name, [token])[0]
    if own.abs().max() < SMALL * typical:
        return f"its row of {name} is next to zero"
    compared = [i for i in [*others, *range(known, min(size, known + PADDING))] if i != token and i < size]
    if not compared:
        return ""
    rows = rows_of(file, name, compared)
    near = (rows - own).norm(dim=1) <= NEAR * rows.norm(dim=1).clamp(min=own.norm())
    same = [i for i, is_near in zip(compared, near.tolist(), strict=True) if is_near]
    if not same:
        return ""
    return f"its row of {name} is as good as that of {f'token {same[0]}' if same[0] < known else 'no token'}"
