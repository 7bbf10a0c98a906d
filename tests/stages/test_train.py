"""Training with the real engine: killed, stopped and resumed runs have the losses of an uninterrupted one, exactly."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from conftest import ROOT, VENV, Repo, failed, heed_ctrl_c, ok
from sft.engines.automodel.config import render
from sft.engines.saved import losses, saved_steps
from sft.recipe.paths import Paths
from sft.recipe.read import load


def link(repo: Repo, model: str = "mini", **env: object) -> subprocess.Popen[str]:
    """Start one training link, as the launchers do, in a process group of its own."""
    return subprocess.Popen(
        ["bash", "sbatch/train.sbatch", model, "1"],
        cwd=repo.root,
        env=repo.env | {k: str(v) for k, v in env.items()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def workers(repo: Repo) -> list[int]:
    """The processes that train (not the launcher, whose workers have sessions of their own)."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        ours = f"WORK={repo.work}".encode() in environment.split(b"\0") and b"\0LOCAL_RANK=" in environment
        if ours and any(c.endswith(b"engine.py") for c in command):
            found.append(int(folder.name))
    return found


def wait_for_step(repo: Repo, step: int, process: subprocess.Popen[str], model: str = "mini") -> None:
    deadline = time.time() + 120
    while max(repo.losses(model), default=0) < step:
        assert process.poll() is None and time.time() < deadline, process.communicate()[0]
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_at_three_points_and_stopped_once(trained: Repo, copy: Repo) -> None:
    """SIGKILL of the workers before the first save, right after one, and between two; SIGTERM at another step."""
    out = ""
    for step, number in ((4, signal.SIGKILL), (21, signal.SIGKILL), (37, signal.SIGKILL), (44, signal.SIGTERM)):
        process = link(copy)
        wait_for_step(copy, step, process)
        reached = max(copy.losses())
        for pid in workers(copy):
            os.kill(pid, number)
        out = process.communicate(timeout=60)[0]
        saved = saved_steps("automodel", copy.run_dir() / "train/checkpoints")
        if number == signal.SIGTERM:
            # nemo-automodel answers with a checkpoint of the step it is at.
            assert process.returncode == 75, out
            assert max(saved) % 10 and reached <= max(saved) <= 59, saved
        else:
            assert process.returncode == 1 and "stopped at step" in out, out
            # Loss lines survive the kill: all steps up to the one that was seen are on disk.
            assert sorted(copy.losses())[:reached] == list(range(1, reached + 1))
            assert max(saved, default=0) <= max(copy.losses())
    out = ok_link(copy)
    assert "step 60/60" in out
    assert copy.losses() == trained.losses()
    assert len(copy.losses()) == 60
    done = copy.done(copy.run_dir() / "train")
    assert done["final_loss"] == trained.losses()[60] and done["links"] >= 3


def ok_link(repo: Repo, model: str = "mini", **env: object) -> str:
    process = link(repo, model, **env)
    out = process.communicate(timeout=300)[0]
    assert process.returncode == 0, out
    return out


@pytest.mark.slow
def test_two_processes_killed_and_resumed(copy: Repo, trained_pair: Repo) -> None:
    """FSDP2 over gloo: an interrupted run of two processes equals an uninterrupted one of two, to the last digit."""
    copy.derive("pair2", GPUS_PER_NODE=2)
    process = link(copy, "pair2", LINK_STEPS=25)
    wait_for_step(copy, 13, process, "pair2")
    os.kill(workers(copy)[0], signal.SIGKILL)
    out = process.communicate(timeout=120)[0]
    assert process.returncode == 1, out
    process = link(copy, "pair2", LINK_STEPS=25)
    out = process.communicate(timeout=120)[0]
    assert process.returncode == 75 and "the link is over after step 35" in out, out
    ok_link(copy, "pair2")
    assert copy.losses("pair2") == trained_pair.losses("pair") and len(copy.losses("pair2")) == 60
    assert trained_pair.done(trained_pair.run_dir("pair") / "train")["links"] == 1


def test_a_finished_run_ends_at_once_without_the_engine(finished: Repo) -> None:
    for name in ("torch", "transformers", "nemo_automodel", "numpy"):
        (finished.root / f"python/{name}.py").write_text("raise SystemExit('imported')\n")
    started = time.time()
    out = ok(finished.call("bash", "sbatch/train.sbatch", "mini", "1"))
    assert "already at the last step, 60" in out and time.time() - started < 10


@pytest.mark.slow
def test_the_last_time_limit_of_a_link(copy: Repo) -> None:
    """LINK_END in the past: each link still makes a step of progress, saves it, and asks for another link."""
    process = link(copy, LINK_END=1)
    out = process.communicate(timeout=120)[0]
    assert process.returncode == 75 and "the link is over after step 1" in out, out
    assert list(saved_steps("automodel", copy.run_dir() / "train/checkpoints")) in ([1], [2])


def test_a_run_killed_between_its_last_save_and_its_record(finished: Repo) -> None:
    """The last checkpoint is there, DONE and the links' record are not: the check writes DONE from what there is."""
    run = finished.run_dir() / "train"
    before = finished.done(run)
    for name in ("DONE", "links.jsonl"):
        (run / name).unlink()
    assert ok(finished.stage("train", "mini", "--check")).strip() == "60"
    after = finished.done(run)
    assert (after["steps"], after["final_loss"], after["links"]) == (60, before["final_loss"], 0)
    (run / "DONE").unlink()
    log_file = run / "checkpoints/training.jsonl"
    log_file.write_text("".join(log_file.read_text().splitlines(keepends=True)[:-1]))
    failed(finished.stage("train", "mini", "--check"), "has no step 60")


def test_resuming_on_other_inputs_is_refused(finished: Repo) -> None:
    run = finished.run_dir() / "train"
    (run / "DONE").unlink()
    data = finished.work / "data/mini/round1"
    done = finished.done(data)
    (data / "DONE").write_text(json.dumps(done | {"outputs": done["outputs"] | {"all.jsonl": "0" * 64}}))
    failed(finished.call("bash", "sbatch/train.sbatch", "mini", "1"), "started with other inputs (data:")
    (data / "DONE").write_text(json.dumps(done))
    rows = data / "all.jsonl"
    rows.write_bytes(rows.read_bytes()[:-1])
    failed(finished.call("bash", "sbatch/train.sbatch", "mini", "1"), str(rows), "bytes")
    (data / "DONE").unlink()
    failed(finished.call("scripts/submit.sh", "train", "mini", "1"), "make data MODEL=mini ROUND=1")


GOLDEN = ("tiny", "reasoning-lora", "reasoning-full", "llama3-sft", "llama3-lora")


@pytest.mark.parametrize("model", GOLDEN)
def test_the_configuration_is_the_recipe(prepared: Repo, model: str) -> None:
    """Golden files: everything the engine is told, with WORK in place of the folder."""
    r = load(model, "1")
    config = render(r, Paths("/WORK", model, "1", r))
    golden = ROOT / "tests/golden" / ("tiny.automodel.yaml" if model == "tiny" else f"{model}.round1.automodel.yaml")
    assert yaml.safe_load(golden.read_text()) == config
    shown = prepared.stage("engine", model, "--render")
    assert yaml.safe_load(ok(shown).replace(str(prepared.work), "/WORK")) == config


@pytest.mark.parametrize("model", GOLDEN)
def test_the_engine_knows_every_key_of_the_configuration(model: str) -> None:
    """Its typed sections are built of it: they refuse a name or a value that they do not know."""
    import torch
    from nemo_automodel.components.config import loader
    from nemo_automodel.recipes._dist_utils import parse_distributed_section
    from nemo_automodel.recipes._typed_config import RecipeConfig

    r = load(model, "1")
    loader.set_enable_user_modules(True)
    node = loader.ConfigNode(render(r, Paths("/WORK", model, "1", r)))
    config = RecipeConfig(node)
    assert config.step_scheduler.global_batch_size == r["GLOBAL_BATCH"]
    assert config.dataloader.shuffle is r["SHUFFLE"]
    assert config.checkpoint.save_consolidated == "every" and config.loss_fn.build() is not None
    distributed = parse_distributed_section(node.distributed.to_dict())
    assert distributed["tp_size"] == r["TP"]
    assert distributed["activation_checkpointing"] is r["ACTIVATION_CHECKPOINTING"]
    policy = distributed["strategy_config"].mp_policy
    assert (policy.param_dtype, policy.reduce_dtype) == (getattr(torch, r["DTYPE"]), torch.float32)
    if "LORA_RANK" in r:
        lora = config.peft.instantiate()
        assert (lora.dim, lora.alpha, lora.dropout, lora.dropout_position) == (
            r["LORA_RANK"], r["LORA_ALPHA"], r["LORA_DROPOUT"], "pre"
        )  # fmt: skip


def test_learning_rate_follows_the_recipe(trained: Repo) -> None:
    """Warm-up from WARMUP_INIT over WARMUP steps, cosine to MIN_LR at the last step: computed here."""
    import math

    rows = losses(trained.run_dir() / "train/checkpoints")
    for step, row in rows.items():
        n = step  # the engine logs the rate after the scheduler's step
        wanted = 1e-3 * n / 5 if n <= 5 else 1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * (n - 5) / 55)) / 2
        assert row["lr"] == pytest.approx(wanted, rel=1e-6), step


def test_every_loss_is_of_the_answers_alone(trained: Repo) -> None:
    """The engine's count of label tokens per step is what our labels say, for rows it may order as it likes."""
    from transformers import AutoTokenizer

    from sft.rows.dataset import SftDataset

    tokenizer = AutoTokenizer.from_pretrained(trained.work / "models/mini")
    rows = SftDataset(str(trained.work / "data/mini/round1/all.jsonl"), 256, "<|im_end|>", tokenizer)
    counts = sorted(sum(label >= 0 for label in rows[i]["labels"]) for i in range(len(rows)))
    logged = [row["num_label_tokens"] for row in losses(trained.run_dir() / "train/checkpoints").values()]
    # 260 rows: 32 steps of 8 rows and, as nemo-automodel does at the end of an epoch, one of what is left.
    assert len(rows) == 260 and sum(logged[:33]) == sum(counts), "an epoch sees each row once"
    whole = [n for i, n in enumerate(logged, 1) if i % 33]
    assert sum(counts[:8]) <= min(whole) and max(whole) <= sum(counts[-8:])


def interrupted(repo: Repo, started: Callable[[], bool], *command: str) -> str:
    """Start a command in a group of its own, send the group SIGINT, as a terminal does, once `started` holds."""
    process = subprocess.Popen(
        command, cwd=repo.root, env=repo.env, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=heed_ctrl_c,
    )  # fmt: skip
    deadline = time.time() + 120
    while not started():
        assert process.poll() is None and time.time() < deadline, process.communicate()[0]
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    out = process.communicate(timeout=60)[0]
    assert process.returncode != 0 and "Traceback" not in out, out
    return out


@pytest.mark.slow
def test_ctrl_c_then_the_same_command(copy: Repo, trained: Repo) -> None:
    """In data, model, train, convert, average, eval and results; each time the same command then goes on."""
    run, data, models = copy.run_dir(), copy.work / "data/mini", copy.work / "models"
    shutil.rmtree(data)
    interrupted(copy, (data / ".source.part").exists, "scripts/data.sh", "mini", "1")
    ok(copy.call("scripts/data.sh", "mini", "1"))
    shutil.rmtree(models / "mini")
    interrupted(copy, (models / ".mini.part").exists, "scripts/model.sh", "mini", "1")
    ok(copy.call("scripts/model.sh", "mini", "1"))
    out = interrupted(copy, lambda: len(copy.losses()) >= 15, "scripts/submit.sh", "train", "mini", "1")
    saved = saved_steps("automodel", run / "train/checkpoints")
    assert max(saved) == len(copy.losses()) >= 15 and max(saved) % 10, "its own checkpoint, between those of SAVE_EVERY"
    assert out.splitlines()[-1] == "error: interrupted; run the same command again to go on"
    assert (
        "train: interrupted: saving after this step" in out
        and "launcher" not in out
        and not list(run.glob("train/STOP*"))
    )
    folders = [run / "convert/.step_50.part", run / ".average.part", run / ".eval.part", run / ".results.part"]
    for folder in folders:
        interrupted(copy, folder.exists, "scripts/submit.sh", "train", "mini", "1")
        assert not folder.exists() or folder.name == ".eval.part", "half-written"  # answers are resumed
    ok(copy.call("scripts/submit.sh", "train", "mini", "1"))
    assert copy.losses() == trained.losses()
    scores = [
        json.loads((r.run_dir() / "results/results.json").read_text())["scores"]["trained"] for r in (copy, trained)
    ]
    assert scores[0] == scores[1]


@pytest.mark.slow
def test_a_process_that_aborts_when_all_is_saved_has_not_failed(copy: Repo) -> None:
    """As a library's thread does that still runs when Python exits."""
    path = "from pathlib import Path\n"
    copy.edit("python/engine.py", path, f"import atexit, os\n\natexit.register(os.abort)\n{path}")
    first = link(copy, LINK_STEPS=1)
    out = first.communicate(timeout=120)[0]
    assert first.returncode == 75, out
    assert saved_steps("automodel", copy.run_dir() / "train/checkpoints")


@pytest.mark.slow
def test_two_chains_at_once_are_refused(copy: Repo) -> None:
    first = subprocess.Popen(
        ["scripts/submit.sh", "train", "mini", "1"], cwd=copy.root, env=copy.env, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    wait_for_step(copy, 2, first)
    failed(copy.call("scripts/submit.sh", "train", "mini", "1"), "is running already (job local")
    os.killpg(first.pid, signal.SIGTERM)
    for pid in workers(copy):
        os.kill(pid, signal.SIGKILL)
    first.communicate(timeout=60)


def test_a_chain_runs_the_code_it_was_submitted_with(trained: Repo) -> None:
    """The record of the snapshot is in DONE, and the jobs' code is that copy."""
    snapshots = [p for p in (trained.run_dir() / "code").iterdir() if (p / "SNAPSHOT").is_file()]
    assert len(snapshots) == 1
    record = json.loads((snapshots[0] / "SNAPSHOT").read_text())
    assert trained.done(trained.run_dir() / "train")["code"] == record
    assert record["commit"] == "unknown" and record["dirty"] is True  # the tests' copy is no git repository
    config = json.loads((trained.run_dir() / "train/automodel.json").read_text())
    model = Path(config["model"]["pretrained_model_name_or_path"])
    assert model.parts[-3:] == ("work", "models", "mini") and (model / "DONE").is_file()


def test_a_snapshot_knows_its_commit(repo: Repo) -> None:
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]
    shutil.copy(ROOT / ".gitignore", repo.root / ".gitignore")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        ok(repo.call(*git, *command))
    run = repo.work / "runs/mini/round1"
    commit = ok(repo.call(*git, "rev-parse", "HEAD")).strip()
    first = Path(ok(repo.call("scripts/snapshot.sh", run)).strip())
    assert json.loads((first / "SNAPSHOT").read_text()) | {"tree_sha256": ""} == {
        "commit": commit, "dirty": False, "tree_sha256": "",
    }  # fmt: skip
    assert ok(repo.call("scripts/snapshot.sh", run)).strip() == str(first), "the same code is the same snapshot"
    with open(repo.root / "python/data.py", "a") as file:
        file.write("# changed\n")
    second = Path(ok(repo.call("scripts/snapshot.sh", run)).strip())
    assert second != first and json.loads((second / "SNAPSHOT").read_text())["dirty"] is True
    assert "# changed" in (second / "python/data.py").read_text()
    assert "# changed" not in (first / "python/data.py").read_text()
    assert ok(repo.call(first / "scripts/snapshot.sh", run)).strip() == str(first), "a snapshot is its own"


def test_the_environment_is_checked_against_the_pins(prepared: Repo, copy: Repo) -> None:
    assert (VENV / "PINS").is_file()
    with open(copy.root / "docker/requirements.txt", "a") as file:
        file.write("left-pad==1.0\n")
    failed(copy.call("scripts/submit.sh", "train", "mini", "1"), "other pins", "make setup")
    failed(copy.call("scripts/data.sh", "mini", "1", VENV="/nonexistent"), "is not set up", "make setup")
