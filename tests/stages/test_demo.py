"""make demo from a fresh clone, as README.md says it, and then every other command in the documents."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import ROOT
from documents import NOT_RUN, commands
from sft.recipe.read import load

pytestmark = pytest.mark.slow


class Clone:
    """A fresh clone with the environment of a user who has just logged in."""

    def __init__(self, path: Path):
        self.path = path
        subprocess.run(["git", "clone", "-q", ROOT, path], check=True)
        self.env = {k: v for k, v in os.environ.items() if k not in ("VENV", "WORK", "OMP_NUM_THREADS", "MAKEFLAGS")}

    def run(self, command: str, **env: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.path, env=self.env | env, capture_output=True, text=True, timeout=1500
        )
        print(f"$ {command}\n{done.stdout[-6000:]}{done.stderr[-3000:]}")  # pytest shows it when the test fails
        assert done.returncode == 0, command
        return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    yield Clone(tmp_path_factory.mktemp("demo") / "clone")


def test_demo_from_a_fresh_clone(clone: Clone) -> None:
    first = clone.run("make demo")
    result = json.loads((clone.path / "work/runs/tiny/round1/results/results.json").read_text())
    base, mine = (result["scores"][name]["tiny"]["cot"] for name in ("baseline", "trained"))
    assert base["n"] == mine["n"] >= 200
    assert base["pass@1"] <= 0.05
    assert mine["pass@1"] >= 0.95
    assert result["links"] >= 2
    assert result["code"]["commit"] == clone.run("git rev-parse HEAD").strip() and result["code"]["dirty"] is False
    assert "the link is over after step" in first and first.count("train: step ") >= 20, "progress is shown"
    assert first.rstrip().splitlines()[-1].split("] ")[1].startswith("demo: done in")
    assert f"| trained | tiny | cot | {mine['n']} | {mine['pass@1']:.1%} |" in first

    run = clone.path / "work/runs/tiny/round1"
    code = json.loads((run / "eval-tiny-4-tir-genselect/DONE").read_text())
    assert code["machine"]["sandbox"]["isolation"] == "strong", code["machine"]
    tir, select = (code["scores"]["trained"]["tiny"][mode] for mode in ("tir", "genselect"))
    assert tir["n"] == select["n"] == 120 and tir["calls"] > 0.9 and tir["pass@4"]["value"] > 20
    shown = json.loads((run / "results/results.json").read_text())["scores"]["trained"]["tiny"]
    assert shown["tir"] == tir and (run / "results/index.html").is_file()

    second = clone.run("make demo")
    assert "setup: building" not in second and "train: step" not in second
    assert second.count("already") >= 7 and "| trained |" in second


def test_reasoning_demo(clone: Clone) -> None:
    """The switch: thoughts when asked for, none when not, and right answers either way; no switch before round 2."""
    out = clone.run("make demo MODEL=tiny-reasoning")
    runs = clone.path / "work/runs/tiny-reasoning"
    first, second = (json.loads((runs / f"round{n}/results/results.json").read_text()) for n in (1, 2))
    before, between = (first["scores"][name]["tiny-reasoning"] for name in ("baseline", "trained"))
    start, after = (second["scores"][name]["tiny-reasoning"] for name in ("baseline", "trained"))
    for mode in ("on", "off"):
        assert after[mode]["n"] == between[mode]["n"] >= 200
        assert before[mode]["accuracy"] <= 0.05 and after[mode]["accuracy"] >= 0.8
        assert after[mode]["truncated"] <= 0.02 and between[mode]["think"] == 0
        assert start[mode] == between[mode], "round 2 starts from what round 1 ended with"
    assert after["on"]["think"] >= 0.95 and after["off"]["think"] <= 0.05
    assert first["links"] == second["links"] == 2
    adapter = json.loads(next((runs / "round2/convert").glob("step_*/adapter_config.json")).read_text())
    assert adapter["peft_type"] == "LORA" and (adapter["r"], adapter["lora_alpha"]) == (64, 128)
    shown = [f"{after[mode][what]:.1%}" for what in ("think", "accuracy") for mode in ("on", "off")]
    assert f"| trained | tiny-reasoning | {' | '.join(shown)} |" in out
    assert out.rstrip().splitlines()[-1].split("] ")[1].startswith("demo: done in")


def test_every_command_of_the_documents(clone: Clone, cluster: dict[str, str]) -> None:
    """In their order, in the clone where the demo is done, on a real Slurm; make demo and make test ran to get here."""
    (clone.path / "gen").mkdir()
    row = {"problem": "1+1?", "generation": "\\boxed{2}", "expected_answer": "2", "symbolic_correct": True}
    (clone.path / "gen/output-rs0.jsonl").write_text(json.dumps(row) + "\n")
    for command in (c.tested for c in commands() if c.line not in NOT_RUN):
        command = command.replace("=dir", "=work/data/tiny/source")
        if command == "make bench":
            command += " ROWS=200 AVERAGE_MB=20 AVERAGE_TIMES=1"
        out = clone.run(command, SLURM_CONF=cluster["SLURM_CONF"])
        if "DRY_RUN" in command:
            assert ("sbatch --parsable" if "LAUNCHER=slurm" in command else "/") in out
        elif "LAUNCHER=slurm" in command or command.startswith("sbatch"):
            queued = out.partition("queued jobs")[2].partition(";")[0] or out.partition("Submitted batch job")[2]
            jobs = queued.split()
            if "LAUNCHER" in command:  # the demo has trained it: no link is queued
                assert len(jobs) == len(load("tiny", "1")["AVERAGE_STEPS"]) + len(("average", "eval", "results")), out
            else:
                assert len(jobs) == 1, out
            # Wait for the last, so that the next command meets no running chain.
            wait = f"until scontrol show job {jobs[-1]} | grep -q JobState=COMPLETED; do sleep 1; done"
            clone.run(f"timeout 120 bash -c '{wait}'", SLURM_CONF=cluster["SLURM_CONF"])
    assert (clone.path / "work/data/openmathreasoning/round1/DONE").is_file()
    assert (clone.path / "work/data/mydata/round1/DONE").is_file()
    assert "already at the last step" in next(clone.path.glob("slurm-*.out")).read_text()
