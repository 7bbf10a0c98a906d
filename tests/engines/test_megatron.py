"""Megatron-Core and Megatron-Bridge themselves, on a CPU: a base model survives them, and packed rows with the recipe's
mask and RoPE mean to them what they mean to transformers."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_ray import STANDIN, image
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from conftest import ROOT, Repo, ok
from sft.engines.nemo_rl import row as nemo_rl_row
from sft.rows import dataset, packing

pytestmark = pytest.mark.slow
COMMON = {
    "vocab_size": 400, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
    "bos_token_id": 1, "eos_token_id": 2,
    "initializer_range": 0.1,  # so that tokens differ in their loss
}  # fmt: skip
THETA = {"rope_type": "default", "rope_theta": 500000.0}
LLAMA31 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,  # the one that Megatron-Core knows, whatever config.json says
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "norm_topk_prob": True}
MODELS: dict[str, Any] = {
    "qwen2": Qwen2Config(**COMMON, rope_parameters=THETA),
    "qwen2-tied": Qwen2Config(**COMMON | {"tie_word_embeddings": True}, rope_parameters=THETA),
    "qwen2-odd": Qwen2Config(**COMMON | {"vocab_size": 501}, rope_parameters=THETA),
    "llama31": LlamaConfig(**COMMON, rope_parameters=LLAMA31),
    "qwen3": Qwen3Config(**COMMON, head_dim=16, rope_parameters=THETA),
    "qwen3-moe": Qwen3MoeConfig(**COMMON, **EXPERTS, head_dim=16, rope_parameters=THETA),
}


def environment(**env: str) -> dict[str, str]:
    path = f"{ROOT}/tests/standin/nemo-rl:{ROOT}/python/sft/engines/nemo_rl/inside"
    return os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | env


def standin(*command: object, **env: str) -> subprocess.CompletedProcess[str]:
    """A command of the stand-in's Python."""
    return subprocess.run(
        [str(STANDIN / "bin/python"), *map(str, command)],
        capture_output=True, text=True, timeout=500, cwd=ROOT, env=environment(**env),
    )  # fmt: skip


def write_model(folder: Path, name: str, dtype: torch.dtype, tokenizer: Path) -> None:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(MODELS[name], dtype=dtype)
    for weight in model.parameters():  # norms and biases are not all ones and zeros
        weight.data.add_(0.01 * torch.randn_like(weight))
    model.save_pretrained(folder)
    for file in tokenizer.glob("tokenizer*"):
        shutil.copy(file, folder / file.name)


def test_a_base_model_survives_megatron_bit_by_bit(tmp_path: Path, prepared_mega: Repo) -> None:
    """Each architecture of the recipes, in both types: weights, and what of config.json a model is wrong without."""
    entries = []
    for name in MODELS:
        for dtype in ("float32", "bfloat16"):
            folder = tmp_path / f"{name}-{dtype}"
            write_model(folder, name, getattr(torch, dtype), prepared_mega.work / "models/mega")
            entries.append(f"{folder}:{dtype}")
    ok(standin("tests/engines/megatron_roundtrip.py", *entries))
    for entry in entries:
        folder, _, dtype = entry.partition(":")
        before, after = (load_file(f"{path}/model.safetensors") for path in (folder, f"{folder}-again"))
        assert before.keys() == after.keys(), folder
        for name, tensor in before.items():
            assert tensor.dtype == getattr(torch, dtype) and torch.equal(tensor, after[name]), (folder, name)
        old, new = (AutoConfig.from_pretrained(path) for path in (folder, f"{folder}-again"))
        for key in ("vocab_size", "tie_word_embeddings", "rope_parameters", "eos_token_id", "max_position_embeddings"):
            assert getattr(old, key) == getattr(new, key), (folder, key)
        assert new.rope_parameters["rope_theta"] == 500000.0 and new.architectures == old.architectures
        assert list(Path(f"{folder}-megatron/iter_0000000").glob("*.distcp")), "Megatron-Core's own form"


@pytest.fixture(scope="module")
def rows(prepared_mega: Repo) -> dict[str, Any]:
    """Rows of mega's data as NeMo-RL sees them, in its packs of 256 tokens."""
    repo = prepared_mega
    tokenizer = AutoTokenizer.from_pretrained(repo.work / "models/mega")
    data = dataset.SftDataset(str(repo.work / "data/mini/round1/all.jsonl"), 256, "<|im_end|>", tokenizer)
    views = [nemo_rl_row.view(data, i) for i in range(12)]
    assert all(view.over == 0 and 0 < sum(view.loss) < len(view.ids) for view in views)
    unit = 4  # 2 * CP * TP of two processes
    packs = packing.pack([-(-len(view.ids) // unit) * unit for view in views], 256)
    assert max(map(len, packs)) >= 2 and sorted(i for pack in packs for i in pack) == list(range(12))
    return {"rows": [{"ids": v.ids, "loss": [int(x) for x in v.loss]} for v in views], "packs": packs, "unit": unit}


@pytest.mark.parametrize(
    ("processes", "names"), [(1, ("qwen2", "llama31", "qwen3", "qwen3-moe")), (2, ("qwen2", "llama31"))]
)
def test_packed_rows_mean_the_same_to_megatron(
    tmp_path: Path, prepared_mega: Repo, rows: dict[str, Any], processes: int, names: tuple[str, ...]
) -> None:
    """Forward and backward in float32, tensor-parallel over the processes: logits, loss and every gradient. A RoPE base
    of 10000 in place of 500000, masks a token late and prompts that carry loss are each far outside."""
    for name in names:
        write_model(tmp_path / name, name, torch.float32, prepared_mega.work / "models/mega")
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes)
    folders = [tmp_path / name for name in names]
    out = ok(standin(*torchrun, "tests/engines/megatron_parity.py", tmp_path / "rows.json", *folders))
    models = json.loads(out.splitlines()[-1])
    assert list(models) == [str(folder) for folder in folders]
    answers = sum(sum(row["loss"]) for row in rows["rows"])
    for found in models.values():
        right = found["right"]
        assert right["tokens"] == answers > 100
        assert right["logits"] <= 5e-5 and right["gradients"] <= 1e-4, right
        assert right["loss"] == pytest.approx(right["reference"], rel=1e-5)
        for wrong in ("rope", "shifted", "unmasked"):
            assert found[wrong]["gradients"] >= 0.1, found
            assert abs(found[wrong]["loss"] - right["reference"]) >= 1e-3, found
        assert found["rope"]["logits"] >= 0.1, found


# --- cache and convert ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, prepared_mega: Repo) -> Path:
    folder = tmp_path_factory.mktemp("base") / "base"
    write_model(folder, "qwen2", torch.bfloat16, prepared_mega.work / "models/mega")
    return folder


def inside(tmp_path: Path, *words: object) -> subprocess.CompletedProcess[str]:
    env = os.environ | image(tmp_path)
    command = ["bash", ROOT / "scripts/engines/nemo-rl-inside.sh", *words]
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=200, env=env)


def test_cache_and_convert_return_the_base(tmp_path: Path, base: Path) -> None:
    """The project's own commands, as they run in the image."""
    saved = tmp_path / "step_0"
    ok(inside(tmp_path, "cache", base, saved / "policy/weights", "bfloat16"))
    (saved / "config.yaml").write_text(json.dumps({"policy": {"model_name": str(base)}}))
    again = ("bash", ROOT / "scripts/engines/nemo-rl-inside.sh", "convert", saved, tmp_path / "made")
    env = os.environ | {
        "NEMO_RL_DIR": str(tmp_path / "nemo-rl"), "NEMO_RL_VENV_DIR": str(tmp_path / "venvs"),
    }  # fmt: skip
    for status in (0, 1):  # it never writes over a folder
        run = subprocess.run([str(c) for c in again], capture_output=True, text=True, timeout=200, env=env)
        assert run.returncode == status, run.stderr
    assert "FileExistsError" in run.stderr
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "made"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


PROGRAM = """
import sys
import megatron_cpu
import nemo_rl_cache
from megatron.bridge.training.model_load_save import temporary_distributed_context
from nemo_rl.models.megatron.community_import import import_model_from_hf_name

model, target, fault = sys.argv[1:]
config = nemo_rl_cache.MEGATRON | {"pipeline_dtype": "bfloat16"}
if fault == "stdin":
    with temporary_distributed_context("gloo"):
        import_model_from_hf_name(model, target, config)
elif fault == "group":
    import_model_from_hf_name(model, target, config)
elif fault == "fusion":
    with temporary_distributed_context("gloo"):
        import_model_from_hf_name(model, target)
"""


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("stdin", "FileNotFoundError"),
        ("group", "environment variable RANK expected, but not set"),
        ("fusion", "fused_weight_gradient_mlp_cuda"),
    ],
)
def test_the_importer_refuses_what_the_image_refuses(tmp_path: Path, base: Path, fault: str, words: str) -> None:
    """How `cache` first was: each of its three faults fails here as it does in the image."""
    command = ["-"] if fault == "stdin" else ["-c", PROGRAM]
    run = subprocess.run(
        [str(STANDIN / "bin/python"), *command, str(base), str(tmp_path / "made"), fault],
        input=PROGRAM if fault == "stdin" else None, capture_output=True, text=True, timeout=200, env=environment(),
    )  # fmt: skip
    assert run.returncode == 1 and words in run.stderr, run.stderr[-2000:]
    assert not list(tmp_path.glob("made/iter_0000000/.metadata"))
