"""make demo from a fresh clone, as README.md says it, and then every other command in the documents."""

import json
from collections.abc import Iterator

import pytest

from clone import Clone
from documents import NOT_RUN, commands
from sft.recipe.read import load

pytestmark = pytest.mark.slow


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


def test_every_command_of_the_documents(clone: Clone, cluster: dict[str, str]) -> None:
    """In their order, in the clone where the demo is done, on a real Slurm."""
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
