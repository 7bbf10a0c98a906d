"""make train PREPARE=1: what a chain needs and is not here is made ahead of it."""

import fcntl
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from test_slurm import Job, submit, wait_until

from conftest import Repo, failed, ok, programs_without

ENDS = ["convert", "convert", "convert", "average", "eval", "results"]


@pytest.fixture
def bare(repo: Repo, cluster: dict[str, str]) -> Repo:
    """A cluster, and nothing in WORK."""
    repo.env |= cluster
    return repo


def edges(repo: Repo, jobs: list[tuple[str, Job]]) -> list[str]:
    """What each job waits for, by the stages' names; of a job that has started, nothing."""
    names = {job.id: name for name, job in jobs}
    waits = [job.field("Dependency").split(",") for _, job in jobs]
    return [",".join(names.get(word.split(":")[-1].split("(")[0], "") for word in words) for words in waits]


@pytest.mark.slow
def test_a_chain_makes_what_it_lacks(bare: Repo) -> None:
    """A lock that another preparation holds is waited for, in a job; at the prompt it is an error."""
    lock = bare.work / "data/.lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        failed(bare.call("scripts/data.sh", "mini", "1"), "make data below", "is running already")
        jobs = submit(bare, PREPARE="1")
        assert [name for name, _ in jobs] == ["model", "data", "train", "train", *ENDS]
        assert edges(bare, jobs)[2:5] == ["data", "train,data", "train"]
        data = jobs[1][1]
        wait_until(lambda: "waiting up to 604800 s for make data" in data.log(), 60, data.log)
        status = ok(bare.call("scripts/tool.sh", "status", "mini", "1"))
        assert re.search(rf"^data +running +{data.id} running", status, re.MULTILINE), status
    for name, job in jobs:
        assert job.wait(120) == "COMPLETED", (name, job.log())
    assert json.loads((bare.run_dir() / "results/results.json").read_text())["steps"] == 60
    assert (bare.run_dir() / "report/DONE").is_file(), "counted with the tokenizer of the model, which comes first"
    # All is here: a second chain is a plain one.
    again = bare.call("scripts/submit.sh", "train", "mini", "1", PREPARE="1", DRY_RUN="1")
    assert "nothing, all is here" in again.stderr and "data-mini" not in ok(again)


@pytest.mark.slow
def test_what_cannot_be_made_cancels_the_chain(bare: Repo) -> None:
    bare.edit("python/data.py", "def main() -> None:\n", "def main() -> None:\n    raise SystemExit(3)\n")
    jobs = submit(bare, PREPARE="1", CPU_PARTITION="batch")
    states = [(name, job.wait(90)) for name, job in jobs]
    assert states == [("model", "COMPLETED"), ("data", "FAILED"), *((name, "CANCELLED") for name, _ in jobs[2:])]
    assert not (bare.run_dir() / "train").exists()
    # Half of it is here by now, and the chain can be queued again.
    assert "made first: data\n" in bare.call("scripts/submit.sh", "train", "mini", "1", PREPARE="1", DRY_RUN="1").stderr


@pytest.mark.slow
def test_here_and_now(repo: Repo) -> None:
    """Options of the preparations are handed on; those that these rows do not need are no error."""
    repo.derive("few", STEPS=10, AVERAGE_STEPS=10)
    words = ("MODEL=few", "PREPARE=1", "EVAL=no", "WORKERS=1", "LAUNCHER=local")
    made = repo.call("make", "-s", "train", *words)
    ok(made)
    assert "made first: model data\n" in made.stderr
    assert (repo.run_dir("few") / "average/DONE").is_file()


def test_what_is_missing(repo: Repo, tmp_path: Path) -> None:
    def words(*arguments: object) -> list[str]:
        made = subprocess.run(
            ["python3", "-ISB", repo.root / "python/tools/missing.py", *map(str, arguments), "--work", repo.work],
            capture_output=True, text=True, env={"PATH": os.environ["PATH"]},
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        return made.stdout.split()

    assert words("qwen7b", 1) == words("tiny", 1, "--eval") == ["model", "data"], "of tiny, data has the test rows"
    assert words("qwen7b", 1, "--eval") == words("reasoning-lora", 1, "--eval") == ["model", "data", "eval-data"]
    assert words("qwen7b", 1, "--only-eval") == ["eval-data"]
    assert words("tiny", 1, "--only-eval", "--bench", f"tiny:4, gsm8k:2,{tmp_path}/mine.jsonl") == ["eval-data"]
    assert words("tiny", 1, "--only-eval", "--bench", f"{tmp_path}/mine.jsonl:2") == [], "the evaluation reads it"
    assert words("tiny", 1, "--only-eval", "--bench", "tiny:4") == []
    for folder in ("data/openmathreasoning/round1", "data/bench/comp-math-24-25", "models/Qwen2.5-Math-7B"):
        (repo.work / folder).mkdir(parents=True)
        (repo.work / folder / "DONE").write_text("{}")
    assert words("qwen7b", 1, "--eval") == []
    assert words("qwen7b", 1, "--only-eval", "--bench", "gsm8k:4") == ["eval-data"]
    assert words("qwen14b", 1, "--eval") == ["model"], "the data is the four Qwens' own"


@pytest.mark.parametrize(
    ("model", "round_", "images"),
    [
        ("mini", "1", "cpu"),
        ("reasoning-lora", "1", "automodel"),
        ("reasoning-lora", "nemo2", "nemo2"),
        ("llama3-lora", "nemo2", "nemo2-llama3 nemo2"),
        ("llama3-sft", "nemo2", "nemo2-llama3"),
        ("qwen7b", "1", "nemo-rl"),
    ],
)
def test_the_images_of_a_chain(repo: Repo, model: str, round_: str, images: str) -> None:
    """An adapter of NeMo 2.1's is exported by another image."""
    script = f'. scripts/lib.sh && load_recipe {model} {round_} && . "scripts/engines/$ENGINE.sh" && engine_images'
    assert ok(repo.call("bash", "-c", script)).split() == images.split()


def test_what_only_the_user_can_make_is_refused(repo: Repo) -> None:
    dry = {"PREPARE": "1", "DRY_RUN": "1", "LAUNCHER": "slurm"}
    call = ("scripts/submit.sh", "train")
    failed(repo.call(*call, "qwen7b", "2", **dry), "finish round 1 first")
    failed(repo.call(*call, "llama31-8b", "1", **dry), "make sft-data")
    for name in ("DATA_SRC=/x", "MODEL_SRC=/x", "BUILDER=docker"):
        failed(repo.call("make", "train", "MODEL=qwen7b", "DRY_RUN=1", name), f"{name} is for what PREPARE=1 makes")
    failed(repo.call("make", "convert", "MODEL=qwen7b", "DRY_RUN=1", "PREPARE=1"), "PREPARE is for make train, eval")


def test_a_run_of_another_recipe_is_refused_before_anything_is_made(repo: Repo) -> None:
    """What it was started from has gone since, so that data and model would be made first."""
    record = repo.run_dir() / "train/RUN"
    record.parent.mkdir(parents=True)
    keys = "json.dumps(stage_keys(load('mini', '1'), 'train'))"
    script = f"import json; from sft.recipe.read import load; from sft.recipe.keys import stage_keys; print({keys})"
    recipe = json.loads(ok(repo.call("python3", "-c", script, PYTHONPATH=repo.root / "python")))
    call = ("scripts/submit.sh", "train", "mini", "1")
    asked = {"PREPARE": "1", "LAUNCHER": "local"}
    record.write_text(json.dumps({"recipe": recipe | {"LR": "7e-7"}, "inputs": {"data": "x", "model": "y"}}))
    failed(repo.call(*call, **asked), "started with other recipe (LR: 7e-7, now 1e-3)", status=(1,))
    assert not (repo.work / "data").exists() and not (repo.work / "models").exists()
    failed(repo.stage("train", "mini", "--open", "--unmade"), "--unmade is for --check")


def test_an_image_that_cannot_be_built_is_refused(repo: Repo, tmp_path: Path) -> None:
    """Before anything is queued; one that can be is the first job, and neither chain nor doctor asks for it before."""
    folder = programs_without(tmp_path / "bin", repo, "docker", "podman", "buildah", "enroot", "apptainer")
    site = {"CONTAINER_RUNTIME": "enroot", "LAUNCHER": "slurm", "PREPARE": "1", "PATH": str(folder)}
    failed(repo.call("scripts/submit.sh", "train", "mini", "1", **site), "there is no docker podman here", status=(1,))
    (folder / "podman").write_text("#!/bin/sh\n")
    (folder / "podman").chmod(0o755)
    failed(repo.call("scripts/submit.sh", "train", "mini", "1", **site), "no enroot here to import the image with")
    assert not (repo.run_dir() / "logs").exists()


@pytest.mark.slow
def test_what_the_evaluation_lacks_is_said_before_anything_is_queued(copy: Repo, tmp_path: Path) -> None:
    """Also of sets that jobs ahead are to make; a benchmark of the user's own is no set that is missing."""
    call = ("scripts/submit.sh", "train", "mini", "1")
    asked = {"LAUNCHER": "local", "PREPARE": "1", "BENCH": "gsm8k:2"}
    failed(copy.call(*call, **asked, MODE="tir", PROTOCOL="today", SELECTOR="x", EVAL_ROWS="0"), "EVAL_ROWS")
    failed(copy.call(*call, **asked, MODE="genselect", PROTOCOL="today"), "genselect")
    failed(copy.call(*call, **(asked | {"BENCH": "gsm9k"})), "BENCH=gsm9k: no such benchmark")
    said = failed(copy.call(*call, LAUNCHER="local", BENCH="gsm8k:2"), "mini round 1 has no eval-data below")
    assert "run: make eval-data MODEL=mini ROUND=1 BENCH=gsm8k:2, or add PREPARE=1" in said
    mine = tmp_path / "mine.jsonl"
    mine.write_text(json.dumps({"problem": "1 + 1", "expected_answer": "2"}) + "\n")
    failed(copy.call(*call, LAUNCHER="local", BENCH=f"{mine}:2", CONTAINER_RUNTIME="apptainer"), "there is no image")
    assert not copy.run_dir().exists()


def test_the_image_that_converts_is_asked_for_before_training(repo: Repo) -> None:
    """Of the Llama 3 adapters it is another than that of training."""
    script = """
        . scripts/lib.sh && load_recipe llama3-lora nemo2 && LAUNCHER=slurm MODEL=llama3-lora
        CONTAINER_RUNTIME=enroot . scripts/runtime.sh
        mkdir -p "$WORK/images" && : >"$(container_target nemo2-llama3)"
        check_container
    """
    env = {"CONTAINER_RUNTIME": "enroot", "DEVICE": "gpu"}
    failed(repo.call("bash", "-c", f"MADE=''{script}", **env), "make container ENGINE=nemo2 ", status=(1,))
    ok(repo.call("bash", "-c", f"MADE='container:nemo2'{script}", **env))


def test_an_image_is_the_first_job(bare: Repo, tmp_path: Path) -> None:
    """With stand-ins that build nothing, the job fails with the builder's error, and the chain with it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("podman", "enroot"):
        (folder / name).write_text('#!/bin/sh\necho "Error: no network" >&2\nexit 1\n')
        (folder / name).chmod(0o755)
    site = {"CONTAINER_RUNTIME": "enroot", "BUILDER": "podman", "PATH": f"{folder}:{bare.env['PATH']}"}
    jobs = submit(bare, PREPARE="1", **site)
    assert [name for name, _ in jobs] == ["container", "model", "data", "train", "train", *ENDS]
    assert [job.wait(60) for _, job in jobs] == ["FAILED"] + ["CANCELLED"] * (len(jobs) - 1)
    assert "error: cannot pull" in jobs[0][1].log() and "no network" in jobs[0][1].log()
    assert "sbatch/container.sbatch mini 1 cpu\n" in ok(bare.call("scontrol", "show", "job", jobs[0][1].id))
    status = ok(bare.call("scripts/tool.sh", "status", "mini", "1"))
    assert "container  failed" in status, status
