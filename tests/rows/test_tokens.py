"""Counts from the cache of pieces are those of the tokenizers library, for any text."""

import json
import random
from pathlib import Path

import pytest

from conftest import Repo
from sft.lib.errors import Failure
from sft.rows import tokens
from sft.rows.tokens import TokenCounter

# Everything that the expression treats in its own way, and what the cache must leave to the library.
ATOMS = [
    *("a", "The", " ", "  ", "\n", "\r\n", "\t", "'s", "'LL", "'", "1", "23", ".", "..\n\n", "\\", "$", "_", "-", "="),
    *("é", "e\u0301", "\u0301", "≤", "你好", "\u2028", "\u00a0", "🙂", "\u0958", "\u212a", "\u017f", "'\u017f"),
    *("<|im_end|>", "<|im_start|>", "<|endoftext|>", "<tool_call>", "\x0b", "\x0c", "\x1c", "\x00", "\x85"),
]
# Where text is cut or not is decided by its blanks.
BLANK = [" ", " ", "\n", "\r", "\t", "a", "Bc", "7", "..", ")", "  ", "\n\n", "\n ", " \n"]


@pytest.fixture(scope="module")
def counter(prepared: Repo) -> TokenCounter:
    counter = TokenCounter(prepared.work / "models" / "mini")
    assert counter.cached
    return counter


@pytest.mark.parametrize("block", [1, 7, tokens.BLOCK])
def test_counts_equal_the_library(counter: TokenCounter, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Also when a text is cut into blocks of a line; `at_least` agrees with the count on either side of it."""
    monkeypatch.setattr(tokens, "BLOCK", block)
    draw = random.Random(block)
    for _ in range(4000):
        atoms = BLANK if draw.random() < 0.5 else ATOMS
        text = "".join(draw.choices(atoms, k=draw.randrange(25)))
        wanted = len(counter.tokenizer.encode(text, add_special_tokens=False).ids)
        assert counter.count(text) == wanted, repr(text)
        for least in (max(wanted - 1, 0), wanted, wanted + 1):
            assert counter.at_least(text, least) == (wanted >= least), (repr(text), least)


def test_counts_equal_what_the_trainer_tokenizes(prepared: Repo, counter: TokenCounter) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(prepared.work / "models" / "mini")
    for line in (prepared.work / "data/mini/round1/all.jsonl").read_text().splitlines()[:100]:
        for text in json.loads(line).values():
            assert counter.count(text) == len(tokenizer.encode(text, add_special_tokens=False))


def test_the_cache_is_bounded(counter: TokenCounter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "CACHED", 5)
    counter.words.clear()
    text = "one two three four five six seven eight nine ten " * 3 + "x" * 100 + " end"
    assert counter.count(text) == counter.encode(text) and len(counter.words) == 5
    monkeypatch.setattr(tokens, "CACHED", 100)
    assert counter.count(text) == counter.encode(text)
    assert "x" * 100 not in counter.words and "end" in counter.words


def test_another_kind_of_tokenizer_is_asked_itself(counter: TokenCounter, tmp_path: Path) -> None:
    """Each thing that the cache supposes, changed: then the library counts."""
    original = json.loads(counter.path.read_text())

    def edit(change: str) -> dict:
        parts = json.loads(json.dumps(original))
        if change == "expression":
            parts["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\w+|\W"
        elif change == "normalizer":
            parts["normalizer"] = None
        elif change == "prefix":
            parts["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = True
        elif change == "stripping token":
            parts["added_tokens"][0]["rstrip"] = True
        return parts

    for change in ("expression", "normalizer", "prefix", "stripping token"):
        (tmp_path / "tokenizer.json").write_text(json.dumps(edit(change)))
        other = TokenCounter(tmp_path)
        assert not other.cached, change
        text = "Two words, <|endoftext|>  e\u0301 and\n more. "
        assert other.count(text) == len(other.tokenizer.encode(text, add_special_tokens=False).ids)
        assert other.at_least(text, other.count(text)) and not other.at_least(text, other.count(text) + 1)


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"has no tokenizer\.json; give"):
        TokenCounter(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(Failure, match=r"not a tokenizer .*; fetch it again"):
        TokenCounter(tmp_path)
