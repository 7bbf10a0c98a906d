"""Engine nemo-rl on a real Slurm with four virtual nodes and a real Ray over them; only the driver is a stand-in.

See tests/standin/nemo-rl/README.md for what of NeMo-RL's image it stands for.
"""

import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from test_curves import scalars
from test_slurm import Job, submit, wait_until

from conftest import ROOT, Repo, ok
from sft.engines import saved
from sft.engines.nemo_rl import driver_log

pytestmark = pytest.mark.slow
STANDIN = Path(sys.prefix) / "standin"
INSIDE = ROOT / "python/sft/engines/nemo_rl/inside"
WORKER = "nemo_rl.models.policy.workers.megatron_policy_worker.MegatronPolicyWorker"


def image(folder: Path) -> dict[str, str]:
    """The stand-in as the image lays it out, and the environment in which it is found."""
    import yaml

    shutil.copytree(ROOT / "tests/standin/nemo-rl", folder / "nemo-rl", ignore=shutil.ignore_patterns("__pycache__"))
    tree: dict = {}
    facts = json.loads((ROOT / "python/sft/engines/nemo_rl/versions.json").read_text())["0.7"]["keys"]
    for key, value in ((key, fact["default"]) for key, fact in facts.items() if "default" in fact):
        *path, last = key.split(".")
        at = tree
        for part in path:
            at = at.setdefault(part, {})
        at[last] = value
    (folder / "nemo-rl/examples/configs").mkdir(exist_ok=True)
    (folder / "nemo-rl/examples/configs/sft.yaml").write_text(yaml.safe_dump(tree))
    python = folder / "venvs" / WORKER / "bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{folder}/nemo-rl:{INSIDE}" exec "{STANDIN}/bin/python" "$@"\n')
    python.chmod(0o755)
    (folder / "bin").mkdir()
    for name in ("python", "ray"):  # which find Megatron for a CPU; PYTHONPATH of the job's environment does not count
        program = folder / "bin" / name
        program.write_text(f'#!/bin/sh\nPYTHONPATH="{INSIDE}" exec "{STANDIN}/bin/{name}" "$@"\n')
        program.chmod(0o755)
    return {
        "NEMO_RL_DIR": str(folder / "nemo-rl"),
        "NEMO_RL_VENV_DIR": str(folder / "venvs"),
        "PATH": f"{folder}/bin:{STANDIN}/bin:{os.environ['PATH']}",
        "RAY_CPUS": "3",  # of each of four nodes on one small machine
        "CONTAINER_RUNTIME": "none",
    }


@pytest.fixture
def ray(mega: Repo, cluster: dict[str, str], tmp_path: Path) -> Repo:
    """mega's data and base model, a cluster, and the stand-in; with secrets in the environment."""
    mega.env |= cluster | image(tmp_path) | {"HF_TOKEN": "secret-token", "WANDB_API_KEY": "secret-key"}
    return mega


def steps(repo: Repo) -> list[int]:
    return list(saved.saved_steps("nemo-rl", repo.run_dir("mega") / "train/checkpoints"))


def logs(repo: Repo, job: Job) -> Path:
    return repo.run_dir("mega") / "train/logs" / f"{job.id}-{job.field('Restarts')}"


def until(job: Job, holds: Callable[[], bool], seconds: float) -> None:
    """Wait for something that a running job does; fails as soon as the job has ended without it."""
    wait_until(lambda: holds() or job.field("JobState") not in ("PENDING", "RUNNING", "CONFIGURING"), seconds, job.log)
    assert holds(), job.log()


def down(repo: Repo, node: str, state: str) -> None:
    ok(repo.call("scontrol", "update", f"node={node}", f"state={state}", *(["reason=test"] if state == "down" else [])))


def test_a_chain_that_times_out_and_loses_a_node(ray: Repo) -> None:
    """Two links over four nodes: one ends before its time limit, one loses a node; then convert, average and eval."""
    for old, new in (("STEPS=60\nWARM", "STEPS=40\nWARM"), ("STEPS=40,50,60", "STEPS=20,30,40")):
        ray.edit("recipes/mega/round1.env", old, new)
    begun = time.time()
    options = {"JOBS": 2, "STANDIN_STEP": 3, "SAVE_RESERVE": 100, "SET_UP_RESERVE": 1, "REMOVE_AFTER_AVERAGE": 1}
    jobs = submit(ray, "mega", SBATCH_TIMELIMIT=3, BRING_UP=1, **options)
    assert [name for name, _ in jobs] == [
        "cache", "train", "train", "convert", "convert", "convert", "average", "eval", "results",
    ]  # fmt: skip
    first, second = jobs[1][1], jobs[2][1]
    for _, job in jobs[2:]:
        ok(ray.call("scontrol", "update", f"jobid={job.id}", "timelimit=20"))
    first.wait(240)
    assert first.field("ExitCode") == "75:0", first.log()
    ended = max(steps(ray))
    assert 0 < ended < 40, (steps(ray), first.log())
    driver = (logs(ray, first) / "driver.log").read_text()
    places = driver.split("places: ")[1].splitlines()[0].split()
    assert places == [f"node{n}/{gpu}" for n in range(1, 5) for gpu in (0, 1)], "each GPU of each node once"
    assert "Timeout has been reached" in driver

    until(second, lambda: max(steps(ray)) > ended, 240)
    down(ray, "node3", "down")
    try:
        wait_until(lambda: second.field("Restarts") == "1", 90, second.log)
    finally:
        down(ray, "node3", "resume")
    assert second.wait(400) == "COMPLETED", second.log()
    assert steps(ray) == [10, 20, 30, 40], "the time-out save is superseded and gone"
    assert f"from step {ended} to 40" in second.log() and re.search(r"from step [123]0 to 40", second.log())
    for name, job in jobs[3:]:
        assert job.wait(200) == "COMPLETED", (name, job.log())

    run = ray.run_dir("mega")
    base, mean = (load_file(folder / "model.safetensors") for folder in (ray.work / "models/mega", run / "average"))
    assert base.keys() == mean.keys()
    for name, tensor in base.items():  # the stand-in adds 2**-10 to every weight in every step
        parts = [tensor + tensor.dtype.type(2.0**-10 * step) for step in (20, 30, 40)]
        assert ((parts[0] + parts[1] + parts[2]) / tensor.dtype.type(3) == mean[name]).all(), name
    assert not list((run / "convert").glob("step_*")), "REMOVE_AFTER_AVERAGE=1"
    known = driver_log.history(run / "train")
    assert sorted(known) == list(range(1, 41))
    assert scalars(run / "train")["train/loss"] == [(n, pytest.approx(row["loss"])) for n, row in known.items()]
    assert json.loads((run / "results/results.json").read_text())["steps"] == 40
    for file in run.rglob("*"):
        assert not file.is_file() or b"secret-" not in file.read_bytes(), file
    assert time.time() - begun < 1200


def link(repo: Repo, **env: object) -> Job:
    """A training link on two nodes, given to sbatch directly."""
    command = (
        "sbatch",
        "--parsable",
        "--nodelist=node1,node2",
        "--nodes=2",
        "--gpus-per-node=2",
        "--time=10",
        "sbatch/train.sbatch",
        "mega",
        "1",
    )
    # Without it the time limit leaves one second for training: on a busy machine fewer steps than the tests ask for.
    return Job(repo, ok(repo.call(*command, **{"SET_UP_RESERVE": 1} | env)).strip())


def last_line(job: Job) -> str:
    """The end of a job that has failed."""
    assert job.field("JobState") == "FAILED", job.log()
    return job.log().splitlines()[-1]


@pytest.fixture
def two_nodes(ray: Repo) -> Repo:
    ray.edit("recipes/mega/mega.env", "NODES=4", "NODES=2")
    return ray


def test_a_cancelled_link_saves_and_the_next_resumes_from_it(two_nodes: Repo) -> None:
    """make cancel: NeMo-RL saves after the step that it is at, as at its time limit."""
    repo = two_nodes
    queued = submit(repo, "mega", JOBS=2, STANDIN_STEP=2)
    first = next(job for name, job in queued if name == "train")
    record = repo.run_dir("mega") / "train"
    wait_until(lambda: len(driver_log.history(record)) >= 2, 240, first.log)
    said = ok(repo.call("make", "-s", "cancel", "MODEL=mega"))
    [saved_step] = steps(repo)
    assert 2 <= saved_step < 60 and f"the last checkpoint is step {saved_step} of 60" in said
    driver = (logs(repo, first) / "driver.log").read_text()
    assert "asked to save and end" in driver and "Timeout has been reached" in driver
    assert first.field("ExitCode") == "75:0" and max(driver_log.history(record)) == saved_step
    again = next(job for name, job in submit(repo, "mega", JOBS=1) if name == "train")
    until(again, lambda: f"from step {saved_step} to 60" in again.log(), 120)
    assert "cancelled train" in ok(repo.call("make", "-s", "cancel", "MODEL=mega", CANCEL_WAIT=0))


def test_links_that_fail_say_why_within_a_minute(two_nodes: Repo) -> None:
    """No base model for Megatron; a node that cannot come up; a driver that fails; then a checkpoint of which the
    optimizer is missing; then a driver that raises and would not end; then a worker node whose Ray dies."""
    repo = two_nodes
    job = link(repo)
    job.wait(60)
    assert "the base model is not converted for Megatron; run: make cache" in last_line(job)

    ok(repo.call("bash", "sbatch/cache.sbatch", "mega", "1"))
    job = link(repo, SETUP_COMMAND="[[ $(hostname) == node1 ]] || { echo no driver here; exit 4; }")
    assert job.wait(90) == "FAILED" and job.ran() <= 60, job.log()
    assert "node2: SETUP_COMMAND failed with status 4" in last_line(job)

    job = link(repo, RAY_CPUS=2)  # given to sbatch directly, so that nobody has looked before
    job.wait(60)
    assert "RAY_CPUS=2; give 3 or more" in last_line(job)

    job = link(repo, STANDIN_EXIT=7, STANDIN_AFTER=12)
    until(job, lambda: (logs(repo, job) / "end").exists(), 200)
    ended = time.time()
    job.wait(60)
    assert time.time() - ended <= 60 and "the driver ended with status 7" in last_line(job), job.log()
    assert "RuntimeError: STANDIN_EXIT" in job.log() and steps(repo) == [10]

    common = repo.run_dir("mega") / "train/checkpoints/step_10/policy/weights/iter_0000000/common.pt"
    common.rename(common.with_suffix(".away"))
    job = link(repo)
    job.wait(60)
    assert "step_10 has no optimizer state" in last_line(job), "before any node is brought up"
    common.write_bytes(b"")  # it is there, but does not hold what it should: only the driver can see that
    job = link(repo, STANDIN_STEP=5)
    until(job, lambda: (logs(repo, job) / "failed").exists(), 200)
    ended = time.time()
    job.wait(60)
    assert time.time() - ended <= 60 and "no optimizer state" in last_line(job), job.log()
    assert steps(repo) == [10], "nothing was trained without it"

    shutil.rmtree(repo.run_dir("mega") / "train/checkpoints")
    job = link(repo, STANDIN_RAISE="out of luck", STANDIN_AFTER=2)
    until(job, lambda: (logs(repo, job) / "reason").exists(), 200)
    ended = time.time()
    job.wait(60)
    assert time.time() - ended <= 60 and "status 1 (RuntimeError: out of luck)" in last_line(job), job.log()

    job = link(repo, STANDIN_STEP=1)
    until(job, lambda: (logs(repo, job) / "training").exists(), 200)
    address = (logs(repo, job) / "head").read_text().rpartition(".")[0]
    raylets = [pid for pid, line in processes() if "raylet" in line.split(" ")[0] and f"={address}.2 " in line]
    assert len(raylets) == 1, raylets
    os.kill(raylets[0], signal.SIGKILL)
    ended = time.time()
    job.wait(90)
    assert time.time() - ended <= 60 and "node2: Ray ended here" in last_line(job), job.log()


def processes() -> Iterator[tuple[int, str]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                yield int(folder.name), (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
