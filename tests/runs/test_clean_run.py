"""make clean-run: what it lists and removes, what it leaves, and when it refuses."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Repo, failed, ok
from sft.lib.done import describe, write_done


def clean(repo: Repo, *more: str, model: str = "mini", **env: object) -> subprocess.CompletedProcess[str]:
    return repo.call("make", "-s", "clean-run", f"MODEL={model}", *more, **env)


def files(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_a_finished_run_shrinks_and_stays_finished(finished: Repo) -> None:
    run = finished.run_dir()
    before = files(run)
    (run / "convert/.export-50").mkdir()
    (run / "convert/.export-50/x").write_bytes(b"12345")
    listed = ok(clean(finished, YES="1", ALL="1"))
    assert "nothing is removed; YES=1 removes what is listed" in listed, "the environment is not make's command line"
    assert files(run) == before | {"convert/.export-50/x": 5}
    said = ok(clean(finished, "YES=1"))
    assert said.splitlines()[:-1] == listed.splitlines()[:-1]
    gone = before.keys() - files(run).keys()
    assert {name.split("/")[0] for name in gone} <= {"train", "convert", "logs"}
    assert not [
        name for name in gone if name.startswith("train") and "/checkpoints/epoch" not in name and "/logs/" not in name
    ]
    assert not list(run.glob("convert/*")) and not list(run.glob("convert/.export*"))
    total = sum(before[name] for name in gone) + 5
    assert f"{total / 1e6:,.1f} MB" in next(line for line in said.splitlines() if line.startswith("total"))
    # What the other stages ask: nothing is done again, and the record of the losses is whole.
    again = ok(finished.call("scripts/submit.sh", "train", "mini", "1"))
    assert "train: already at the last step, 60" in again and again.count("is averaged and was removed") == 3
    assert again.count("is already there") == 3, "average, eval, results"
    assert len(finished.losses()) == 60
    status = ok(finished.call("scripts/tool.sh", "status", "mini", "1"))
    stages = {"data", "model", "train", "convert", "average", "eval", "results"}
    table = [words for line in status.splitlines() if (words := line.split()) and words[0] in stages]
    assert len(table) == 7 and {words[1] for words in table} == {"done"}
    assert "nothing to remove" in ok(clean(finished))
    ok(clean(finished, "ALL=1"))
    assert run.is_dir()
    ok(clean(finished, "ALL=1", "YES=1"))
    assert not run.parent.exists() and (finished.work / "data").is_dir()
    assert "there is no" in ok(clean(finished))


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_text(content)


def test_the_model_of_a_run_that_ends_with_a_step_stays(repo: Repo) -> None:
    """reasoning-lora ends with convert/step_2000; as NeMo 2.0 saves, and with what a merge and a kill have left."""
    run = repo.work / "runs/reasoning-lora/roundnemo2"
    for name in ("step_2000", "step_2000-merged", "step_100", ".step_900.part"):
        write(run / "convert" / name, DONE="{}", weights="x" * 10)
    write(run / "train/checkpoints/model--step=2000-last", weights="x" * 1000)
    for name in ("training.jsonl", "DONE", "links.jsonl", "RUN"):
        (run / "train" / ("checkpoints" if name == "training.jsonl" else ".") / name).write_text("{}\n")
    listed = ok(clean(repo, "ROUND=nemo2", model="reasoning-lora"))
    assert "WARNING" not in listed and "convert/step_2000\n" not in listed
    ok(clean(repo, "ROUND=nemo2", "YES=1", model="reasoning-lora"))
    assert sorted(name for name in files(run) if "lock" not in name) == [
        "convert/step_2000/DONE", "convert/step_2000/weights",
        "train/DONE", "train/RUN", "train/checkpoints/training.jsonl", "train/links.jsonl",
    ]  # fmt: skip


def test_nemo_rls_losses_stay(repo: Repo) -> None:
    run = repo.run_dir("mega")
    info = json.dumps({"total_steps": 20})
    write(run / "train/checkpoints/step_20", **{"training_info.json": info})
    write(run / "train/logs/7-0", LINK="{}", **{"driver.log": "x", "node-0.log": "y", "overrides": "z"})
    write(run / "logs", **{"train-7.out": "x"})
    listed = ok(clean(repo, model="mega"))
    warning = "WARNING: the run is not finished: without its checkpoints, the last of step 20, it starts over"
    assert warning in listed.splitlines()
    ok(clean(repo, "YES=1", model="mega"))
    assert sorted(name for name in files(run) if "lock" not in name) == [
        "train/logs/7-0/LINK", "train/logs/7-0/driver.log",
    ]  # fmt: skip


def test_it_refuses_while_somebody_works_on_the_run(repo: Repo, tmp_path: Path) -> None:
    run = repo.run_dir()
    write(run / "train", **{".lock": "job 7 on n1, process 3\n"})
    with open(run / "train/.lock") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        failed(clean(repo, "YES=1"), "is being worked on (job 7 on n1, process 3); wait for it")
    ok(clean(repo))
    (run / "chain.tsv").write_text("2026-01-01T00:00:00\ttrain\t17\n")
    bin_ = tmp_path / "bin"
    write(
        bin_,
        squeue=f"#!/bin/sh\necho '17|PENDING|Priority|{os.getuid()}|train-mini-1|{run}/code/x/sbatch/train.sbatch'\n",
    )
    (bin_ / "squeue").chmod(0o755)
    path = f"{bin_}:{Path(sys.executable).parent}:/usr/bin:/bin"
    words = "job 17 of this run is PENDING; wait for it, or run: make cancel MODEL=mini ROUND=1"
    failed(clean(repo, "YES=1", PATH=path), words)
    (bin_ / "squeue").write_text("#!/bin/sh\nexit 1\n")
    failed(clean(repo, PATH=path), "Slurm does not answer; run it again")
    failed(clean(repo, "YES=please"), "YES=please; give 1 to remove what is listed", status=(2,))


@pytest.mark.parametrize("all_, refused", [("ALL=1", True), ("YES=1", False)])
def test_a_round_that_another_starts_from_is_not_removed_whole(repo: Repo, all_: str, refused: bool) -> None:
    runs = repo.work / "runs/qwen7b"
    write(runs / "round1/average", model="x")
    write_done(runs / "round1/average", {}, {}, **describe(runs / "round1/average"))
    write(runs / "round2/train", RUN="{}")
    result = clean(repo, all_, model="qwen7b")
    if refused:
        failed(result, "round2 starts from this run's model; clean that with ALL=1 first")
    else:
        ok(result)
    assert (runs / "round1/average/model").is_file()
