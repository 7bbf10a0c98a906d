"""make demo from a fresh clone, as the README says it: the whole chain, for real, with a score at the end."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from conftest import ROOT


@pytest.mark.slow
def test_demo_from_a_fresh_clone(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
    commit = subprocess.run(["git", "-C", clone, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    env = {k: v for k, v in os.environ.items() if k not in ("VENV", "WORK", "OMP_NUM_THREADS", "MAKEFLAGS")}

    def demo() -> str:
        made = subprocess.run(["make", "demo"], cwd=clone, env=env, capture_output=True, text=True, timeout=1500)
        print(made.stdout[-6000:], made.stderr[-3000:])  # for the record of a run; shown by pytest when it fails
        assert made.returncode == 0
        return made.stdout

    first = demo()
    result = json.loads((clone / "work/runs/tiny/round1/results/results.json").read_text())
    assert result["baseline"]["n"] == result["averaged"]["n"] >= 200
    assert result["baseline"]["pass@1"] <= 0.05
    assert result["averaged"]["pass@1"] >= 0.95
    assert result["links"] >= 2
    assert result["code"]["commit"] == commit.stdout.strip() and result["code"]["dirty"] is False
    assert "the link is over at step" in first and first.count("train: step ") >= 20, "progress is shown"
    assert first.rstrip().splitlines()[-1].split("] ")[1].startswith("demo: done in")
    assert f"| averaged | {result['averaged']['n']} | {result['averaged']['pass@1']:.1%} |" in first

    second = demo()
    assert "setup: building" not in second and "train: step" not in second
    assert second.count("already") >= 7 and "| averaged |" in second
