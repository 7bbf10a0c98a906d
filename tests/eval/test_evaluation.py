"""make eval by a protocol: several samples, code that runs in the sandbox, selection, shares, and what is resumed.

The model has learnt by heart what it says: of each sum two answers, one right and one wrong, so that samples differ.
"""

import contextlib
import io
import json
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import test_judge
from test_eval_modes import finish, learn
from test_judge import server as server

import eval
from conftest import Repo, ok
from sft.eval.kinds import Row
from sft.eval.protocols.read import protocol
from sft.eval.tasks import math_prompt
from sft.lib.done import write_done
from sft.lib.errors import Failure
from sft.recipe import read
from sft.rows.chat import END_OF_TURN

pytestmark = pytest.mark.slow

SUMS = [
    {"problem": f"{a}+{b}", "expected_answer": str(a + b), "subset": "low" if a < 5 else "high"}
    for a, b in ((1, 2), (8, 9), (3, 4))
]
CALL = "<tool_call>\nprint({})\n</tool_call>"


def evaluate(repo: Repo, *args: object) -> str:
    """make eval's Python, in this process, which has imported the libraries; returns what it prints."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(read, "ROOT", repo.root)
        patch.setattr(read, "RECIPES", repo.root / "recipes")
        patch.setattr(sys, "argv", ["eval.py", "solves", "1", "--work", str(repo.work), *map(str, args)])
        eval.main()
    return said.getvalue()


def lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def lessons() -> list[tuple[str, str]]:
    """Prompts and what is said after them; \\0 between pieces that are tokenized by themselves, as they will be."""
    rules, taught = protocol("demo"), []
    code = rules.mode("tir").code
    assert code
    for row in SUMS:
        right = row["expected_answer"]
        asked = {mode: math_prompt(None, rules.mode(mode), row["problem"]) for mode in ("cot", "tir")}
        for said in (right, f"{right}0"):
            taught.append((asked["cot"], f"\\boxed{{{said}}}{END_OF_TURN}"))
        call = CALL.format(row["problem"])
        output = f"\n```output\n{right}\n```\n```system\n{code.left.format(n=7)}\n```\n"
        taught.append((asked["tir"], f"{call}\n"))
        taught.append(("\0".join((asked["tir"], call, output)), f"\\boxed{{{right}}}{END_OF_TURN}"))
    return taught


def pieces(tokenizer: Any, text: str, **options: Any) -> dict[str, list[int]]:
    return {"input_ids": [id_ for piece in text.split("\0") for id_ in tokenizer(piece, **options)["input_ids"]]}


@pytest.fixture(scope="module")
def solver(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """Recipe solves: a base, and a model that has learnt the lessons; nothing is evaluated yet."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    repo = Repo(tmp_path_factory.mktemp("evaluation") / "repo")
    repo.env["EVAL_ROWS"] = ""
    sizes = {"BASE_MODEL": "solver", "RANDOM_HIDDEN": "64"}
    repo.derive("solves", EVAL_SET="sums:4", EVAL_MODE="cot,tir,genselect", EVAL_MAX_TOKENS="120", **sizes)
    ok(repo.call("scripts/model.sh", "solves", "1"))
    base, final = repo.work / "models/solver", repo.run_dir("solves") / "average"
    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base)
    learn(model, partial(pieces, tokenizer), lessons(), 300)
    model.save_pretrained(final)
    tokenizer.save_pretrained(final)
    finish(final)
    sums = repo.work / "data/sums/source/test.jsonl"
    sums.parent.mkdir(parents=True)
    sums.write_text("".join(json.dumps(row) + "\n" for row in SUMS))
    return repo


@pytest.fixture(scope="module")
def log_of_it(solver: Repo) -> str:
    return evaluate(solver)


def test_samples_code_and_selection(solver: Repo, log_of_it: str) -> None:
    folder = solver.run_dir("solves") / "eval"
    done = solver.done(folder)
    scores: dict[str, Any] = done["scores"]["trained"]
    assert scores.keys() == {"sums", "sums/low", "sums/high"} and scores["sums"].keys() == {"cot", "tir", "genselect"}
    # With code each answer is what the program printed.
    tir = lines(folder / "trained.sums.tir.jsonl")
    assert len(tir) == 12 and all(row["correct"] and row["calls"] == 1 and row["timeouts"] == 0 for row in tir)
    shown = f"```output\n{tir[0]['expected_answer']}\n```\n```system\nRemaining code executions: 7."
    assert shown in tir[0]["generation"]
    assert scores["sums"]["tir"]["pass@1[avg-of-4]"]["value"] == 100 and scores["sums"]["tir"]["calls"] == 1
    # Without, half of them are: of so many right ones is the mean, and each row has its own seed.
    cot = lines(folder / "trained.sums.cot.jsonl")
    right = sum(row["correct"] for row in cot)
    assert scores["sums"]["cot"]["pass@1[avg-of-4]"]["value"] == pytest.approx(100 * right / 12, abs=1e-3)
    assert 0 < right < 12 and len({row["seed"] for row in cot}) == 12
    assert [(row["problem"], row["sample"]) for row in cot] == [(str(n), s) for s in range(4) for n in range(3)]
    assert scores["sums/low"]["cot"]["problems"] == 2 and scores["sums/high"]["cot"]["problems"] == 1
    # The solutions with code all have one answer, so that nothing is asked.
    picked = lines(folder / "trained.sums.genselect.jsonl")
    assert len(picked) == 12 and all(row["correct"] and not row["asked"] for row in picked)
    assert done["protocol"]["name"] == "demo" and done["grader"] == "values"
    assert "cot: temperature 0.6, top_p 0.95, seed 42, of at most 120 tokens" in done["decoding"]
    assert done["machine"]["engine"] == "transformers" and done["machine"]["sandbox"]["isolation"] == "strong"
    assert "pass@1[avg-of-4] 100.0% ± 0.0, maj@4 100.0%" in log_of_it.split("all of it")[1]
    assert not list(folder.glob("*.samples.*")) and "gpu_hours" not in done["machine"], "there is no GPU"


def test_selection_among_different_answers(solver: Repo) -> None:
    """Without tir the solutions of cot are compared; the seeded pick is among those that were shown."""
    out = evaluate(solver, "--mode", "cot,genselect")
    folder = solver.run_dir("solves") / "eval-cot-genselect"
    picked, cot = lines(folder / "trained.sums.genselect.jsonl"), lines(folder / "trained.sums.cot.jsonl")
    assert any(row["asked"] for row in picked)
    answers = {(row["problem"], row["sample"]): row["answer"] for row in cot}
    for row in picked:
        assert row["answer"] == answers[row["problem"], row["picked"]] and row["picked"] in row["candidates"]
        assert len(row["candidates"]) == (2 if row["asked"] else 1)
    assert "genselect" in out and "already there" in evaluate(solver, "--mode", "cot,genselect")


@pytest.mark.usefixtures("log_of_it")
def test_shares_make_the_same_answers(solver: Repo, repo: Repo) -> None:
    """As an array of jobs does it: shares of each model, then those of genselect, then the grades."""
    shutil.copytree(solver.work, repo.work, ignore=shutil.ignore_patterns("eval", "eval-*"))
    shutil.copytree(solver.root / "recipes/solves", repo.root / "recipes/solves")
    with pytest.raises(Failure, match="12 of 12 answers of baseline to sums cot are missing; run: make eval"):
        evaluate(repo, "--grade")
    for select in ([], ["--select"]):
        for scored in ("baseline", "trained"):
            for share in ("1/2", "2/2"):
                evaluate(repo, "--share", share, "--scored", scored, *select)
    folder = repo.run_dir("solves") / "eval"
    assert not folder.exists()
    evaluate(repo, "--grade")
    whole = solver.run_dir("solves") / "eval"
    for name in ("trained.sums.cot", "trained.sums.tir", "trained.sums.genselect"):
        assert (folder / f"{name}.jsonl").read_bytes() == (whole / f"{name}.jsonl").read_bytes(), name
    assert repo.done(folder)["scores"] == solver.done(whole)["scores"]


def test_another_model_and_files_of_ones_own(solver: Repo, tmp_path: Path) -> None:
    """MODEL_DIR is scored alone, on the recipe's set and on a file; each in a folder that says so."""
    average = solver.run_dir("solves") / "average"
    file = tmp_path / "My Sums.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in SUMS[:2]))
    evaluate(solver, "--folder", average, "--bench", f"sums,{file}:2", "--mode", "cot")
    folder = next(solver.run_dir("solves").glob("eval-average-*"))
    scores = solver.done(folder)["scores"]
    assert scores.keys() == {"average"} and scores["average"]["local-my-sums"]["cot"]["n"] == 4
    greedy = scores["average"]["sums"]["cot"]
    assert greedy["n"] == 3 and greedy.keys() == {"n", "pass@1", "no_answer", "truncated"}


@pytest.mark.parametrize(
    "args, words",
    [
        (["--bench", "sum"], "BENCH=sum: no such benchmark"),
        (["--mode", "cot,cod"], "EVAL_MODE=cot,cod is not valid"),
        (["--mode", "genselect", "--bench", "sums"], "genselect compares several samples; write name:4 for four"),
        (["--protocol", "today", "--mode", "cot,genselect"], "protocol today has no mode genselect"),
        (["--folder", "/nonexistent"], "MODEL_DIR=/nonexistent has no config.json"),
        (["--server", "http://127.0.0.1:9/v1"], "SERVER serves one model; say which with MODEL_DIR"),
    ],
)
def test_wrong_options(solver: Repo, args: list[str], words: str) -> None:
    with pytest.raises(Failure, match=words):
        evaluate(solver, *args)


def test_another_model_selects(solver: Repo) -> None:
    """SELECTOR: the base compares the trained model's solutions; its own tokenizer and config are taken."""
    base = solver.work / "models/solver"
    evaluate(solver, "--mode", "cot,genselect", "--selector", base)
    folder = solver.run_dir("solves") / "eval-solver-cot-genselect"
    theirs = lines(folder / "trained.sums.genselect.jsonl")
    own = lines(solver.run_dir("solves") / "eval-cot-genselect/trained.sums.genselect.jsonl")
    assert [row["candidates"] for row in theirs] == [row["candidates"] for row in own], "the same is compared"
    asked = [
        (mine["generation"], other["generation"]) for mine, other in zip(own, theirs, strict=True) if mine["asked"]
    ]
    assert asked and all(mine != other for mine, other in asked), "by another model"
    assert "selector" in solver.done(folder)["inputs"]
    with pytest.raises(Failure, match="SELECTOR=/nonexistent has no config"):
        evaluate(solver, "--selector", "/nonexistent")


def test_a_judge_compares_where_the_protocol_has_one(
    solver: Repo, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """hle-math: the judge says Yes to each answer that is there and not written like the expected one."""
    folder = solver.work / "data/bench/hle-math"
    folder.mkdir(parents=True)
    rows = [row | {"id": str(n), "expected_answer": f"{row['expected_answer']}."} for n, row in enumerate(SUMS)]
    (folder / "test.jsonl").write_text("".join(json.dumps(row | {"subset": ""}) + "\n" for row in rows))
    write_done(folder, {}, {}, rows={"all": len(rows)})
    answers = {row["expected_answer"] for row in SUMS} | {f"{row['expected_answer']}0" for row in SUMS}
    monkeypatch.setattr(test_judge.Server, "script", {answer: ["Judgement: Yes"] for answer in answers})
    options = ("--bench", "hle-math:2", "--mode", "cot", "--protocol", "published")
    evaluate(solver, *options, "--judge", server.rstrip("/"), "--judge-model", "wise")
    done = solver.done(next(solver.run_dir("solves").glob("eval-hle-math*")))
    found = lines(next(solver.run_dir("solves").glob("eval-hle-math*")) / "trained.hle-math.cot.jsonl")
    answered = [row for row in found if row["answer"] is not None]
    assert answered and all(row["correct"] and row["how"] == "judge" for row in answered)
    assert done["grader"] == "hle-math by wise, release" and {body["model"] for body in test_judge.Server.asked} == {
        "wise"
    }
