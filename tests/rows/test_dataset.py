"""What the engine is trained on, token by token."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from conftest import Repo
from little import conversations, little
from sft.engines.automodel.packed import PackedSteps, block_causal
from sft.lib.errors import Failure
from sft.rows.chat import END_OF_TURN, ENDS
from sft.rows.dataset import IGNORE, SftDataset, line_offsets, tokenize
from sft.rows.packing import fill


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


# --- Llama 3's rows ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """WORK with the little Llama and 40 conversations."""
    return little(Repo(tmp_path_factory.mktemp("llama") / "repo")).work


def rows_of(llama: Path) -> tuple[Path, Any]:
    return llama / "data/little/round1/training.jsonl", AutoTokenizer.from_pretrained(llama / "models/Little-Llama")


def test_llama_labels_token_by_token(llama: Path) -> None:
    """Loss on the answer and its <|eot_id|>, on nothing else; one BOS, though the tokenizer would add another."""
    file, tokenizer = rows_of(llama)
    end, bos = tokenizer.convert_tokens_to_ids("<|eot_id|>"), tokenizer.bos_token_id
    assert tokenizer.encode("x")[0] == bos
    dataset = SftDataset(str(file), 96, ENDS["llama3"], tokenizer)
    lines = file.read_text().splitlines()
    assert len(dataset) == len(lines) == 40
    for i, line in enumerate(lines):
        row, item, talk = json.loads(line), dataset[i], conversations(40)[i]
        template = tokenizer.apply_chat_template(talk, tokenize=True, return_dict=False)
        assert [*item["input_ids"], item["labels"][-1]] == template, "what the template makes, token by token"
        assert item["input_ids"][0] == bos and item["input_ids"].count(bos) == 1
        answer = tokenizer.encode(talk[-1]["content"], add_special_tokens=False)
        prompt = tokenizer.apply_chat_template(talk[:-1], add_generation_prompt=True, return_dict=False)
        assert item["labels"] == [IGNORE] * (len(prompt) - 1) + answer + [end]
        assert tokenizer.decode([t for t in item["labels"] if t != IGNORE]) == row["output"]


def test_labels_without_a_chat_template(llama: Path, tmp_path: Path) -> None:
    """Dolly and SQuAD as rendered: BOS before, the answer with its blank, <|end_of_text|> after it."""
    _, tokenizer = rows_of(llama)
    bos, end = (tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("begin_of_text", "end_of_text"))
    file = tmp_path / "rendered.jsonl"
    row = {"input": "<|begin_of_text|>Context: 12 Question: 3 Answer:", "output": " 42<|end_of_text|>"}
    file.write_text(json.dumps(row) + "\n")
    item = SftDataset(str(file), 96, ENDS["none"], tokenizer)[0]
    answer = tokenizer.encode(" 42", add_special_tokens=False)
    assert [t for t in item["labels"] if t != IGNORE] == [*answer, end]
    assert item["labels"][-len(answer) - 1 :] == [*answer, end], "and nowhere else"
    assert item["input_ids"][0] == bos and item["input_ids"].count(bos) == 1
    whole = tokenizer.encode((row["input"] + row["output"]).removeprefix("<|begin_of_text|>"))
    assert [*item["input_ids"], end] == whole, "as it is tokenized in running text"


# --- packing -----------------------------------------------------------------------------------------------------


def test_fill_keeps_the_order_and_the_capacity() -> None:
    draw = random.Random(3)
    for _ in range(200):
        lengths = [draw.randrange(1, 60) for _ in range(draw.randrange(1, 40))]
        bins = fill(lengths, 60)
        assert [row for rows in bins for row in rows] == list(range(len(lengths)))
        sizes = [sum(lengths[row] for row in rows) for rows in bins]
        assert max(sizes) <= 60
        firsts = [lengths[rows[0]] for rows in bins]
        assert all(size + first > 60 for size, first in pairwise(sizes, firsts)), "a bin is left only when it is full"
    with pytest.raises(ValueError, match="61 tokens"):
        fill([3, 61], 60)


def pairwise(sizes: list[int], firsts: list[int]) -> list[tuple[int, int]]:
    """Each bin's tokens with the length of the row that opens the next."""
    return list(zip(sizes[:-1], firsts[1:], strict=True))


def documents(batches: list[dict[str, torch.Tensor]]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(input_ids, labels) of every row in packed micro-batches, split where the positions start again."""
    found = []
    for batch in batches:
        ids, labels, positions, numbers = (
            batch[k][0].tolist() for k in ("input_ids", "labels", "position_ids", "documents")
        )
        starts = [i for i, position in enumerate(positions) if position == 0]
        for number, (start, stop) in enumerate(zip(starts, [*starts[1:], len(ids)], strict=True), 1):
            assert positions[start:stop] == list(range(stop - start)) and set(numbers[start:stop]) == {number}
            found.append((tuple(ids[start:stop]), tuple(labels[start:stop])))
    return found


@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_packed_step_is_its_rows(llama: Path, replicas: int, shuffle: bool) -> None:
    """Over two epochs and a half: exactly GLOBAL_BATCH rows a step, in order, the same number of packs everywhere."""
    file, tokenizer = rows_of(llama)
    plain = SftDataset(str(file), 96, ENDS["llama3"], tokenizer)
    rows = [(tuple(plain[i]["input_ids"]), tuple(plain[i]["labels"])) for i in range(40)]

    def make() -> list[PackedSteps]:
        options = {"global_batch": 6, "steps": 17, "shuffle": shuffle, "seed": 5, "tokenizer": tokenizer}
        return [
            PackedSteps(str(file), 200, ENDS["llama3"], **options).shard(replicas, replica)
            for replica in range(replicas)
        ]

    seen, packs = [], 0
    for step, shares in enumerate(zip(*make(), strict=True)):
        assert len({len(share) for share in shares}) == 1
        packs += len(shares[0]) * replicas
        assert all(batch["input_ids"].shape[1] <= 200 for share in shares for batch in share)
        trained = [row for share in shares for row in documents(share)]
        assert len(trained) == 6
        wanted = [rows[number] for number in make()[0].numbers(step)]
        assert sorted(trained) == sorted(wanted)
        if replicas == 1:
            assert trained == wanted
        seen += wanted
    assert len(seen) == 102 and packs < 102
    if not shuffle:
        assert seen == (rows * 3)[:102]
    else:
        assert seen[:40] != rows and sorted(seen[:40]) == sorted(rows) == sorted(seen[40:80])
        assert seen[:40] != seen[40:80], "each epoch has an order of its own"


def test_packed_steps_go_on_where_they_were(llama: Path) -> None:
    """By the data loader's own state, as the engine saves it."""
    from torchdata.stateful_dataloader import StatefulDataLoader

    file, tokenizer = rows_of(llama)

    def loader() -> StatefulDataLoader:
        steps = PackedSteps(str(file), 200, ENDS["llama3"], 6, 9, True, 5, tokenizer)
        return StatefulDataLoader(steps, batch_size=None)

    whole = [documents(batches) for batches in loader()]
    first = loader()
    iterator = iter(first)
    for step in range(4):
        assert documents(next(iterator)) == whole[step]
    again = loader()
    again.load_state_dict(first.state_dict())
    assert [documents(batches) for batches in again] == whole[4:] and len(whole) == 9


def test_a_bad_row_is_named_by_packing(llama: Path, tmp_path: Path) -> None:
    file, tokenizer = rows_of(llama)
    lines = file.read_text().splitlines()
    lines[7] = json.dumps({"input": "a"})
    broken = tmp_path / "rows.jsonl"
    broken.write_text("\n".join(lines) + "\n")
    with pytest.raises(Failure, match=f"{broken}:8: field 'output' is not there"):
        list(PackedSteps(str(broken), 200, ENDS["llama3"], 6, 9, False, 5, tokenizer))


def test_packed_rows_do_not_see_each_other(llama: Path) -> None:
    """The mask is nemo-automodel's own; with it a row's logits are those that it has alone (1e-5), without it not."""
    from nemo_automodel.components.datasets.utils import _indexed_mask_to_4d_block_causal
    from transformers import AutoModelForCausalLM

    file, tokenizer = rows_of(llama)
    steps = PackedSteps(str(file), 200, ENDS["llama3"], 6, 1, False, 5, tokenizer)
    model = AutoModelForCausalLM.from_pretrained(llama / "models/Little-Llama", attn_implementation="sdpa").eval()
    checked = 0
    for batch in steps.batches(0):
        mask = block_causal(batch["documents"])
        assert torch.equal(mask, _indexed_mask_to_4d_block_causal(batch["documents"]))
        with torch.no_grad():
            inputs = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"]}
            packed = model(**inputs, attention_mask=mask).logits[0]
            blurred = model(**inputs, attention_mask=torch.ones_like(mask).tril()).logits[0]
            for number in range(1, int(batch["documents"].max()) + 1):
                place = batch["documents"][0] == number
                alone = model(input_ids=batch["input_ids"][:, place]).logits[0]
                assert torch.allclose(packed[place], alone, atol=1e-5)
                assert number == 1 or not torch.allclose(blurred[place], alone, atol=1e-3)
                checked += 1
    assert checked == 6
