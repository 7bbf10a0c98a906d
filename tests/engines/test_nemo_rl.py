"""NeMo-RL's configuration: complete, of known keys and right types, and read by Hydra as it was meant.

After a change that was meant, the golden files are made anew by (touch the one of a new recipe first)

    for file in tests/golden/*.nemo-rl.txt; do
        run=${file#*/golden/} run=${run%.nemo-rl.txt}
        python3 python/engine.py "${run%.round*}" "${run##*.round}" --work /WORK --render >"$file"
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

from conftest import ROOT, VENV, Repo, changed, failed, ok, parsed
from sft.engines.nemo_rl import config as nemo_rl_config
from sft.engines.nemo_rl.config import Link
from sft.engines.nemo_rl.overrides import (
    ADDED,
    TYPES,
    Version,
    check_complete,
    load_version,
    quote,
    validate_must_save_by,
)
from sft.lib.errors import Failure
from sft.recipe import checks
from sft.recipe import read as recipe_read
from sft.recipe.keys import Recipe
from sft.recipe.paths import Paths
from sft.recipe.read import models, rounds

RUNS = [
    (model, round_)
    for model in models()
    for round_ in rounds(model)
    if recipe_read.load(model, round_)["ENGINE"] == "nemo-rl"
]
LINK = Link(Path("/WORK/logs"))
VERSION, NEXT = load_version("0.7"), load_version("next")
HYDRA = VENV / "standin" / "bin" / "python"  # has the versions that the image has


def defaults(version: Version) -> dict[str, Any]:
    """Dotted key -> default of the version's sft.yaml."""
    return {key: fact["default"] for key, fact in version.keys.items() if "default" in fact}


KEYS = defaults(VERSION)
FSDP = {"BACKEND": "fsdp", "CP": "1"}


def load(model: str = "qwen7b", round_: str = "1", **changes: str) -> Recipe:
    """A recipe with some keys changed, checked again."""
    return changed(model, round_, changes)


def overrides(recipe: Recipe, link: Link = LINK, work: str = "/WORK", version: Any = VERSION) -> list[str]:
    return nemo_rl_config.overrides(recipe, Paths(work, "qwen7b", "1", recipe), link, version)


def keys(lines: list[str]) -> dict[str, str]:
    """Key, with its + if it has one, -> value as text."""
    found = dict(line.split("=", 1) for line in lines)
    assert len(found) == len(lines), "a key twice"
    return found


def hydra(*lines: list[str], keys: dict[str, Any] = KEYS) -> subprocess.CompletedProcess[str]:
    """What NeMo-RL makes of the overrides."""
    if not HYDRA.is_file():
        message = f"no {HYDRA}; run: scripts/setup.sh test"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    return subprocess.run(
        [HYDRA, ROOT / "tests/engines/hydra_apply.py"],
        input=json.dumps({"keys": keys, "overrides": lines}),
        capture_output=True,
        text=True,
    )


def all_applied(lines: list[list[str]], version: Version = VERSION) -> list[dict[str, Any]]:
    return json.loads(ok(hydra(*lines, keys=defaults(version))))


def applied(lines: list[str], version: Version = VERSION) -> dict[str, Any]:
    return all_applied([lines], version)[0]


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
    output = ok(repo.python("engine", model, round_, "--work", "/WORK", "--render"))
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


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("policy.lr", 1e-4, "has no key policy.lr;"),
        ("data.train_data_path", "/x", "has no key data.train_data_path;"),
        ("policy.megatron_cfg.moe_grouped_gemm", True, "has no key policy.megatron_cfg.moe_grouped_gemm;"),
        ("sft.max_num_steps", "60", "sft.max_num_steps is integer, not '60';"),
        ("sft.max_num_steps", 60.0, "sft.max_num_steps is integer, not 60.0;"),
        ("sft.max_num_steps", True, "sft.max_num_steps is integer, not True;"),
        ("sft.max_num_steps", None, "sft.max_num_steps is integer, not None;"),
        ("policy.megatron_cfg.optimizer.lr", "2e-4", "lr is number, not '2e-4';"),
        ("policy.sequence_packing.train_mb_tokens", 1.5, "train_mb_tokens is integer, not 1.5;"),
        ("policy.sequence_packing", True, "policy.sequence_packing is object, not True;"),
        ("policy.sequence_packing", None, "policy.sequence_packing is object, not None;"),
        ("policy.tokenizer", None, "policy.tokenizer is object, not None;"),
        ("data.train.data_path", None, "data.train.data_path is string, not None;"),
        ("checkpointing.checkpoint_must_save_by", 3600, "must_save_by is null or string, not 3600;"),
        ("logger.wandb.id", 7, "logger.wandb.id is string, not 7;"),
        # What the first version of this project wrote, and v0.7.0 refuses when the job runs.
        ("policy.tokenizer.chat_template", None, "policy.tokenizer.chat_template is string, not None;"),
        ("checkpointing.keep_top_k", None, "checkpointing.keep_top_k is integer, not None;"),
    ],
)
def test_unknown_keys_and_wrong_types_are_refused(
    key: str, value: object, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = nemo_rl_config.settings
    monkeypatch.setattr(nemo_rl_config, "settings", lambda *a: real(*a) | {key: value})
    with pytest.raises(Failure) as caught:
        overrides(load())
    assert words in str(caught.value)


def test_a_key_that_is_demanded_is_missed() -> None:
    """Only where its section is on: a backend that is off needs no size."""
    values = nemo_rl_config.settings(load(), Paths("/WORK", "qwen7b", "1", load()), LINK)
    demanded = (
        "policy.megatron_cfg.optimizer.lr",
        "checkpointing.save_period",
        "policy.precision",
        "policy.model_name",
    )
    off = ("policy.dtensor_cfg.tensor_parallel_size", "policy.megatron_cfg.peft.dim")
    for key in (*demanded, *off):
        assert VERSION.keys[key]["required"], key
        facts = VERSION.keys | {key: {name: fact for name, fact in VERSION.keys[key].items() if name != "default"}}
        without = Version("0.7", "", "", (), False, facts, {})
        check_complete(values | {key: 1}, without)
        rest = {name: value for name, value in values.items() if name != key}
        if key in off:
            check_complete(rest, without)
        else:
            with pytest.raises(Failure, match=f"demands {key};"):
                check_complete(rest, without)


def types_of(schema: Any) -> dict[str, Any]:
    """The configuration of the recorded facts as a JSON schema, for a library to check."""
    root: dict[str, Any] = {}
    for key, fact in schema.items():
        at_ = root
        *path, last = key.split(".")
        for part in path:
            at_ = at_.setdefault("properties", {}).setdefault(part, {})
        node = at_.setdefault("properties", {}).setdefault(last, {})
        if "any" not in fact["types"]:
            node["type"] = fact["types"]
        if fact["required"]:
            at_.setdefault("required", []).append(last)
    return root


@pytest.mark.parametrize("version", [VERSION, NEXT], ids=lambda version: version.name)
def test_the_whole_configuration_is_of_the_types_that_nemo_rl_demands(version: Version) -> None:
    """Defaults and overrides together, of every recipe and variant, by jsonschema; and the two nulls are not."""
    whole = [overrides(recipe_read.load(*run), version=version) for run in RUNS]
    whole += [overrides(load(**changes), link, version=version) for changes, link in VARIANTS.values()]
    configs = all_applied(whole, version)

    broken = [json.loads(json.dumps(configs[0])) for _ in range(2)]
    broken[0]["checkpointing"]["keep_top_k"] = None
    broken[1]["data"]["max_input_seq_length"] = "long"
    program = (
        "import json, sys, jsonschema\n"
        "given = json.load(sys.stdin)\n"
        "checker = jsonschema.Draft202012Validator(given['schema'])\n"
        "print(json.dumps([[e.json_path for e in checker.iter_errors(c)] for c in given['configs']]))"
    )
    given = json.dumps({"schema": types_of(version.keys), "configs": [*configs, *broken]})
    found = json.loads(ok(subprocess.run([HYDRA, "-c", program], input=given, capture_output=True, text=True)))
    assert found[: len(configs)] == [[]] * len(configs) and len(configs) >= 20
    assert found[len(configs) :] == [["$.checkpointing.keep_top_k"], ["$.data.max_input_seq_length"]]


def test_the_recorded_facts_are_of_a_kind() -> None:
    names = set(TYPES)
    for version in (VERSION, NEXT):
        assert len(defaults(version)) >= 170
        for key, fact in version.keys.items():
            assert fact["types"] and set(fact["types"]) <= names and isinstance(fact["required"], bool), key
            if "default" in fact and not ("${" in str(fact["default"]) or key == "policy.tokenizer.chat_template"):
                kinds = {kind for name in fact["types"] for kind in TYPES[name]}
                assert type(fact["default"]) in kinds, key
        assert version.marker in {key.rpartition(".")[2] for key in defaults(version)}
    assert VERSION.marker not in str(NEXT.keys) and NEXT.marker not in str(VERSION.keys)


# --- versions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["as it is", "fsdp", "wandb", "unpacked"])
def test_the_next_version_in_its_own_words(variant: str) -> None:
    """Against v0.7.0's: one key is renamed, and what is new keeps the default that it has, written out."""
    changes, link = VARIANTS[variant]
    before, after = (keys(overrides(load(**changes), link, version=v)) for v in (VERSION, NEXT))
    gone, new = set(before) - set(after), set(after) - set(before)
    assert all(after[key] == before[key] for key in set(after) & set(before))
    order = {"policy.sequence_packing.microbatch_order"} if changes.get("PACKING") != "false" else set()
    if variant == "fsdp":
        assert not gone and new == order
    else:
        assert gone == {"policy.megatron_cfg.use_linear_ce_fusion_loss"}
        assert new - order == {
            f"policy.megatron_cfg.{key}"
            for key in (
                "use_fused_linear_logprobs", "fused_linear_logprobs_chunk_size", "cuda_graph_impl",
                "cuda_graph_modules",
                "cuda_graph_warmup_steps", "checkpoint.async_save", "checkpoint.ckpt_assume_constant_structure",
                "fine_grained_activation_offloading", "offload_modules", "optimizer.overlap_cpu_optimizer_d2h_h2d",
                "use_gloo_process_groups",
            )
        }  # fmt: skip
        assert after["policy.megatron_cfg.use_fused_linear_logprobs"] == "false"
        assert after["policy.megatron_cfg.checkpoint.async_save"] == "false"
    assert order <= new
    result = hydra(overrides(load(**changes), link), keys=defaults(NEXT))
    assert variant == "fsdp" or (result.returncode and "use_linear_ce_fusion_loss" in result.stderr)
    applied(overrides(load(**changes), link, version=NEXT), NEXT)


def test_versions_by_name(repo: Repo) -> None:
    for name in ("", "0.7", "0.7.0", "v0.7.0", "0.7.3"):
        assert load_version(name).commit == "81aa43dd", name
    assert load_version("next").resume_files == ("common.pt", "metadata.json")
    make = ("make", "-s", "show", "MODEL=qwen7b", "ENGINE_CONFIG=1")
    golden = (ROOT / "tests/golden/qwen7b.round1.nemo-rl.txt").read_text()
    assert ok(repo.call(*make, WORK="/WORK")) == golden == ok(repo.call(*make, "NEMO_RL_VERSION=0.7.1", WORK="/WORK"))
    assert "use_fused_linear_logprobs=false" in ok(repo.call(*make, "NEMO_RL_VERSION=next"))
    for name in ("0.6", "0.8.0", "main", "0.7.x"):
        line = failed(repo.call(*make, f"NEMO_RL_VERSION={name}"), f"NEMO_RL_VERSION={name}", "0.7, next")
        assert line.startswith("error: ")


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
    for key, value in nemo_rl_config.settings(recipe, Paths("/WORK", "qwen7b", "1", recipe), link).items():
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
    config = applied([f"+t{i}={quote(text)}" for i, text in enumerate(texts)])
    assert [config[f"t{i}"] for i in range(len(texts))] == texts
    for text in ("a\nb", "${policy}", "\0"):
        with pytest.raises(Failure):
            quote(text)
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
    *parts, last = nemo_rl_config.scheduler(parsed("qwen7b", "1", changes))
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
    assert validate_must_save_by("01:23:59:59") == "01:23:59:59"
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
            validate_must_save_by(wrong)
        assert caught.value.status == 2


def test_a_links_own_settings() -> None:
    lines = overrides(load(), Link(Path("/logs"), "00:03:45:00", "my project", "a-1"))
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
    with pytest.raises(Failure, match="is not a time to save by"):
        overrides(load(), Link(Path("/logs"), "4:00:00"))
    with pytest.raises(Failure, match="is not a run id"):
        overrides(load(), Link(Path("/logs"), wandb="sft"))


def test_the_command_line(repo: Repo) -> None:
    failed(repo.python("engine", "qwen7b", "1", "--render", "--work", "/a${b}"), "would expand", status=(2,))
    failed(repo.python("engine", "qwen7b", "1"), "engine nemo-rl has no link here", status=(2,))


def test_no_secret_is_printed(repo: Repo) -> None:
    secrets = {"HF_TOKEN": "hf_hush", "WANDB_API_KEY": "wandb_hush"}
    output = ok(repo.python("engine", "qwen7b", "1", "--render", **secrets))
    assert not any(word in output.lower() for word in ("hush", "hf_token", "api_key"))


def test_too_few_cpus_for_ray_are_refused_before_anything_is_queued(repo: Repo) -> None:
    """A node of qwen7b has 8 GPUs: with 8 CPUs for Ray, NeMo-RL waits for ever at "Setting up model"."""
    submit = ("scripts/submit.sh", "train", "qwen7b", "1")
    env = {"LAUNCHER": "slurm", "DRY_RUN": "1"}
    for wrong in ("1", "8", "0", "many", "9x", "-9"):
        failed(repo.call(*submit, RAY_CPUS=wrong, **env), f"RAY_CPUS={wrong}; give 9 or more", status=(2,))
    for right in ("9", "64"):
        assert "sbatch --parsable" in ok(repo.call(*submit, RAY_CPUS=right, **env))
    ok(repo.call(*submit, **env))


def test_the_base_cache_is_of_one_model() -> None:
    recipe = load()
    paths = Paths("/WORK", "qwen7b", "1", recipe)
    assert nemo_rl_config.base_cache(paths, "ab" * 32) == Path("/WORK/models/.megatron/Qwen2.5-Math-7B-abababababab")


def test_epochs_that_end_before_the_steps_are_refused() -> None:
    recipe = load("llama31-8b")  # 1,000 steps of 32 rows in 2 epochs
    checks.check_epochs(recipe, 16_000)
    with pytest.raises(Failure, match="over 15,999 rows end after 998 steps, before STEPS=1,000;"):
        checks.check_epochs(recipe, 15_999)
