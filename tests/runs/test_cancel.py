"""make cancel on a real Slurm: what it ends, what it leaves alone, and that a run resumes as if nothing had been."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from test_slurm import Job, submit, wait_until
from test_train import workers

from conftest import ROOT, Repo, failed, ok
from sft.engines.saved import saved_steps
from sft.watch import jobs


@pytest.fixture
def slurm(copy: Repo, cluster: dict[str, str]) -> Repo:
    """mini's data and base model, and a cluster to run it on."""
    copy.env |= cluster
    return copy


def cancel(repo: Repo, **env: object) -> subprocess.CompletedProcess[str]:
    return repo.call("make", "-s", "cancel", "MODEL=mini", **env)


@pytest.mark.slow
def test_a_cancelled_link_saves_or_is_ended_and_the_run_resumes(slurm: Repo, trained: Repo) -> None:
    """Cancelled in the middle, first while it does not answer, then again: the losses of the run that nobody
    interrupted, to the last digit."""
    deaf = submit(slurm, JOBS=1)[0][1]
    wait_until(lambda: len(slurm.losses()) >= 11, 120, deaf.log)
    for pid in workers(slurm):
        os.kill(pid, signal.SIGSTOP)
    said = ok(cancel(slurm, CANCEL_WAIT=3))
    assert f"link {deaf.id} has not ended in 3 s; cancelled" in said and deaf.field("JobState") == "CANCELLED"
    before = max(saved_steps("automodel", slurm.run_dir() / "train/checkpoints"))
    reached = len(slurm.losses())

    queued = submit(slurm)
    [first, second] = [job for name, job in queued if name == "train"]
    wait_until(lambda: len(slurm.losses()) >= reached + 5, 120, first.log)
    paused = workers(slurm)  # until it is asked, or it would be at its end by then
    for pid in paused:
        os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        cancelled = pool.submit(cancel, slurm)
        wait_until(lambda: bool(list((slurm.run_dir() / "train").glob("STOP*"))), 60, first.log)
        for pid in paused:
            os.kill(pid, signal.SIGCONT)
        said = ok(cancelled.result())
    assert f"asked link {first.id} to save and end" in said
    saved = max(saved_steps("automodel", slurm.run_dir() / "train/checkpoints"))
    assert before <= reached < saved < 60, first.log()
    assert f"the last checkpoint is step {saved} of 60; resume with: make train MODEL=mini ROUND=1" in said
    assert f"the link is over after step {saved}" in first.log() and first.field("ExitCode") == "75:0"
    assert f"from step {before} to 60" in first.log()
    assert {job.field("JobState") for _, job in queued if job is not first} == {"CANCELLED"}
    assert second.ran() == 0 and not list((slurm.run_dir() / "train").glob("STOP*"))
    assert "nothing of this run is queued or running" in ok(cancel(slurm))

    again = submit(slurm, JOBS=1)[0][1]
    assert again.wait(120) == "COMPLETED" and f"from step {saved} to 60" in again.log()
    assert slurm.losses() == trained.losses()
    ok(cancel(slurm))


def test_what_waits_is_cancelled_at_once_and_only_what_is_the_runs(slurm: Repo) -> None:
    """Ids that Slurm has given to other jobs since: of another name, and of the same name with another script."""
    ok(slurm.call("scontrol", "update", "partition=batch", "state=down"))
    try:
        queued = submit(slurm, DOCTOR="no")
        others = [
            ok(slurm.call("sbatch", "--parsable", *name, "--wrap", "sleep 60")).strip()
            for name in ((), ("--job-name=train-mini-1",))
        ]
        with open(slurm.run_dir() / "chain.tsv", "a") as file:
            file.writelines(f"2026-01-01T00:00:00\ttrain\t{id_}\n" for id_ in others)
        begun = time.monotonic()
        said = ok(cancel(slurm))
        assert time.monotonic() - begun < 30, "nobody was waited for"
        for id_ in others:
            assert f"job {id_} is not this run's any more; left alone" in said
            assert Job(slurm, id_).field("JobState") == "PENDING"
            ok(slurm.call("scancel", id_))
        assert {job.field("JobState") for _, job in queued} == {"CANCELLED"}
        assert "the last checkpoint is step 0 of 60" in said
    finally:
        ok(slurm.call("scontrol", "update", "partition=batch", "state=up"))


def test_without_a_chain_and_without_slurm(repo: Repo, tmp_path: Path) -> None:
    assert "no chain of this run was queued" in ok(cancel(repo))
    assert not repo.work.exists()
    failed(cancel(repo, CANCEL_WAIT="soon"), "CANCEL_WAIT=soon; give seconds", status=(2,))
    repo.run_dir().mkdir(parents=True)
    (repo.run_dir() / "chain.tsv").write_text("2026-01-01T00:00:00\ttrain\t17\n")
    tools = tmp_path / "bin"
    tools.mkdir()
    path = f"{tools}:{Path(sys.executable).parent}:/usr/bin:/bin"
    for name in ("squeue", "scancel"):
        (tools / name).write_text("#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact' >&2\nexit 1\n")
        (tools / name).chmod(0o755)
    failed(cancel(repo, PATH=path), "Slurm does not answer; run it again")
    (tools / "squeue").write_text(
        f"#!/bin/sh\necho '17|RUNNING|None|{os.getuid()}|train-mini-1|{repo.run_dir()}/code/x/sbatch/train.sbatch'\n"
    )
    failed(cancel(repo, PATH=path, CANCEL_WAIT=0), "scancel failed (slurm_load_jobs error", "run: scancel 17")


@pytest.mark.parametrize(
    "line",
    [
        "17|RUNNING|None|4242|train-mini-1|{code}/sbatch/train.sbatch",  # another user's
        "17|RUNNING|None|{uid}|train-mini-11|{code}/sbatch/train.sbatch",  # another round's
        "17|RUNNING|None|{uid}|eval-mini-1|{code}/sbatch/train.sbatch",  # another stage's
        "17|RUNNING|None|{uid}|train-mini-1|/elsewhere/code/x/sbatch/train.sbatch",  # another WORK's
    ],
)
def test_a_job_is_known_by_user_name_and_script(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "work/runs/mini/round1"
    run.mkdir(parents=True)
    (run / "chain.tsv").write_text("2026-01-01T00:00:00\ttrain\t17\n")
    mine = "17|RUNNING|None|{uid}|train-mini-1|{code}/sbatch/train.sbatch"
    for text, known in ((mine, True), (line, False)):
        shown = text.format(uid=os.getuid(), code=f"{run}/code/x")
        monkeypatch.setattr(jobs, "squeue", lambda ids, form, shown=shown: f"Welcome\n{shown}\n")
        found = jobs.own_jobs(run, str(tmp_path / "work"), "mini", "1")
        assert found == (([jobs.Job("train", "17", "RUNNING", "None")], []) if known else ([], ["17"]))


def test_nemo_rl_saves_and_ends_after_the_step_that_it_is_at(tmp_path: Path) -> None:
    """The driver's own question, whether its time is up, is answered with yes once the file is there."""
    (tmp_path / "nemo_rl/utils").mkdir(parents=True)
    (tmp_path / "nemo_rl/utils/timer.py").write_text(
        "class TimeoutChecker:\n    def check_save(self, extra_s=0.0): return False\n"
    )
    (tmp_path / "run_sft.py").write_text(
        "import pathlib, time\nfrom nemo_rl.utils.timer import TimeoutChecker\nchecker = TimeoutChecker()\n"
        "for step in range(600):\n    print('step', step, flush=True)\n    time.sleep(0.1)\n"
        "    if step == 3: pathlib.Path('STOP-17').touch()\n"
        "    if checker.check_save(extra_s=1.0):\n        print('saved', step)\n        break\n"
    )
    driver = ROOT / "python/sft/engines/nemo_rl/inside/nemo_rl_driver.py"
    env = {k: v for k, v in os.environ.items() if k != "LINK_STOP"} | {"LINK_STOP": "STOP-17"}
    command = [sys.executable, driver, "reason", "run_sft.py"]
    out = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100, check=True).stdout
    steps, saved = out.count("step "), int(out.split("saved ")[1])
    assert 3 <= saved < 599 and "asked to save and end" in out and steps >= saved
