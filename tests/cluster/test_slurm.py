"""The chain on a real Slurm with four virtual nodes, each with a network and a host name of its own."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_train import workers

from conftest import ROOT, Repo, failed, ok, running_slurm
from sft.engines.saved import saved_steps
from sft.site.programs import KEPT


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


@pytest.mark.slow
def test_a_chain_whose_first_link_runs_into_its_time_limit(slurm: Repo) -> None:
    """Slurm's TERM at the limit makes a checkpoint; the second link goes on from it; the conversions and their average
    follow. (A whole chain with its evaluation is in test_prepare.py.)

    To spend a minute without computing for one, the workers of the first link are stopped for most of it.
    """
    slurm.edit("recipes/mini/round1.env", "STEPS=60", "STEPS=400")
    slurm.edit("recipes/mini/round1.env", "SAVE_EVERY=10", "SAVE_EVERY=100")
    slurm.edit("recipes/mini/round1.env", "=40,50,60", "=300,400")
    jobs = submit(slurm, SBATCH_TIMELIMIT="1", SAVE_RESERVE="0", EVAL="no")
    assert [name for name, _ in jobs] == ["train", "train", "convert", "convert", "average"]
    first, second = jobs[0][1], jobs[1][1]
    for _, job in jobs[1:]:
        ok(slurm.call("scontrol", "update", f"jobid={job.id}", "timelimit=10"))
    wait_until(lambda: len(slurm.losses()) >= 10, 55, first.log)
    for pid in workers(slurm):
        os.kill(pid, signal.SIGSTOP)
    status = ok(slurm.call("scripts/tool.sh", "status", "mini", "1"))
    assert re.search(
        rf"^train +running +step \d+/400, saved 0, link 1 of 2 .*{first.id} running \(node\d\), {second.id} pending",
        status,
        re.MULTILINE,
    )
    assert re.search(r"^convert +pending", status, re.MULTILINE)
    # At the limit Slurm itself wakes them (SIGCONT, then SIGTERM); they have KillWait = 5 s to save.
    assert first.wait(100) == "TIMEOUT", first.log()
    saved = saved_steps("automodel", slurm.run_dir() / "train/checkpoints")
    assert max(saved) % 100 and max(saved) < 400, (saved, first.log())
    assert second.wait(180) == "COMPLETED", second.log()
    assert f"from step {max(saved)} to 400" in second.log()
    for name, job in jobs[2:]:
        assert job.wait(120) == "COMPLETED", (name, job.log())
    done = slurm.done(slurm.run_dir() / "train")
    assert (done["steps"], done["links"]) == (400, 2)
    assert slurm.done(slurm.run_dir() / "average")["outputs"]
    assert sorted(slurm.losses()) == list(range(1, 401))


@pytest.mark.slow
def test_a_link_ends_by_itself_before_its_time_limit(slurm: Repo) -> None:
    """The job asks Slurm for its end. With a reserve beyond the limit the link makes one step and says why.

    Also where a site's default hands nothing of the environment to jobs: cluster.env has what is needed, and the job's
    own step gets all that the job has.
    """
    (slurm.root / "cluster.env").write_text(f"WORK={slurm.work}\nVENV={slurm.env['VENV']}\nSAVE_RESERVE=600\n")
    command = ("sbatch", "--parsable", "--time=5", "sbatch/train.sbatch", "mini", "1")
    job = Job(slurm, ok(slurm.call(*command, SBATCH_EXPORT="NONE", WORK="/nowhere")).strip())
    assert job.wait(90) == "FAILED" and job.field("ExitCode") == "75:0", job.log()
    assert "SAVE_RESERVE=600 leaves nothing" in job.log() and "the link is over after step 1" in job.log()
    assert (
        f"nothing of the environment that it was queued from (SBATCH_EXPORT=NONE): WORK is {slurm.work}\n" in job.log()
    )
    assert list(saved_steps("automodel", slurm.run_dir() / "train/checkpoints")) in ([1], [2])


@pytest.mark.slow
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
        ("convert", "COMPLETED"), ("convert", "FAILED"), ("convert", "COMPLETED"),
        ("average", "CANCELLED"), ("eval", "CANCELLED"), ("results", "CANCELLED"),
    ], {name: job.log() for name, job in jobs}  # fmt: skip
    assert "truncated" in jobs[1][1].log() and "Traceback" not in jobs[1][1].log()
    assert not (repo.run_dir() / "average").exists()
    status = ok(repo.call("scripts/tool.sh", "status", "mini", "1"))
    assert re.search(r"^convert +failed +2/3", status, re.MULTILINE) and re.search(
        r"^eval +cancelled", status, re.MULTILINE
    )


@pytest.mark.slow
def test_a_finished_run_submitted_again_ends_in_seconds(slurm_finished: Repo) -> None:
    before = (slurm_finished.run_dir() / "results/DONE").read_text()
    jobs = submit(slurm_finished, JOBS=3)
    assert "train" not in [name for name, _ in jobs], "no link waits for its nodes, only to find nothing to do"
    for name, job in jobs:
        assert job.wait(60) == "COMPLETED", job.log()
        assert job.ran() <= 10, (name, job.ran())
        assert "already" in job.log()
    assert (slurm_finished.run_dir() / "results/DONE").read_text() == before


@pytest.mark.slow
def test_two_nodes_and_a_lost_one(slurm: Repo, trained_pair: Repo) -> None:
    """A link on two nodes, one of which is set down in mid-training: requeued, resumed, and the losses of two processes
    that nobody interrupted on one node, to the last digit."""
    slurm.derive("lost", NODES=2)
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
    assert "NODES=2 GPUS_PER_NODE=1" in lost.log()
    assert slurm.losses("lost") == trained_pair.losses("pair") and len(slurm.losses("lost")) == 60


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_queued_chain_keeps_its_code_and_keeps_others_out(slurm_finished: Repo) -> None:
    """Submitted while the partition is down; then the working tree changes; then the partition comes up."""
    repo = slurm_finished
    shutil.rmtree(repo.run_dir() / "results")
    ok(repo.call("scontrol", "update", "partition=batch", "state=down"))
    try:
        jobs = submit(repo, JOBS=1, DOCTOR="no")
        for stage in ("train", "eval", "results"):  # the last has nothing to read yet: the chain comes first
            result = repo.call("scripts/submit.sh", stage, "mini", "1", DOCTOR="no")
            failed(result, "of this run is still PENDING", "make cancel MODEL=mini ROUND=1")
        for name in ("train", "results"):
            (repo.root / "python" / f"{name}.py").write_text("raise SystemExit('the working tree ran')\n")
    finally:
        ok(repo.call("scontrol", "update", "partition=batch", "state=up"))
    for _, job in jobs:
        assert job.wait(90) == "COMPLETED", job.log()
    [snapshot] = [p for p in (repo.run_dir() / "code").iterdir() if (p / "SNAPSHOT").is_file()]
    assert repo.done(repo.run_dir() / "results")["code"] == json.loads((snapshot / "SNAPSHOT").read_text())


@pytest.mark.slow
def test_a_machine_without_slurm_fails_in_ci_and_skips_elsewhere(tmp_path: Path) -> None:
    """The fixture with a cluster that cannot come up: a port that is none."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path}/nested"]
    command += ["-p", "no:xdist", f"{ROOT}/tests/cluster/test_slurm.py", "-k", "wrong_jobs"]
    env = {k: v for k, v in os.environ.items() if k != "CI" and not k.startswith("PYTEST")} | {"PORT_BASE": "none"}
    for ci, code, word in ((None, 0, "1 skipped"), ("true", 1, "1 error")):
        run = subprocess.run(
            command, cwd=ROOT, env=env | ({"CI": ci} if ci else {}), capture_output=True, text=True, timeout=120
        )
        assert run.returncode == code and word in run.stdout and "PORT_BASE is 'none'" in run.stdout, run.stdout


@pytest.mark.slow
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


@pytest.mark.slow
def test_an_evaluation_in_an_array_of_jobs(slurm_finished: Repo) -> None:
    """Two shares of each model's answers, then their grades and the results in one job, after an eval of one job."""
    repo = slurm_finished
    names = ("problem", "sample", "seed", "question", "expected_answer")
    folder = repo.run_dir() / "eval"

    def asked() -> dict[str, list[tuple[Any, ...]]]:
        rows = {path.name: map(json.loads, path.read_text().splitlines()) for path in folder.glob("*.jsonl")}
        return {name: [tuple(row[key] for key in names) for row in of] for name, of in rows.items()}

    whole = asked()
    assert set(whole) == {"baseline.mini.cot.jsonl", "trained.mini.cot.jsonl"}
    assert all(len(rows) > 9 for rows in whole.values())
    for name in ("eval", "results"):
        shutil.rmtree(repo.run_dir() / name)
    ok(repo.call("scripts/submit.sh", "eval", "mini", "1", EVAL_TASKS=2))
    queued = [line.split("\t")[1:] for line in (repo.run_dir() / "chain.tsv").read_text().splitlines()]
    assert [stage for stage, _ in queued] == ["eval", "results"]
    status = ok(repo.call("scripts/tool.sh", "status", "mini", "1"))
    assert re.search(rf"^eval +(pending|running|completed)\b.* {queued[0][1]} ", status, re.MULTILINE), status
    results = Job(repo, queued[1][1])
    assert results.wait(300) == "COMPLETED", results.log()
    assert asked() == whole
    assert repo.done(folder)["machine"]["engine"] == "transformers"
    logs = [path.read_text() for path in (repo.run_dir() / "logs").glob("eval-*.out")]
    assert sum("1-of-2" in log or "2-of-2" in log for log in logs) <= 4 <= len(logs)
    assert "scores" in json.loads((repo.run_dir() / "results/results.json").read_text())


def test_refusals_of_slurm_are_one_line(slurm: Repo) -> None:
    result = slurm.call("scripts/submit.sh", "train", "mini", "1", SBATCH_PARTITION="nowhere", DOCTOR="no")
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


# --- the user's and the site's environment -------------------------------------------------------------------------

# Each of these gives one of Slurm's programs an option, a filter or a format of the user's own.
HOSTILE = {
    "SLURM_TIME_FORMAT": "relative", "SQUEUE_USERS": "nobody", "SQUEUE_PARTITION": "nowhere", "SQUEUE_FORMAT": "%j",
    "SQUEUE_STATES": "FAILED", "SQUEUE_SORT": "-i", "SACCT_FORMAT": "User", "SCONTROL_ALL": "1", "SCANCEL_NAME": "none",
    "SBATCH_EXPORT": "NONE", "SLURM_EXPORT_ENV": "NONE", "SBATCH_ARRAY_INX": "1-2", "SBATCH_JOB_NAME": "mine",
    "SBATCH_OUTPUT": "/dev/null", "SBATCH_WAIT": "1", "SBATCH_OPEN_MODE": "truncate", "SBATCH_NO_REQUEUE": "1",
    "SBATCH_GPUS": "99", "SBATCH_TIMELIMIT": "5",
    "SLURM_NTASKS": "3", "SLURM_NNODES": "3", "SLURM_MEM_PER_CPU": "1", "SLURM_MEM_PER_NODE": "1", "SLURM_LABELIO": "1",
    "SLURM_STDOUTMODE": "none", "SLURM_DISTRIBUTION": "plane=7", "SLURM_CPU_BIND": "map_cpu:99",
    "SLURM_KILL_BAD_EXIT": "0", "SLURM_THREADS": "9", "SLURM_WAIT": "1", "SLURM_UNBUFFEREDIO": "1",
    "SRUN_EXPORT_ENV": "NONE", "SRUN_CPUS_PER_TASK": "99",
}  # fmt: skip


def script(folder: Path, name: str, text: str) -> str:
    """Write a program `name` that takes precedence over the real one; returns the PATH in which it does."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.slow
def test_the_users_slurm_variables_change_nothing(slurm: Repo) -> None:
    """A link in WORK of the command line, that knows its end and is known by its name; a second chain is refused.

    SBATCH_TIMELIMIT is one of those that users set for all of their jobs: it goes on working. LINK_END reaches the
    process that trains, through sbatch and srun, or the link would not end after its first step.
    """
    (slurm.root / "start").write_text('echo Welcome; cd() { builtin cd "$@" && echo Moved; }; export -f cd\n')
    hostile = HOSTILE | {"BASH_ENV": str(slurm.root / "start"), "CDPATH": ".", "DOCTOR": "no"}  # the partition is down
    ok(slurm.call("scontrol", "update", "partition=batch", "state=down"))
    try:
        [(name, train), *others] = submit(slurm, JOBS=1, SAVE_RESERVE="600", **hostile)
        assert (name, len(others)) == ("train", 6)
        failed(
            slurm.call("scripts/submit.sh", "train", "mini", "1", **hostile),
            f"job {train.id} of this run is still PENDING",
        )
        shown = ok(slurm.call("scripts/tool.sh", "status", "mini", "1", **hostile))
        assert re.search(rf"^train +pending .*{train.id} pending", shown, re.MULTILINE), shown
    finally:
        ok(slurm.call("scontrol", "update", "partition=batch", "state=up"))
    assert train.wait(90) == "FAILED" and train.field("ExitCode") == "75:0", train.log()
    assert [train.field(key) for key in ("JobName", "TimeLimit", "Requeue")] == ["train-mini-1", "00:05:00", "1"]
    assert train.field("StdOut") == str(slurm.run_dir() / "logs" / f"train-{train.id}.out")
    assert "SAVE_RESERVE=600 leaves nothing" in train.log() and "the link is over after step 1" in train.log()
    assert f"code {slurm.run_dir()}/code/" in train.log()
    assert list(saved_steps("automodel", slurm.run_dir() / "train/checkpoints")) in ([1], [2])


def test_an_end_that_cannot_be_read_is_an_error(slurm: Repo) -> None:
    """squeue takes precedence over the variable of the job's start; either will do. Without a limit there is no end."""
    path = script(slurm.root / "bin", "squeue", 'echo Welcome; echo "${ANSWER-}"')
    job_end = (". scripts/lib.sh; sleep() { :; }; job_end",)

    def end(**env: str) -> subprocess.CompletedProcess[str]:
        return slurm.call("bash", "-c", *job_end, PATH=path, SLURM_JOB_ID="7", **env)

    assert ok(end(ANSWER="1795698332")) == "1795698332\n"
    assert ok(end(ANSWER="1795698332", SLURM_JOB_END_TIME="1795690000")) == "1795698332\n"
    assert ok(end(ANSWER="13:05:32", SLURM_JOB_END_TIME="1795690000")) == "1795690000\n"
    assert ok(end(ANSWER="N/A")) == ""
    for answer in ("13:05:32", "26 Nov 2027", ""):
        failed(end(ANSWER=answer), "the end of job 7 cannot be read", "set SAVE_RESERVE=0")


@pytest.mark.slow
def test_sbatch_that_talks(slurm: Repo) -> None:
    """A site's wrapper: the chain is queued all the same. One that says no number leaves nothing queued."""
    banner = 'echo "*** Maintenance on day 12 ***"; echo 42 projects'
    real = shutil.which("sbatch")
    path = script(slurm.root / "bin", "sbatch", f'{banner}; {real} --hold "$@"; s=$?; echo "Have a nice day"; exit $s')
    jobs = submit(slurm, JOBS=1, PATH=path)
    assert [name for name, _ in jobs] == ["train", "convert", "convert", "convert", "average", "eval", "results"]
    assert [job.field("JobName").split("-")[0] for _, job in jobs] == [name for name, _ in jobs]
    ok(slurm.call("scancel", *(job.id for _, job in jobs)))

    quiet = f'{banner}; case "$*" in *convert*) {real} --hold "$@" >/dev/null;; *) {real} --hold "$@";; esac'
    path = script(slurm.root / "bin", "sbatch", quiet)
    other = ok(
        slurm.call("sbatch", "--parsable", "--hold", "--job-name=train-mini-1", "sbatch/train.sbatch", "mini", "1")
    ).strip()
    failed(
        slurm.call("scripts/submit.sh", "train", "mini", "1", PATH=path),
        "sbatch gave no number for the convert job (*** Maintenance on day 12 ***)", "nothing is queued",
    )  # fmt: skip
    assert ok(slurm.call("squeue", "-h", "-t", "PENDING,RUNNING", "-o", "%i")) == f"{other}\n"
    ok(slurm.call("scancel", other))


@pytest.mark.parametrize("launcher", [("srun", "-n1"), ("salloc", "-n2", "--mem-per-cpu=100")])
@pytest.mark.slow
def test_a_link_inside_an_allocation(slurm: Repo, launcher: tuple[str, ...]) -> None:
    """In a step, and in salloc's shell: the link neither waits for them nor takes their options."""
    command = (*launcher, "bash", "sbatch/train.sbatch", "mini", "1")
    result = slurm.call(*command, timeout=120, LINK_STEPS=1, LAUNCHER="local")
    assert "the link is over after step 1" in result.stdout, result.stdout + result.stderr
    assert result.returncode == 75


@pytest.mark.slow
def test_a_chain_queued_inside_an_allocation(slurm: Repo) -> None:
    """The job's own step does not take over the memory, tasks and binding of the one around it."""
    around = ("salloc", "-n2", "--cpus-per-task=2", "--mem=1000", "srun", "-n1", "--mem=500")
    ok(
        slurm.call(
            *around, "scripts/submit.sh", "train", "mini", "1", JOBS=1, LINK_STEPS=1, SBATCH_MEM_PER_CPU=10, timeout=60
        )
    )
    chain = (slurm.run_dir() / "chain.tsv").read_text().splitlines()
    train = Job(slurm, chain[0].split("\t")[2])
    assert train.wait(90) == "FAILED" and train.field("ExitCode") == "75:0", train.log()
    assert "the link is over after step 1" in train.log() and train.field("MinMemoryCPU") == "10M"


def test_the_last_errors_are_slurms_own_too(slurm: Repo) -> None:
    path = script(
        slurm.root / "bin",
        "srun",
        'echo "srun: fatal: SLURM_MEM_PER_CPU and SLURM_MEM_PER_NODE are exclusive" >&2; exit 1',
    )
    result = slurm.call("salloc", "bash", "sbatch/train.sbatch", "mini", "1", PATH=path)
    assert "\nsrun: fatal: SLURM_MEM_PER_CPU and SLURM_MEM_PER_NODE are exclusive\n" in result.stdout


def test_a_step_has_the_gpus_of_either_form(slurm: Repo) -> None:
    outer = '. scripts/lib.sh; gpus_option 2; slurm salloc -N1 "${GPUS_OPTION[@]}"'
    inner = (
        '. scripts/lib.sh; gpus_option 2; step --nodes=1 --ntasks=1 "${GPUS_OPTION[@]}" printenv CUDA_VISIBLE_DEVICES'
    )
    for form in ("gres", "gpus-per-node"):
        assert ok(slurm.call("bash", "-c", f"{outer} bash -c '{inner}'", GPUS_FLAG=form)) == "0,1\n"


def test_ray_has_a_folder_by_user_and_job(repo: Repo, tmp_path: Path) -> None:
    """Not /tmp/ray, which may be another user's; removed at the end; short enough for a socket."""
    path = script(tmp_path / "bin", "ray", 'printf "%s\\n" "$RAY_TMPDIR" >"$SEEN"; touch "$RAY_TMPDIR/file"; exit 1')
    tmp = Path(tempfile.mkdtemp(dir="/tmp", prefix="r"))
    logs, seen = tmp_path / "logs", tmp_path / "seen"
    logs.mkdir()
    (logs / "canary").write_text("12345678-99")
    env = {"RAY_CANARY": "12345678-99", "RAY_HEAD": "127.0.0.1", "RAY_PORT": "9", "RAY_NODES": "1", "RAY_GPUS": "1"}
    env |= {"RAY_CPUS": "2", "RAY_TRIES": "1", "SLURM_JOB_UID": "1000123", "SEEN": str(seen), "PATH": path}

    def head(folder: Path) -> subprocess.CompletedProcess[str]:
        (logs / "failed").unlink(missing_ok=True)
        return repo.call("scripts/engines/ray.sh", logs, "true", RAY_TMPDIR=folder, **env)

    try:
        assert "Ray did not start on the head" in head(tmp).stdout
        assert seen.read_text() == f"{tmp}/ray-1000123/12345678\n"
        assert not (tmp / "ray-1000123/12345678").exists() and (tmp / "ray-1000123").stat().st_mode & 0o777 == 0o700
        os.chown(tmp / "ray-1000123", 65534, 65534)
        assert head(tmp).returncode == 1
        assert f"{tmp}/ray-1000123 is not yours; set RAY_TMPDIR" in (logs / "failed").read_text()
        assert head(tmp / ("x" * 20)).returncode == 1 and "too long for Ray's sockets" in (logs / "failed").read_text()
    finally:
        shutil.rmtree(tmp)


# sacct -n -X -P -o JobID,State,ExitCode of Slurm 22.05.8 with slurmdbd, of jobs that completed, failed, were cancelled
# by a user and by a dependency, lost their node, and wait since they were requeued.
SACCT = "1|COMPLETED|0:0\n2|FAILED|3:0\n3|CANCELLED by 0|0:0\n4|CANCELLED|0:0\n6|NODE_FAIL|0:0\n5|PENDING|0:0\n"


def test_status_of_jobs_that_slurm_has_forgotten(copy: Repo) -> None:
    """squeue knows nothing any more, sacct does; and without accounts the state is left out, as before."""
    bin_ = copy.root / "bin"
    path = script(bin_, "squeue", 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1')
    script(bin_, "sacct", f"echo Welcome; [[ -z ${{SACCT_FORMAT:-}} ]] && printf '{SACCT}'".replace("\n", "\\n"))
    copy.run_dir().mkdir(parents=True)
    rows = [("train", 2), ("train", 6), ("convert", 1), ("average", 3), ("eval", 4), ("results", 5)]
    (copy.run_dir() / "chain.tsv").write_text("".join(f"2026-01-01T00:00:00\t{name}\t{id_}\n" for name, id_ in rows))
    out = ok(copy.call("scripts/tool.sh", "status", "mini", "1", PATH=path, SACCT_FORMAT="User"))
    assert re.search(r"^train +node_fail +step 0/60, saved 0 +2 failed, 6 node_fail$", out, re.MULTILINE), out
    assert re.search(r"^average +cancelled +3 cancelled$", out, re.MULTILINE) and "note:" not in out
    assert re.search(r"^results +- +5$", out, re.MULTILINE), out
    assert f"local keep='{KEPT}'" in (ROOT / "scripts/slurm.sh").read_text()
    script(bin_, "sacct", 'echo "Slurm accounting storage is disabled" >&2; exit 1')
    out = ok(copy.call("scripts/tool.sh", "status", "mini", "1", PATH=path))
    assert re.search(r"^average +- +3$", out, re.MULTILINE), out


@pytest.mark.slow
def test_status_from_real_accounts(copy: Repo) -> None:
    """slurmdbd's own answer, under variables that would change it, once squeue knows nothing any more."""
    copy.run_dir().mkdir(parents=True)
    with running_slurm(nodes=1, ACCOUNTS="yes") as env:
        copy.env |= env
        commands = (("train", "exit 3"), ("convert", "true"), ("average", "true"))
        ids = [ok(copy.call("sbatch", "--parsable", "--wrap", command)).strip() for _, command in commands[:2]]
        ids.append(ok(copy.call("sbatch", "--parsable", "--hold", "--wrap", "true")).strip())
        ok(copy.call("scancel", ids[2]))
        for id_ in ids:
            Job(copy, id_).wait(60)
        rows = [f"2026-01-01T00:00:00\t{name}\t{id_}\n" for (name, _), id_ in zip(commands, ids, strict=True)]
        (copy.run_dir() / "chain.tsv").write_text("".join(rows))
        path = script(copy.root / "bin", "squeue", 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1')

        def status() -> str:
            return ok(
                copy.call(
                    "scripts/tool.sh", "status", "mini", "1", PATH=path, SACCT_FORMAT="User", SLURM_TIME_FORMAT="%s"
                )
            )

        want = [rf"train +failed .* {ids[0]} failed", rf"convert +completed .* {ids[1]} completed"]
        want.append(rf"average +cancelled +{ids[2]} cancelled")
        wait_until(lambda: all(re.search(f"^{line}$", status(), re.MULTILINE) for line in want), 30, status)


@pytest.mark.slow
def test_a_cluster_without_gres(copy: Repo) -> None:
    """GPUs that Slurm does not count: it refuses to give some, and takes a chain with GPUS_FLAG=none."""
    copy.derive("gpu", DEVICE="gpu")
    for name in ("data", "models"):
        (copy.work / name / "gpu").symlink_to("mini")
    with running_slurm(nodes=1, GRES="none") as env:
        copy.env |= env
        command = ("scripts/submit.sh", "train", "gpu", "1")
        failed(copy.call(*command), "GPUs: Slurm counts no GPUs in partition batch (no GRES)", "GPUS_FLAG=none")
        failed(copy.call(*command, DOCTOR="no"), "sbatch refused the train job (")
        out = ok(
            copy.call(*command, GPUS_FLAG="none", SBATCH_ARGS="--hold --comment=a=b", SBATCH_WAIT="1", SBATCH_QOS="x")
        )
        assert "] of the environment these do not count: SBATCH_WAIT; more options go in SBATCH_ARGS\n" in out
        jobs = [line.split("\t")[2] for line in (copy.run_dir("gpu") / "chain.tsv").read_text().splitlines()]
        assert len(jobs) == 8
        for id_ in jobs:
            assert Job(copy, id_).field("Comment") == "a=b" and Job(copy, id_).field("JobState") == "PENDING"
