"""The curves of a run: what TensorBoard and wandb themselves read of it. No test asks more than this machine.

A chain with the real engine is killed and resumed; wandb is the real one, offline or with a server that is a loopback.
"""

import importlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from conftest import ROOT, Repo, failed
from sft.engines import curves, saved
from sft.engines.curves import Curves, run_id
from sft.engines.events import EventFile
from sft.engines.nemo_rl import driver_log

KEY = "0123456789abcdef0123456789abcdef01234567"
OFFLINE = {"WANDB_PROJECT": "sft", "WANDB_MODE": "offline", "WANDB_API_KEY": KEY}


def scalars(train: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value) in the order in which TensorBoard shows them: all values, without sampling."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(train / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def recorded(train: Path) -> list[dict[str, Any]]:
    """What wandb has recorded below `train`, a run for each link: id, project, name, and step -> values."""
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    found = []
    files = (train / "wandb").glob("*run-*/*.wandb")
    for path in sorted(files, key=lambda path: path.parent.name.removeprefix("offline-")):  # by time
        if path.parent.is_symlink():  # latest-run
            continue
        store, run = DataStore(), {"steps": {}}
        store.open_for_scan(str(path))
        while data := store.scan_data():
            record = Record.FromString(data)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                run |= {"id": record.run.run_id, "project": record.run.project, "name": record.run.display_name}
            if kind == "history":
                row = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item
                }
                assert row["_step"] not in run["steps"], "a step twice"
                run["steps"][row["_step"]] = {k: v for k, v in row.items() if not k.startswith("_")}
        found += [run] if "id" in run else []  # a link that was killed may have written nothing
    return found


def link(repo: Repo, model: str, **env: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", "sbatch/train.sbatch", model, "1"], cwd=repo.root, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=repo.env | {k: str(v) for k, v in env.items()},
    )  # fmt: skip


def trainers(repo: Repo) -> list[int]:
    """The processes that train."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            command, environment = ((folder / name).read_bytes().split(b"\0") for name in ("cmdline", "environ"))
        except OSError:
            continue
        if f"WORK={repo.work}".encode() in environment and any(word.endswith(b"engine.py") for word in command):
            found += [int(folder.name)] if b"torch.distributed.run" not in command else []
    return found


# --- a chain -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_chain_that_was_killed_is_one_curve(trained: Repo, copy: Repo) -> None:
    """Three links, the second killed after its save: each step once, as training.jsonl has it, the golden losses."""
    train = copy.run_dir() / "train"
    first = link(copy, "mini", LINK_STEPS=15, **OFFLINE)
    out = first.communicate(timeout=120)[0]
    assert first.returncode == 75, out
    second = link(copy, "mini", **OFFLINE)
    deadline = time.time() + 120
    while max(copy.losses(), default=0) < 33:
        assert second.poll() is None and time.time() < deadline, second.communicate()[0]
        time.sleep(0.02)
    for pid in trainers(copy):
        os.kill(pid, signal.SIGKILL)
    out += second.communicate(timeout=60)[0]
    reached = max(copy.losses())
    shown = scalars(train)["train/loss"]
    assert [step for step, _ in shown] == list(range(1, len(shown) + 1)) and len(shown) >= reached - 1
    third = link(copy, "mini", **OFFLINE)
    out += third.communicate(timeout=120)[0]
    assert third.returncode == 0 and "training does not depend" not in out, out

    rows = saved.losses(train / "checkpoints")
    lines = (train / "checkpoints/training.jsonl").read_text().splitlines()
    assert len(lines) > len(rows) == 60, "no step was trained twice: nothing is tested"
    shown = scalars(train)
    assert {"train/loss", "train/lr", "train/grad_norm", "train/tps"} <= shown.keys()
    for tag, values in shown.items():
        assert [step for step, _ in values] == list(range(1, 61)), f"{tag}: each step once"
        name = tag.removeprefix("train/")
        assert [value for _, value in values] == pytest.approx([rows[n][name] for n in range(1, 61)], rel=1e-6), tag
    assert copy.losses() == trained.losses(), "logging changed the training"
    assert len(list((train / "tensorboard").iterdir())) == 3

    runs = recorded(train)
    assert {(run["id"], run["project"], run["name"]) for run in runs} == {(run_id(train), "sft", run_id(train))}
    assert run_id(train).startswith("mini-round1-")
    steps = runs[0]["steps"] | runs[-1]["steps"]  # the last link repeats what wandb lost with the killed one
    assert list(steps) == list(range(1, 61)) and len(runs[0]["steps"]) == 15
    for step, row in steps.items():
        wanted = {f"train/{k}": v for k, v in rows[step].items() if k not in curves.OTHER}
        assert row == pytest.approx(wanted), step

    files = [path for path in copy.work.rglob("*") if path.is_file()]
    assert KEY not in out and not [path for path in files if KEY.encode() in path.read_bytes()]


@pytest.mark.slow
def test_only_one_process_writes(copy: Repo) -> None:
    copy.derive("pair", GPUS_PER_NODE=2)
    process = link(copy, "pair", LINK_STEPS=3, **OFFLINE)
    out = process.communicate(timeout=120)[0]
    assert process.returncode == 75, out
    train = copy.run_dir("pair") / "train"
    assert len(list((train / "tensorboard").iterdir())) == len(recorded(train)) == 1
    assert [step for step, _ in scalars(train)["train/loss"]] == [1, 2, 3]
    rows = saved.losses(train / "checkpoints")
    assert dict(scalars(train)["train/loss"]) == pytest.approx({n: rows[n]["loss"] for n in (1, 2, 3)})


@pytest.mark.slow
def test_without_the_package_nothing_is_trained(copy: Repo) -> None:
    """Neither is a folder of that name, as wandb itself leaves one, the package."""
    (copy.root / "wandb").mkdir()
    copy.edit("python/sft/engines/curves.py", 'find_spec("wandb")', 'find_spec("wandb_of_nobody")')
    result = copy.call("bash", "sbatch/train.sbatch", "mini", "1", **OFFLINE)
    assert result.returncode == 1 and "error: WANDB_PROJECT is set, and" in result.stdout, result.stdout
    assert "has no package wandb; run: scripts/setup.sh loggers" in result.stdout
    assert not copy.losses() and KEY not in result.stdout + result.stderr
    script = "from sft.engines import curves; from sft.lib.errors import run; run(curves.check)"
    command = [sys.executable, "-S", "-c", script]  # no packages at all: a login node's Python
    env = {"PYTHONPATH": str(ROOT / "python"), "PATH": os.environ["PATH"]}
    bare = {"cwd": copy.root, "capture_output": True, "text": True}
    failed(subprocess.run(command, env=env | OFFLINE, **bare), "has no package wandb; run: scripts/setup.sh loggers")
    assert subprocess.run(command, env=env, **bare).returncode == 0, "not asked for"


# --- TensorBoard's files ---------------------------------------------------------------------------------------------


def test_the_files_are_read_in_the_order_of_the_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the later link's node has its clock an hour behind, or starts in the same second."""
    for first, now in ((1, 2e9), (6, 2e9 - 3600), (8, 2e9 - 3600)):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        file = EventFile(tmp_path / "tensorboard", first)
        for step in range(first, first + 6):
            file.write(step, {"train/loss": first + step / 100})
    wanted = [(n, 1 + n / 100) for n in range(1, 6)] + [(n, 6 + n / 100) for n in (6, 7)]
    wanted += [(n, 8 + n / 100) for n in range(8, 14)]
    [shown] = scalars(tmp_path).values()
    assert [step for step, _ in shown] == [step for step, _ in wanted]
    assert [value for _, value in shown] == pytest.approx([value for _, value in wanted])


def test_a_file_that_was_cut_off_does_not_hide_the_next(tmp_path: Path) -> None:
    file = EventFile(tmp_path / "tensorboard", 1)
    for step in range(1, 6):
        file.write(step, {"train/loss": step})
    file.close()
    file.path.write_bytes(file.path.read_bytes()[:-7])
    EventFile(tmp_path / "tensorboard", 5).write(5, {"train/loss": 50})
    assert scalars(tmp_path)["train/loss"] == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 50)]


def test_any_number_and_any_step(tmp_path: Path) -> None:
    file, large = EventFile(tmp_path / "tensorboard", 1), 10**6
    values = {"train/a": 1e300, "train/b": -1e300, "train/c": math.nan, "train/d": 0.1, "train/é": 3}
    file.write(large, values)
    shown = {tag: value for tag, [(step, value)] in scalars(tmp_path).items() if step == large}
    assert (shown["train/a"], shown["train/b"]) == (math.inf, -math.inf) and math.isnan(shown["train/c"])
    assert shown["train/d"] == pytest.approx(0.1) and shown["train/é"] == 3


def test_a_full_disk_is_said_once_and_ends_nothing(small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Curves(small_disk, 0)
    made.log(1, {"loss": 1.0})
    with open(small_disk / "rest", "wb", buffering=0) as rest, pytest.raises(OSError):
        while rest.write(b"x" * 4096):
            pass
    for step in range(2, 500):
        made.log(step, {"loss": 1.0, "step": step - 1, "timestamp": "now", "name": "text", "good": True})
    made.close()
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 and "TensorBoard gets no more of this link" in said[0] and "No space left" in said[0]
    (small_disk / "rest").unlink()
    again = Curves(small_disk, 1)
    again.log(2, {"loss": 2.0})
    assert scalars(small_disk) == {"train/loss": [(1, 1), (2, 2)]}


# --- wandb -----------------------------------------------------------------------------------------------------------


class Server(BaseHTTPRequestHandler):
    """As much of wandb's server as a run needs."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        query = json.loads(body).get("query", "") if self.path == "/graphql" else ""
        bucket = {"id": "x", "name": "x", "displayName": "x", "config": "{}", "historyLineCount": 0}
        project = {"project": {"id": "p", "name": "sft", "entity": {"id": "e", "name": "me"}}}
        answers = {
            "upsertBucket": {"upsertBucket": {"bucket": bucket | project, "inserted": True}},
            "RunResumeStatus": {"model": {"id": "p", "name": "sft", "bucket": None}},
            "serverInfo": {"serverInfo": {"features": []}},
            "CreateRunFiles": {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": []}},
        }
        found = next((answer for name, answer in answers.items() if name in query), {})
        text = json.dumps({"data": found} if query else {"exitcode": None, "limits": {}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_PUT = do_POST

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    made.daemon_threads = True
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


LOGGING = """
import sys, time
from pathlib import Path
from sft.engines import curves
curves.FINISH = 3
made = curves.Curves(Path(sys.argv[1]), 0)
for step in (1, 2, 3):
    made.log(step, {"loss": 1 / step})
print("logged", flush=True)
sys.stdin.readline()
began = time.time()
made.close()
print(f"closed after {time.time() - began:.1f} s", flush=True)
"""


def logging(train: Path, url: str) -> subprocess.Popen[str]:
    """A process that logs three steps, says so, and closes when a line comes."""
    train.mkdir(parents=True, exist_ok=True)
    (train / "RUN").write_text(json.dumps({"inputs": {"data": "f" * 64}, "recipe": {"STEPS": "3"}}))
    env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")} | {"PYTHONPATH": str(ROOT / "python")}
    env |= {"WANDB_PROJECT": "sft", "WANDB_BASE_URL": url, "WANDB_API_KEY": KEY, "WANDB_INIT_TIMEOUT": "3"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", LOGGING, str(train)],
        env=env,
        text=True,
        stdin=pipe,
        stdout=pipe,
        stderr=subprocess.STDOUT,
    )


def until_logged(process: subprocess.Popen[str]) -> str:
    lines = []
    while not lines or lines[-1] != "logged\n":
        lines.append(process.stdout.readline())
        assert lines[-1], "".join(lines)
    return "".join(lines)


@pytest.mark.slow
def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    """Training begins after WANDB_INIT_TIMEOUT; the run is recorded, to be sent later."""
    train = tmp_path / "m/round1/train"
    process = logging(train, "http://127.0.0.1:9")
    out = until_logged(process) + process.communicate("\n", timeout=60)[0]
    assert process.returncode == 0 and "Traceback" not in out and KEY not in out, out
    assert out.count("wandb cannot be reached") == 1 and f"later: wandb sync {train}/wandb/offline-run-" in out, out
    last = recorded(train)[-1]
    assert last["id"] == "m-round1-ffffffff" and list(last["steps"]) == [1, 2, 3]


@pytest.mark.slow
def test_a_server_that_goes_away(tmp_path: Path, server: ThreadingHTTPServer) -> None:
    """wandb alone would wait for it without end."""
    train = tmp_path / "m/round1/train"
    process = logging(train, f"http://127.0.0.1:{server.server_address[1]}")
    out = until_logged(process)
    assert "cannot be reached" not in out, out
    server.shutdown()
    server.server_close()
    out = process.communicate("\n", timeout=60)[0]
    assert process.returncode == 0 and KEY not in out, out
    assert out.count("wandb gets no more of this link (TimeoutError: no answer for 3 s") == 1, out
    assert "the next link sends what is missing" in out and "closed after 3." in out, out
    assert [step for step, _ in scalars(train)["train/loss"]] == [1, 2, 3]


def test_a_server_that_answers(tmp_path: Path, server: ThreadingHTTPServer) -> None:
    process = logging(tmp_path / "m/round1/train", f"http://127.0.0.1:{server.server_address[1]}")
    out = until_logged(process) + process.communicate("\n", timeout=60)[0]
    assert process.returncode == 0 and "training does not depend" not in out and "closed after" in out, out


# --- the other engines -----------------------------------------------------------------------------------------------


def test_nemo_rl_is_one_curve_too(tmp_path: Path) -> None:
    """From its driver's log, the last step of a link among it; the second link begins at the first one's checkpoint.

    The third is killed with its follower, which has not yet heard of the step that was saved.
    """
    for name, first, last, follower in (
        ("1-0", 0, 7, True),
        ("2-0", 5, 9, True),
        ("3-0", 9, 12, False),
        ("4-0", 12, 14, True),
    ):
        folder = tmp_path / "train/logs" / name
        folder.mkdir(parents=True)
        (folder / "LINK").write_text(json.dumps({"started": first, "from": first}))
        text = [
            f"\n{'=' * 25} Step {n}/60 {'=' * 25}\n  • Loss: {first + n / 100:.4f}\n  • Total step time: 2.50s\n"
            for n in range(first + 1, last + 1)
        ]
        (folder / "driver.log").write_text("".join(text))
        if follower:
            (folder / "end").touch()
            driver_log.follow(folder, 60)
    shown, known = scalars(tmp_path / "train"), driver_log.history(tmp_path / "train")
    assert list(known) == list(range(1, 15))
    assert shown["train/loss"] == [(n, pytest.approx(row["loss"])) for n, row in known.items()]
    assert shown["train/seconds"] == [(n, 2.5) for n in range(1, 15)]


class Preemption:
    """For NeMo's PreemptionCallback, as far as parts.Link goes; make check-nemo2 has the real one."""

    def hook(self, *_: Any) -> None:
        pass

    on_train_start = on_train_batch_end = on_train_end = on_exception = hook


def test_nemo2_is_one_curve_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The callback of a link that ends, of one that fails after a step, and of one that goes to the end."""
    made = {
        "nemo.collections.llm": {"FineTuningDataModule": object},
        "nemo.lightning.io": {"load_context": None},
        "nemo.lightning.pytorch.callbacks": {"PreemptionCallback": Preemption},
    }
    for name in made:
        for n in range(name.count(".") + 1):
            monkeypatch.setitem(sys.modules, name.rsplit(".", n)[0], ModuleType(name.rsplit(".", n)[0]))
    for name, content in made.items():
        vars(sys.modules[name]).update(content)
    monkeypatch.delitem(sys.modules, "sft.engines.nemo2.parts", raising=False)
    parts = importlib.import_module("sft.engines.nemo2.parts")
    monkeypatch.delitem(sys.modules, "sft.engines.nemo2.parts")
    for name in OFFLINE:
        monkeypatch.delenv(name, raising=False)
    for first, last, end in ((0, 4, "train_end"), (4, 7, "exception"), (6, 10, "train_end")):
        callback = parts.Link(str(tmp_path), 10)
        trainer = SimpleNamespace(global_step=first, is_global_zero=True, callback_metrics={})
        other = SimpleNamespace(global_step=first, is_global_zero=False, callback_metrics={})
        parts.Link(str(tmp_path), 10).on_train_start(other, None)
        callback.on_train_start(trainer, None)
        for step in range(first + 1, last + 1):
            trainer.global_step = step
            trainer.callback_metrics = {"reduced_train_loss": Number(first + step / 100), "lr": Number(1e-4)}
            callback.on_train_batch_end(trainer, None, None, None, 0)
        if end == "exception":
            callback.on_exception(trainer, None, SystemExit())
        else:
            callback.on_train_end(trainer, None)
        assert callback.curves is None
    shown, known = scalars(tmp_path), saved.losses(tmp_path / "checkpoints")
    assert list(known) == list(range(1, 11))
    assert shown["train/loss"] == [(n, pytest.approx(row["loss"])) for n, row in known.items()]
    assert shown["train/lr"] == [(n, pytest.approx(1e-4)) for n in known]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 3, "the first process alone"


class Number(float):
    def numel(self) -> int:
        return 1
