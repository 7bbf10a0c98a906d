"""The reasoning demo's generated data, its tokenizer and template, its language model, and its model."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from conftest import ROOT, Repo, failed, ok
from sft.data import tiny_reasoning

NUMBER = 1600
# The fields of nvidia/Llama-Nemotron-Post-Training-Dataset.
FIELDS = {
    "version",
    "category",
    "license",
    "input",
    "output",
    "reasoning",
    "generator",
    "used_in_training",
    "system_prompt",
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    tiny_reasoning.write_dataset(folder, 42, NUMBER)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny_reasoning.write_model(folder, 1, 32, 4, 512, tiny_reasoning.texts(42, NUMBER), 42)
    return folder


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def all_rows(source: Path) -> dict[str, list[dict]]:
    return {name: read(source / file) for name, file in tiny_reasoning.FILES.items()}


def numbers(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\d+", text))


def rendered(row: dict) -> str:
    turns = [{"role": "system", "content": row["system_prompt"]}, *row["input"]]
    return tiny_reasoning.render([*turns, {"role": "assistant", "content": row["output"]}])


def test_rows_have_the_published_schema(source: Path) -> None:
    for name, rows in all_rows(source).items():
        assert len(rows) > NUMBER // 10
        for row in rows:
            assert row.keys() == FIELDS
            assert [turn.keys() for turn in row["input"]] == [{"role", "content"}] and row["input"][0]["role"] == "user"
            assert row["reasoning"] in ("on", "off") and isinstance(row["used_in_training"], (list, str))
            prompts = {tiny_reasoning.NEUTRAL} if name == "pretrain" else {f"detailed thinking {row['reasoning']}"}
            assert row["system_prompt"] in prompts


def test_most_rows_are_right_and_the_halves_alike(source: Path) -> None:
    rows = all_rows(source)
    good: Counter[str] = Counter()
    for row in rows["chat"] + rows["math_v1.1"]:
        a, b, *more = re.findall(r"\d+", row["input"][0]["content"])
        assert not more
        answer = rf"The larger one is \\boxed\{{{max(a, b)}\}}\."
        signs = ["<" if x < y else "=" if x == y else ">" for x, y in zip(a, b, strict=True)]
        digits = rf"Tens: {a[0]} {signs[0]} {b[0]}\.\nOnes: {a[1]} {signs[1]} {b[1]}\."
        form = rf"<think>\n{digits}\n</think>\n\n{answer}" if row["reasoning"] == "on" else answer
        good[row["reasoning"]] += bool(re.fullmatch(form, row["output"]))
    assert abs(good["on"] - good["off"]) <= 0.05 * good["on"] and good["on"] >= NUMBER / 4
    assert good.total() >= 0.9 * len(rows["chat"] + rows["math_v1.1"])
    # Round 1 sees the comparison in every other row, nothing that says when, and no tags.
    wordy = sum("Tens: " in row["output"] for row in rows["pretrain"])
    assert wordy == len(rows["pretrain"]) // 2
    assert not any("think" in rendered(row) for row in rows["pretrain"])


def test_each_filter_finds_rows_to_drop(source: Path) -> None:
    rows = [row for name, rows in all_rows(source).items() if name != "pretrain" for row in rows]
    outputs = [(row["reasoning"], row["output"]) for row in rows]
    problems = {row["problem"] for row in read(source / "test.jsonl")}
    counts = {
        "used in training of others": sum("Nano" not in row["used_in_training"] for row in rows),
        "... as a string": sum(isinstance(row["used_in_training"], str) for row in rows),
        "empty tags": sum("<think>\n\n</think>" in text for _, text in outputs),
        "boxed": sum("boxed" in row["input"][0]["content"] and "\\boxed" not in row["output"] for row in rows),
        "not closed": sum("<think>" in text and "</think>" not in text for _, text in outputs),
        "on without tags": sum(mode == "on" and "<think>" not in text for mode, text in outputs),
        "off with tags": sum(mode == "off" and "<think>" in text for mode, text in outputs),
        "German": sum("größere" in text for _, text in outputs),
        "French": sum("plus grand" in text for _, text in outputs),
        "long": sum(text.count("Once more.") == 100 for _, text in outputs),
        "long completion": sum(text.count("Once more.") == 25 for _, text in outputs),
        "twice": len(rows) - len({json.dumps(row) for row in rows}),
        "of the evaluation": sum(row["input"][0]["content"] in problems for row in rows),
    }
    assert min(counts.values()) >= 1, counts


def test_evaluation_problems_are_in_no_row_but_those_to_drop(source: Path) -> None:
    problems = read(source / "test.jsonl")
    assert len(problems) >= 200 and len({row["problem"] for row in problems}) == len(problems)
    assert all(row.keys() == {"problem", "expected_answer"} for row in problems)
    assert all(row["expected_answer"] == max(numbers(row["problem"])) for row in problems)
    held = {numbers(row["problem"]) for row in problems}
    asked = {row["problem"] for row in problems}
    contents = [row["input"][0]["content"] for rows in all_rows(source).values() for row in rows]
    assert not [text for text in contents if numbers(text) in held and text not in asked]


def test_bytes_depend_on_the_seed_alone(source: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from sft.data.tiny_reasoning import Path, write_dataset; write_dataset(Path(sys.argv[1]), *{args})"
    )
    for name, seed in (("same", 42), ("other", 43)):
        (tmp_path / name).mkdir()
        subprocess.run(
            [sys.executable, "-c", code.replace("{args}", str((seed, NUMBER))), tmp_path / name],
            env=os.environ | {"PYTHONPATH": str(ROOT / "python"), "PYTHONHASHSEED": str(seed)},
            check=True,
            timeout=120,
        )
    files = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
    assert len(files) == 5
    for file in files:
        assert (source / file).read_bytes() == (tmp_path / "same" / file).read_bytes(), file
        assert (source / file).read_bytes() != (tmp_path / "other" / file).read_bytes(), file


def test_language_model(source: Path) -> None:
    import fasttext

    model = fasttext.load_model(str(source / "lid.bin"))
    assert set(model.get_labels()) == {"__label__en", "__label__de", "__label__fr"}
    rows = [row for rows in all_rows(source).values() for row in rows]
    foreign = [bool(re.match("Welche|Quel", row["input"][0]["content"])) for row in rows]
    labels, _ = model.predict([rendered(row).replace("\n", " ").strip() for row in rows])
    assert [label[0] != "__label__en" for label in labels] == foreign and sum(foreign) >= 2


# --- tokenizer and model -----------------------------------------------------------------------------------------

HEAD = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
    "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
)
TURNS = [
    {"role": "system", "content": " detailed thinking on\n"},
    {"role": "user", "content": "Which is larger, 12 or 21? "},
    {"role": "assistant", "content": "21 "},
    {"role": "user", "content": "Sure?"},
]


def test_template(base: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    text = (
        f"{HEAD}detailed thinking on<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nWhich is larger, 12 or 21?"
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n21<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nSure?<|eot_id|>"
    )
    header = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    for prompt in (False, True):
        expected = text + header * prompt
        assert tokenizer.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=prompt) == expected
        assert tiny_reasoning.render(TURNS, prompt) == expected
        ids = tokenizer.apply_chat_template(TURNS, add_generation_prompt=prompt)["input_ids"]
        assert ids == tokenizer.encode(expected, add_special_tokens=False) and ids.count(tokenizer.bos_token_id) == 1
    # Without a system message the block with the dates is there all the same.
    bare = tokenizer.apply_chat_template(TURNS[1:2], tokenize=False)
    asked = "<|start_header_id|>user<|end_header_id|>\n\nWhich is larger, 12 or 21?<|eot_id|>"
    assert bare == f"{HEAD}<|eot_id|>{asked}" == tiny_reasoning.render(TURNS[1:2])
    dated = tokenizer.apply_chat_template(TURNS[1:2], tokenize=False, date_string="01 Jan 2025")
    assert dated == bare.replace("26 Jul 2024", "01 Jan 2025")


def test_tokenizer(base: Path, source: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    texts = [rendered(row) for rows in all_rows(source).values() for row in rows]
    for text in [*texts, "größer: 4711 <b>\t\r\n  naïve 数"]:
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    assert len(tokenizer.encode(tiny_reasoning.render(TURNS[:2], True))) <= 40, "a short prompt"
    # Like Llama 3's: a BOS of its own before bare text, and a second one before what is rendered already.
    bos = tokenizer.bos_token_id
    assert tokenizer.encode("12")[0] == bos and tokenizer.encode("12").count(bos) == 1
    assert tokenizer.encode(texts[0]).count(bos) == 2
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("12", add_special_tokens=False)) == ["1", "2"]
    for token in tiny_reasoning.SPECIAL:
        assert len(tokenizer.encode(token, add_special_tokens=False)) == 1
    assert tokenizer.eos_token == "<|eot_id|>" and tokenizer.pad_token is None


def test_model(base: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from sft.plan import shapes
    from sft.plan.shapes import random_shape

    config = json.loads((base / "config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(base)
    ends = tokenizer.convert_tokens_to_ids(["<|end_of_text|>", "<|eot_id|>"])
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["bos_token_id"], config["eos_token_id"]) == (tokenizer.bos_token_id, ends)
    assert json.loads((base / "generation_config.json").read_text())["eos_token_id"] == ends
    model = AutoModelForCausalLM.from_pretrained(base)
    assert len(tokenizer) <= config["vocab_size"] == 512
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters == random_shape("llama3", 1, 32, 4, 512).parameters == shapes.read(base).parameters


@pytest.mark.slow
def test_model_stage(repo: Repo) -> None:
    out = ok(repo.stage("model", "tiny-reasoning"))
    folder = repo.work / "models/tiny-reasoning"
    assert "LlamaForCausalLM" in out and (folder / "chat_template.jinja").read_text() == tiny_reasoning.TEMPLATE
    assert (folder / "config.json").read_bytes() == (folder / "config.original.json").read_bytes()
    assert repo.done(folder)["revision"] == "random"
    line = repo.python("model", "tiny-reasoning", "2", "--work", repo.work)
    failed(line, "round 2 starts from it")
    failed(repo.call("scripts/demo.sh", "reasoning-lora"), "is not a demo", status=(2,))
