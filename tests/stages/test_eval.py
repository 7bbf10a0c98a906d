"""Evaluation and results: answers, grades, rates, and the files at the end."""

import json
from pathlib import Path

import pytest

import eval
import results
from conftest import Repo, failed, ok
from sft.eval.answers import Settings, generate, load, load_tokenizer
from sft.eval.grades import boxed, correct
from sft.eval.prompts import figures, grade_math
from tools import status


@pytest.mark.parametrize(
    "text,answer",
    [
        ("no answer", None),
        ("\\boxed{1} then \\boxed{42}", "42"),
        ("\\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\boxed{1} \\boxed{2", None),  # cut off: the last one never closes
        ("\\boxed{}", ""),
    ],
)
def test_the_answer_is_the_last_box(text: str, answer: str | None) -> None:
    assert boxed(text) == answer


@pytest.mark.parametrize(
    "expected,answer,verdict",
    [
        ("138", "138", True),
        ("138", "138.0", True),
        ("0.5", "\\frac{1}{2}", True),
        ("2\\sqrt{3}", "\\sqrt{12}", True),
        ("138", "139", False),
        ("138", "", False),
        ("138", None, False),
        ("138", "\\frac{", False),
    ],
)
def test_grades(expected: str, answer: str | None, verdict: bool) -> None:
    assert correct(expected, answer) is verdict


def test_rates() -> None:
    problems = [{"problem": f"{i}", "expected_answer": "4"} for i in range(4)]
    answers = [("\\boxed{4}", False), ("\\boxed{5}", False), ("well", False), ("\\boxed{4} and on", True)]
    rows = [
        problem | {"truncated": truncated} | grade_math(problem, text)
        for problem, (text, truncated) in zip(problems, answers, strict=True)
    ]
    assert figures("math", rows) == {"n": 4, "pass@1": 0.5, "no_answer": 0.25, "truncated": 0.25}
    assert [row["correct"] for row in rows] == [True, False, False, True] and rows[2]["answer"] is None


def answers_of(
    folder: Path, config: Path, prompts: list[str], settings: Settings, start: Path | None = None
) -> list[tuple[str, bool]]:
    """Every prompt's (text, truncated), in the order of the prompts."""
    model, tokenizer = load(folder, config, start), load_tokenizer(start or folder)
    found: dict[int, tuple[str, bool]] = {}
    for made in generate(model, tokenizer, prompts, settings):
        assert not found.keys() & made.keys()
        found |= made
    return [found[place] for place in range(len(prompts))]


def test_generation_is_greedy_and_stops_at_the_end_of_turn(trained: Repo) -> None:
    """Batched, left-padded answers equal those of one prompt at a time, and end at the trained token."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from sft.rows.chat import END_OF_TURN, chatml

    folder = trained.run_dir() / "average"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompts = [chatml(text) for text in ("What is 1 + 2?", "7", "Compute 99+11. " * 5)]
    answers = answers_of(folder, folder / "config.json", prompts, Settings(6, END_OF_TURN))
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
    answers_of(base, eval.config_of(base), ["x"], Settings(1, "<|im_end|>"))
    ropes = [(config.rope_parameters["rope_theta"], config.max_position_embeddings) for config in seen]
    assert (10000, 4096) in ropes


def test_results(trained: Repo) -> None:
    folder = trained.run_dir() / "results"
    result = json.loads((folder / "results.json").read_text())
    assert (result["model"], result["round"], result["steps"], result["links"]) == ("mini", "1", 60, 1)
    assert result["baseline"]["n"] == result["averaged"]["n"] == 300
    assert result["stages"].keys() == {"data", "model", "train", "convert", "average", "eval"}
    assert all(cost["seconds"] >= 0 and cost["peak_memory_bytes"] > 1 << 20 for cost in result["stages"].values())
    assert result["data_sha256"] == trained.done(trained.work / "data/mini/round1")["outputs"]["all.jsonl"]
    assert result["final_loss"] == trained.losses()[60]
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    table = (folder / "README.md").read_text()
    assert f"| averaged | 300 | {result['averaged']['pass@1']:.1%} |" in table and "| train |" in table


def test_every_done_names_the_code(trained: Repo) -> None:
    folders = ["data/mini/round1", "models/mini"] + [
        f"runs/mini/round1/{s}" for s in ("train", "average", "eval", "results")
    ]
    for folder in [*folders, "runs/mini/round1/convert/step_60"]:
        done = trained.done(trained.work / folder)
        assert done["code"].keys() >= {"commit", "dirty"} and len(done["recipe_sha256"]) == 64, folder


def test_status(trained: Repo, copy: Repo) -> None:
    out = ok(trained.call("scripts/tool.sh", "status", "mini", "1"))
    for name in ("data", "model", "train", "convert", "average", "eval", "results"):
        assert [line.split()[1] for line in out.splitlines() if line.startswith(name + " ")] == ["done"], out
    assert "step 60/60" in out and "3/3 steps" in out
    fresh = ok(copy.call("scripts/tool.sh", "status", "mini", "1"))
    assert "step 0/60" in fresh and "0/3 steps" in fresh


def test_status_without_slurm(trained: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = tmp_path / "chain.tsv"
    chain.write_text("2026-01-01T00:00:00\ttrain\t17\n2026-01-01T00:00:00\tconvert\t18\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    jobs, note = status.read_jobs(chain)
    assert jobs == {"train": [("17", "", "")], "convert": [("18", "", "")]} and "no squeue" in note
    monkeypatch.undo()
    (tmp_path / "squeue").write_text(
        "#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact slurm controller' >&2\nexit 1\n"
    )
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert "does not answer" in status.read_jobs(chain)[1]


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


def test_the_table_says_when_the_code_was_changed() -> None:
    score = {"n": 1, "pass@1": 1.0, "no_answer": 0.0, "truncated": 0.0}
    result = {
        "model": "m", "round": "1", "code": {"commit": "c" * 40, "dirty": True},
        "recipe_sha256": "r", "data_sha256": "d",
        "steps": 1, "links": 1, "final_loss": 1.0, "baseline": score, "averaged": score,
        "stages": {"data": {"seconds": 1.0, "peak_memory_bytes": 1 << 20}},
    }  # fmt: skip
    assert "with uncommitted changes" in results.table(result)
