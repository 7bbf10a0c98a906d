"""What make status says of training and of waiting jobs: from records made by hand."""

import json
import os
import random
import time
from pathlib import Path

import pytest

from conftest import Repo, failed, ok
from sft.watch.pace import findings, gpu_hours, moment, rising, silence, step_seconds, tokens_per_second
from sft.watch.reasons import in_words


def steps(losses: list[float], **more: object) -> dict[int, dict]:
    return {step: {"step": step - 1, "loss": loss, **more} for step, loss in enumerate(losses, 1)}


def test_pace_and_tokens_by_hand() -> None:
    """Engines that write seconds, ISO times and numbers; the median leaves out the step with a save."""
    times = [0, 2, 4, 60, 62]
    assert step_seconds(steps([1.0] * 3, seconds=1.5)) == 1.5
    assert step_seconds({i: {"loss": 1.0, "timestamp": 1000.0 + t} for i, t in enumerate(times)}) == 2
    iso = {i: {"loss": 1.0, "timestamp": f"2026-01-01T00:{t // 60:02d}:{t % 60:02d}Z"} for i, t in enumerate(times)}
    assert step_seconds(iso) == 2 and moment(iso[1]) - moment(iso[0]) == 2
    assert step_seconds(steps([1.0])) is None
    assert tokens_per_second(steps([1.0] * 3, seconds=2.0), 5000) == 2500
    assert tokens_per_second(steps([1.0] * 3, seconds=2.0, tps=7.0), 5000) == 7
    assert tokens_per_second(steps([1.0] * 3, seconds=2.0), None) is None


def test_gpu_hours_count_each_link_to_its_last_save(tmp_path: Path) -> None:
    rows = [(1, 1800), (1, 3600), (2, 1800)]
    (tmp_path / "links.jsonl").write_text("".join(json.dumps({"link": n, "seconds": s}) + "\n" for n, s in rows))
    assert gpu_hours(tmp_path, 16) == 16 * 1.5 and gpu_hours(tmp_path / "none", 16) == 0


def test_a_rising_loss_is_told_from_noise() -> None:
    draw = random.Random(1)
    noise = [2 + draw.gauss(0, 0.2) for _ in range(50)]
    assert rising(steps(noise + noise)) is None
    assert rising(steps(noise + [x + 0.01 for x in noise])) is None
    assert rising(steps(noise + [x - 0.5 for x in noise])) is None
    words = rising(steps(noise + [x + 0.5 for x in noise]))
    assert words and words.startswith("the loss rises: 2.") and rising(steps(noise)) is None


def test_what_is_not_as_it_should_be_is_said() -> None:
    good = steps([1.0] * 9, seconds=20.0)
    assert findings(good, None) == [] and findings(good, 199.0) == []
    assert findings(good, 201.0) == ["no step for 0:03:21, 10 times the median of 20.00 s; see make logs"]
    assert findings(steps([1.0] * 9, seconds=0.1), 119.0) == [], "two minutes are not a stall"
    del good[3], good[4]
    good[7]["loss"] = float("nan")
    assert findings(good, None) == ["the loss is not a number at step 7", "no record of 2 steps: 3, 4"]


def test_silence_is_counted_from_the_last_step_or_the_links_start(tmp_path: Path) -> None:
    record = tmp_path / "checkpoints/training.jsonl"
    record.parent.mkdir()
    record.write_text("{}\n")
    now = time.time()
    os.utime(record, (now - 5000, now - 5000))
    assert 5000 <= silence(tmp_path, {}) < 5100
    (tmp_path / "logs").mkdir()
    begun = time.strftime("%Y%m%dT%H%M%S", time.localtime(now - 1000))
    (tmp_path / f"logs/7-0-{begun}.log").write_text("")
    assert 400 <= silence(tmp_path, {}) < 500, "a new link has ten minutes to its first step"
    (tmp_path / "logs/8-0").mkdir()
    (tmp_path / "logs/8-0/LINK").write_text("{}")
    assert silence(tmp_path, {}) == 0


@pytest.mark.parametrize(
    "code, words",
    [
        ("(Priority)", "jobs of higher priority are ahead"),
        ("(Resources)", "it is next, and waits for nodes"),
        ("(DependencyNeverSatisfied)", "will never start; run make cancel, then make train"),
        ("(ReqNodeNotAvail, UnavailableNodes:n[1-3])", "down, drained or reserved"),
        ("(QOSMaxGRESPerUser)", "all GPUs that a user may have by the QOS are in use"),
        ("(QOSMaxCpuPerUserLimit)", "all CPUs that a user may have by the QOS are in use"),
        ("(AssocGrpGRES)", "all GPUs by the account are in use"),
        ("(QOSMaxNodePerJobLimit)", "more nodes than the QOS gives a job, so it will never start"),
        ("(AssocMaxWallDurationPerJobLimit)", "more time than the account gives a job"),
        ("(QOSMinGRES)", "it asks for less GPUs than the QOS demands"),
        ("(SomethingNew)", "SomethingNew"),
    ],
)
def test_reasons_in_words(code: str, words: str) -> None:
    assert words in in_words(code)


def test_status_tells_them(repo: Repo, tmp_path: Path) -> None:
    run = repo.run_dir()
    (run / "train/checkpoints").mkdir(parents=True)
    rows = [{"step": i, "loss": 2.0 if i < 50 else 3.0, "tps": 1234.0, "timestamp": 1e9 + 2 * i} for i in range(101)]
    (run / "train/checkpoints/training.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows[:40] + rows[41:])
    )
    names = ("train", "train", "convert", "average")
    (run / "chain.tsv").write_text("".join(f"2026-01-01T00:00:00\t{n}\t{i}\n" for i, n in enumerate(names, 17)))
    states = ("RUNNING|n1", "PENDING|(Dependency)", "PENDING|(QOSMaxGRESPerUser)", "PENDING|(Dependency)")
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    lines = "\n".join(f"{i}|{state}" for i, state in enumerate(states, 17))
    (bin_ / "squeue").write_text(f"#!/bin/sh\ncat <<'X'\n{lines}\nX\n")
    (bin_ / "squeue").chmod(0o755)
    os.utime(run / "train/checkpoints/training.jsonl", (1e9, 1e9))
    env = {"PATH": f"{bin_}:{os.environ['PATH']}"}
    out = ok(repo.call("make", "-s", "status", "MODEL=mini", **env))
    assert "train: loss 3.0000, mean 3.0000 of the last 50 steps; 2.00 s a step; 1,234 tokens/s" in out
    assert "WARNING: no record of 1 step: 41" in out and "WARNING: the loss rises: 3.0000 over" in out
    assert "WARNING: no step for " in out and "times the median of 2.00 s; see make logs" in out
    assert "convert 19 waits: all GPUs that a user may have by the QOS are in use" in out
    assert "(QOSMaxGRESPerUser)" in out and out.count(" waits: ") == 1
    failed(repo.call("make", "-s", "status", "MODEL=mini", "WATCH=often"), "WATCH=often; give seconds", status=(2,))


def test_gpu_hours_beside_those_that_are_planned(repo: Repo) -> None:
    """Two links of an hour on 64 nodes of 8 GPUs; what make plan states is for the whole run."""
    train = repo.run_dir("qwen7b") / "train"
    (train / "checkpoints").mkdir(parents=True)
    (train / "logs/7-0").mkdir(parents=True)
    (train / "logs/7-0/LINK").write_text(json.dumps({"started": 1, "from": 0}))
    (train / "logs/7-0/driver.log").write_text(
        "".join(f"=== Step {n}/30000 ===\n  • Loss: 0.5000\n  • Total step time: 9.00s\n" for n in (1, 2))
    )
    links = ({"link": n, "from": 0, "step": 1, "seconds": 3600} for n in (1, 2))
    (train / "links.jsonl").write_text("".join(json.dumps(link) + "\n" for link in links))
    out = ok(repo.call("make", "-s", "status", "MODEL=qwen7b"))
    plan = json.loads(ok(repo.call("scripts/tool.sh", "plan", "qwen7b", "1", "--json")))
    planned = plan["time"]["stated"]["gpu_hours"]
    assert f"1,024 GPU hours until the last save, of {planned:,.0f} planned for the run" in out, out
