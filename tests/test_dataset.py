"""What the engine is trained on, token by token."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from conftest import Repo
from dataset import IGNORE, SftDataset, line_offsets, tokenize
from lib import Failure
from openmath import END_OF_TURN


@pytest.mark.parametrize("split", ["cot", "tir", "genselect"])
def test_labels_are_exactly_the_answer_and_its_end_of_turn(prepared: Repo, split: str) -> None:
    file = prepared.work / "data/mini/round1" / f"{split}.jsonl"
    tokenizer = AutoTokenizer.from_pretrained(prepared.work / "models/mini")
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    dataset = SftDataset(str(file), 256, END_OF_TURN, tokenizer)
    assert len(dataset) == len(rows)
    for i, row in enumerate(rows):
        prompt = tokenizer.encode(row["input"], add_special_tokens=False)
        answer = [*tokenizer.encode(row["output"].removesuffix(f"{END_OF_TURN}\n"), add_special_tokens=False), end]
        item = dataset[i]
        # Position k is asked for token k+1: the last prompt token is asked for the first of the answer.
        assert item["input_ids"] == (prompt + answer)[:-1]
        assert item["labels"] == [IGNORE] * (len(prompt) - 1) + answer
        assert item["attention_mask"] == [1] * len(item["input_ids"]) and len(item["labels"]) == len(item["input_ids"])
        assert item["labels"].count(end) == 1 and item["labels"][-1] == end
        supervised = [t for t in item["labels"] if t != IGNORE]
        assert tokenizer.decode(supervised) == row["output"].rstrip("\n")
        # Nothing is added: no BOS, no second end. The prompt ends three turns' heads but only closes two.
        assert tokenizer.decode(item["input_ids"]) == row["input"] + row["output"].removesuffix(f"{END_OF_TURN}\n")


def test_tokenizing_apart_is_tokenizing_together(prepared: Repo) -> None:
    """At generation the model sees the prompt's own tokens; they must be those it was trained on."""
    tokenizer = AutoTokenizer.from_pretrained(prepared.work / "models/mini")
    for line in (prepared.work / "data/mini/round1/all.jsonl").read_text().splitlines()[:50]:
        row = json.loads(line)
        ids, _ = tokenize(tokenizer, row["input"], row["output"], END_OF_TURN)
        assert ids == tokenizer.encode((row["input"] + row["output"]).rstrip("\n"), add_special_tokens=False)


def test_a_row_that_is_too_long_keeps_its_place_without_loss(prepared: Repo) -> None:
    file = prepared.work / "data/mini/round1/tir.jsonl"
    tokenizer = AutoTokenizer.from_pretrained(prepared.work / "models/mini")
    whole = len(SftDataset(str(file), 10_000, END_OF_TURN, tokenizer)[0]["input_ids"]) + 1
    assert any(label != IGNORE for label in SftDataset(str(file), whole, END_OF_TURN, tokenizer)[0]["labels"])
    item = SftDataset(str(file), whole - 1, END_OF_TURN, tokenizer)[0]
    assert len(item["input_ids"]) == whole - 2 and set(item["labels"]) == {IGNORE}


def test_an_answer_without_an_end_is_refused(prepared: Repo, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(prepared.work / "models/mini")
    file = tmp_path / "rows.jsonl"
    good = json.dumps({"input": "a", "output": f"b{END_OF_TURN}\n"})
    for bad in ('{"input": "a", "output": "no end"}', json.dumps({"input": "a", "output": f"b{END_OF_TURN} c"}), "{"):
        file.write_text(f"{good}\n{bad}\n")
        dataset = SftDataset(str(file), 99, END_OF_TURN, tokenizer)
        assert dataset[0]["labels"][-1] == tokenizer.convert_tokens_to_ids(END_OF_TURN)
        with pytest.raises(Failure, match=f"{file}:2:"):
            dataset[1]


def test_line_offsets_span_blocks(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    lines = [b"x" * (i % 977) + b"\n" for i in range(60_000)]  # 29 MB: two blocks
    file.write_bytes(b"".join(lines))
    offsets = line_offsets(file)
    assert len(offsets) == len(lines) and offsets[0] == 0
    position = 0
    for offset, line in zip(offsets, lines, strict=True):
        assert offset == position
        position += len(line)
