"""NeMo-RL's configuration: complete, of known keys and right types, and read by Hydra as it was meant.

After a change that was meant, the golden files are made anew by (touch the one of a new recipe first)

    for file in tests/golden/*.nemo-rl.txt; do
        run=${file#*/golden/} run=${run%.nemo-rl.txt}
        python3 python/nemo_rl.py "${run%.round*}" "${run##*.round}" --work /WORK >"$file"
    done
"""

import json
import math
import os
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

import nemo_rl
import recipe as recipes
from conftest import ROOT, VENV, Repo, failed, ok
from lib import Failure
from nemo_rl import ADDED, KEYS, Link

RUNS = [
    (model, round_)
    for model in recipes.models()
    for round_ in recipes.read_file(ROOT / f"recipes/{model}.env")["ROUNDS"].split(",")
    if recipes.load(model, round_)["ENGINE"] == "nemo-rl"
]
LINK = Link(Path("/WORK/logs"))
HYDRA = VENV / "standin" / "bin" / "python"  # has the versions that the image has
FSDP = {"BACKEND": "fsdp", "CP": "1"}


def load(model: str = "qwen7b", round_: str = "1", **changes: str) -> recipes.Recipe:
    """A recipe with some keys changed, checked again."""
    recipe = recipes.load(model, round_) | changes
    recipes.check(model, recipe)
    return recipe


def overrides(recipe: recipes.Recipe, link: Link = LINK, work: str = "/WORK") -> list[str]:
    return nemo_rl.overrides(recipe, recipes.Paths(work, "qwen7b", "1", recipe), link)


def keys(lines: list[str]) -> dict[str, str]:
    """Key, with its + if it has one, -> value as text."""
    found = dict(line.split("=", 1) for line in lines)
    assert len(found) == len(lines), "a key twice"
    return found


def hydra(lines: list[str], defaults: dict[str, Any] = KEYS) -> subprocess.CompletedProcess[str]:
    """What NeMo-RL makes of the overrides."""
    if not HYDRA.is_file():
        message = f"no {HYDRA}; run: scripts/setup.sh test"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    return subprocess.run(
        [HYDRA, ROOT / "tests/hydra_apply.py"],
        input=json.dumps({"keys": defaults, "overrides": lines}),
        capture_output=True,
        text=True,
    )


def applied(lines: list[str]) -> dict[str, Any]:
    return json.loads(ok(hydra(lines)))


def at(config: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


VARIANTS = {  # changes of qwen7b's recipe and of the link
    "as it is": ({}, LINK),
    "unpacked": ({"PACKING": "false", "CP": "1"}, LINK),
    "validation": ({"VAL_DATASET": "my", "VAL_EVERY": "10", "VAL_BATCHES": "4"}, LINK),
    "wandb": ({}, Link(Path("/logs"), "00:03:45:00", "sft", "qwen7b-1")),
    "fsdp": (FSDP, LINK),
    "fsdp, constant": (FSDP | {"LR_SCHEDULE": "constant", "WARMUP": "0"}, LINK),
    "experts": ({"EP": "2", "ETP": "4"}, LINK),
    "pipeline": ({"PP": "2", "ACTIVATION_CHECKPOINTING": "true"}, LINK),
    "float32": ({"DTYPE": "float32"}, LINK),
}


@pytest.mark.parametrize("model,round_", RUNS)
def test_golden(model: str, round_: str, repo: Repo) -> None:
    output = ok(repo.python("nemo_rl", model, round_, "--work", "/WORK"))
    assert output == (ROOT / f"tests/golden/{model}.round{round_}.nemo-rl.txt").read_text()


def test_the_golden_files_are_of_recipes_that_there_are() -> None:
    names = {f"{model}.round{round_}.nemo-rl.txt" for model, round_ in RUNS}
    assert {path.name for path in (ROOT / "tests/golden").glob("*.nemo-rl.txt")} == names


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_override_is_a_known_key_or_an_added_one(variant: str) -> None:
    changes, link = VARIANTS[variant]
    for key in keys(overrides(load(**changes), link)):
        if key.startswith("+"):
            assert key[1:] in ADDED and key[1:] not in KEYS and not key.startswith("++")
        else:
            assert key in KEYS or any(known.startswith(f"{key}.") for known in KEYS)


def test_unknown_keys_and_wrong_types_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = nemo_rl.settings
    for key, value, words in (
        ("policy.lr", 1e-4, "has no key policy.lr;"),
        ("data.train_data_path", "/x", "has no key data.train_data_path;"),
        ("sft.max_num_steps", "60", "sft.max_num_steps is int, not '60';"),
        ("sft.max_num_steps", 60.0, "sft.max_num_steps is int, not 60.0;"),
        ("sft.max_num_steps", True, "sft.max_num_steps is int, not True;"),
        ("sft.max_num_steps", None, "sft.max_num_steps is int, not None;"),
        ("policy.megatron_cfg.optimizer.lr", "2e-4", "lr is float, not '2e-4';"),
        ("policy.sequence_packing.train_mb_tokens", 1.5, "train_mb_tokens is int, not 1.5;"),
        ("policy.sequence_packing", True, "policy.sequence_packing is a section, not True;"),
        ("policy.sequence_packing", None, "policy.sequence_packing is a section, not None;"),
        ("policy.megatron_cfg.moe_router_dtype", "fp64", "moe_router_dtype is NoneType, not 'fp64';"),
        ("data.train.data_path", None, "data.train.data_path is str, not None;"),
        ("checkpointing.checkpoint_must_save_by", 3600, "must_save_by is str, not 3600;"),
    ):
        monkeypatch.setattr(nemo_rl, "settings", lambda *a, k=key, v=value: real(*a) | {k: v})
        with pytest.raises(Failure) as caught:
            overrides(load())
        assert words in str(caught.value)


def test_expressions_and_their_types_are_those_of_the_file() -> None:
    """Each default that is an expression and that we replace has a type of its own, and nothing else has."""
    expressions = {key for key, value in KEYS.items() if isinstance(value, str) and "${" in value}
    assert set(nemo_rl.EXPRESSIONS) <= expressions
    names = {"policy.tokenizer.name", "policy.megatron_cfg.pipeline_dtype", "logger.wandb.name"}
    emitted = {key.lstrip("+") for changes, link in VARIANTS.values() for key in keys(overrides(load(**changes), link))}
    assert expressions & emitted == set(nemo_rl.EXPRESSIONS) | names, "what else is text"
    assert set(nemo_rl.NULL_DEFAULT) <= {key for key, value in KEYS.items() if value is None}
    assert emitted >= set(ADDED) and not set(ADDED) & set(KEYS)


# Keys that may keep their default, and why; a name that ends with a dot stands for all below it.
UNUSED = {
    "policy.dynamic_batching.train_mb_tokens": "policy.dynamic_batching.enabled=false",
    "policy.dynamic_batching.sequence_length_round": "policy.dynamic_batching.enabled=false",
    "policy.megatron_cfg.linear_ce_fusion_chunk_size": "use_linear_ce_fusion_loss=false",
    "policy.megatron_cfg.env_vars": "empty",
    "policy.megatron_cfg.peft.": "policy.megatron_cfg.peft.enabled=false",
    "policy.megatron_cfg.fp8_cfg.": "policy.megatron_cfg.fp8_cfg.enabled=false",
    "policy.megatron_cfg.optimizer.sgd_momentum": "the optimizer is adam",
    "policy.dtensor_cfg.lora_cfg.": "policy.dtensor_cfg.lora_cfg.enabled=false",
    "policy.dtensor_cfg.env_vars": "empty",
    "policy.dtensor_cfg.automodel_kwargs": "empty",
    "logger.swanlab.": "logger.swanlab_enabled=false",
    "logger.mlflow.": "logger.mlflow_enabled=false",
    "logger.tensorboard.log_dir": "not read: v0.7.0 nemo_rl/utils/logger.py:975 puts it below logger.log_dir",
}
OFF = {"megatron": ["policy.dtensor_cfg.", "policy.optimizer."], "fsdp": ["policy.megatron_cfg."]}


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_default_is_relied_on(variant: str) -> None:
    changes, link = VARIANTS[variant]
    recipe = load(**changes)
    emitted = keys(overrides(recipe, link))
    unused = [*UNUSED, *OFF[recipe["BACKEND"]]]
    unused += [] if link.wandb else ["logger.wandb."]
    unused += [] if "VAL_DATASET" in recipe else ["data.validation."]
    left = [
        k for k in KEYS if k not in emitted and not any(k == u or (u[-1] == "." and k.startswith(u)) for u in unused)
    ]
    assert not left
    for backend in ("megatron", "dtensor"):
        assert (
            emitted[f"policy.{backend}_cfg.enabled"]
            == str((recipe["BACKEND"] == "megatron") == (backend == "megatron")).lower()
        )


def test_hydra_reads_qwen7bs_first_round_as_published() -> None:
    """Numbers copied by hand: NeMo-Skills 8b18f39 docs/releases/openmathreasoning/training.md:92-123."""
    config = applied(overrides(load(), Link(Path("/logs"), "00:03:45:00")))
    megatron, policy = config["policy"]["megatron_cfg"], config["policy"]
    assert {k: megatron["optimizer"][k] for k in ("lr", "min_lr", "weight_decay", "adam_eps", "clip_grad")} == {
        "lr": 2e-4,
        "min_lr": 2e-7,
        "weight_decay": 0.01,
        "adam_eps": 1e-8,
        "clip_grad": 1.0,
    }
    assert megatron["scheduler"] == {
        "start_weight_decay": 0.01,
        "end_weight_decay": 0.01,
        "weight_decay_incr_style": "constant",
        "lr_decay_style": "cosine",
        "lr_decay_iters": 30000,
        "lr_warmup_iters": 3000,
        "lr_warmup_init": 0.0,
    }
    assert (megatron["tensor_model_parallel_size"], megatron["context_parallel_size"]) == (4, 2)
    assert (megatron["enabled"], policy["dtensor_cfg"]["enabled"], policy["optimizer"]) == (True, False, None)
    assert (policy["train_global_batch_size"], policy["max_total_sequence_length"]) == (1024, 32768)
    assert policy["sequence_packing"]["enabled"] and policy["sequence_packing"]["train_mb_tokens"] == 32768
    assert policy["make_sequence_length_divisible_by"] == 16
    assert policy["tokenizer"] == {
        "name": "/WORK/models/Qwen2.5-Math-7B",
        "chat_template": "{% for message in messages %}{{ message['content'] }}{% endfor %}",
        "chat_template_kwargs": None,
    }
    assert config["data"]["train"] == {
        "dataset_name": "ResponseDataset",
        "split": "train",
        "data_path": "/WORK/data/openmathreasoning/round1/all.jsonl",
        "input_key": "input",
        "output_key": "output",
        "split_validation_size": 0,
    }
    assert config["data"]["validation"] is None and not config["data"]["add_bos"] and not config["data"]["add_eos"]
    assert (config["sft"]["max_num_steps"], config["sft"]["max_num_epochs"]) == (30000, 100)
    assert config["sft"]["val_period"] == 0 and not config["sft"]["val_at_start"]
    assert config["checkpointing"] == {
        "enabled": True,
        "checkpoint_dir": "/WORK/runs/qwen7b/round1/train/checkpoints",
        "metric_name": None,
        "higher_is_better": False,
        "keep_top_k": 30000,
        "save_period": 7500,
        "checkpoint_must_save_by": "00:03:45:00",
        "save_optimizer": True,
    }
    assert config["cluster"] == {"gpus_per_node": 8, "num_nodes": 64, "segment_size": None}


@pytest.mark.parametrize("variant", VARIANTS)
def test_hydra_reads_what_was_meant(variant: str) -> None:
    """Key by key: no value changes its type or its text on the way through Hydra's grammar."""
    changes, link = VARIANTS[variant]
    recipe = load(**changes)
    config = applied(overrides(recipe, link))
    for key, value in nemo_rl.settings(recipe, recipes.Paths("/WORK", "qwen7b", "1", recipe), link).items():
        read = at(config, key)
        assert read == value and type(read) is type(value), key


def test_hydra_reads_the_other_recipes() -> None:
    moe = applied(overrides(load("qwen3-30b-a3b")))["policy"]["megatron_cfg"]
    assert (moe["expert_model_parallel_size"], moe["expert_tensor_parallel_size"]) == (2, 4)
    assert (moe["tensor_model_parallel_size"], moe["sequence_parallel"], moe["freeze_moe_router"]) == (4, True, False)
    llama = applied(overrides(load("llama31-8b")))
    assert (llama["cluster"]["num_nodes"], llama["cluster"]["gpus_per_node"]) == (8, 8)
    assert (llama["sft"]["max_num_epochs"], llama["sft"]["max_num_steps"]) == (2, 1000)


def test_hydra_refuses_a_key_that_is_not_there() -> None:
    """What protects a run is that struct mode is on, and that no override is forced."""
    result = hydra([*overrides(load()), "policy.lr=1e-4"])
    assert result.returncode and "Key 'lr' is not in struct" in result.stderr


AWKWARD = [
    "a b",
    "it's",
    "a\\",
    "a\\'b\\\\'",
    "=",
    "a=b",
    "a,b",
    "[1]",
    "{a:1}",
    "null",
    "True",
    "1e-3",
    "007",
    "",
    "é",
    "#",
    "~",
]


def test_any_text_survives_hydra(tmp_path: Path) -> None:
    draw = random.Random(1)
    texts = AWKWARD + ["".join(draw.choices("ab \\'\"$,:=[](){}#@1.", k=draw.randrange(1, 12))) for _ in range(300)]
    texts = [text for text in texts if "${" not in text]
    config = applied([f"+t{i}={nemo_rl.quote(text)}" for i, text in enumerate(texts)])
    assert [config[f"t{i}"] for i in range(len(texts))] == texts
    for text in ("a\nb", "${policy}", "\0"):
        with pytest.raises(Failure):
            nemo_rl.quote(text)
    work = tmp_path / "it's a [work], 50% = folder"
    assert at(applied(overrides(load(), work=str(work))), "policy.model_name") == f"{work}/models/Qwen2.5-Math-7B"


@pytest.mark.parametrize(
    "warmup,init,style", [(30, 0.0, "cosine"), (30, 2e-5, "cosine"), (0, 0.0, "cosine"), (30, 0.0, "constant")]
)
def test_fsdps_schedule_is_megatrons(warmup: int, init: float, style: str) -> None:
    """torch's schedulers, put together as v0.7.0 nemo_rl/models/automodel/setup.py:824-848, against the formula."""
    import torch

    steps, low, high = 100, 2e-7, 2e-4
    changes = {"STEPS": str(steps), "WARMUP": str(warmup), "WARMUP_INIT": str(init), "LR_SCHEDULE": style}
    *parts, last = nemo_rl.scheduler(recipes.load("qwen7b", "1") | changes)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=high)
    made = [getattr(torch.optim.lr_scheduler, p["name"].rsplit(".")[-1])(optimizer, **p["kwargs"]) for p in parts]
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, made, last["milestones"])
    for step in range(steps + 1):
        if step < warmup:
            wanted = init + (high - init) * step / warmup
        elif style == "cosine":
            wanted = low + (high - low) * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2
        else:
            wanted = high
        assert math.isclose(optimizer.param_groups[0]["lr"], wanted, rel_tol=1e-6, abs_tol=1e-8 * high), step
        optimizer.step()
        schedule.step()


def test_must_save_by() -> None:
    assert nemo_rl.validate_must_save_by("01:23:59:59") == "01:23:59:59"
    for wrong in (
        "1-02:00:00",
        "04:00:00",
        "00:24:00:00",
        "00:00:60:00",
        "00:00:00:00",
        "0:1:2:3",
        "",
        "00:03:45:00\n",
    ):
        with pytest.raises(Failure, match="write DD:HH:MM:SS") as caught:
            nemo_rl.validate_must_save_by(wrong)
        assert caught.value.status == 2


def test_the_command_line(repo: Repo) -> None:
    options = ("--work", "/WORK", "--must-save-by", "00:03:45:00", "--wandb", "my project", "--run-id", "a-1")
    lines = ok(repo.python("nemo_rl", "qwen7b", "1", *options, "--log-dir", "/logs")).splitlines()
    for line in (
        "checkpointing.checkpoint_must_save_by='00:03:45:00'",
        "logger.log_dir=/logs",
        "logger.wandb_enabled=true",
        "logger.wandb.project='my project'",
        "logger.wandb.name=a-1",
        "+logger.wandb.id=a-1",
        "+logger.wandb.resume=allow",
    ):
        assert line in lines
    failed(repo.python("nemo_rl", "qwen7b", "1", "--must-save-by", "4:00:00"), "is no time to save by", status=(2,))
    failed(repo.python("nemo_rl", "qwen7b", "1", "--wandb", "sft"), "is no run id", status=(2,))
    failed(repo.python("nemo_rl", "tiny", "1"), "engine is automodel", status=(2,))
    failed(repo.python("nemo_rl", "qwen7b", "1", "--work", "/a${b}"), "would expand", status=(2,))


def test_no_secret_is_printed(repo: Repo) -> None:
    secrets = {"HF_TOKEN": "hf_hush", "WANDB_API_KEY": "wandb_hush"}
    output = ok(repo.python("nemo_rl", "qwen7b", "1", "--wandb", "sft", "--run-id", "a", **secrets))
    assert not any(word in output.lower() for word in ("hush", "hf_token", "api_key"))


def test_the_base_cache_is_of_one_model() -> None:
    recipe = load()
    paths = recipes.Paths("/WORK", "qwen7b", "1", recipe)
    assert nemo_rl.base_cache(paths, "ab" * 32) == Path("/WORK/models/.megatron/Qwen2.5-Math-7B-abababababab")


def test_epochs_that_end_before_the_steps_are_refused() -> None:
    recipe = load("llama31-8b")  # 1,000 steps of 32 rows in 2 epochs
    nemo_rl.check_epochs(recipe, 16_000)
    with pytest.raises(Failure, match="over 15,999 rows end after 998 steps, before STEPS=1,000;"):
        nemo_rl.check_epochs(recipe, 15_999)
