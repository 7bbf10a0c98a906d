"""Engine nemo-rl on a real Slurm with four virtual nodes and a real Ray over them; only the driver is a stand-in.

See tests/standin/nemo-rl/README.md for what of NeMo-RL's image it stands for.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

import checkpoints
from conftest import ROOT, Repo, ok
from test_slurm import Job, submit, wait_until

pytestmark = pytest.mark.slow
STANDIN = Path(sys.prefix) / "standin"
WORKER = "nemo_rl.models.policy.workers.megatron_policy_worker.MegatronPolicyWorker"


def image(folder: Path) -> dict[str, str]:
    """The stand-in as the image lays it out, and the environment in which it is found."""
    import yaml

    shutil.copytree(ROOT / "tests/standin/nemo-rl", folder / "nemo-rl", ignore=shutil.ignore_patterns("__pycache__"))
    tree: dict = {}
    for key, value in json.loads((ROOT / "python/nemo_rl_keys.json").read_text())["keys"].items():
        *path, last = key.split(".")
        at = tree
        for part in path:
            at = at.setdefault(part, {})
        at[last] = value
    (folder / "nemo-rl/examples/configs").mkdir(exist_ok=True)
    (folder / "nemo-rl/examples/configs/sft.yaml").write_text(yaml.safe_dump(tree))
    python = folder / "venvs" / WORKER / "bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{folder}/nemo-rl" exec "{STANDIN}/bin/python" "$@"\n')
    python.chmod(0o755)
    return {
        "NEMO_RL_DIR": str(folder / "nemo-rl"),
        "NEMO_RL_VENV_DIR": str(folder / "venvs"),
        "PATH": f"{STANDIN}/bin:{os.environ['PATH']}",
        "RAY_CPUS": "2",  # of each of four nodes on one small machine
        "CONTAINER_RUNTIME": "none",
    }


@pytest.fixture(scope="module")
def prepared_mega(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    repo = Repo(tmp_path_factory.mktemp("mega") / "repo")
    ok(repo.call("scripts/data.sh", "mega", "1"))
    ok(repo.call("scripts/model.sh", "mega", "1"))
    return repo


@pytest.fixture
def mega(prepared_mega: Repo, repo: Repo, cluster: dict[str, str], tmp_path: Path) -> Repo:
    for name in ("data", "models"):
        shutil.copytree(prepared_mega.work / name, repo.work / name)
    repo.env |= cluster | image(tmp_path)
    return repo


def steps(repo: Repo) -> list[int]:
    return list(checkpoints.saved_steps("nemo-rl", repo.run_dir("mega") / "train/checkpoints"))


def logs(repo: Repo, job: Job) -> Path:
    return repo.run_dir("mega") / "train/logs" / f"{job.id}-{job.field('Restarts')}"


def until(job: Job, holds, seconds: float) -> None:
    """Wait for something that a running job does; fails as soon as the job has ended without it."""
    wait_until(lambda: holds() or job.field("JobState") not in ("PENDING", "RUNNING", "CONFIGURING"), seconds, job.log)
    assert holds(), job.log()


def down(repo: Repo, node: str, state: str) -> None:
    ok(repo.call("scontrol", "update", f"node={node}", f"state={state}", *(["reason=test"] if state == "down" else [])))


def test_a_chain_that_times_out_and_loses_a_node(mega: Repo) -> None:
    """Two links over four nodes: one ends before its time limit, one loses a node; then convert, average and eval."""
    jobs = submit(mega, "mega", JOBS=2, STANDIN_STEP="0.5", SAVE_RESERVE="100", SET_UP_RESERVE="1")
    names = [name for name, _ in jobs]
    assert names == ["cache", "train", "train", "convert", "convert", "convert", "average", "eval", "results"]
    first, second = jobs[1][1], jobs[2][1]
    ok(mega.call("scontrol", "update", f"jobid={first.id}", "timelimit=3"))
    first.wait(240)
    assert first.field("ExitCode") == "75:0", first.log()
    ended = max(steps(mega))
    assert 0 < ended < 60 and ended % 10, (steps(mega), first.log())
    driver = (logs(mega, first) / "driver.log").read_text()
    places = driver.split("places: ")[1].splitlines()[0].split()
    assert places == [f"node{n}/{gpu}" for n in range(1, 5) for gpu in (0, 1)], "each GPU of each node once"
    assert "Timeout has been reached" in driver

    until(second, lambda: max(steps(mega)) > ended, 200)
    assert ended not in steps(mega) or ended == max(s for s in steps(mega) if s % 10), "superseded time-out saves go"
    down(mega, "node3", "down")
    try:
        wait_until(lambda: second.field("Restarts") == "1", 60, second.log)
    finally:
        down(mega, "node3", "resume")
    assert second.wait(300) == "COMPLETED", second.log()
    assert "freshly" not in second.log() and steps(mega)[-1] == 60
    for name, job in jobs[3:]:
        assert job.wait(200) == "COMPLETED", (name, job.log())
