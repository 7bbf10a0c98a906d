"""A link of NeMo-RL except for the cluster: checkpoints, the driver's log, what is reserved, the cache's identity.

The log's lines are those of v0.7.0's nemo_rl/algorithms/sft.py; tests/cluster/test_ray.py runs whole links.
"""

import json
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import convert
from conftest import ROOT, Repo, failed, ok
from sft.engines.nemo_rl import driver_log, overrides
from sft.engines.nemo_rl import link as nemo_rl_link
from sft.engines.nemo_rl.link import check_optimizer
from sft.engines.nemo_rl.saved import clean, prune, superseded
from sft.engines.saved import saved_steps
from sft.lib.errors import Failure
from sft.recipe.paths import Paths
from sft.recipe.read import load

RECIPE = {"ENGINE": "nemo-rl", "SAVE_EVERY": 750, "STEPS": 3000, "AVERAGE_STEPS": (750, 1500, 2250, 3000)}


def checkpoint(folder: Path, step: int, total: int | None = None) -> Path:
    path = folder / f"step_{step}"
    (path / "policy/weights/iter_0000000").mkdir(parents=True)
    (path / "training_info.json").write_text(json.dumps({"total_steps": step if total is None else total}))
    return path


def step(n: int, of: int = 60, loss: float = 1.5, seconds: float = 2.5, save: float | None = None) -> str:
    lines = [f"\n{'=' * 25} Step {n}/{of} {'=' * 25}", "▶ Preparing batch...", "▶ Taking a training step..."]
    if save is not None:
        lines.append(f"Saving checkpoint for step {n}...")
    lines += [
        "\n📊 Training Results:",
        f"  • Loss: {loss:.4f}",
        "  • Training FLOPS: 400.00 TFLOPS (50.00 TFLOPS per rank)",
    ]
    lines += [
        "  • Training Model Floating Point Utilization: 41.50%",
        "\n⏱️  Timing:",
        f"  • Total step time: {seconds:.2f}s",
    ]
    lines += [f"  • checkpointing: {save:.2f}s (50.0%)"] if save is not None else []
    return "\n".join([*lines, "  • policy_training: 2.00s (80.0%)"]) + "\n"


SET_UP = "\n" + "=" * 60 + "\n" + " " * 18 + "SETUP COMPLETE\n" + "=" * 60 + "\n\n"


def link(train: Path, name: str, first: int, text: str, started: float = 1.0) -> Path:
    folder = train / "logs" / name
    folder.mkdir(parents=True)
    (folder / "LINK").write_text(json.dumps({"started": started, "from": first}))
    (folder / "driver.log").write_text(text)
    return folder


# --- checkpoints ---------------------------------------------------------------------------------------------------


def test_a_step_is_known_by_its_whole_name(tmp_path: Path) -> None:
    """750 is not in 7500, and what is half-written or being replaced is no checkpoint."""
    checkpoint(tmp_path, 7500)
    checkpoint(tmp_path, 75)
    for other in ("tmp_step_750", "old_step_750", "step_750_hf", "my_step_750", "step_750.part"):
        (tmp_path / other).mkdir()
    assert saved_steps("nemo-rl", tmp_path) == {75: tmp_path / "step_75", 7500: tmp_path / "step_7500"}
    assert saved_steps("nemo-rl", tmp_path / "none") == {}


def test_a_checkpoint_that_is_not_what_its_name_says_is_refused(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 750, total=1500)
    with pytest.raises(Failure, match="step_750 holds step 1500"):
        saved_steps("nemo-rl", tmp_path)
    (path / "training_info.json").write_text("{")
    with pytest.raises(Failure, match=r"training_info.json is missing or broken; move"):
        saved_steps("nemo-rl", tmp_path)


def test_leftovers_of_killed_saves_go_and_a_half_replaced_step_comes_back(tmp_path: Path) -> None:
    checkpoint(tmp_path, 10)
    checkpoint(tmp_path, 20).rename(tmp_path / "old_step_20")  # the kill fell between NeMo-RL's two renames
    for name in ("tmp_step_20", "tmp_step_30", "old_step_10"):
        (tmp_path / name).mkdir()
    clean(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_10", "step_20"]
    assert list(saved_steps("nemo-rl", tmp_path)) == [10, 20]


def test_what_may_be_removed(tmp_path: Path) -> None:
    """Never the newest, never a step to average; by default only what a time limit made and a later one replaced."""
    saved = [400, 750, 900, 1500, 1600, 1700]
    assert superseded(saved, RECIPE, "all") == []
    assert superseded(saved, RECIPE, "saved") == [400, 900, 1600]
    assert superseded([250, 500, 750], RECIPE | {"SAVE_EVERY": 250}, "needed") == [250, 500]
    assert superseded([250, 500], RECIPE | {"SAVE_EVERY": 250}, "needed") == [250]
    assert superseded([], RECIPE, "saved") == []
    for s in saved:
        checkpoint(tmp_path, s)
    prune(tmp_path, RECIPE, "saved")
    assert list(saved_steps("nemo-rl", tmp_path)) == [750, 1500, 1700]
    assert not list(tmp_path.glob("tmp_*"))


# --- the driver's log ----------------------------------------------------------------------------------------------


def test_steps_are_counted_over_links_and_epochs(tmp_path: Path) -> None:
    """NeMo-RL counts steps within an epoch; a step that a later link did again counts as that link did it."""
    link(tmp_path, "1-0", 0, SET_UP + step(1, 2, 3.0) + step(2, 2, 2.5, save=4.0) + step(1, 2, 2.0) + step(2, 2, 9.0))
    link(tmp_path, "2-0", 2, SET_UP + step(1, 2, 1.75) + step(2, 2, 1.5), started=2.0)
    history = driver_log.history(tmp_path)
    assert {n: row["loss"] for n, row in history.items()} == {1: 3.0, 2: 2.5, 3: 1.75, 4: 1.5}
    assert history[2]["save_seconds"] == 4.0 and "save_seconds" not in history[3] and history[1]["mfu"] == 41.5


WORKER = "\x1b[36m(MegatronPolicyWorker pid=15716)\x1b[0m "


def test_lines_that_workers_write_into(tmp_path: Path) -> None:
    """As Ray 2.55 was seen to write them: a worker's line between a text and its newline, colours, a progress bar."""
    text = SET_UP + step(1, 60, 3.0) + step(2, 60, 2.5, save=4.0)
    text = text.replace("  • Loss: 3.0000\n", f"  • Loss: 3.0000{WORKER}Gathering 1/4\n\n")
    text = text.replace("Utilization: 41.50%\n", f"Utilization: 41.50%{WORKER}loss: 7\n\n", 1)
    text = text.replace("time: 2.50s\n", f"time: 2.50s{WORKER}  • Loss: 9.9999\n\n", 1)
    text = text.replace(f"Step 2/60 {'=' * 25}\n", f"Step 2/60 {'=' * 25}{WORKER}hello\n\n")
    text = text.replace("  • Loss: 2.5000\n", f"{WORKER}  • Loss: 8.8888\n\rpacking: 40%\r  • Loss: 2.5000\n")
    rows = list(driver_log.rows(link(tmp_path, "1-0", 0, text)))
    assert rows == [
        {"step": 0, "loss": 3.0, "mfu": 41.5, "seconds": 2.5},
        {"step": 1, "loss": 2.5, "mfu": 41.5, "seconds": 2.5, "save_seconds": 4.0},
    ]
    colours = "".join(f"\x1b[1m{line}\x1b[0m\n" for line in (SET_UP + step(1)).splitlines())
    assert [row["loss"] for row in driver_log.rows(link(tmp_path, "2-0", 0, colours))] == [1.5]


@pytest.mark.parametrize(
    ("first", "headers", "wanted"),
    [
        (0, [(1, 60), (2, 60), (4, 60)], [1, 2, 4]),  # a lost header does not shift those after it
        (10, [(12, 60), (13, 60)], [12, 13]),  # nor does the first of a resumed link
        (0, [(1, 3), (2, 3), (3, 3), (2, 3), (3, 3), (1, 3)], [1, 2, 3, 5, 6, 7]),  # over the end of an epoch
        (7, [(2, 3), (3, 3), (1, 3)], [8, 9, 10]),
        (0, [(1, 1), (1, 1), (1, 1)], [1, 2, 3]),  # epochs of one step
    ],
)
def test_a_lost_header_shifts_nothing(
    tmp_path: Path, first: int, headers: list[tuple[int, int]], wanted: list[int]
) -> None:
    text = SET_UP + "".join(step(n, of) for n, of in headers)
    assert [row["step"] + 1 for row in driver_log.rows(link(tmp_path, "1-0", first, text))] == wanted


def test_a_loss_that_is_no_number_is_read(tmp_path: Path) -> None:
    rows = list(driver_log.rows(link(tmp_path, "1-0", 0, SET_UP + step(1, loss=float("nan")) + step(2))))
    assert math.isnan(rows[0]["loss"]) and rows[1]["loss"] == 1.5


def test_an_unfinished_step_does_not_count(tmp_path: Path) -> None:
    whole = step(11) + step(12)
    cut = whole[: whole.rindex("  • Loss")]
    folder = link(tmp_path, "1-0", 10, SET_UP + cut)
    assert [row["step"] for row in driver_log.rows(folder)] == [10]
    assert driver_log.summary(folder)["step"] == 11
    assert driver_log.summary(link(tmp_path, "2-0", 0, "Traceback")) is None


def test_an_optimizer_that_begins_anew_ends_the_link(tmp_path: Path) -> None:
    """While the log grows, as it does in a running link; on a first link the words have no meaning."""
    warning = "UserWarning: Optimizer state not found at x. Optimizer will be freshly initialized.\n"
    for first, stops in ((750, True), (0, False)):
        folder = link(tmp_path, str(first), first, "")
        follower = threading.Thread(target=driver_log.follow, args=(folder, 3000))
        follower.start()
        with open(folder / "driver.log", "a") as file:
            for part in (warning[:30], warning[30:], SET_UP, step(1)):
                file.write(part)
                file.flush()
                time.sleep(0.05)
        if not stops:
            (folder / "end").write_text("0\n")
        follower.join(10)
        assert not follower.is_alive()
        assert (folder / "failed").exists() == stops, first
        assert stops or (folder / "training").exists()
    assert "no optimizer state" in (tmp_path / "logs/750/failed").read_text()


@pytest.mark.parametrize(
    ("backend", "version", "file", "there"),
    [
        ("megatron", "0.7", "policy/weights/iter_0000000/common.pt", True),
        ("megatron", "0.7", "policy/weights/iter_0000000/metadata.json", False),  # what Megatron-Core 0.19 writes
        ("megatron", "next", "policy/weights/iter_0000000/metadata.json", True),
        ("megatron", "0.7", "policy/optimizer/optim/.metadata", False),
        ("fsdp", "0.7", "policy/optimizer/optim/.metadata", True),
        ("fsdp", "0.7", "policy/weights/iter_0000000/common.pt", False),
    ],
)
def test_a_checkpoint_without_its_optimizer_is_refused(
    tmp_path: Path, backend: str, version: str, file: str, there: bool
) -> None:
    """Before any node is brought up; NeMo-RL itself would warn and train on."""
    saved = checkpoint(tmp_path, 750)
    (saved / file).parent.mkdir(parents=True, exist_ok=True)
    (saved / file).touch()
    if there:
        check_optimizer(saved, backend, overrides.load_version(version))
    else:
        with pytest.raises(Failure, match=r"step_750 has no optimizer state: .*; move that checkpoint away"):
            check_optimizer(saved, backend, overrides.load_version(version))


# --- the driver ----------------------------------------------------------------------------------------------------

# A policy as v0.7.0's: its destructor asks something that will never answer (lm_policy.py:1103-1111).
POLICY = """
import sys, time
class Policy:
    def __del__(self):
        time.sleep(600)
policy = Policy()
if __name__ == "__main__":
    print(sys.argv[1:], flush=True)
    import helper
    {end}
"""


@pytest.mark.parametrize(
    ("end", "status", "reason"),
    [
        ("raise ValueError('no such\\nshape')", 1, "ValueError: no such\n"),
        ("raise KeyError", 1, "KeyError: \n"),
        ("raise type('RayTaskError', (Exception,), {})('ray::x()\\n  at y\\nOSError: full')", 1, "OSError: full\n"),
        ("policy.__class__.__del__ = lambda self: None; sys.exit(7)", 7, None),
        ("policy.__class__.__del__ = lambda self: None", 0, None),
    ],
)
def test_a_driver_that_raises_ends(tmp_path: Path, end: str, status: int, reason: str | None) -> None:
    """Its destructor would hold it for ten minutes; the test's own limit is one."""
    (tmp_path / "driver.py").write_text(POLICY.replace("{end}", end))
    (tmp_path / "helper.py").write_text("")  # beside the script, where python looks first
    command = [
        sys.executable,
        ROOT / "python/sft/engines/nemo_rl/inside/nemo_rl_driver.py",
        tmp_path / "reason",
        "driver.py",
        "a=1",
        "+b='c d'",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == status and done.stdout == "['a=1', \"+b='c d'\"]\n", done
    assert ("Traceback" in done.stderr) == (reason is not None)
    assert (tmp_path / "reason").exists() == (reason is not None)
    assert reason is None or (tmp_path / "reason").read_text() == reason


# --- time ----------------------------------------------------------------------------------------------------------


def test_what_is_reserved_is_measured_once_it_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SET_UP_RESERVE", raising=False)
    assert nemo_rl_link.reserve(tmp_path, 120) == 600
    monkeypatch.setenv("SET_UP_RESERVE", "900")
    assert nemo_rl_link.reserve(tmp_path, 120) == 900
    rows = [{"set_up_seconds": 400, "save_seconds": 40}, {"set_up_seconds": 200, "save_seconds": None}]
    (tmp_path / "links.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert nemo_rl_link.reserve(tmp_path, 120) == 500, "a quarter more than the slowest; saving fits what is configured"
    (tmp_path / "links.jsonl").write_text(json.dumps({"set_up_seconds": 400, "save_seconds": 400}) + "\n")
    assert nemo_rl_link.reserve(tmp_path, 120) == 500 + 380


@pytest.mark.parametrize(
    ("left", "reserve", "wanted"),
    [(4 * 3600, 600, "00:03:50:00"), (100 * 3600, 0, "04:04:00:00"), (60, 600, "00:00:00:01")],
)
def test_the_driver_gets_the_time_as_nemo_rl_reads_it(tmp_path: Path, left: int, reserve: int, wanted: str) -> None:
    """DD:HH:MM:SS of training, from the job's real end; exactly one such override, and the others untouched."""
    (tmp_path / "overrides").write_text("a.b=1\ncheckpointing.checkpoint_must_save_by=null\nc=two words\n")
    (tmp_path / "reserve").write_text(f"{reserve}\n")
    (tmp_path / "version").write_text("0.7 use_linear_ce_fusion_loss\n")
    (tmp_path / "examples/configs").mkdir(parents=True)
    (tmp_path / "examples/configs/sft.yaml").write_text("policy:\n  use_linear_ce_fusion_loss: false\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "bin/python").chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "NEMO_RL_DIR": str(tmp_path)}
    command = ["bash", ROOT / "scripts/engines/nemo-rl-inside.sh", "train", tmp_path / "overrides"]
    run = subprocess.run(command, env=env | {"LINK_END": str(int(time.time()) + left)}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    words = run.stdout.splitlines()
    assert words[:2] == [str(ROOT / "python/sft/engines/nemo_rl/inside/nemo_rl_driver.py"), str(tmp_path / "reason")]
    words = words[2:]
    assert (
        words[:4] == ["examples/run_sft.py", "--config", "examples/configs/sft.yaml", "a.b=1"]
        and words[5] == "c=two words"
    )
    key, value = words[4].split("=")
    days, hours, minutes, seconds = (int(part) for part in value.strip("'").split(":"))
    made = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    days, hours, minutes, seconds = (int(part) for part in wanted.split(":"))
    assert key == "checkpointing.checkpoint_must_save_by" and value == f"'{value[1:-1]}'"
    assert 0 <= ((days * 24 + hours) * 60 + minutes) * 60 + seconds - made <= 2
    bare = subprocess.run(
        command, env={k: v for k, v in env.items() if k != "LINK_END"}, capture_output=True, text=True
    )
    assert "checkpointing.checkpoint_must_save_by=null" in bare.stdout.splitlines(), "a job without a limit has none"

    (tmp_path / "version").write_text("next use_fused_linear_logprobs\n")
    other = subprocess.run(command, env=env, capture_output=True, text=True)
    assert other.returncode == 1 and not other.stdout
    assert f"the NeMo-RL in {tmp_path} is not version next; set NEMO_RL_VERSION" in other.stderr


# --- identity ------------------------------------------------------------------------------------------------------


def open_link(repo: Repo, **env: object) -> Path:
    logs = repo.run_dir("mega") / "train/logs/1-0"
    logs.mkdir(parents=True, exist_ok=True)
    ok(repo.stage("train", "mega", "--open", "--logs", logs, **env))
    return logs


def test_opening_a_link(mega: Repo) -> None:
    """Leftovers are gone, the first step is the newest checkpoint's, and no secret is in what is written."""
    folder = mega.run_dir("mega") / "train/checkpoints"
    for n in (10, 13, 20):
        (checkpoint(folder, n) / "policy/weights/iter_0000000/common.pt").touch()
    (folder / "tmp_step_21").mkdir()
    logs = open_link(mega, WANDB_PROJECT="sft", WANDB_API_KEY="secret-key", HF_TOKEN="secret-token")
    assert sorted(p.name for p in folder.iterdir()) == ["step_10", "step_20"]
    assert json.loads((logs / "LINK").read_text())["from"] == 20
    lines = (logs / "overrides").read_text().splitlines()
    first = [line for line in lines if line.startswith("+logger.wandb.id=")]
    assert "logger.wandb_enabled=true" in lines and len(first) == 1
    assert "secret" not in "".join(file.read_text() for file in logs.iterdir())
    (logs / "overrides").unlink()
    open_link(mega, WANDB_PROJECT="sft")
    assert first[0] in (logs / "overrides").read_text().splitlines(), "the same run in wandb"


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("recipes/mega/round1.env", "GLOBAL_BATCH=8", "GLOBAL_BATCH=16", "GLOBAL_BATCH: 8, now 16"),
        ("recipes/mega/round1.env", "STEPS=60\nWARM", "STEPS=70\nWARM", "STEPS: 60, now 70"),
    ],
)
def test_a_link_with_another_recipe_is_refused(mega: Repo, file: str, old: str, new: str, words: str) -> None:
    logs = open_link(mega)
    mega.edit(file, old, new)
    failed(mega.stage("train", "mega", "--open", "--logs", logs), "started with other recipe", words)


def test_other_data_between_two_links_is_refused(mega: Repo) -> None:
    """NeMo-RL compares the name of the data set only (v0.7.0 nemo_rl/data/utils.py): the file could be any."""
    logs = open_link(mega)
    shutil.rmtree(mega.work / "data")
    mega.edit("recipes/mega/round1.env", "GENERATE_PROBLEMS=200", "GENERATE_PROBLEMS=210")
    ok(mega.call("scripts/data.sh", "mega", "1"))
    mega.edit("recipes/mega/round1.env", "GENERATE_PROBLEMS=210", "GENERATE_PROBLEMS=200")
    failed(mega.stage("train", "mega", "--open", "--logs", logs), "started with other inputs (data: ")


@pytest.mark.slow
def test_a_base_patched_later_has_another_cache(mega: Repo) -> None:
    """NeMo-RL finds a converted base by its path alone, and would train the unpatched one."""

    def folders() -> list[str]:
        return ok(mega.stage("train", "mega", "--base")).splitlines()

    start, before = folders()
    assert before.endswith(f"/model_{start.replace('/', '_')}"), "the name that NeMo-RL looks for"
    shutil.rmtree(mega.work / "models/mega")
    mega.edit("recipes/mega/mega.env", "ROPE_THETA=500000.0", "ROPE_THETA=1000000.0")
    ok(mega.call("scripts/model.sh", "mega", "1"))
    again, after = folders()
    assert again == start and Path(after).name == Path(before).name and after != before


def test_only_this_engine_and_only_known_options(mega: Repo) -> None:
    logs = open_link(mega)
    failed(mega.stage("train", "mini", "--close", "--logs", logs), "engine automodel has no close_link", status=(2,))
    failed(mega.stage("train", "mega", "--open", "--logs", logs, "--keep", "none"), "KEEP_CHECKPOINTS=none")
    for action in ("--open", "--follow", "--close"):
        failed(mega.stage("train", "mega", action, "--logs", logs / "none"), "is not a folder")
        failed(mega.stage("train", "mega", action), "--logs None is not a folder")


def test_paths_of_a_second_round_name_the_averaged_model(mega: Repo) -> None:
    recipe = load("qwen7b", "2")
    paths = Paths(mega.work, "qwen7b", "2", recipe)
    with pytest.raises(Failure, match="not finished"):
        nemo_rl_link.cache_folder(paths)
    assert paths.start.parts[-3:] == ("qwen7b", "round1", "average")


def test_what_is_converted_of_a_checkpoint(tmp_path: Path) -> None:
    """FSDP2 leaves an export in every checkpoint; a Megatron checkpoint is nothing without NeMo-RL's converter."""
    saved, made = tmp_path / "step_750", tmp_path / "made"
    fsdp, megatron = ({"ENGINE": "nemo-rl", "BACKEND": backend} for backend in ("fsdp", "megatron"))
    assert convert.export_of(fsdp, saved, None) == saved / "policy/weights/model/consolidated"
    assert convert.export_of(megatron, saved, made) == made
    with pytest.raises(Failure, match="step_750 is a Megatron checkpoint; run: make convert"):
        convert.export_of(megatron, saved, None)
    assert convert.export_of({"ENGINE": "automodel"}, saved, None) == saved / "model/consolidated"


def test_a_finished_run_without_its_logs_says_so(mega: Repo) -> None:
    """Its checkpoint is there, so nothing would be trained; but what was trained is not known any more."""
    open_link(mega)
    checkpoint(mega.run_dir("mega") / "train/checkpoints", 60)
    failed(mega.stage("train", "mega", "--check"), "train/logs has no step", "restore the logs")
