"""Evaluation and results: answers, grades, rates, and the files at the end."""

from pathlib import Path

import pytest

from conftest import Repo, failed
from sft.eval.engines.base import Request, Sampling, ends_of
from sft.eval.engines.opening import open_engine
from sft.eval.engines.transformer import load_tokenizer
from sft.eval.evaluation import config_of
from sft.eval.kinds import figures, grade_math
from sft.rows.chat import END_OF_TURN, chatml


def test_rates() -> None:
    problems = [{"problem": f"{i}", "expected_answer": "4"} for i in range(4)]
    answers = [("\\boxed{4}", False), ("\\boxed{5}", False), ("well", False), ("\\boxed{4} and on", True)]
    rows = [
        problem | {"truncated": truncated} | grade_math(problem, text)
        for problem, (text, truncated) in zip(problems, answers, strict=True)
    ]
    assert figures("math", rows) == {"n": 4, "pass@1": 0.5, "no_answer": 0.25, "truncated": 0.25}
    assert [row["correct"] for row in rows] == [True, False, False, True] and rows[2]["answer"] is None


def answers_of(folder: Path, config: Path, prompts: list[str], most: int) -> list[tuple[str, bool]]:
    """Every prompt's (text, truncated), in the order of the prompts."""
    engine = open_engine("transformers", folder, config, None)
    tokenizer = load_tokenizer(folder)
    greedy = Sampling(0.0, ends_of(tokenizer, [END_OF_TURN]))
    requests = [Request((n,), tuple(tokenizer.encode(text)), most, 0) for n, text in enumerate(prompts)]
    made = dict(finished for finished in engine.run(iter(requests), greedy) if finished)
    return [(made[request].text, made[request].reason == "length") for request in requests]


def test_generation_is_greedy_and_stops_at_the_end_of_turn(trained: Repo) -> None:
    """Batched, left-padded answers equal those of one prompt at a time, and end at the trained token."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = trained.run_dir() / "average"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompts = [chatml(text) for text in ("What is 1 + 2?", "7", "Compute 99+11. " * 5)]
    answers = answers_of(folder, folder / "config.json", prompts, 6)
    for prompt, (text, truncated) in zip(prompts, answers, strict=True):
        ids = tokenizer.encode(prompt, add_special_tokens=False)
        wanted: list[int] = []
        for _ in range(6):
            with torch.inference_mode():
                wanted.append(int(model(torch.tensor([ids + wanted])).logits[0, -1].argmax()))
            if wanted[-1] == end:
                break
        assert truncated == (wanted[-1] != end)
        assert text == tokenizer.decode([t for t in wanted if t != end])


def test_the_baseline_is_the_untouched_base(trained: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """RoPE as published, although the folder's config.json is patched for training."""
    seen = []
    import transformers

    real = transformers.AutoConfig.from_pretrained
    monkeypatch.setattr(
        transformers.AutoConfig, "from_pretrained", lambda *a, **k: seen.append(real(*a, **k)) or seen[-1]
    )
    base = trained.work / "models/mini"
    answers_of(base, config_of(base), ["x"], 1)
    ropes = [(config.rope_parameters["rope_theta"], config.max_position_embeddings) for config in seen]
    assert (10000, 4096) in ropes


def test_inputs_are_asked_for_in_order(copy: Repo) -> None:
    for name, remedy in (
        ("convert", "make train"),
        ("average", "make convert"),
        ("eval", "make average"),
        ("results", "make eval"),
    ):
        failed(copy.call("scripts/submit.sh", name, "mini", "1"), remedy)
        failed(copy.stage(name), "run: make")
    assert not copy.run_dir().exists() or not list(copy.run_dir().glob("*/DONE"))
