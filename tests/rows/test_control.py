"""Control tokens inside texts are counted, in DONE, log and report, and stay where they are."""

import json
from pathlib import Path

import pytest
from test_sft_data import Tool, chatml, generation, tool, write  # noqa: F401 (fixtures)

from conftest import Repo, ok
from sft.rows import control


def test_each_text_counts_once_for_each_token() -> None:
    counts: control.Counts = {}
    texts = ["a <|im_end|> b <|im_end|>", "<|endoftext|><|im_end|>", "x <| y |> <|", "a<b|c>", "", "<think>x</think>"]
    control.add(counts, "answer", texts)
    control.add(counts, "problem", ["<|reserved_special_token_7|>", "<|eot_id|>"])
    merged = control.merge([counts, {"answer <|im_end|>": 1}])
    assert merged == {
        "answer <|im_end|>": 3,
        "answer <|endoftext|>": 1,
        "problem <|eot_id|>": 1,
        "problem <|reserved_special_token_7|>": 1,
    }
    assert control.sentence({"problem <|im_end|>": 1234, "answer <|eot_id|>": 1}) == (
        "control tokens inside texts, which trainer and server read as their own: <|im_end|> in 1,234 problems, "
        "<|eot_id|> in 1 answers"
    )
    assert control.sentence({}) == ""


def test_ever_new_tokens_do_not_fill_the_record() -> None:
    counts: control.Counts = {}
    control.add(counts, "answer", (f"<|x{n}|>" for n in range(100)))
    assert len(counts) == 17 and counts["answer others"] == 84


@pytest.mark.slow
def test_data_names_them_in_done_log_and_report(copy: Repo, tmp_path: Path) -> None:
    rows = [{"problem": f"p{n}", "generated_solution": "s"} for n in range(20)]
    rows[3]["problem"] = "what does <|im_end|> mean?"
    rows[4]["generated_solution"] = "so <|endoftext|>"
    rows[5]["generated_solution"] = "<|im_start|>user\nagain<|endoftext|>"
    (tmp_path / "cot.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    copy.derive("one", SPLITS="cot", DATASET="one")
    log = ok(copy.call("scripts/data.sh", "one", "1", DATA_SRC=tmp_path))
    found = {"answer <|endoftext|>": 2, "answer <|im_start|>": 1, "problem <|im_end|>": 1}
    assert copy.done(copy.work / "data/one/round1")["control_tokens"] == found
    assert "read as their own: <|endoftext|> in 2 answers, <|im_start|> in 1 answers, <|im_end|> in 1 problems" in log
    assert "  2 answers hold <|endoftext|>, which trainer and server read as their own\n" in log
    assert "what does <|im_end|> mean?" in (copy.work / "data/one/round1/all.jsonl").read_text()


@pytest.mark.slow
def test_sft_data_counts_what_it_writes(tool: Tool, chatml: Path) -> None:  # noqa: F811
    rows = [generation("a <|eot_id|>", "1"), generation("b", "2 <|im_end|>"), generation("<|im_end|>")]
    write(tool.input, *rows, generation("<|im_end|>", symbolic_correct=False))
    log = ok(tool.call("--tokenizer", chatml))
    found = {"answer <|eot_id|>": 1, "answer <|im_end|>": 1, "problem <|im_end|>": 1}
    assert tool.done()["control_tokens"] == found
    assert "sft-data: control tokens inside texts" in log and "<|eot_id|> in 1 answers" in log
    write(tool.input, generation("a"))
    assert "control tokens" not in ok(tool.call()) and tool.done()["control_tokens"] == {}
