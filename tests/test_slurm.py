"""The chain on a real Slurm with four virtual nodes, each with a network and a host name of its own."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import checkpoints
from conftest import ROOT, Repo, failed, ok
from test_train import workers


class Job:
    """One job, as scontrol knows it."""

    def __init__(self, repo: Repo, id_: str):
        self.repo, self.id = repo, id_

    def field(self, name: str) -> str:
        shown = ok(self.repo.call("scontrol", "show", "job", self.id, timeout=20))
        found = re.search(rf"\b{name}=(\S*)", shown)
        assert found, shown
        return found[1]

    def wait(self, seconds: float) -> str:
        """Wait for the end of the job; returns its state."""
        wait_until(
            lambda: self.field("JobState") not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING"), seconds, self.log
        )
        return self.field("JobState")

    def log(self) -> str:
        file = Path(self.field("StdOut"))
        return f"{self.id} {self.field('JobState')}\n" + (file.read_text() if file.is_file() else "")

    def ran(self) -> int:
        """Seconds of run time."""
        hours, minutes, seconds = self.field("RunTime").split("-")[-1].split(":")
        return int(hours) * 3600 + int(minutes) * 60 + int(seconds)


def wait_until(holds: Callable[[], bool], seconds: float, what: Callable[[], str]) -> None:
    deadline = time.time() + seconds
    while not holds():
        assert time.time() < deadline, what()
        time.sleep(0.2)


def submit(repo: Repo, model: str = "mini", **env: object) -> list[tuple[str, Job]]:
    """Queue the chain; returns (stage, job) in order."""
    ok(repo.call("scripts/submit.sh", "train", model, "1", **env))
    lines = (repo.run_dir(model) / "chain.tsv").read_text().splitlines()
    return [(line.split("\t")[1], Job(repo, line.split("\t")[2])) for line in lines]


@pytest.fixture
def slurm(copy: Repo, cluster: dict[str, str]) -> Repo:
    """mini's data and base model, and a cluster to run it on."""
    copy.env |= cluster
    return copy


@pytest.fixture
def slurm_finished(finished: Repo, cluster: dict[str, str]) -> Repo:
    finished.env |= cluster
    return finished


def test_a_chain_whose_first_link_runs_into_its_time_limit(slurm: Repo) -> None:
    """Slurm's TERM at the limit makes a checkpoint; the second link goes on from it; the rest of the chain follows.

    To spend a minute without computing for one, the workers of the first link are stopped for most of it.
    """
    slurm.edit("recipes/mini.round1.env", "STEPS=60", "STEPS=400")
    slurm.edit("recipes/mini.round1.env", "SAVE_EVERY=10", "SAVE_EVERY=100")
    slurm.edit("recipes/mini.round1.env", "=40,50,60", "=300,400")
    jobs = submit(slurm, SBATCH_TIMELIMIT="1", SAVE_RESERVE="0")
    assert [name for name, _ in jobs] == ["train", "train", "convert", "convert", "average", "eval", "results"]
    first, second = jobs[0][1], jobs[1][1]
    for _, job in jobs[1:]:
        ok(slurm.call("scontrol", "update", f"jobid={job.id}", "timelimit=10"))
    wait_until(lambda: len(slurm.losses()) >= 10, 55, first.log)
    for pid in workers(slurm):
        os.kill(pid, signal.SIGSTOP)
    status = ok(slurm.call("scripts/status.sh", "mini", "1"))
    assert re.search(
        rf"^train +running +step \d+/400, saved 0 .*{first.id}:running {second.id}:pending", status, re.MULTILINE
    )
    assert re.search(r"^convert +pending", status, re.MULTILINE)
    # At the limit Slurm itself wakes them (SIGCONT, then SIGTERM); they have KillWait = 5 s to save.
    assert first.wait(100) == "TIMEOUT", first.log()
    saved = checkpoints.saved_steps("automodel", slurm.run_dir() / "train/checkpoints")
    assert max(saved) % 100 and max(saved) < 400, (saved, first.log())
    assert second.wait(180) == "COMPLETED", second.log()
    assert f"from step {max(saved)} to 400" in second.log()
    for name, job in jobs[2:]:
        assert job.wait(120) == "COMPLETED", (name, job.log())
    result = json.loads((slurm.run_dir() / "results/results.json").read_text())
    assert (result["steps"], result["links"]) == (400, 2)
    assert sorted(slurm.losses()) == list(range(1, 401))


def test_a_link_ends_by_itself_before_its_time_limit(slurm: Repo) -> None:
    """The job asks Slurm for its end. With a reserve beyond the limit the link makes one step and says why."""
    command = ("sbatch", "--parsable", "--time=5", "sbatch/train.sbatch", "mini", "1")
    job = Job(slurm, ok(slurm.call(*command, SAVE_RESERVE="600")).strip())
    assert job.wait(90) == "FAILED" and job.field("ExitCode") == "75:0", job.log()
    assert "SAVE_RESERVE=600 leaves nothing" in job.log() and "the link is over after step 1" in job.log()
    assert list(checkpoints.saved_steps("automodel", slurm.run_dir() / "train/checkpoints")) in ([1], [2])


def test_a_failing_convert_cancels_what_follows(slurm_finished: Repo) -> None:
    repo = slurm_finished
    for name in ("convert", "average", "eval", "results"):
        shutil.rmtree(repo.run_dir() / name)
    exported = next((repo.run_dir() / "train/checkpoints").glob("epoch_*_step_49")) / "model/consolidated"
    file = next(exported.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1])
    jobs = submit(repo)
    states = [(name, job.wait(90)) for name, job in jobs]
    assert states == [
        ("train", "COMPLETED"), ("train", "COMPLETED"),
        ("convert", "COMPLETED"), ("convert", "FAILED"), ("convert", "COMPLETED"),
        ("average", "CANCELLED"), ("eval", "CANCELLED"), ("results", "CANCELLED"),
    ], {name: job.log() for name, job in jobs}  # fmt: skip
    assert "truncated" in jobs[3][1].log() and "Traceback" not in jobs[3][1].log()
    assert not (repo.run_dir() / "average").exists()
    status = ok(repo.call("scripts/status.sh", "mini", "1"))
    assert re.search(r"^convert +failed +2/3", status, re.MULTILINE) and re.search(
        r"^eval +cancelled", status, re.MULTILINE
    )


def test_a_finished_run_submitted_again_ends_in_seconds(slurm_finished: Repo) -> None:
    before = (slurm_finished.run_dir() / "results/DONE").read_text()
    jobs = submit(slurm_finished, JOBS=3)
    for name, job in jobs:
        assert job.wait(60) == "COMPLETED", job.log()
        assert job.ran() <= 10, (name, job.ran())
        assert "already" in job.log()
    assert (slurm_finished.run_dir() / "results/DONE").read_text() == before


def test_two_nodes_and_a_lost_one(slurm: Repo) -> None:
    """A link on two nodes; the same with a node set down in mid-training: requeued, resumed, same losses, exactly."""
    slurm.derive("nodes", NODES=2)
    slurm.derive("lost", NODES=2)
    whole = Job(slurm, ok(slurm.call("sbatch", "--parsable", "--nodes=2", "sbatch/train.sbatch", "nodes", "1")).strip())
    assert whole.wait(180) == "COMPLETED", whole.log()
    assert "2 node(s) x 1 process(es)" in whole.log()
    lost = Job(slurm, ok(slurm.call("sbatch", "--parsable", "--nodes=2", "sbatch/train.sbatch", "lost", "1")).strip())
    wait_until(lambda: len(slurm.losses("lost")) >= 25, 120, lost.log)
    hosts = ok(slurm.call("scontrol", "show", "hostnames", lost.field("NodeList"))).split()
    ok(slurm.call("scontrol", "update", f"node={hosts[1]}", "state=down", "reason=test"))
    try:
        wait_until(lambda: lost.field("Restarts") == "1" and lost.field("JobState") == "RUNNING", 90, lost.log)
        assert hosts[1] not in ok(slurm.call("scontrol", "show", "hostnames", lost.field("NodeList"))).split()
        assert lost.wait(180) == "COMPLETED", lost.log()
    finally:
        ok(slurm.call("scontrol", "update", f"node={hosts[1]}", "state=resume"))
    assert re.search(r"from step [1-5]\d to 60", lost.log()), lost.log()
    assert slurm.losses("lost") == slurm.losses("nodes") and len(slurm.losses("nodes")) == 60


def test_sbatch_directly(slurm: Repo, trained: Repo) -> None:
    """sbatch sbatch/train.sbatch MODEL ROUND from the repository's root; losses as those of the local launcher."""
    job = Job(slurm, ok(slurm.call("sbatch", "--parsable", "sbatch/train.sbatch", "mini", "1")).strip())
    assert job.wait(120) == "COMPLETED", job.log()
    assert slurm.losses() == trained.losses()
    code = (slurm.run_dir() / "code" / f"job-{job.id}").read_text().strip()
    assert f"code {code}" in job.log() and Path(code).parent == slurm.run_dir() / "code"


def test_wrong_jobs_say_so(slurm: Repo) -> None:
    """The number of nodes is the recipe's; a folder that is not the repository cannot be submitted from."""
    slurm.derive("nodes", NODES=2)
    job = Job(slurm, ok(slurm.call("sbatch", "--parsable", "--nodes=1", "sbatch/train.sbatch", "nodes", "1")).strip())
    assert job.wait(60) == "FAILED" and "submit it with --nodes=2" in job.log()
    job = Job(slurm, ok(slurm.call("sbatch", "--parsable", "sbatch/convert.sbatch", "mini", "1")).strip())
    assert job.wait(60) == "FAILED" and "run: make train" in job.log() and "Traceback" not in job.log()
    elsewhere = f"cd {slurm.work} && sbatch --parsable {slurm.root}/sbatch/train.sbatch mini 1"
    job = Job(slurm, ok(slurm.call("bash", "-c", elsewhere)).strip())
    assert job.wait(60) == "FAILED" and "run sbatch from the repository's root" in job.log()
    assert len(job.log().splitlines()) == 2, job.log()


def test_a_queued_chain_keeps_its_code_and_keeps_others_out(slurm_finished: Repo) -> None:
    """Submitted while the partition is down; then the working tree changes; then the partition comes up."""
    repo = slurm_finished
    shutil.rmtree(repo.run_dir() / "results")
    ok(repo.call("scontrol", "update", "partition=batch", "state=down"))
    try:
        jobs = submit(repo, JOBS=1)
        failed(repo.call("scripts/submit.sh", "train", "mini", "1"), "of this run is still PENDING", "scancel")
        failed(repo.call("scripts/submit.sh", "eval", "mini", "1"), "of this run is still PENDING")
        for name in ("train", "results"):
            (repo.root / "python" / f"{name}.py").write_text("raise SystemExit('the working tree ran')\n")
    finally:
        ok(repo.call("scontrol", "update", "partition=batch", "state=up"))
    for _, job in jobs:
        assert job.wait(90) == "COMPLETED", job.log()
    [snapshot] = [p for p in (repo.run_dir() / "code").iterdir() if (p / "SNAPSHOT").is_file()]
    assert repo.done(repo.run_dir() / "results")["code"] == json.loads((snapshot / "SNAPSHOT").read_text())


def test_a_machine_without_slurm_fails_in_ci_and_skips_elsewhere(tmp_path: Path) -> None:
    """The fixture with a cluster that cannot come up: a port that is none."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path}/nested"]
    command += ["-p", "no:xdist", f"{ROOT}/tests/test_slurm.py", "-k", "wrong_jobs"]
    env = {k: v for k, v in os.environ.items() if k != "CI" and not k.startswith("PYTEST")} | {"PORT_BASE": "none"}
    for ci, code, word in ((None, 0, "1 skipped"), ("true", 1, "1 error")):
        run = subprocess.run(
            command, cwd=ROOT, env=env | ({"CI": ci} if ci else {}), capture_output=True, text=True, timeout=120
        )
        assert run.returncode == code and word in run.stdout and "PORT_BASE is 'none'" in run.stdout, run.stdout


def test_a_chain_after_other_jobs(slurm_finished: Repo) -> None:
    """Slurm takes a dependency on a job that does not exist for fulfilled; here it is refused."""
    repo = slurm_finished
    failed(
        repo.call("scripts/submit.sh", "train", "mini", "1", RUN_AFTER="999999"), "RUN_AFTER: Slurm knows no job 999999"
    )
    before = [ok(repo.call("sbatch", "--parsable", "--wrap", f"exit {n}")).strip() for n in (0, 1)]
    for name, job in submit(repo, JOBS=1, RUN_AFTER=before[0]):
        assert job.wait(60) == "COMPLETED", (name, job.log())
    states = [job.wait(60) for _, job in submit(repo, JOBS=2, RUN_AFTER=",".join(before))]
    assert set(states) == {"CANCELLED"}, "one of the jobs before it has failed"


def test_refusals_of_slurm_are_one_line(slurm: Repo) -> None:
    result = slurm.call("scripts/submit.sh", "train", "mini", "1", SBATCH_PARTITION="nowhere")
    failed(result, "sbatch refused the train job (invalid partition specified: nowhere)")
    assert (slurm.run_dir() / "chain.tsv").read_text() == ""

    # The third of six is refused: the two before it do not stay behind.
    fake = slurm.root / "bin"
    fake.mkdir()
    real = shutil.which("sbatch")
    script = f'case "$*" in *convert*) echo "sbatch: error: full" >&2; exit 1;; esac\nexec {real} --hold "$@"\n'
    (fake / "sbatch").write_text("#!/bin/sh\n" + script)
    (fake / "sbatch").chmod(0o755)
    path = f"{fake}:{os.environ['PATH']}"
    failed(slurm.call("scripts/submit.sh", "train", "mini", "1", PATH=path), "refused the convert job (full)")
    assert ok(slurm.call("squeue", "-h", "-t", "PENDING,RUNNING", "-o", "%j")) == ""
