"""The stand-in for NeMo-RL is held against what NeMo-RL itself wrote and printed: traces/ (make check-nemo-rl)."""

import ast
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

import nemo_rl_log
import test_ray
from conftest import ROOT
from nemo_rl_trace import describe, pattern

TRACE = json.loads((ROOT / "tests/traces/nemo-rl-v0.7.0.json").read_text(encoding="utf-8"))
STANDIN = ROOT / "tests/standin/nemo-rl"
# What the stand-in prints of its own, for the tests that use it.
OWN = ("places:", "RuntimeError: STANDIN_EXIT", "worker at step N")


def words(node: ast.expr) -> str:
    """What print(node) writes, with 0 for every value."""
    match node:
        case ast.Constant():
            return str(node.value)
        case ast.JoinedStr():
            return "".join(map(words, node.values))
        case ast.FormattedValue():
            return words(node.value) if isinstance(node.value, ast.BinOp) else "0"
        case ast.BinOp(left=ast.Constant(value=str() as text), op=ast.Mult(), right=ast.Constant(value=times)):
            return text * times
        case ast.BinOp(op=ast.Add()):
            return words(node.left) + words(node.right)
    return "0"


def printed(source: str) -> list[str]:
    """The lines that a program's calls of print write, as patterns."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    texts = [words(call.args[0]) for call in calls if getattr(call.func, "id", "") == "print"]
    return [pattern(line) for text in texts for line in text.splitlines() if line]


def test_what_print_writes_is_read_from_the_program() -> None:
    assert printed("print(f\"\\n{'=' * 3} Step {a + 1}/{b}\")") == ["=== Step N/N"]
    assert printed('print("  • Loss: " + "x")\nprint(f"{took:.2f}s (10.0%)", flush=True)') == ["  • Loss: x", "Ns (N%)"]


def test_every_line_of_the_stand_in_is_one_of_nemo_rl() -> None:
    lines = printed((STANDIN / "examples/run_sft.py").read_text(encoding="utf-8"))
    assert len(lines) > 10 and "========================= Step N/N =========================" in lines
    known = TRACE["rounds"]["1"]["log"]["patterns"]
    assert [line for line in lines if line not in known and not line.startswith(OWN)] == []


@pytest.mark.parametrize("round_", ["1", "fsdp"])
def test_the_parser_reads_what_nemo_rl_printed(round_: str) -> None:
    facts = TRACE["rounds"][round_]
    parser, rows = nemo_rl_log.Parser(0), []
    for line in facts["log"]["first_steps"]:
        if row := parser.feed(line):
            rows.append(row)
    rows.append(parser.rest())
    assert [(row["step"], row["loss"]) for row in rows] == list(enumerate(facts["losses"]))
    assert len(rows) == 12 and all(row["seconds"] > 0 for row in rows)


def test_both_backends_began_where_transformers_does() -> None:
    """The loss of the base model on the 1,165 tokens of the first step by transformers, float32, each row alone."""
    assert [TRACE["rounds"][round_]["losses"][0] for round_ in ("1", "fsdp")] == [6.2978, 6.2978]


def without_rank(name: str) -> str:
    """A file's name without which rank and thread wrote it."""
    return "iter_0000000/RANK.distcp" if name.endswith(".distcp") else name


@pytest.mark.slow
def test_every_file_of_the_stand_in_is_one_of_nemo_rl(mega: Any, tmp_path: Path) -> None:
    """A checkpoint as the stand-in saves it: no file that NeMo-RL's has not, none of another kind or key."""
    env = os.environ | {"PYTHONPATH": f"{ROOT}/python/inside", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [test_ray.STANDIN / "bin/python", ROOT / "tests/standin_save.py", mega.work / "models/mega", tmp_path]
    subprocess.run(command, env=env, check=True, timeout=300)
    real = {without_rank(name): fact for name, fact in TRACE["rounds"]["1"]["checkpoint"].items()}
    ours = {without_rank(name): fact for name, fact in describe(tmp_path / "step_3").items()}
    real = {name.removeprefix("policy/weights/"): fact for name, fact in real.items()}
    ours = {name.removeprefix("policy/weights/"): fact for name, fact in ours.items()}
    assert set(ours) - set(real) == set()
    assert {name: fact["kind"] for name, fact in ours.items()} == {name: real[name]["kind"] for name in ours}
    for name, fact in ours.items():
        assert set(fact.get("keys", [])) <= set(real[name].get("keys", [])), name
    assert ours["training_info.json"]["keys"] == real["training_info.json"]["keys"]
