"""make status: what each stage of a run is doing."""

from pathlib import Path

import pytest

from conftest import Repo, ok
from tools import status


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
