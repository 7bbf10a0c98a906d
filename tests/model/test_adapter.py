"""Llama with the real engine: rows in the file's order, packing, adapters, and what peft makes of them."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_train import link, ok_link, wait_for_step, workers

from conftest import ROOT, Repo, failed, ok, parsed
from little import LORA, little, write_recipe
from sft.engines import saved as engines_saved
from sft.rows.chat import ENDS

pytestmark = pytest.mark.slow

TARGETS = LORA["LORA_TARGETS"].split(",")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """The little Llama, its rows, and recipes for them."""
    repo = little(Repo(tmp_path_factory.mktemp("llama") / "repo"))
    write_recipe(repo, "plain")
    write_recipe(repo, "checkpointed", GPUS_PER_NODE=2, ACTIVATION_CHECKPOINTING="true")
    write_recipe(repo, "packed", PACKING="true")
    write_recipe(
        repo, "pair", PACKING="true", GPUS_PER_NODE=2, STEPS=6, AVERAGE_STEPS=6, ACTIVATION_CHECKPOINTING="true"
    )
    write_recipe(repo, "lora", **LORA)
    for name in ("whole", "killed"):
        write_recipe(repo, name, PACKING="true", DTYPE="bfloat16", SHUFFLE="true", STEPS=40, AVERAGE_STEPS=40, **LORA)
    return repo


def record(repo: Repo, model: str, processes: int = 1) -> Path:
    """Train a recipe to its end with what reaches the model on record; returns the folder of that."""
    folder = repo.work / "records" / model
    if folder.is_dir():
        return folder
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    ok(repo.call(
        *command, ROOT / "tests/engines/recording.py", model, "1", "--work", repo.work,
        PYTHONPATH=repo.root / "python", RECORD=folder,
    ))  # fmt: skip
    ok(repo.stage("train", model, "--check"))
    return folder


def rows(repo: Repo) -> list[list[int]]:
    """The tokens of each row as the model is given them, in the file's order."""
    from transformers import AutoTokenizer

    from sft.rows.dataset import SftDataset

    tokenizer = AutoTokenizer.from_pretrained(repo.work / "models/Little-Llama")
    dataset = SftDataset(str(repo.work / "data/little/round1/training.jsonl"), 96, ENDS["llama3"], tokenizer)
    return [dataset[i]["input_ids"] for i in range(len(dataset))]


def seen(folder: Path, rank: int) -> list[list[list[int]]]:
    """For each forward pass of a process the rows in it, split where the positions start again."""
    found = []
    for line in (folder / f"{rank}.jsonl").read_text().splitlines():
        batch = json.loads(line)
        (ids,) = batch["input_ids"]
        (positions,) = batch.get("position_ids", [list(range(len(ids)))])
        starts = [i for i, position in enumerate(positions) if position == 0]
        found.append([ids[a:b] for a, b in zip(starts, [*starts[1:], len(ids)], strict=True)])
    return found


def test_the_rows_reach_the_model_in_the_files_order(llama: Repo) -> None:
    """SHUFFLE=false. One process: row by row; 6 steps of 6 rows, one of the 4 that are left, then the file again."""
    wanted = rows(llama)
    passes = seen(record(llama, "plain"), 0)
    assert [row for batch in passes for row in batch] == wanted + wanted[:12]
    logged = engines_saved.losses(llama.run_dir("plain") / "train/checkpoints")
    assert [round(row["num_label_tokens"]) > 0 for row in logged.values()] == [True] * 9
    # WARMUP=0 and a constant rate mean the same rate at every step.
    assert {row["lr"] for row in logged.values()} == {3e-3}


def test_two_processes_share_the_rows_of_each_step(llama: Repo) -> None:
    """Two gloo processes take turns: together each step has six rows that follow one another."""
    wanted = rows(llama)
    folder = record(llama, "checkpointed", 2)
    shares = [[row for batch in seen(folder, rank) for row in batch] for rank in (0, 1)]
    assert [len(share) for share in shares] == [26, 26]
    turns = [row for pair in zip(*shares, strict=True) for row in pair]
    assert turns == wanted + wanted[:12]


def test_activation_checkpointing_changes_nothing_and_converts(llama: Repo) -> None:
    """Full SFT: two processes that recompute have the losses of one that does not (1e-5), and the result loads."""
    record(llama, "plain")
    record(llama, "checkpointed", 2)
    losses = [llama.losses(model) for model in ("plain", "checkpointed")]
    assert len(losses[0]) == 9 and losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[0][9] < losses[0][1] - 0.5
    ok(llama.stage("convert", "checkpointed"))
    folder = llama.run_dir("checkpointed") / "convert/step_9"
    for name in ("config.json", "generation_config.json"):
        stops = json.loads((folder / name).read_text())["eos_token_id"]
        assert stops == [1, 4], "Llama 3.1's list, in which <|eot_id|> is"
    failed(llama.stage("convert", "plain", "--merge"), "trains no adapter", status=(2,))


def test_packed_rows_reach_the_model_in_order_with_the_same_losses(llama: Repo) -> None:
    """Six steps of the same six rows: losses and gradient norms are those without packing (1e-5)."""
    wanted = rows(llama)
    passes = seen(record(llama, "packed"), 0)
    assert [row for batch in passes for row in batch] == (wanted * 2)[:54]
    assert len(passes) < 54 and max(len(batch) for batch in passes) > 1
    assert all(sum(map(len, batch)) <= 200 for batch in passes)
    record(llama, "plain")
    logs = [engines_saved.losses(llama.run_dir(model) / "train/checkpoints") for model in ("plain", "packed")]
    for step in range(1, 7):  # the seventh takes up the file's end and beginning, not just its end
        plain, packed = logs[0][step], logs[1][step]
        assert plain["num_label_tokens"] == packed["num_label_tokens"]
        for key in ("loss", "grad_norm"):
            assert packed[key] == pytest.approx(plain[key], rel=1e-5), (step, key)


def test_two_processes_share_the_packs_of_each_step(llama: Repo) -> None:
    wanted = rows(llama)
    folder = record(llama, "pair", 2)
    shares = [seen(folder, rank) for rank in (0, 1)]
    assert len(shares[0]) == len(shares[1]), "FSDP's collectives need as many passes everywhere"
    assert sorted(row for share in shares for batch in share for row in batch) == sorted(wanted[:36])
    record(llama, "plain")
    plain, pair = llama.losses("plain"), llama.losses("pair")
    assert pair == pytest.approx({step: plain[step] for step in range(1, 7)}, rel=1e-5)


def test_packed_training_of_an_adapter_killed_and_resumed(llama: Repo) -> None:
    """bfloat16, shuffled, SIGKILL after a save and SIGTERM later: the losses of an uninterrupted run, exactly."""
    ok_link(llama, "whole")
    for step, number in ((6, signal.SIGKILL), (14, signal.SIGTERM)):
        process = link(llama, "killed")
        wait_for_step(llama, step, process, "killed")
        for pid in workers(llama):
            os.kill(pid, number)
        process.communicate(timeout=60)
        saved = engines_saved.saved_steps("automodel", llama.run_dir("killed") / "train/checkpoints")
        assert 0 < max(saved) < 40, "an adapter's checkpoint is one, too"
    ok_link(llama, "killed")
    assert len(llama.losses("whole")) == 40 and llama.losses("killed") == llama.losses("whole")


def test_an_adapter_is_trained_in_float32_over_a_bfloat16_base(llama: Repo) -> None:
    """nemo-automodel would cast it to the base's type, in which small updates are lost."""
    from sft.model.folder import tensors

    if not (llama.run_dir("whole") / "train/DONE").is_file():
        ok_link(llama, "whole")
    last = engines_saved.saved_steps("automodel", llama.run_dir("whole") / "train/checkpoints")[40]
    assert {dtype for _, _, dtype in tensors(last / "model").values()} == {"F32"}


def test_weights_are_named_by_the_type_that_they_have(llama: Repo, tmp_path: Path) -> None:
    """Of a bfloat16 base the engine trains float32 weights, says so, and exports bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM

    from convert import convert

    start, exported, target = tmp_path / "start", tmp_path / "exported", tmp_path / "target"
    shutil.copytree(llama.work / "models/Little-Llama", start)
    AutoModelForCausalLM.from_pretrained(start, dtype=torch.bfloat16).save_pretrained(start)
    shutil.copytree(start, exported)
    config = json.loads((exported / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    (exported / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))
    (exported / "generation_config.json").unlink()
    target.mkdir()
    convert(exported, start, target, ENDS["llama3"])
    assert AutoModelForCausalLM.from_pretrained(target, dtype="auto").dtype == torch.bfloat16
    assert json.loads((target / "generation_config.json").read_text())["eos_token_id"] == [1, 4]


# --- the adapter in peft's form ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapted(llama: Repo) -> Repo:
    """The recipe lora, trained on record, converted and merged."""
    record(llama, "lora")
    ok(llama.call("bash", "sbatch/convert.sbatch", "lora", "1"))
    assert not (llama.run_dir("lora") / "convert/step_9-merged").exists(), "only on request"
    ok(llama.call("bash", "sbatch/convert.sbatch", "lora", "1", MERGE=1))
    return llama


def test_peft_gives_the_logits_of_the_engines_model(adapted: Repo) -> None:
    """The engine's model in memory, adapter on base in the peft library, and the merged weights: all within 1e-5."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = adapted.work / "models/Little-Llama"
    folder = adapted.run_dir("lora") / "convert/step_9"
    engine = torch.load(adapted.work / "records/lora/logits.pt")
    untouched = AutoModelForCausalLM.from_pretrained(base).eval()
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
    merged = AutoModelForCausalLM.from_pretrained(folder.with_name("step_9-merged")).eval()
    assert len(engine) == 4
    for ids, logits in zip(rows(adapted), engine, strict=False):
        row = torch.tensor([ids])
        with torch.no_grad():
            assert torch.allclose(peft(row).logits, logits, atol=1e-5)
            assert torch.allclose(merged(row).logits, logits, atol=1e-5)
            assert not torch.allclose(untouched(row).logits, logits, atol=1e-3), "the adapter does something"


def test_what_the_adapters_folder_holds(adapted: Repo) -> None:
    from transformers import AutoTokenizer

    folder = adapted.run_dir("lora") / "convert/step_9"
    assert {path.name for path in folder.iterdir()} == {
        "DONE", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    config = json.loads((folder / "adapter_config.json").read_text())
    wanted = {
        "base_model_name_or_path": "acme/Little-Llama", "r": 4, "lora_alpha": 8, "lora_dropout": 0.0,
        "target_modules": TARGETS, "task_type": "CAUSAL_LM", "peft_type": "LORA", "bias": "none",
    }  # fmt: skip
    assert {key: config[key] for key in wanted} == wanted
    tokenizer, trained = (AutoTokenizer.from_pretrained(f) for f in (folder, adapted.work / "models/Little-Llama"))
    assert tokenizer.chat_template == trained.chat_template and tokenizer.get_vocab() == trained.get_vocab()
    assert tokenizer.eos_token == "<|eot_id|>"
    done = adapted.done(folder)
    assert set(done["outputs"]) == {path.name for path in folder.iterdir()} - {"DONE"} and done["step"] == 9
    merged = adapted.done(folder.with_name("step_9-merged"))
    assert merged["differ"] < 1e-5 and "adapter" in merged["inputs"]
    assert json.loads((folder.with_name("step_9-merged") / "config.json").read_text())["eos_token_id"] == [1, 4]
    out = ok(adapted.call("bash", "sbatch/convert.sbatch", "lora", "1", MERGE=1))
    assert "already there" in out and "merged already" in out
    failed(adapted.call("bash", "sbatch/convert.sbatch", "lora", "1", MERGE="yes"), "MERGE=yes", status=(2,))


def test_two_processes_in_bfloat16_packed(llama: Repo) -> None:
    """Full training on two processes, FSDP2 over gloo, packed rows, bfloat16: as one process, and killed as not killed.

    A process rounds to bfloat16 in other places than two do: one computes under autocast, two with the weights
    themselves in bfloat16, and gradients are summed in another order. bfloat16 has 8 bits: what is rounded is off by
    2^-9 of itself at most. A step's loss is a mean over some hundred tokens, in which most of that cancels, and it must
    stay within 2^-9, also after 20 steps from weights that differ a little; seen were 2e-5 at first, 7e-4 at most.
    """
    losses = {}
    for name, processes in (("one", 1), ("two", 2), ("struck", 2)):
        options = {"DTYPE": "bfloat16", "PACKING": "true", "STEPS": 20, "AVERAGE_STEPS": 20, "GPUS_PER_NODE": processes}
        write_recipe(llama, name, **options)
        if name == "struck":
            process = link(llama, name)
            wait_for_step(llama, 9, process, name)
            pids = workers(llama)
            assert len(pids) == 2
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            out = process.communicate(timeout=120)[0]
            assert process.returncode == 1 and "training stopped at step" in out, out
            saved = max(engines_saved.saved_steps("automodel", llama.run_dir(name) / "train/checkpoints"))
            assert 8 <= saved < 20
        ok_link(llama, name)
        losses[name] = llama.losses(name)
        assert list(losses[name]) == list(range(1, 21))
    assert losses["struck"] == losses["two"]
    one, two = (np.array(list(losses[name].values())) for name in ("one", "two"))
    assert (abs(two / one - 1) < 2**-9).all(), two / one - 1
    assert (one != two).any() and one[-1] < one[0] - 1


def test_the_base_that_an_adapter_names(llama: Repo) -> None:
    """The hub's name only where the hub's model is what was trained on."""
    from sft.model.adapter import base_name
    from sft.recipe.paths import Paths

    def name(model: str = "reasoning-lora", round_: str = "1", **changes: str) -> str:
        r = parsed(model, round_, changes)
        return base_name(r, Paths("/WORK", model, round_, r))

    assert name() == "meta-llama/Llama-3.1-8B-Instruct"
    assert name(BASE_SOURCE="random") == "/WORK/models/Llama-3.1-8B-Instruct"
    assert name("tiny-reasoning", "2", BASE_SOURCE="hub") == "/WORK/runs/tiny-reasoning/round1/average"
    assert name(ROPE_THETA="500000.0") == "/WORK/models/Llama-3.1-8B-Instruct"


def broken(what: str) -> Any:
    """What is done to a checkpoint's tensors or config."""

    def change(weights: dict[str, Any], config: dict[str, Any]) -> None:
        name = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"
        if what == "nan":
            weights[name][0, 0] = float("nan")
        elif what == "zero":
            for key in weights:
                if ".lora_B." in key:
                    weights[key].zero_()
        elif what == "lost":
            del weights[name]
        elif what == "shape":
            weights[name] = weights[name][:2].clone()
        elif what == "rank":
            config["r"] = 8
        else:
            config["target_modules"] = [n for n in config["target_modules"] if "up_proj" not in n]

    return change


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("nan", "layers.1.mlp.up_proj.lora_A.weight holds a NaN"),
        ("zero", "every lora_B is zero"),
        ("lost", "layers.1.mlp.up_proj.lora_A.weight is only in one of"),
        ("shape", "has shape (2, 32), not (4, 32)"),
        ("rank", "r is 8, not 4"),
        ("targets", "not LORA_TARGETS"),
    ],
)
def test_an_adapter_that_is_not_whole_is_refused(adapted: Repo, tmp_path: Path, what: str, words: str) -> None:
    """In the process itself, for speed; nothing is left under the target's name."""
    from safetensors.torch import load_file, save_file

    from sft.lib.done import new_folder
    from sft.lib.errors import Failure
    from sft.model.adapter import convert
    from sft.recipe.paths import Paths

    source = engines_saved.saved_steps("automodel", adapted.run_dir("lora") / "train/checkpoints")[9] / "model"
    exported = tmp_path / "exported"
    shutil.copytree(source, exported)
    weights = load_file(exported / "adapter_model.safetensors")
    config = json.loads((exported / "adapter_config.json").read_text())
    broken(what)(weights, config)
    save_file(weights, exported / "adapter_model.safetensors")
    (exported / "adapter_config.json").write_text(json.dumps(config))
    recipe = {
        "BASE_MODEL": "acme/Little-Llama", "BASE_SOURCE": "hub", "BASE_REVISION": "none", "START_FROM": "base",
        "CHAT": "llama3", "AVERAGE_STEPS": (9,), "DATASET": "little", "SCHEMA": "nemotron",
        "LORA_RANK": int(LORA["LORA_RANK"]), "LORA_ALPHA": int(LORA["LORA_ALPHA"]),
        "LORA_DROPOUT": float(LORA["LORA_DROPOUT"]), "LORA_TARGETS": tuple(str(LORA["LORA_TARGETS"]).split(",")),
    }  # fmt: skip
    paths = Paths(adapted.work, "lora", "1", recipe)
    with pytest.raises(Failure) as failure, new_folder(tmp_path / "step_9") as part:
        convert(exported, recipe, paths, part)
    assert words in str(failure.value) and str(exported) in str(failure.value) and ";" in str(failure.value)
    assert not (tmp_path / "step_9").exists()
