"""Protocols: each key is there and read, and what was trained is what is asked."""

import re
from pathlib import Path
from typing import get_args

import pytest

from sft.data.openmath import PROMPTS
from sft.eval.benchmarks.pins import pins
from sft.eval.grading.rules import EXTRACT, RULES
from sft.eval.protocols.read import CHOICES, FOLDER, names, protocol, read
from sft.eval.scores.votes import TIES
from sft.lib.errors import Failure
from sft.recipe.keys import HINTS


def test_there_are_two_and_the_demos() -> None:
    assert names() == ["demo", "published", "today"]
    assert names() == sorted(get_args(get_args(HINTS["EVAL_PROTOCOL"])[0])), "a recipe may name each"
    published, today = protocol("published"), protocol("today")
    assert (published.comparison, published.tie) == ("release", "first")
    assert (today.comparison, today.tie) == ("today", "mean")
    for each in (published, today):
        assert each.comparison in RULES and each.extraction in EXTRACT and each.tie in TIES
        assert set(each.judge) <= pins().keys()
        for mode in ("cot", "tir"):
            of = each.mode(mode)
            assert (of.samples, of.temperature, of.top_p, of.max_tokens) == (64, 0.6, 0.95, 32768)
            assert (of.top_k, of.min_p, of.repetition_penalty, of.system) == (-1, 0, 1, "")
            assert of.stop == ("<|im_end|>", "<|endoftext|>")
            assert of.prompt == PROMPTS[mode], "as it was trained"
    choices = {"comparison": tuple(RULES), "extraction": tuple(EXTRACT), "tie": TIES, "state": ("replay", "live")}
    assert choices == CHOICES, "what a protocol may name is what there is"


def test_code_and_its_texts() -> None:
    published, today = (protocol(name).mode("tir").code for name in ("published", "today"))
    assert published and today
    assert published.calls == today.calls == 8 and published.seconds == today.seconds == 10
    assert published.timed_out == "Timed out\n" and today.timed_out == "Execution timed out after 10.0 seconds\n"
    for code in (published, today):  # the model's newline after the tag makes the two the same text
        text = f"x = 1\n{code.end}{code.output_begin}1\n{code.output_end}{code.system_begin}"
        text += code.left.format(n=7) + code.system_end
        assert text == (
            "x = 1\n</tool_call>\n```output\n1\n```\n```system\nRemaining code executions: 7. You will not be able to "
            "call code when you run out of executions, so use it wisely. Note that you can still continue solving the "
            "problem without code after that.\n```\n"
        )
        assert "{" not in code.none_left


def test_genselect_is_the_published_one_only() -> None:
    of = protocol("published").mode("genselect")
    assert (of.samples, of.candidates, of.max_tokens, of.summary_characters) == (64, 16, 2048, 5000)
    filled = of.prompt.format(num_solutions=2, max_idx=1, problem="P", solutions="S")
    assert "followed by 2 solutions" in filled and "\\boxed{} notation" in filled and filled.count("0-1") == 2
    assert filled.endswith("where IDX is the index 0-1 of the best solution.")
    with pytest.raises(Failure, match="protocol today has no mode genselect, only cot, tir"):
        protocol("today").mode("genselect")
    with pytest.raises(Failure, match="PROTOCOL=yesterday: no such protocol; it is demo or published or today"):
        protocol("yesterday")


@pytest.mark.parametrize(
    "old,new,words",
    [
        ('tie = "first"', "", "key 'tie' is missing"),
        ('tie = "first"', 'tie = "last"', "tie = 'last' is none of first, mean"),
        ('tie = "first"', 'tie = "first"\ntye = "first"', "no key 'tye' is known there"),
        ('comparison = "release"', 'comparison = "nearly"', "is none of release, today, values"),
        ("[cot]\n", "[cot]\nseed = 1\n", r"\[cot\]: no key 'seed' is known"),
        ("[cot]\n", "[cot]\ncandidates = 16\n", r"\[cot\]: no key 'candidates' is known"),
        ("[cot]\nsamples = 64", "[cot]\n", r"\[cot\]: key 'samples' is missing"),
        ("[cot]\nsamples = 64", "[cot]\nsamples = 0", "samples = 0 is out of range; it goes from 1 up"),
        ("[cot]\nsamples = 64", "[cot]\nsamples = true", "samples = True is not int"),
        ("[cot]\nsamples = 64", "[cot]\nsamples = 6.4", "samples = 6.4 is not int"),
        ("temperature = 0.6", "temperature = -1", "temperature = -1 is out of range"),
        ("temperature = 0.6", "temperature = nan", "temperature = nan is out of range"),
        ("temperature = 0.6", 'temperature = "0.6"', "temperature = '0.6' is not int or float"),
        ("top_p = 0.95", "top_p = 1.5", r"top_p = 1.5 is out of range; it goes from 1e-09 to 1"),
        ('stop = ["<|im_end|>", "<|endoftext|>"]', 'stop = ["<|im_end|>", 1]', "is not a list of texts"),
        ('stop = ["<|im_end|>", "<|endoftext|>"]', 'stop = "<|im_end|>"', "is not list"),
        ("calls = 8", "calls = 8\ncals = 8", r"\[tir\]\.code: no key 'cals'"),
        ("calls = 8\n", "", r"\[tir\]\.code: key 'calls' is missing"),
        ("[tir.code]", "[code]", r"\[tir\]: section code is missing"),
        ("[cot]", "[cod]", "section cot is missing"),
        ("[cot]", "[cot", "not valid TOML"),
        ("candidates = 16", "", "key 'candidates' is missing"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    text = (FOLDER / "published.toml").read_text()
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(Failure, match=words):
        read(path)


def test_a_file_of_one_mode_is_enough(tmp_path: Path) -> None:
    text = re.sub(r"\[tir\].*", "", (FOLDER / "published.toml").read_text(), flags=re.DOTALL)
    (tmp_path / "mine.toml").write_text(text)
    found = read(tmp_path / "mine.toml")
    assert found.name == "mine" and found.modes.keys() == {"cot"}
