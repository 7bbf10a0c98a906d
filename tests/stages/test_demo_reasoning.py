"""make demo MODEL=tiny-reasoning from a fresh clone."""

import json
from pathlib import Path

import pytest

from clone import Clone
from conftest import VENV

pytestmark = pytest.mark.slow


def test_reasoning_demo(tmp_path: Path) -> None:
    """The switch: thoughts when asked for, none when not, and right answers either way; no switch before round 2."""
    clone = Clone(tmp_path / "clone")
    out = clone.run("make demo MODEL=tiny-reasoning", VENV=str(VENV))  # test_demo.py has it built
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
