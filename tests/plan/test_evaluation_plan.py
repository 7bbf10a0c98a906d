"""What make plan says of an evaluation, by numbers worked out by hand."""

import math

import pytest

from conftest import changed
from sft.lib.errors import Failure
from sft.plan import evaluation
from sft.plan.shapes import published


def plan(model: str, limit: float = math.inf, **changes: str) -> dict[str, float]:
    recipe = changed(model, "1", changes)
    known = published(recipe["BASE_MODEL"])
    assert known
    made = evaluation.figures(recipe, known[1], "h100", 80, 989.5, limit)
    assert made
    return made


def test_samples_and_tokens() -> None:
    """256 problems, 64 samples, three modes, two models; the Math base has 4,096 positions less the prompt's 200."""
    made = plan("qwen7b")
    assert made["samples"] == 256 * 64 * 3 * 2
    trained, base = 11_200 + 15_800 + 1_000, 3_896 + 3_896 + 1_000
    assert made["tokens"] == 256 * 64 * (trained + base)
    assert plan("qwen14b")["tokens"] == 256 * 64 * 2 * trained, "not a Math base"
    assert plan("qwen7b", EVAL_SET="aime24:64", EVAL_MODE="cot")["tokens"] == 30 * 64 * (11_200 + 3_896)
    assert plan("llama31-8b")["tokens"] == (1_319 + 5_000) * 2 * 1_000


def test_rate() -> None:
    """Qwen2.5-7B, 5,000 tokens a sequence: 28 layers of 4 heads of 128 keys and as many values, 2 bytes each."""
    known = published("Qwen/Qwen2.5-Math-7B")
    assert known
    shape = known[1]
    sequence, weights = 28 * 4 * 128 * 2 * 2 * 5_000, shape.parameters * 2
    sequences = int((0.9 * 80 * 2**30 - weights) / sequence)
    found = evaluation.rate(shape, 1, 3.35e12, 80 * 2**30, 5_000)
    assert found == pytest.approx(0.5 * sequences * 3.35e12 / (weights + sequences * sequence))
    assert 3_000 < found < 6_000, "in the range that the fact sheet estimates"
    assert evaluation.rate(shape, 2, 3.35e12, 80 * 2**30, 5_000) > 2 * found


def test_jobs_of_a_time_limit() -> None:
    whole, parts = plan("qwen7b"), plan("qwen7b", 4 * 3600)
    assert whole["tasks"] == 1
    # Of 4 h 70% less 300 s of bring-up are for answers.
    answers = whole["hours"] * 3600 - 300
    assert parts["tasks"] == math.ceil(answers / (0.7 * 4 * 3600 - 300))
    assert parts["hours"] * 3600 == pytest.approx(answers / parts["tasks"] + 300)


def test_a_model_that_does_not_fit() -> None:
    with pytest.raises(Failure, match=r"66 GB do not fit on 1 GPU of 64 GB for the evaluation; raise EVAL_TP"):
        evaluation.rate(published("Qwen/Qwen2.5-32B")[1], 1, 3.35e12, 60 * 2**30, 5_000)  # type: ignore[index]


def test_nothing_is_planned_without_vllm() -> None:
    recipe = changed("tiny", "1", {})
    known = published("Qwen/Qwen2.5-7B")
    assert known and evaluation.figures(recipe, known[1], "h100", 80, 989.5, math.inf) is None
