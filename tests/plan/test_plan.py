"""The plan: counts compared with transformers and torch, cases worked out by hand, and what it says without data."""

import argparse
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from conftest import Repo, failed, ok
from sft.lib.errors import Failure
from sft.plan import estimate, footprint, lengths, shapes
from sft.plan.footprint import Layout
from sft.recipe import keys
from sft.recipe.paths import Paths
from sft.recipe.read import load

# L=2, h=8, 2 heads of 4, 1 of keys: q=8, k=4; f=16, V=32, output projection of its own.
TOY = shapes.from_config(
    {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "hidden_size": 8,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 16,
        "vocab_size": 32,
    },
    "toy",
)
TOY_RECIPE = {
    "ENGINE": "nemo-rl",
    "DTYPE": "bfloat16",
    "BACKEND": "megatron",
    "ACTIVATION_CHECKPOINTING": False,
    "SCHEMA": "openmath",
    "SEQ_LEN": 100,
    "MICRO_BATCH": 1,
    "STEPS": 10,
    "SAVE_EVERY": 4,
    "AVERAGE_STEPS": (4, 8),
    "BASE_SOURCE": "hub",
    "PACKING": True,
    "GLOBAL_BATCH": 8,
} | dict.fromkeys(("TP", "CP", "PP", "EP", "NODES", "GPUS_PER_NODE"), 1)

TOY_PATHS = {"BASE_MODEL": "b", "DATASET": "d", "START_FROM": "base", "AVERAGE_STEPS": (4, 8), "SCHEMA": "openmath"}


def plan_of(repo: Repo, model: str = "qwen7b", round_: str = "1", *more: str, **env: object) -> dict[str, Any]:
    args = (model, round_, "--work", repo.work, "--json", *more)
    return json.loads(ok(repo.call("python3", "-B", "python/tools/plan.py", *args, **env)))


# --- parameters and FLOPs ------------------------------------------------------------------------------------------


def test_the_toys_parameters_by_hand() -> None:
    """A layer: projections 8*8 + 2*8*4 + 8*8, SwiGLU 3*8*16, two norms; then final norm, embedding, head."""
    assert TOY.parameters == 2 * (192 + 384 + 16) + 8 + 2 * 256 == 1704
    assert TOY.matmul_parameters == 2 * (192 + 384) + 256 == 1408
    # One row of 10 tokens: 6*1408*10 and 6 L q t^2; two rows of 5 attend to half as much.
    assert TOY.flops(10, 100) == 84480 + 6 * 2 * 8 * 100
    assert TOY.flops(10, 50) == 84480 + 6 * 2 * 8 * 50


def test_the_toys_adapters_by_hand() -> None:
    """Rank 2. A layer: q 8+8, k 8+4, v 8+4, o 8+8, gate 8+16, up 8+16, down 16+8; fused: qkv 8+16, gate and up 8+32."""
    assert TOY.lora_parameters(2, keys.LINEAR) == 2 * 2 * (16 + 12 + 12 + 16 + 24 + 24 + 24)
    assert TOY.lora_parameters(2, keys.LINEAR, fused=True) == 2 * 2 * (24 + 16 + 40 + 24)
    assert TOY.lora_parameters(3, ["q_proj", "v_proj"]) == 2 * 3 * (16 + 12)
    # 10 tokens in one row: 4 a frozen weight, 6 a trained one, attention as ever.
    assert TOY.flops(10, 100, 500) == 4 * 1408 * 10 + 6 * 500 * 10 + 6 * 2 * 8 * 100
    with pytest.raises(Failure, match="has q_proj,k_proj,v_proj in one layer; name all"):
        TOY.lora_parameters(2, ["q_proj", "v_proj"], fused=True)
    with pytest.raises(Failure, match="adapters on experts is not known here; take them out"):
        shapes.from_config(shapes.PUBLISHED["Qwen/Qwen3-30B-A3B"], "").lora_parameters(2, keys.LINEAR)


def test_adapters_of_llama_have_the_parameters_of_peft() -> None:
    """Rank 64 on all linear layers of Llama-3-8B, as peft makes them on the published shape."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = shapes.PUBLISHED["meta-llama/Meta-Llama-3-8B"]
    with torch.device("meta"):
        model = get_peft_model(
            LlamaForCausalLM(LlamaConfig(**{k: v for k, v in config.items() if k != "model_type"})),
            LoraConfig(r=64, target_modules=list(keys.LINEAR)),
            low_cpu_mem_usage=True,
        )
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == shapes.from_config(config, "").lora_parameters(64, keys.LINEAR) == 167_772_160


@pytest.mark.parametrize(
    "name,count",
    [  # as the safetensors of these repositories hold them
        ("Qwen/Qwen2.5-Math-1.5B", 1_543_714_304),
        ("Qwen/Qwen2.5-Math-7B", 7_615_616_512),
        ("Qwen/Qwen2.5-14B", 14_770_033_664),
        ("Qwen/Qwen2.5-32B", 32_763_876_352),
        ("meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248),
        ("meta-llama/Meta-Llama-3-8B", 8_030_261_248),
        ("Qwen/Qwen3-8B-Base", 8_190_735_360),
        ("Qwen/Qwen3-30B-A3B", 30_532_122_624),
    ],
)
def test_published_shapes_have_the_published_parameters(name: str, count: int) -> None:
    known = shapes.published(name)
    assert known and known[1].parameters == count == meta_parameters(shapes.PUBLISHED[known[0]])


def test_the_experts_that_work_on_a_token() -> None:
    """Qwen3-30B-A3B's 3,353,032,704 active parameters: what multiplies a token, the embedding, and the norms."""
    shape = shapes.from_config(shapes.PUBLISHED["Qwen/Qwen3-30B-A3B"], "")
    norms = 48 * (2 * 2048 + 2 * 128) + 2048
    assert shape.matmul_parameters + shape.embedding + norms == 3_353_032_704


def meta_parameters(config: dict[str, Any]) -> int:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, rest = config["model_type"], {k: v for k, v in config.items() if k != "model_type"}
    with torch.device("meta"):
        return sum(p.numel() for p in AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **rest)).parameters())


SMALL = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
MOE = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 40, "head_dim": 24}


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "qwen2"},
        {"model_type": "qwen2", "tie_word_embeddings": True},
        {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
        {"model_type": "llama", "head_dim": 24, "tie_word_embeddings": True},
        {"model_type": "qwen3"},
        {"model_type": "qwen3", "head_dim": 24, "attention_bias": True},
        {"model_type": "qwen3_moe", **MOE},
        {"model_type": "qwen3_moe", "decoder_sparse_step": 2, "mlp_only_layers": [3], **MOE},
    ],
)
def test_variants_have_the_parameters_of_transformers(config: dict[str, Any], tmp_path: Path) -> None:
    """Also as transformers writes and completes the config itself."""
    from transformers import AutoConfig

    config = SMALL | config
    count = meta_parameters(config)
    assert shapes.from_config(config, "").parameters == count
    kind, rest = config["model_type"], {k: v for k, v in config.items() if k != "model_type"}
    AutoConfig.for_model(kind, **rest).save_pretrained(tmp_path)
    shape = shapes.read(tmp_path)
    assert shape and shape.parameters == count


def test_flops_are_those_that_torch_counts() -> None:
    """Exactly, except for what the plan leaves out on purpose: the masked half of the scores, and RoPE's angles."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(**SMALL, attn_implementation="eager")
    model, shape = Qwen2ForCausalLM(config), shapes.from_config(config.to_dict(), "")
    for t in (16, 50):
        with FlopCounterMode(display=False) as counter:
            logits = model(torch.randint(0, 320, (1, t))).logits
            forward = counter.get_total_flops()
            logits.sum().backward()
        angles = t * shape.head_dim  # positions times head_dim / 2 frequencies, in the forward pass only
        unmasked = shape.flops(t, 2 * t * t)
        assert forward - angles == unmasked / 3
        assert counter.get_total_flops() - angles == unmasked


def test_flops_of_lora_are_those_that_torch_counts() -> None:
    """Of nemo-automodel's own adapters, except for what is left out on purpose and the first layer's inputs."""
    import torch
    from nemo_automodel.components._peft.lora import PeftConfig, apply_lora_to_linear_modules
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config, rank, t = Qwen2Config(**SMALL, attn_implementation="eager"), 8, 50
    model, shape = Qwen2ForCausalLM(config), shapes.from_config(config.to_dict(), "")
    settings = PeftConfig(target_modules=["*_proj"], dim=rank, use_memory_efficient_lora=False)
    apply_lora_to_linear_modules(model, settings)
    adapter = shape.lora_parameters(rank, keys.LINEAR)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == adapter
    with FlopCounterMode(display=False) as counter:
        model(torch.randint(0, 320, (1, t))).logits.sum().backward()
    first = 2 * t * 64 * (shape.q + 2 * shape.kv + 3 * rank)  # gradients of what comes in that nobody asks for
    assert counter.get_total_flops() - t * shape.head_dim == shape.flops(t, 2 * t * t, adapter) - first


def test_activations_are_those_that_autograd_keeps() -> None:
    """A bfloat16 layer of transformers keeps what the formula lists, and what fused kernels would not keep."""
    import torch
    from transformers import Qwen2Config
    from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RotaryEmbedding

    config = Qwen2Config(**SMALL, attn_implementation="sdpa")
    layer, t = Qwen2DecoderLayer(config, 0).to(torch.bfloat16), 128
    x = torch.randn(1, t, 64, dtype=torch.bfloat16, requires_grad=True)
    angles = Qwen2RotaryEmbedding(config)(x, torch.arange(t)[None])
    skip = {p.untyped_storage().data_ptr() for p in (*layer.parameters(), *angles)}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in skip:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(x, position_embeddings=angles, attention_mask=None)
    counted = sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / t
    h, f, heads = 64, 96, 4
    # Each norm: its input in float32, not bfloat16, and the result before its weight, and a float32 a token. SwiGLU:
    # the activated half. Attention: a float32 a head.
    eager = 2 * (2 * h + 2 * h + 4) + 2 * f + 4 * heads
    assert counted - eager == footprint.activation_bytes(shapes.from_config(config.to_dict(), ""), 1, True)


def test_activations_of_the_paper() -> None:
    """34 s b h of Korthikanti et al. is 2 bytes of 4h + 4h + 8h and 2h of dropout masks; TP with sequences: all / t."""
    gelu = shapes.Shape(1, 12, 2, 2, 6, 32, 10, False)  # three times f=32 here is twice 4h=48 there
    assert footprint.activation_bytes(gelu, 1, True) == 32 * 12
    assert footprint.activation_bytes(gelu, 4, True) == 32 * 12 / 4
    assert footprint.activation_bytes(gelu, 4, False) == 8 * 12 + 24 * 12 / 4


# --- memory and disk -----------------------------------------------------------------------------------------------


def test_memory_of_the_toy_by_hand() -> None:
    """100 tokens on one GPU: 2 + 2 + 12 bytes a parameter except for the final norm's 8, which no one misses."""
    n, token = 1704 - 8, 2 * (4 * 8 + 2 * (8 + 4) + 3 * 16)
    made = footprint.memory(TOY, TOY_RECIPE, Layout(1, 1, 1, 1, 1, "megatron"), 1)
    assert (made["weights"], made["gradients"], made["optimizer"]) == (2 * n, 2 * n, 12 * n)
    assert made["activations"] == 100 * (2 * token + 6 * 8) and made["logits"] == 100 * 32 * 14
    assert made["total"] == sum(v for k, v in made.items() if k != "total")
    again = footprint.memory(TOY, TOY_RECIPE | {"ACTIVATION_CHECKPOINTING": True}, Layout(1, 1, 1, 1, 1, "megatron"), 1)
    assert again["activations"] == 100 * (2 * 2 * 8 + token + 6 * 8)


LORA = {"LORA_RANK": 2, "LORA_ALPHA": 4, "LORA_DROPOUT": 0.0, "LORA_TARGETS": keys.LINEAR}


def test_memory_of_lora_by_hand() -> None:
    """512 adapter parameters, 416 in NeMo 2.0's layout; a layer keeps 7 times 2 numbers of two bytes more a token."""
    n, token = 1704 - 8, 2 * (4 * 8 + 2 * (8 + 4) + 3 * 16) + 2 * 2 * 7
    own = TOY_RECIPE | LORA | {"ENGINE": "automodel"}
    one = footprint.memory(TOY, own, Layout(1, 1, 1, 1, 1, "fsdp"), 1)
    assert (one["weights"], one["gradients"], one["optimizer"]) == (2 * n + 4 * 512, 4 * 512, 8 * 512)
    assert one["activations"] == 100 * (2 * token + 6 * 8) and "gathered" not in one
    two = footprint.memory(TOY, own, Layout(2, 1, 1, 1, 1, "fsdp"), 1)
    assert (two["weights"], two["optimizer"], two["gathered"]) == (2 * (n + 512), 4 * 512, 2 * n)
    assert footprint.adapter_of(TOY, own) == 512
    nemo2 = own | {"ENGINE": "nemo2"}
    assert footprint.adapter_of(TOY, nemo2) == 416
    one = footprint.memory(TOY, nemo2, Layout(1, 1, 1, 1, 1, "megatron"), 1)
    assert (one["weights"], one["gradients"], one["optimizer"]) == (2 * (n + 416), 4 * 416, 12 * 416)
    full = footprint.memory(TOY, TOY_RECIPE | {"ENGINE": "nemo2"}, Layout(2, 1, 1, 1, 1, "megatron"), 1)
    assert (full["weights"], full["gradients"], full["optimizer"]) == (2 * n, 4 * n, 6 * n)


def test_disk_of_lora_by_hand(tmp_path: Path) -> None:
    """Of the adapter's 512 parameters 4 bytes and two moments; one export, no average: the step is what remains."""
    recipe = TOY_RECIPE | LORA | {"ENGINE": "automodel", "SCHEMA": "squad", "AVERAGE_STEPS": (8,)}
    paths = Paths(tmp_path / "w", "m", "1", TOY_PATHS | {"SCHEMA": "squad", "AVERAGE_STEPS": (8,)})
    made = footprint.disk(TOY, recipe, paths, 5000)
    assert (made["checkpoints"], made["checkpoint"], made["bytes_per_parameter"]) == (4 * 12 * 512, 12 * 512, 12)
    assert (made["exports"], made["average"], made["base"]) == (2 * 512, 0, 2 * 1704)
    nemo2 = recipe | {"ENGINE": "nemo2", "SCHEMA": "nemotron", "VARIANT": "corrected"}
    made = footprint.disk(TOY, nemo2, paths, 5000)
    assert (made["checkpoint"], made["exports"], made["base"]) == (14 * 416, 2 * 416, 4 * 1704)
    for variant, schema, kept in (
        ("corrected", "nemotron", 1),
        ("published", "nemotron", 3),
        ("published", "squad", 2),
    ):
        made = footprint.disk(TOY, nemo2 | {"VARIANT": variant, "SCHEMA": schema}, paths, 5000)
        assert (made["kept"], made["checkpoints"]) == (kept, (kept + 1) * 14 * 416)
    full = {k: v for k, v in recipe.items() if not k.startswith("LORA_")}
    assert footprint.disk(TOY, full, paths, 5000)["checkpoint"] == 16 * 1704
    made = footprint.disk(TOY, recipe, paths, 5000)
    paths.final.mkdir(parents=True)
    (paths.final / "DONE").write_text("{}")
    assert footprint.disk(TOY, recipe, paths, 5000)["missing"] == made["peak"] - 2 * 512


def test_memory_is_divided_as_it_should_be() -> None:
    one = footprint.memory(TOY, TOY_RECIPE, Layout(1, 1, 1, 1, 1, "megatron"), 1)
    tp = footprint.memory(TOY, TOY_RECIPE, Layout(2, 2, 1, 1, 1, "megatron"), 1)
    cp = footprint.memory(TOY, TOY_RECIPE, Layout(2, 1, 2, 1, 1, "megatron"), 1)
    dp = footprint.memory(TOY, TOY_RECIPE, Layout(2, 1, 1, 1, 1, "megatron"), 1)
    assert all(tp[k] == one[k] / 2 for k in one)
    for made in (cp, dp):  # the optimizer goes over both
        assert made["optimizer"] == one["optimizer"] / 2 and made["weights"] == one["weights"]
    assert (cp["activations"], dp["activations"]) == (one["activations"] / 2, one["activations"])
    fsdp = footprint.memory(TOY, TOY_RECIPE, Layout(4, 1, 1, 1, 1, "fsdp"), 1)
    assert (fsdp["weights"], fsdp["optimizer"]) == (4 * 1696 / 4, 8 * 1696 / 4)
    # Both ends and two of two layers are gathered.
    assert fsdp["gathered"] == 2 * 1696
    # Two stages: the first holds two micro-batches of one layer and the embedding, the last one and the logits.
    pp = footprint.memory(TOY, TOY_RECIPE, Layout(2, 1, 1, 2, 1, "megatron"), 4)
    assert pp["weights"] == 2 * ((1704 - 8 - 512) / 2 + 256) and pp["logits"] == one["logits"]


def test_experts_are_divided_by_ep_and_their_optimizer_by_what_is_left() -> None:
    moe = shapes.from_config(SMALL | {"model_type": "qwen3_moe"} | MOE, "")
    assert moe.expert_parameters == 5 * 8 * 3 * 64 * 40
    one = footprint.memory(moe, TOY_RECIPE, Layout(8, 1, 1, 1, 1, "megatron"), 1)
    ep = footprint.memory(moe, TOY_RECIPE, Layout(8, 1, 1, 1, 4, "megatron"), 1)
    assert one["weights"] - ep["weights"] == 2 * moe.expert_parameters * 3 / 4
    assert one["optimizer"] == pytest.approx(ep["optimizer"])


def test_disk_of_the_toy_by_hand(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "w", "m", "1", TOY_PATHS)
    made = footprint.disk(TOY, TOY_RECIPE, paths, 5000)
    # Steps 4, 8 and 10, and one that ran out of time; two exports and their mean; download and converted copy.
    assert (made["kept"], made["checkpoints"], made["checkpoint"]) == (3, 4 * 14 * 1704, 14 * 1704)
    assert (made["exports"], made["average"], made["base"], made["data"]) == (4 * 1704, 2 * 1704, 4 * 1704, 5000)
    assert (
        made["peak"] == made["missing"] == (56 + 4 + 2 + 4) * 1704 + 5000 and made["final"] == made["peak"] - 14 * 1704
    )
    assert made["folder"] == str(tmp_path) and not paths.work.exists()
    paths.data.mkdir(parents=True)
    (paths.data / "DONE").write_text("{}")
    assert footprint.disk(TOY, TOY_RECIPE, paths, 5000)["missing"] == made["peak"] - 5000


# --- time ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text,seconds",
    [
        ("30", 1800),
        ("30:15", 1815),
        ("4:00:00", 14400),
        ("100:00:01", 360001),
        ("1-12", 129600),
        ("1-12:30", 131400),
        ("2-00:00:05", 172805),
        ("UNLIMITED", math.inf),
        ("infinite", math.inf),
        ("0", math.inf),
    ],
)
def test_slurms_time_limits(text: str, seconds: float) -> None:
    assert estimate.time_limit(text) == seconds


@pytest.mark.parametrize("text", ["", "4h", "1:2:3:4", "-5", "1-", "4:00:00 ", "1-2-3"])
def test_what_is_no_time_limit(text: str) -> None:
    with pytest.raises(Failure, match="none of Slurm's forms; write"):
        estimate.time_limit(text)


def test_links_of_a_chain() -> None:
    # 1000 s less 100 and 50 are 850 s: 85 steps of 10 s.
    assert estimate.chain(850, 10, 1000, 100, 50) == (85, 10)
    assert estimate.chain(851, 10, 1000, 100, 50) == (85, 11)
    assert estimate.chain(50, 10, 1000, 100, 50) == (50, 1)
    assert estimate.chain(7, 10, 100, 100, 50) == (1, 7)  # a link takes one step at least
    assert estimate.chain(7, 10, math.inf, 100, 50) == (7, 1)
    made = estimate.timing(10, {"STEPS": 850}, 16, 1000, 100, 50)
    assert (made["links"], made["jobs"], made["steps_per_link"]) == (10, 11, 85)
    assert made["hours"] == (8500 + 1000) / 3600 and made["gpu_hours"] == 16 * made["hours"]


def test_half_the_nodes_take_twice_the_time(repo: Repo) -> None:
    repo.edit("recipes/openmath/qwen7b.env", "NODES=64", "NODES=32")
    half = plan_of(repo)
    repo.edit("recipes/openmath/qwen7b.env", "NODES=32", "NODES=64")
    whole = plan_of(repo)
    assert half["time"]["stated"]["seconds_per_step"] == pytest.approx(2 * whole["time"]["stated"]["seconds_per_step"])
    assert half["flops"] == whole["flops"]
    slow = plan_of(repo, "qwen7b", "1", "--mfu=0.2")
    assert slow["time"]["stated"]["seconds_per_step"] == pytest.approx(half["time"]["stated"]["seconds_per_step"])
    assert slow["time"]["stated"]["mfu"] == pytest.approx(0.2)


# --- data ----------------------------------------------------------------------------------------------------------


def test_without_a_report_it_assumes_and_says_so(repo: Repo) -> None:
    made = plan_of(repo)
    d = made["data"]
    assert (d["rows"], d["steps_per_epoch"]) == (5_485_147, 5356) and d["epochs"] == pytest.approx(5.60, abs=0.01)
    assert d["counted"] is False and any("no report yet: assuming 6,000 tokens" in n for n in made["notes"])
    # 1024 rows of 6,000 tokens in sequences of 32,768 that are 95% full; 64 replicas.
    assert (d["bins"], d["sequences"], d["micro_batches"]) == (198, 256, 4)
    tokens = 1024 * 6000
    assert d["tokens_per_step"] == tokens and d["tokens_per_epoch"] == 5_485_147 * 6000
    flops = 6 * 7_070_285_824 * tokens + 6 * 28 * 3584 * 1024 * 2 * 6000**2
    assert made["flops"]["step"] == flops and made["flops"]["run"] == 30000 * flops
    assert made["time"]["stated"]["seconds_per_step"] == pytest.approx(flops / (512 * 989.5e12 * 0.4))
    assert any("198 sequences" in n for n in plan_of(repo, "qwen1.5b")["notes"])  # and 256 replicas
    assert not any("sequences" in n for n in made["notes"])


def test_a_filter_makes_the_rows_unknown(repo: Repo) -> None:
    for round_, splits in (("2", "cot, tir, genselect"), ("2exact", "cot")):
        made = plan_of(repo, "qwen7b", round_)
        assert made["data"]["rows"] is made["data"]["epochs"] is made["data"]["tokens_per_epoch"] is None
        assert f"what the filter keeps of {splits} is not known before make data" in made["notes"][0]
        assert made["time"]["stated"]["hours"] > 0
        assert "tokens                      ?" in ok(repo.call("scripts/tool.sh", "plan", "qwen7b", round_))


TUTORIALS = [
    (model, round_)
    for model in ("reasoning-lora", "reasoning-full", "llama3-sft", "llama3-lora")
    for round_ in ("1", "nemo2", "published")
]


@pytest.mark.parametrize("model,round_", TUTORIALS)
def test_the_tutorials_have_plans(model: str, round_: str, repo: Repo) -> None:
    """Rows as the recipe takes them or as published, the guess said, FLOPs by the formula, and nothing that is 0."""
    made = plan_of(repo, model, round_)
    recipe, d = load(model, round_), made["data"]
    rows, tokens = {"nemotron": (500_000, 3500), "dolly": (12_008, 250), "squad": (83_219, 200)}[recipe["SCHEMA"]]
    assert (d["rows"], d["tokens_per_row"], d["counted"]) == (rows, tokens, False)
    assert any(f"assuming {tokens:,} tokens a row, a guess" in note for note in made["notes"])
    batch = recipe["GLOBAL_BATCH"]
    adapter = {"reasoning-lora": 167_772_160, "llama3-lora": 83_886_080}.get(model, 0)
    if recipe["ENGINE"] == "nemo2":
        adapter = {"reasoning-lora": 142_606_336, "llama3-lora": 71_303_168}.get(model, 0)
    assert made["adapter_parameters"] == adapter
    weight = (4 * 7_504_658_432 + 6 * adapter) if adapter else 6 * 7_504_658_432
    square = min(2 * tokens**2, tokens * recipe["SEQ_LEN"])
    assert made["flops"]["step"] == weight * batch * tokens + 6 * 32 * 4096 * batch * square
    peak = 989.5e12 * recipe["GPUS_PER_NODE"]
    mfu = 0.3 if model == "reasoning-full" else 0.4  # all of its rounds recompute activations
    assert made["time"]["stated"]["seconds_per_step"] == pytest.approx(made["flops"]["step"] / (peak * mfu))
    if recipe["PACKING"]:  # 896,000 tokens in sequences of 8,192 that are three quarters full
        assert (d["bins"], d["sequences"]) == (146, 152 if model == "reasoning-full" else 146)
    assert made["disk"]["average"] == 0 and not warned(made, "memory: ")
    text = ok(repo.call("scripts/tool.sh", "plan", model, round_))
    assert ("trained, LoRA of rank" in text) == bool(adapter)
    assert ("  packed" in text or "\npacked" in text) == (recipe["PACKING"])


def test_all_that_is_left_of_a_curation_is_not_known_before(repo: Repo) -> None:
    repo.edit("recipes/reasoning/common.env", "CURATE_ROWS=500000", "CURATE_ROWS=0")
    made = plan_of(repo, "reasoning-lora")
    assert made["data"]["rows"] is None and "how many rows are left is not known before make data" in made["notes"][0]
    repo.edit("recipes/reasoning/reasoning-lora.env", "ACTIVATION_CHECKPOINTING=false", "ACTIVATION_CHECKPOINTING=true")
    # Recomputation costs LoRA a third: three passes of the weights' work in place of two.
    assert plan_of(repo, "reasoning-lora")["time"]["stated"]["mfu"] == pytest.approx(0.4 * 2 / 3)


def test_what_helps_the_tutorials_to_fit(repo: Repo) -> None:
    made = plan_of(repo, "reasoning-lora", "1", "--gpu-memory=48")
    assert warned(made, "exceed 92% of 48 GiB; raise GPUS_PER_NODE, ACTIVATION_CHECKPOINTING=true")
    assert not warned(plan_of(repo, "llama3-lora", "1", "--gpu-memory=48"), "memory: ")


def test_moments_of_a_histogram() -> None:
    """Rows of about 50, 150 and 250 tokens, two of them too long for SEQ_LEN=200."""
    report = {"histogram": {"from": [0, 100, 200], "rows": [4, 4, 2]}, "seq_len": 200, "over_seq_len": 0.2}
    assert lengths.moments(report | {"tokens": {"mean": 130}}) == (80, (4 * 2500 + 4 * 22500) / 10)
    fits = {"histogram": {"from": [0, 100], "rows": [5, 5]}, "seq_len": 300, "over_seq_len": 0, "tokens": {"mean": 110}}
    mean, square = lengths.moments(fits)
    assert mean == 110 and square == pytest.approx(12500 * 1.1**2)


def test_with_a_report_nothing_is_assumed(prepared: Repo) -> None:
    """tokens, steps, epochs and bins are the report's; sums of squares are near those of the lengths themselves."""
    from sft.rows.lengths import count

    ok(prepared.call("scripts/tool.sh", "report", "mini", "1"))
    made = plan_of(prepared, "mini", "1")
    report = prepared.done(prepared.run_dir() / "report")["report"]
    d = made["data"]
    assert d["counted"] and not any("assum" in note for note in made["notes"])
    assert (d["rows"], d["steps_per_epoch"], d["epochs"]) == (260, 32, report["epochs"])
    assert d["tokens_per_epoch"] == report["tokens"]["total"]
    assert "mini/config.json" in made["shape"] and made["disk"]["data"] == sum(
        prepared.done(prepared.work / "data/mini/round1")["bytes"].values()
    )
    path = prepared.work / "data/mini/round1/all.jsonl"
    offsets = [sum(map(len, path.read_bytes().splitlines(True)[:i])) for i in range(260)]
    total = count((path, prepared.work / "models/mini", "<|im_end|>", offsets)).total
    assert lengths.moments(report)[1] == pytest.approx(sum(t * t for t in total) / 260, rel=0.02)


def test_a_report_of_other_settings_is_left_aside(prepared: Repo, repo: Repo) -> None:
    ok(prepared.call("scripts/tool.sh", "report", "mini", "1"))
    shutil.copytree(prepared.work, repo.work, symlinks=True)
    repo.edit("recipes/mini/round1.env", "GLOBAL_BATCH=8", "GLOBAL_BATCH=16")
    made = plan_of(repo, "mini", "1")
    assert made["notes"][0].startswith("the report is of another recipe") and made["data"]["rows"] == 260


def test_the_shape_is_that_of_the_model_that_is_there(repo: Repo) -> None:
    folder = repo.work / "models/Qwen2.5-Math-7B"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(shapes.PUBLISHED["Qwen/Qwen2.5-1.5B"]))
    made = plan_of(repo)
    assert made["parameters"] == 1_543_714_304 and made["shape"] == f"from {folder}/config.json"
    (folder / "config.json").write_text('{"model_type": "mamba"}')
    failed(repo.call("scripts/tool.sh", "plan", "qwen7b", "1"), "model_type mamba is not known", status=(1,))
    (folder / "config.json").write_text('{"model_type": "llama"}')
    failed(repo.call("scripts/tool.sh", "plan", "qwen7b", "1"), "restore the file: make model", status=(1,))


# --- measured ------------------------------------------------------------------------------------------------------


def write_links(repo: Repo, model: str, *rows: tuple[int, int, int, float]) -> None:
    folder = repo.run_dir(model) / "train"
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(dict(zip(("link", "from", "step", "seconds"), row, strict=True))) + "\n" for row in rows)
    (folder / "links.jsonl").write_text("".join(lines))


def test_measured_mfu(repo: Repo) -> None:
    """Two links: 100 steps in 300 s after the first save, and 50 in 150 s: 3 s a step, whatever came before."""
    write_links(repo, "qwen7b", (1, 0, 100, 900), (1, 0, 200, 1200), (2, 200, 250, 1000), (2, 200, 300, 1150))
    made = plan_of(repo, "qwen7b", "1", "--time-limit=4:00:00")
    measured, stated = made["time"]["measured"], made["time"]["stated"]
    assert measured["seconds_per_step"] == 3 and stated["mfu"] == pytest.approx(0.4)
    assert measured["mfu"] == pytest.approx(made["flops"]["step"] / 3 / (512 * 989.5e12))
    # (14400 - 600 - 120) / 3 = 4560 steps a link; the number of jobs is by the measured pace.
    assert (measured["steps_per_link"], measured["links"]) == (4560, 7)
    out = ok(repo.call("scripts/tool.sh", "plan", "qwen7b", "1", "--jobs", SBATCH_TIMELIMIT="4:00:00"))
    assert out == "8\n" and stated["jobs"] != 8
    text = ok(repo.call("scripts/tool.sh", "plan", "qwen7b", "1"))
    assert "time by                stated         measured" in text
    assert "measured: 150 steps of 2 links, between saves" in text


def test_a_link_with_one_save_counts_from_its_start(repo: Repo) -> None:
    write_links(repo, "qwen7b", (1, 0, 100, 1100))
    measured = plan_of(repo, "qwen7b", "1", "--bring-up=100")["time"]["measured"]
    assert measured["seconds_per_step"] == 10 and "100 s of bring-up, assumed" in measured["source"]
    with open(repo.run_dir("qwen7b") / "train/links.jsonl", "a") as file:
        file.write('{"link": 2, "fro')  # a killed writer's last line
    assert plan_of(repo, "qwen7b", "1", "--bring-up=100")["time"]["measured"]["seconds_per_step"] == 10
    (repo.run_dir("qwen7b") / "train/links.jsonl").write_text('{"link": 1}\n')
    failed(repo.call("scripts/tool.sh", "plan", "qwen7b", "1"), "links.jsonl: a row without", status=(1,))


def test_a_cpu_has_no_estimate_but_may_have_a_measurement(repo: Repo) -> None:
    out = ok(repo.call("scripts/tool.sh", "plan", "tiny", "1"))
    assert "on a CPU: no estimate" in out and "GPU" not in out and "model FLOPs" in out
    assert re.search(r"^steps +600  in all", out, re.M) and "note: the number of rows is not known before" in out
    failed(
        repo.call("scripts/tool.sh", "plan", "tiny", "1", "--jobs"), "no estimate; set JOBS to a number", status=(1,)
    )
    write_links(repo, "tiny", (1, 0, 50, 30), (1, 0, 150, 80))
    made = plan_of(repo, "tiny", "1", "--time-limit=5", "--bring-up=10")
    assert made["time"]["measured"]["seconds_per_step"] == 0.5 and "mfu" not in made["time"]["measured"]
    # 300 - 10 - 120 = 170 s: 340 of the 600 steps.
    assert made["time"]["measured"]["links"] == 2 and made["memory"] is None
    assert ok(repo.call("scripts/tool.sh", "plan", "tiny", "1", "--jobs", SBATCH_TIMELIMIT="5", BRING_UP=10)) == "3\n"


# --- warnings ------------------------------------------------------------------------------------------------------


def warned(made: dict[str, Any], words: str) -> bool:
    return any(words in warning for warning in made["warnings"])


def test_what_does_not_fit_is_said_and_the_remedy_works(repo: Repo) -> None:
    small = ("--gpu-memory=40",)
    made = plan_of(repo, "qwen1.5b", "1", *small)
    assert warned(made, "GiB a GPU exceed 92% of 40 GiB; raise TP or CP, ACTIVATION_CHECKPOINTING=true, raise PP")
    assert not warned(plan_of(repo, "qwen1.5b", "1", "--gpu=h200"), "memory")
    repo.edit("recipes/openmath/qwen1.5b.env", "\nTP=1", "\nTP=2")
    assert not warned(plan_of(repo, "qwen1.5b", "1", *small), "memory: ")
    repo.edit("recipes/openmath/qwen1.5b.env", "\nTP=2", "\nTP=16")
    made = plan_of(repo, "qwen1.5b", "1")
    assert warned(made, "TP=16 reaches beyond a node") and warned(
        made, "does not divide 12 heads and 2 key-value heads"
    )


def test_a_limit_that_is_too_short(repo: Repo) -> None:
    made = plan_of(repo, "qwen7b", "1", "--time-limit=10")
    assert warned(made, "exceed the limit of 600 s") and warned(made, "more than the 99 of a chain")
    assert made["time"]["stated"]["steps_per_link"] == 1
    made = plan_of(repo, "qwen7b", "1", "--time-limit=4:00:00")
    assert not warned(made, "time: ") and not warned(made, "of a chain")
    text = ok(repo.call("scripts/tool.sh", "plan", "qwen7b", "1", SBATCH_TIMELIMIT=10)).splitlines()
    first = next(i for i, line in enumerate(text) if line.startswith("WARNING: "))
    assert all(line.startswith("WARNING: ") for line in text[first:])


def test_the_disk_is_compared_with_what_is_free(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    args = argparse.Namespace(model="qwen7b", round="1", mfu=None, time_limit=None, gpu="h100", gpu_memory=None)
    args.bring_up, args.save_reserve = 600, 120
    recipe = load("qwen7b", "1")
    for free, expected in ((10**15, False), (10**11, True)):
        monkeypatch.setattr(footprint.shutil, "disk_usage", lambda _, free=free: argparse.Namespace(free=free))
        made = estimate.figures(recipe, Paths(repo.work, "qwen7b", "1", recipe), args)
        assert warned(made, "disk: ") == expected and made["disk"]["free"] == free


def test_recomputation_costs_a_quarter_of_the_stated_mfu() -> None:
    args = argparse.Namespace(model="qwen7b", round="1", mfu=None, time_limit="UNLIMITED", gpu="h100", gpu_memory=None)
    args.bring_up, args.save_reserve = 600, 120
    recipe = load("qwen7b", "1")
    paths = Paths("/nowhere", "qwen7b", "1", recipe)
    plain = estimate.figures(recipe, paths, args)
    again = estimate.figures(recipe | {"ACTIVATION_CHECKPOINTING": True}, paths, args)
    assert again["time"]["stated"]["mfu"] == pytest.approx(0.3)
    assert again["flops"] == plain["flops"] and again["memory"]["total"] < plain["memory"]["total"]
    # And by FSDP the optimizer is spread over all replicas: nothing of it is whole anywhere.
    fsdp = estimate.figures(recipe | {"BACKEND": "fsdp"}, paths, args)
    assert fsdp["memory"]["weights"] < plain["memory"]["weights"] and fsdp["disk"]["bytes_per_parameter"] == 12


# --- the command ---------------------------------------------------------------------------------------------------


def test_make_plan_needs_nothing_but_python_and_writes_nothing(repo: Repo) -> None:
    before = sorted(repo.root.rglob("*"))
    out = ok(repo.call("make", "-s", "plan", "MODEL=qwen7b", VENV=repo.root / "none"))
    assert out.startswith("qwen7b round 1: 64 x 8 h100, nemo-rl (megatron), TP 4 CP 2 PP 1 EP 1, 64 replicas\n")
    assert "parameters      7,615,616,512" in out
    options = ("GPU=h200", "MFU=0.3", "BRING_UP=60", "GPU_MEMORY=139")
    out = ok(repo.call("make", "-s", "plan", "MODEL=qwen32b", *options, VENV=repo.root / "none"))
    assert "64 x 8 h200" in out and " 0.300 " in out and "of 139:" in out
    # -S: without any installed package.
    assert ok(repo.call("python3", "-S", "-B", "python/tools/plan.py", "qwen14b", "1", "--work", repo.work))
    assert sorted(repo.root.rglob("*")) == before


def test_cluster_env_is_read(repo: Repo) -> None:
    (repo.root / "cluster.env").write_text("SBATCH_TIMELIMIT=4:00:00\nGPU=b200\nSAVE_RESERVE=300\n")
    out = ok(repo.call("scripts/tool.sh", "plan", "qwen7b", "1"))
    assert "64 x 8 b200" in out and "limit 4.00 h" in out
    assert "no time limit given" not in out


@pytest.mark.parametrize(
    "env,words",
    [
        ({"MFU": "0"}, "MFU=0; give a number above 0, at most 1"),
        ({"MFU": "1.5"}, "MFU=1.5; give"),
        ({"MFU": "nan"}, "MFU=nan; give"),
        ({"MFU": "high"}, "MFU=high; give"),
        ({"GPU": "tpu"}, "no GPU named 'tpu'; it is a100, h100"),
        ({"GPU_MEMORY": "-1"}, "GPU_MEMORY=-1; give"),
        ({"BRING_UP": "-5"}, "BRING_UP=-5; give a number from 0"),
        ({"SBATCH_TIMELIMIT": "soon"}, "time limit 'soon' is none of Slurm's forms; write"),
    ],
)
def test_wrong_options_end_in_one_line(repo: Repo, env: dict[str, str], words: str) -> None:
    failed(repo.call("scripts/tool.sh", "plan", "qwen7b", "1", **env), words, status=(2,))


def test_a_model_that_nobody_knows(repo: Repo) -> None:
    repo.edit("recipes/openmath/qwen14b.env", "BASE_MODEL=Qwen/Qwen2.5-14B", "BASE_MODEL=Acme/Unknown-3B")
    failed(
        repo.call("scripts/tool.sh", "plan", "qwen14b", "1"),
        "the shape of Acme/Unknown-3B is not known; run make model",
    )
    failed(repo.call("scripts/tool.sh", "plan", "nope", "1"), "no recipe named 'nope'", status=(2,))
    failed(repo.call("scripts/tool.sh", "plan", "qwen7b"), "wrong number of arguments", status=(2,))
