"""make status: what each stage of a run is doing."""

import fcntl
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT, Repo, heed_ctrl_c, ok
from sft.watch.jobs import OVER, Job, ids_in_words, in_a_cell, read_jobs


def test_status(trained: Repo, copy: Repo) -> None:
    out = ok(trained.call("scripts/tool.sh", "status", "mini", "1"))
    for name in ("data", "model", "train", "convert", "average", "eval", "results"):
        assert [line.split()[1] for line in out.splitlines() if line.startswith(name + " ")] == ["done"], out
    assert "step 60/60" in out and "3/3 steps" in out
    page = trained.run_dir() / "results/index.html"
    assert out.splitlines()[-1] == f"all done; figures and answers: {page}" and page.is_file()
    fresh = ok(copy.call("scripts/tool.sh", "status", "mini", "1"))
    assert "step 0/60" in fresh and "0/3 steps" in fresh
    assert fresh.splitlines()[-1] == "not begun; run: make train MODEL=mini ROUND=1"
    assert "not begun" not in out


def test_a_link_that_has_just_ended_does_not_run(repo: Repo, tmp_path: Path) -> None:
    """Its log is fresh; Slurm says how its job ended. A link on this machine after that holds its lock."""
    train = repo.run_dir() / "train"
    (train / "checkpoints").mkdir(parents=True)
    (train / "checkpoints/training.jsonl").write_text('{"step": 3, "loss": 1.0}\n')

    def state() -> str:
        out = ok(repo.call("scripts/tool.sh", "status", "mini", "1", PATH=f"{tmp_path}:{os.environ['PATH']}"))
        row, *_ = [line.split()[1] for line in out.splitlines() if line.startswith("train ")]
        return row

    assert state() == "running", "by its log alone"
    (repo.run_dir() / "chain.tsv").write_text("2026-01-01T00:00:00\ttrain\t17\n")
    (tmp_path / "squeue").write_text("#!/bin/sh\necho '17|CANCELLED|None'\n")
    (tmp_path / "squeue").chmod(0o755)
    assert state() == "cancelled"
    with (train / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert state() == "running"
    assert state() == "cancelled"


def test_status_without_slurm(trained: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = tmp_path / "chain.tsv"
    chain.write_text("2026-01-01T00:00:00\ttrain\t17\n2026-01-01T00:00:00\tconvert\t18\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    jobs, note = read_jobs(chain)
    assert jobs == [Job("train", "17"), Job("convert", "18")] and "no squeue" in note
    monkeypatch.undo()
    (tmp_path / "squeue").write_text(
        "#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact slurm controller' >&2\nexit 1\n"
    )
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert "does not answer" in read_jobs(chain)[1]


def test_watching_ends_when_everything_is_done(trained: Repo) -> None:
    out = ok(trained.call("make", "-s", "status", "MODEL=mini", "WATCH=1", timeout=60))
    assert out.count("mini round 1 in ") == 1 and "\033" not in out


def test_watching_goes_on_until_it_is_interrupted(repo: Repo) -> None:
    command = [sys.executable, "python/runs/status.py", "mini", "1", "--work", repo.work, "--watch", "1"]
    watch = subprocess.Popen(
        command, cwd=repo.root, env=repo.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=heed_ctrl_c,
    )  # fmt: skip
    assert watch.stdout
    seen = 0
    while seen < 2:
        seen += watch.stdout.readline().startswith("mini round 1 in ")
    watch.send_signal(signal.SIGINT)
    rest = watch.communicate(timeout=30)[0]
    assert watch.returncode == 0 and "error" not in rest and "Traceback" not in rest


# --- a chain, by the words of a squeue that stands in for Slurm's -----------------------------------------------------


def chain(repo: Repo, folder: Path, jobs: list[tuple[str, str, str, int]]) -> dict[str, str]:
    """A run with jobs (stage, state, reason, exit status), numbered from 17; returns what finds their squeue."""
    run = repo.run_dir()
    run.mkdir(parents=True, exist_ok=True)
    numbered = list(enumerate(jobs, 17))
    (run / "chain.tsv").write_text("".join(f"2026-01-01T00:00:00\t{job[0]}\t{id_}\n" for id_, job in numbered))
    states = "".join(f"{id_}|{state}|{reason}\n" for id_, (_, state, reason, _) in numbered)
    codes = "".join(f"{id_:<24}{256 * code:<12}\n" for id_, (*_, code) in numbered)
    folder.mkdir(exist_ok=True)
    (folder / "squeue").write_text(
        f"#!/bin/sh\ncase $* in *exit_code*) cat <<'X'\n{codes}X\n;; *) cat <<'X'\n{states}X\nesac\n"
    )
    (folder / "squeue").chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


REST = [("convert", "CANCELLED", "Dependency", 0), ("average", "CANCELLED", "Dependency", 0)]
AGAIN = "make train MODEL=mini ROUND=1"


def stage_rows(out: str) -> dict[str, str]:
    table = [line.split() for line in out.splitlines()[2:9]]
    return {name: " ".join(words) for name, *words in table}


def test_a_link_that_is_over_has_not_failed(repo: Repo, tmp_path: Path) -> None:
    """To Slurm it has, with status 75; a link with any other status has failed."""
    waits = [("convert", "PENDING", "(Dependency)", 0)] * 3
    links = [("train", "FAILED", "(NonZeroExitCode)", 75), ("train", "RUNNING", "node1", 0)]
    env = chain(repo, tmp_path / "bin", [*links, ("train", "PENDING", "(Dependency)", 0), *waits])
    out = ok(repo.call("make", "-s", "status", "MODEL=mini", **env))
    cell = "17 over, 18 running (node1), 19 pending (Dependency)"
    assert stage_rows(out)["train"] == f"running step 0/60, saved 0, link 2 of 3 {cell}"
    assert stage_rows(out)["convert"] == "pending 0/3 steps 20-22 pending (Dependency)"
    assert "failed" not in out and "resumes" not in out

    env = chain(repo, tmp_path / "bin", [links[0], ("train", "FAILED", "(NonZeroExitCode)", 75), *REST])
    out = ok(repo.call("make", "-s", "status", "MODEL=mini", **env))
    assert stage_rows(out)["train"] == "unfinished step 0/60, saved 0 17 18 over"
    assert out.endswith(f"train: all links have ended before the last step; more of them resume it: {AGAIN}\n")

    env = chain(repo, tmp_path / "bin", [links[0], ("train", "FAILED", "(NonZeroExitCode)", 1), *REST])
    out = ok(repo.call("make", "-s", "status", "MODEL=mini", **env))
    assert stage_rows(out)["train"] == "failed step 0/60, saved 0 17 over, 18 failed"
    assert out.endswith(f"train 18 failed: see make logs MODEL=mini ROUND=1; this resumes it: {AGAIN}\n")


def test_what_to_do_about_a_stage_that_has_failed(finished: Repo, tmp_path: Path) -> None:
    run = finished.run_dir()
    (run / "results/DONE").unlink()
    stages = ("train", "convert", "convert", "convert", "average", "eval")
    done = [(stage, "COMPLETED", "None", 0) for stage in stages]
    for state, words in (
        ("FAILED", f"results 23 failed: see {run}/logs/results-23.out; this resumes it: {AGAIN}"),
        ("OUT_OF_MEMORY", f"results 23 out of memory: see {run}/logs/results-23.out; this resumes it: {AGAIN}"),
        ("CANCELLED", f"results was cancelled; this resumes it: {AGAIN}"),
    ):
        env = chain(finished, tmp_path / "bin", [*done, ("results", state, "None", 1)])
        assert ok(finished.call("make", "-s", "status", "MODEL=mini", **env)).splitlines()[-1] == words
    env = chain(finished, tmp_path / "bin", [*done, ("results", "PENDING", "(Priority)", 0)])
    assert "resumes" not in ok(finished.call("make", "-s", "status", "MODEL=mini", **env))


def test_exit_statuses_by_the_accounts(repo: Repo, tmp_path: Path) -> None:
    """Of jobs that squeue has forgotten."""
    env = chain(repo, tmp_path / "bin", [])
    (repo.run_dir() / "chain.tsv").write_text("".join(f"2026-01-01T00:00:00\ttrain\t{n}\n" for n in (17, 18)))
    (tmp_path / "bin/sacct").write_text("#!/bin/sh\nprintf '17|FAILED|75:0\\n18|FAILED|1:0\\n'\n")
    (tmp_path / "bin/sacct").chmod(0o755)
    out = ok(repo.call("make", "-s", "status", "MODEL=mini", **env))
    assert stage_rows(out)["train"] == "failed step 0/60, saved 0 17 over, 18 failed"


def test_jobs_in_a_cell() -> None:
    assert ids_in_words(["5", "6", "7", "8", "10", "12", "13"]) == "5-8 10 12 13"
    jobs = [Job("convert", str(n), "COMPLETED", "None") for n in (5, 6)]
    jobs += [Job("convert", "7", "PENDING", "(ReqNodeNotAvail, UnavailableNodes:n[1-3])"), Job("convert", "8")]
    assert in_a_cell(jobs) == "5 6 completed, 7 pending (ReqNodeNotAvail), 8"
    assert in_a_cell([Job("train", "7", OVER)]) == "7 over" and in_a_cell([]) == ""


def test_each_frame_has_its_time_and_a_single_look_has_none(trained: Repo) -> None:
    first = [
        ok(trained.call("make", "-s", "status", "MODEL=mini", *words)).splitlines()[0] for words in ((), ("WATCH=1",))
    ]
    assert first[0].endswith("/round1") and re.fullmatch(r".*/round1, \d\d:\d\d:\d\d", first[1])


def test_the_documents_show_what_it_prints(trained: Repo) -> None:
    """Of the recorded looks the words that are always there: heads, stages, the last line."""
    text = (ROOT / "docs/cluster.md").read_text(encoding="utf-8")
    looks = re.findall(r"^    tiny round 1 in work/.*(?:\n    .*)+", text, re.MULTILINE)
    assert len(looks) == 5
    table = ok(trained.call("make", "-s", "status", "MODEL=mini", "WATCH=1")).splitlines()
    for look in looks:
        head, columns, *rest = (line.removeprefix("    ") for line in look.splitlines())
        assert re.fullmatch(r"tiny round 1 in work/runs/tiny/round1, \d\d:\d\d:\d\d", head)
        assert columns.split() == table[1].split()
        assert [row.split()[0] for row in rest[:5]] == ["train", "convert", "average", "eval", "results"]
    assert looks[-1].splitlines()[-1].split(": ")[0].strip() == table[-1].split(": ")[0]
