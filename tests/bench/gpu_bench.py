"""Time LoRA of a Llama-3.1-8B shape with nemo-automodel on this machine's GPU, one setting after the other.

    python tests/bench/gpu_bench.py                                    # every setting of DEFAULTS: an hour or so
    python tests/bench/gpu_bench.py --settings flash+chunked,sdpa      # these
    python tests/bench/gpu_bench.py --device cpu --layers 2 --hidden 64 --vocab 512 --seq-len 128 --mean-length 40

Random weights and synthetic tokens: no download, no data, and nothing is learned. The engine's own recipe builds the
model and runs each step (forward, loss, backward, clipping, AdamW), one process a setting, so that the memory of one
is not that of another. A setting is words joined by "+", each turning one knob away from the baseline:

    packing      packed (default), unpacked: a row a micro batch
    attention    sdpa (default), flash (FlashAttention 2), flash3, flex, te: Transformer Engine's, with its other layers
    loss         full (default: all logits), chunked (by tokens), fused (cut cross entropy), teloss
    memory       keep (default), recompute (all layers' activations), selective (what is cheap to recompute)
    compile      eager (default), compile (torch.compile, layer by layer)
    adapters     torch (default), triton (nemo-automodel's LoRA kernels), plain (not its memory-efficient form)
    precision    mixed (default: adapters in float32, and autocast), bf16 (all of it), fp8 (torchao, by tensor),
                 fp8row (by row), tefp8 (Transformer Engine's; needs te); the last three with bf16

The baseline, sdpa, is what make train does. A setting that fails, or that the engine would quietly replace by another,
is a row with its reason. Writes <gpu>.json after every row and <gpu>.md at the end, below --out. Model FLOPs are those
of plan/shapes.py: of a frozen weight the forward pass and the gradient handed on, 4 a weight and token, in place of 6;
recomputation does not count. MFU is their rate over the highest rate of bfloat16 matrix products measured here, so
with fp8 it may exceed what bfloat16 could reach. Aim: 14,000 tokens/s on one H200.
"""

import argparse
import os
import platform
import random
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python"))

from sft.lib import table as tables
from sft.lib.done import code_identity
from sft.lib.errors import Failure, run, usage
from sft.lib.files import ROOT, read_json, write_json
from sft.lib.progress import START, log, peak_memory
from sft.plan import shapes
from sft.recipe.keys import LINEAR
from sft.recipe.paths import Paths
from sft.recipe.read import load

# Source: config.json of meta-llama/Llama-3.1-8B-Instruct. Heads, width and the like follow --hidden as they do there.
LAYERS, HIDDEN, VOCAB, HEAD_DIM, GROUPS, WIDTH = 32, 4096, 128256, 128, 4, 3.5
ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
}
# The recipe whose run the figures are for.
MODEL, ROUND = "reasoning-lora", "1"
# Tokens of a row where no report of that recipe has counted them; plan.py's guess, and why.
MEAN_LENGTH = 3500
SEED = 1234

KNOBS = {
    "packing": ("packed", "unpacked"),
    "attention": ("sdpa", "flash", "flash3", "flex", "te"),
    "loss": ("full", "chunked", "fused", "teloss"),
    "memory": ("keep", "recompute", "selective"),
    "compile": ("eager", "compile"),
    "adapters": ("torch", "triton", "plain"),
    "precision": ("mixed", "bf16", "fp8", "fp8row", "tefp8"),
}
DEFAULTS = (
    "unpacked",
    "unpacked+chunked",
    "sdpa",
    "sdpa+chunked",
    "sdpa+fused",
    "sdpa+chunked+bf16",
    "sdpa+chunked+compile",
    "sdpa+chunked+recompute",
    "flash",
    "flash+chunked",
    "flash+fused",
    "flash+chunked+compile",
    "flash+chunked+selective+plain",
    "flash+chunked+recompute",
    "flash+chunked+bf16",
    "flash+chunked+bf16+plain",
    "flash+chunked+bf16+triton",
    "flash+chunked+bf16+compile",
    "flash+chunked+fp8",
    "flash+chunked+fp8+compile",
    "flash3+chunked+compile",
    "flex+chunked+compile",
    "te+chunked",
    "te+teloss",
    "te+chunked+tefp8",
)
ATTENTION = {"flash": "flash_attention_2", "flash3": "flash_attention_3", "flex": "flex_attention"}
LOSSES = {
    "full": ("masked_ce.MaskedCrossEntropy", {}),
    "chunked": ("chunked_ce.ChunkedCrossEntropy", {"chunk_len": 2048}),
    "fused": ("linear_ce.FusedLinearCrossEntropy", {}),
    "teloss": ("te_parallel_ce.TEParallelCrossEntropy", {}),
}
Knobs = dict[str, str]


def knobs_of(setting: str) -> Knobs:
    """Knob -> its word, of words joined by '+'. Raises Failure (status 2) for an unknown word, or two of a knob."""
    knobs = {knob: words[0] for knob, words in KNOBS.items()}
    turned: set[str] = set()
    for word in setting.split("+"):
        knob = next((knob for knob, words in KNOBS.items() if word in words), None)
        if knob is None:
            usage(f"no setting {word!r}; join some of {' '.join(w for words in KNOBS.values() for w in words)} by '+'")
        if knob in turned:
            usage(f"setting {setting} says {knob} twice; keep one of {', '.join(KNOBS[knob])}")
        turned.add(knob)
        knobs[knob] = word
    if knobs["precision"] == "tefp8" and knobs["attention"] != "te":
        usage(f"setting {setting}: tefp8 needs Transformer Engine's layers; add te")
    return knobs


def model_config(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of transformers' LlamaConfig: Llama-3.1-8B's, or the like of another size."""
    head_dim = min(HEAD_DIM, args.hidden // 4)
    heads = args.hidden // head_dim
    return {
        "architectures": ["LlamaForCausalLM"],  # by which nemo-automodel finds its own implementation
        "num_hidden_layers": args.layers,
        "hidden_size": args.hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // GROUPS),
        "head_dim": head_dim,
        "intermediate_size": round(WIDTH * args.hidden),
        "vocab_size": args.vocab,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_parameters": ROPE,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }


def shape_of(args: argparse.Namespace) -> shapes.Shape:
    return shapes.from_config(model_config(args) | {"model_type": "llama"}, "gpu_bench.py")


# --- data ----------------------------------------------------------------------------------------------------------


def document_lengths(mean: float, seq_len: int, seed: int = SEED) -> Iterator[int]:
    """Tokens of one document after another, without end: exponentially distributed, those over seq_len drawn again.

    The draws' own mean is set so that `mean` is what is left: of an exponential with mean m cut at s, it is
    m - s / (exp(s / m) - 1) (found by bisection), which reaches up to s / 2.
    """
    import math

    low, high = mean, 1000.0 * seq_len
    for _ in range(100):
        scale = (low + high) / 2
        left = scale - seq_len / math.expm1(min(seq_len / scale, 700.0))
        low, high = (scale, high) if left < mean else (low, scale)
    generator = random.Random(seed)
    while True:
        length = round(generator.expovariate(1 / scale))
        if 2 <= length <= seq_len:
            yield length


def in_order(lengths: Iterator[int], seq_len: int) -> Iterator[list[int]]:
    """Bins of at most seq_len tokens, filled in the order of the documents, as dataset.py packs them."""
    bin_: list[int] = []
    for length in lengths:
        if sum(bin_) + length > seq_len:
            yield bin_
            bin_ = []
        bin_.append(length)


class Documents:
    """A map-style dataset of micro batches of random tokens.

    bins: the lengths of each one's documents. Packed ones are padded to seq_len, in the form that nemo-automodel's
    own packing has: position ids from 0 in each document, an attention mask that numbers the documents from 1.
    """

    def __init__(self, seq_len: int, mean_length: float, items: int, packed: bool, vocab: int):
        lengths = document_lengths(mean_length, seq_len)
        bins = in_order(lengths, seq_len) if packed else ([length] for length in lengths)
        self.bins = list(islice(bins, items))
        self.seq_len, self.packed, self.vocab = seq_len, packed, vocab

    def __len__(self) -> int:
        return len(self.bins)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        """input_ids, labels, position_ids and attention_mask, each of seq_len tokens (unpacked: of the document's)."""
        generator, lengths = random.Random(index), self.bins[index]
        used = sum(lengths)
        pad = self.seq_len - used if self.packed else 0
        ids = [generator.randrange(2, self.vocab) for _ in range(used)]
        return {
            "input_ids": ids + [0] * pad,
            "labels": [*ids[1:], 1] + [-100] * pad,
            "position_ids": [i for length in lengths for i in range(length)] + [0] * pad,
            "attention_mask": [n for n, length in enumerate(lengths, 1) for _ in range(length)] + [0] * pad,
        }


def collate(batch: Sequence[dict[str, list[int]]], mask: str) -> dict[str, Any]:
    """One micro batch as the attention wants it.

    mask: block (an explicit [1, 1, n, n] mask), varlen (FlashAttention's boundaries), positions (no mask at all:
    transformers finds the documents by their position ids), thd (Transformer Engine's), none (a single document).
    """
    from nemo_automodel.components.datasets import utils
    from nemo_automodel.components.models.common.packing import PackingCapabilities

    if mask in ("block", "varlen"):
        kind = {"block": "block_causal", "varlen": "flash_varlen"}[mask]
        made = utils.neat_packed_collater(list(batch), packing=PackingCapabilities(packed_mask_type=kind))
        made.pop("_packed_seq_ids", None)
        return made
    if mask == "thd":
        rows = []
        for row in batch:
            lengths = [row["attention_mask"].count(n) for n in range(1, max(row["attention_mask"]) + 1)]
            padded = [*lengths[:-1], lengths[-1] + row["attention_mask"].count(0)]
            rows.append(
                {k: row[k] for k in ("input_ids", "labels", "position_ids")}
                | {"seq_lens": lengths, "seq_lens_padded": padded}
            )
        return utils.packed_sequence_thd_collater(rows)
    import torch

    return {k: torch.tensor([row[k] for row in batch]) for k in ("input_ids", "labels", "position_ids")}


def mask_of(knobs: Knobs) -> str:
    if knobs["packing"] == "unpacked":
        return "none"
    return {"sdpa": "block", "flex": "positions", "te": "thd"}.get(knobs["attention"], "varlen")


# --- one setting -----------------------------------------------------------------------------------------------------


def engine_config(args: argparse.Namespace, knobs: Knobs, folder: Path) -> dict[str, Any]:
    """nemo-automodel 0.7.0's configuration of a setting; optimizer, rank and clipping are the recipe's."""
    recipe = load(MODEL, ROUND)
    loss, options = LOSSES[knobs["loss"]]
    te = knobs["attention"] == "te"
    attention = ATTENTION.get(knobs["attention"], "sdpa")
    config: dict[str, Any] = {
        "recipe": "TrainFinetuneRecipeForNextTokenPrediction",
        "seed": SEED,
        "step_scheduler": {
            "global_batch_size": args.bins if knobs["packing"] == "packed" else documents_of(args),
            "local_batch_size": 1,
            "max_steps": args.warmup + args.steps,
            "num_epochs": 1,
            "ckpt_every_steps": 10**9,
            "save_checkpoint_every_epoch": False,
        },
        "dist_env": {"backend": "gloo" if args.device == "cpu" else "nccl", "timeout_minutes": 30},
        "model": {
            "_target_": "nemo_automodel.NeMoAutoModelForCausalLM.from_config",
            # In the config, too: nemo-automodel's own Llama reads it there, and from_config does not put it in.
            "config": {"_target_": "transformers.LlamaConfig", "attn_implementation": attention} | model_config(args),
            "torch_dtype": "bfloat16",
            "attn_implementation": attention,
            "use_liger_kernel": False,
            # Named outright: what is not would depend on whether Transformer Engine is installed.
            "backend": {
                "_target_": "nemo_automodel.components.models.common.BackendConfig",
                "attn": "te" if te else "sdpa",
                "linear": "te" if te else "torch",
                "rms_norm": "te" if te else "torch_fp32",
                "rope_fusion": te,
            },
        },
        "peft": {
            "_target_": "nemo_automodel.components._peft.lora.PeftConfig",
            "target_modules": [f"*.{name}" for name in recipe["LORA_TARGETS"]],
            "dim": recipe["LORA_RANK"],
            "alpha": recipe["LORA_ALPHA"],
            "dropout": 0.0,
            "use_triton": knobs["adapters"] == "triton",
            "use_memory_efficient_lora": knobs["adapters"] != "plain",
            "dropout_position": "pre",
            "lora_dtype": "float32" if knobs["precision"] == "mixed" else "bfloat16",
        },
        "checkpoint": {"enabled": False, "checkpoint_dir": str(folder)},
        "distributed": {
            "strategy": "fsdp2",
            "tp_size": 1,
            "cp_size": 1,
            "pp_size": 1,
            "enable_compile": knobs["compile"] == "compile",
            "activation_checkpointing": {"keep": False, "recompute": True, "selective": "selective"}[knobs["memory"]],
        },
        "loss_fn": {"_target_": f"nemo_automodel.components.loss.{loss}"} | options,
        "dataset": {
            "_target_": "gpu_bench.Documents",
            "seq_len": args.seq_len,
            "mean_length": args.mean_length,
            "items": items_of(args, knobs),
            "packed": knobs["packing"] == "packed",
            "vocab": args.vocab,
        },
        "dataloader": {
            "_target_": "torchdata.stateful_dataloader.StatefulDataLoader",
            "collate_fn": {"_target_": "gpu_bench.collate", "mask": mask_of(knobs)},
            "shuffle": False,
        },
        "optimizer": {
            "_target_": "torch.optim.AdamW",
            "lr": recipe["LR"],
            "weight_decay": recipe["WEIGHT_DECAY"],
            "betas": [recipe["ADAM_BETA1"], recipe["ADAM_BETA2"]],
            "eps": recipe["ADAM_EPS"],
        },
        "clip_grad_norm": {"max_norm": recipe["CLIP_GRAD"]},
    }
    if knobs["precision"] in ("fp8", "fp8row"):
        kind = {"fp8": "tensorwise", "fp8row": "rowwise"}[knobs["precision"]]
        config["fp8"] = {"enabled": True, "recipe_name": kind, "filter_fqns": ["lm_head", "lora_"]}
    if knobs["precision"] == "tefp8":
        config["model"]["backend"]["te_fp8"] = {"recipe": "current"}
    return config


def documents_of(args: argparse.Namespace) -> int:
    """Documents of an unpacked step: about as many as a packed one holds."""
    return max(1, round(args.bins * args.seq_len / args.mean_length))


def items_of(args: argparse.Namespace, knobs: Knobs) -> int:
    return (args.warmup + args.steps) * (args.bins if knobs["packing"] == "packed" else documents_of(args))


def demand(holds: bool, asked: str, got: object) -> None:
    if not holds:
        raise Failure(f"asked for {asked}, the engine has {got}; it does not go with this machine or setting")


def check_engine(engine: Any, knobs: Knobs, shape: shapes.Shape, rank: int) -> None:
    """Whether the engine built what the setting says: it replaces what it cannot do. Raises Failure where not."""
    import torch

    model = engine.model_parts[0]
    names = [type(module).__name__ for module in model.modules()]
    loss = LOSSES[knobs["loss"]][0].rpartition(".")[2]
    demand(type(model).__module__.startswith("nemo_automodel."), "nemo-automodel's Llama", type(model).__module__)
    demand(type(engine.loss_fn).__name__ == loss, loss, type(engine.loss_fn).__name__)
    attention = ATTENTION.get(knobs["attention"], "sdpa")
    demand(model.config._attn_implementation == attention, attention, model.config._attn_implementation)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    adapters = shape.lora_parameters(rank, LINEAR)
    wide = {p.dtype for p in model.parameters() if p.requires_grad}
    dtype = torch.float32 if knobs["precision"] == "mixed" else torch.bfloat16
    demand(wide <= {dtype}, f"adapters in {dtype}", wide)
    demand(trained == adapters, f"{adapters:,} trained parameters", f"{trained:,}")
    whole = sum(p.numel() for p in model.parameters())
    demand(whole == shape.parameters + adapters, f"{shape.parameters:,} parameters", f"{whole - trained:,}")
    if knobs["attention"] == "te":
        demand("DotProductAttention" in names, "Transformer Engine's attention", "none")
    if knobs["memory"] != "keep":
        wrapped = "CheckpointWrapper" in names or any(getattr(m, "gradient_checkpointing", 0) for m in model.modules())
        demand(wrapped, knobs["memory"], "no checkpointed layer")
    if knobs["compile"] == "compile":
        compiled = sum(getattr(m, "_compiled_call_impl", None) is not None for m in model.modules())
        demand(compiled >= shape.layers, f"{shape.layers} compiled layers", compiled)
        demand(not torch._dynamo.config.disable, "torch.compile", "it turned off, as on a CPU")
    if knobs["precision"] in ("fp8", "fp8row"):
        quantized = sum(name.startswith("Float8") for name in names)
        demand(quantized >= shape.layers, "layers in fp8", f"{quantized} of them")


def time_setting(args: argparse.Namespace, setting: str) -> dict[str, Any]:
    """Build the engine, take the steps, return the figures of a row. Raises Failure, or whatever the engine does."""
    import torch
    from nemo_automodel.components.config import loader
    from nemo_automodel.recipes.llm import train_ft

    from sft.engines.automodel.link import keep_adapters_wide, without_cuda

    if args.device == "cpu":
        without_cuda()
    elif not torch.cuda.is_available():
        raise Failure("there is no GPU; see nvidia-smi, or smoke-test with --device cpu")
    loader.set_enable_user_modules(True)  # gpu_bench.Documents is ours
    if knobs_of(setting)["precision"] == "mixed":
        keep_adapters_wide()
    knobs, shape = knobs_of(setting), shape_of(args)
    synchronize: Callable[[], None] = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    seconds: list[float] = []
    losses: list[float] = []

    class Timed(train_ft.TrainFinetuneRecipeForNextTokenPrediction):
        """The engine's own recipe, whose steps are timed."""

        def _forward_backward_step(self, *rest: Any, **options: Any) -> None:
            with torch.autocast(args.device, torch.bfloat16, enabled=knobs["precision"] == "mixed"):
                super()._forward_backward_step(*rest, **options)

        def _run_train_optim_step(self, *rest: Any, **options: Any) -> Any:
            synchronize()
            start = time.perf_counter()
            sample = super()._run_train_optim_step(*rest, **options)
            synchronize()
            seconds.append(time.perf_counter() - start)
            losses.append(float(sample.metrics["loss"]))
            if len(seconds) == args.warmup and args.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            return sample

    with tempfile.TemporaryDirectory() as folder:
        engine = Timed(loader.ConfigNode(engine_config(args, knobs, Path(folder))))
        engine.setup()
        rank = load(MODEL, ROUND)["LORA_RANK"]
        check_engine(engine, knobs, shape, rank)
        bins = engine.dataloader.dataset.bins
        engine.run_train_validation_loop()
    torch.distributed.destroy_process_group()
    if len(seconds) != args.warmup + args.steps:
        raise Failure(f"{len(seconds)} steps were taken, not {args.warmup + args.steps}; see the log")
    if not all(0 < loss < 1e4 for loss in losses):
        raise Failure(f"the loss is {losses[-1]}; what was computed is no training")
    size = len(bins) // len(seconds)
    lengths = [[n for bin_ in bins[i * size : (i + 1) * size] for n in bin_] for i in range(len(seconds))]
    adapters = shape.lora_parameters(rank, LINEAR)
    timed = [
        step_figures(shape, adapters, lengths[i], seconds[i]) for i in range(args.warmup, args.warmup + args.steps)
    ]
    memory = torch.cuda.max_memory_allocated() if args.device == "cuda" else peak_memory()
    return {
        "tokens_per_s": statistics.median(step["tokens_per_s"] for step in timed),
        "flops_per_s": statistics.median(step["flops_per_s"] for step in timed),
        "step_seconds": statistics.median(seconds[args.warmup :]),
        "seconds": seconds[args.warmup :],
        "first_step_seconds": seconds[0],
        "peak_memory_bytes": memory,
        "loss": losses[-1],
        "setup_seconds": round(time.time() - START - sum(seconds), 1),
    }


def step_figures(shape: shapes.Shape, adapters: int, lengths: Sequence[int], seconds: float) -> dict[str, float]:
    """Tokens and model FLOPs a second of a step on rows of `lengths` tokens; padding counts nothing.

    Raises Failure for a step that took no time, or has no tokens: neither is a measurement.
    """
    tokens, squares = sum(lengths), sum(n * n for n in lengths)
    if not (tokens > 0 and seconds > 0):
        raise Failure(f"a step of {tokens} tokens took {seconds} s by the clock; take more --bins, longer rows")
    return {"tokens_per_s": tokens / seconds, "flops_per_s": shape.flops(tokens, squares, adapters) / seconds}


# --- the machine -----------------------------------------------------------------------------------------------------


def matrix_rate(device: str, sizes: Sequence[tuple[int, int, int]], seconds: float) -> list[dict[str, Any]]:
    """FLOP/s of bfloat16 matrix products [m, k] x [k, n], 2 m k n each: the median over some tenths of a second."""
    import torch

    made = []
    for m, k, n in sizes:
        a, b = (torch.randn(*size, device=device, dtype=torch.bfloat16) for size in ((m, k), (k, n)))
        times: list[float] = []
        spent = 0.0
        while spent < seconds or len(times) < 5:
            if device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(4):
                a @ b
            if device == "cuda":
                torch.cuda.synchronize()
            times.append((time.perf_counter() - start) / 4)
            spent += times[-1] * 4
        made.append({"m": m, "k": k, "n": n, "flops_per_s": 2 * m * k * n / statistics.median(times[1:])})
    return made


def machine(args: argparse.Namespace) -> dict[str, Any]:
    """Names, versions and the measured matrix rate. Raises Failure without a GPU, unless for a CPU."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        raise Failure("there is no GPU, or this torch has no CUDA; run it on a GPU machine, or add --device cpu")
    versions = {}
    for name in ("torch", "nemo-automodel", "transformers", "torchao", "triton", "flash-attn", "transformer-engine"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    if args.device == "cpu":
        sizes = [(256, 256, 256)]
        facts = {"gpu": "cpu", "driver": None, "cuda": None, "memory_bytes": None}
    else:
        # The products of the model itself, on a bin of tokens, and two of the usual sizes.
        width = round(WIDTH * args.hidden)
        sizes = [(8192, 8192, 8192), (16384, 16384, 16384)]
        sizes += [(args.seq_len, args.hidden, width), (args.seq_len, width, args.hidden)]
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            driver = subprocess.run(query, capture_output=True, text=True, timeout=30).stdout.splitlines()[0].strip()
        except (OSError, IndexError, subprocess.TimeoutExpired):
            driver = None
        properties = torch.cuda.get_device_properties(0)
        facts = {"gpu": properties.name, "driver": driver, "cuda": torch.version.cuda}
        facts["memory_bytes"] = properties.total_memory
    return facts | {
        "python": platform.python_version(),
        "versions": versions,
        "matmul": matrix_rate(args.device, sizes, 0.05 if args.device == "cpu" else 2.0),
    }


# --- all settings ----------------------------------------------------------------------------------------------------


def child(args: argparse.Namespace, what: str, folder: Path) -> tuple[dict[str, Any] | None, str]:
    """(result, reason why there is none) of this script in a process of its own, as --child `what`."""
    answer, log_file = folder / "answer.json", folder / "log"
    answer.unlink(missing_ok=True)
    options = [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in SIZES]
    command = [sys.executable, __file__, "--device", args.device, *options, "--child", what, "--answer", str(answer)]
    env = os.environ | {"MASTER_ADDR": "127.0.0.1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"):
        env.pop(name, None)
    with open(log_file, "w", encoding="utf-8") as file:
        try:
            code = subprocess.run(command, stdout=file, stderr=file, env=env, timeout=args.limit).returncode
        except subprocess.TimeoutExpired:
            return None, f"not finished after {args.limit} s"
    if code == 0 and answer.is_file():
        return read_json(answer), ""
    text = log_file.read_text(encoding="utf-8", errors="replace")
    if args.verbose:
        print(text, file=sys.stderr)
    return None, reason_of(text, code)


def reason_of(text: str, code: int) -> str:
    """Why a process failed, in a line: its own error line, else how it ended (a signal: killed by it)."""
    own = [line.removeprefix("error: ") for line in text.splitlines() if line.startswith("error: ")]
    ended = f"killed by signal {-code}" if code < 0 else f"ended with status {code} and no word"
    found = (own or [ended])[-1]
    if "out of memory" in found.lower():
        tried = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", found)
        found = "out of memory" + (f", asking for {tried[1]} more" if tried else "")
    return found[:200]


def hours(rows: int, mean_length: float, tokens_per_s: float) -> float:
    """Of `rows` rows of mean_length tokens."""
    return rows * mean_length / tokens_per_s / 3600


def table(made: dict[str, Any]) -> list[tuple[str, ...]]:
    """Heading and rows as text."""
    out = [("setting", "tokens/s", "MFU", "peak GiB", "step s", f"hours of {made['run']['recipe_steps']:,} steps", "")]
    for row in made["rows"]:
        if row["reason"]:
            out.append((row["setting"], "-", "-", "-", "-", "-", row["reason"]))
            continue
        memory = f"{row['peak_memory_bytes'] / 2**30:.1f}"
        figures = (f"{row['tokens_per_s']:,.0f}", f"{row['mfu']:.3f}", memory, f"{row['step_seconds']:.3f}")
        out.append((row["setting"], *figures, f"{row['hours']:,.1f}", ""))
    return out


def markdown(made: dict[str, Any]) -> str:
    """The committed table: the figures, and all that is needed to make them again."""
    best, shape, r, versions = made["matmul_flops"], made["shape"], made["run"], made["versions"]
    facts = [
        f"# LoRA of rank {r['rank']} on {made['gpu']}",
        "",
        f"{shape['parameters']:,} parameters with random weights, {shape['adapter_parameters']:,} of an adapter; "
        f"sequences of {r['seq_len']:,}, rows of {r['mean_length']:,.0f} tokens on average "
        f"({r['mean_length_source']}); median of {r['steps']} steps of {r['bins']} sequences after {r['warmup']}.",
        "",
        *tables.markdown(table(made)),
        "",
        f"- MFU: {made['formula']}, over the {best / 1e12:,.1f} TFLOP/s of bfloat16 matrix products measured here.",
        f"- Hours: {r['recipe_steps']:,} steps of {r['batch']} rows at that mean length, without start and saves.",
        f"- Driver {made['driver']}, CUDA {made['cuda']}, Python {made['python']}, "
        + ", ".join(f"{name} {v}" for name, v in versions.items() if v)
        + ".",
        f"- Command: `{made['command']}`",
        f"- Commit: {made['code']['commit']}{' with changes' if made['code']['dirty'] else ''}; {made['finished']}",
    ]
    return "\n".join(facts) + "\n"


FORMULA = "4 FLOPs a frozen weight and token, 6 a trained one, 6 L q t^2 for attention in rows of t tokens"
SIZES = ("layers", "hidden", "vocab", "seq_len", "mean_length", "bins", "steps", "warmup")


def bench(args: argparse.Namespace, settings: Sequence[str]) -> dict[str, Any]:
    """Measure the machine and every setting, print the table, write the results. Raises Failure without a GPU."""
    recipe, shape = load(MODEL, ROUND), shape_of(args)
    rank = recipe["LORA_RANK"]
    out = Path(args.out)
    with tempfile.TemporaryDirectory() as scratch:
        facts, why = child(args, "machine", Path(scratch))
        if facts is None:
            raise Failure(why)
        best = max(size["flops_per_s"] for size in facts["matmul"])
        log(f"gpu-bench: {facts['gpu']}, {best / 1e12:,.1f} TFLOP/s of bfloat16 matrix products")
        made: dict[str, Any] = facts | {
            "matmul_flops": best,
            "command": shlex.join(["python", f"tests/bench/{Path(__file__).name}", *sys.argv[1:]]),
            "code": code_identity(),
            "formula": FORMULA,
            "shape": {
                "parameters": shape.parameters,
                "matmul_parameters": shape.matmul_parameters,
                "adapter_parameters": shape.lora_parameters(rank, LINEAR),
                "config": model_config(args),
            },
            "run": {
                **{name: getattr(args, name) for name in SIZES},
                "mean_length_source": args.mean_length_source,
                "rank": rank,
                "alpha": recipe["LORA_ALPHA"],
                "recipe_steps": recipe["STEPS"],
                "batch": recipe["GLOBAL_BATCH"],
            },
            "complete": False,
            "rows": [],
        }
        name = re.sub(r"[^a-z0-9]+", "-", made["gpu"].lower()).strip("-")
        out.mkdir(parents=True, exist_ok=True)
        for setting in settings:
            figures, why = child(args, setting, Path(scratch))
            row: dict[str, Any] = {"setting": setting, "reason": why or None}
            if figures:
                total = recipe["STEPS"] * recipe["GLOBAL_BATCH"]
                row |= figures | {"mfu": figures["flops_per_s"] / best}
                row["hours"] = hours(total, args.mean_length, figures["tokens_per_s"])
                log(f"gpu-bench: {setting}: {row['tokens_per_s']:,.0f} tokens/s, MFU {row['mfu']:.3f}")
            else:
                log(f"gpu-bench: {setting}: {why}")
            made["rows"].append(row)
            made["finished"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            write_json(out / f"{name}.json", made)  # of what is done, should the machine be taken away
    made["complete"] = True
    write_json(out / f"{name}.json", made)
    part = out / f".{name}.md.part"
    part.write_text(markdown(made), encoding="utf-8")
    part.replace(out / f"{name}.md")
    print(tables.text(table(made), right=True))
    print(f"written to {out / name}.json and .md")
    return made


def counted_mean(work: Path) -> float | None:
    """Tokens of a row by the data report of the recipe, where there is one."""
    done = Paths(work, MODEL, ROUND, load(MODEL, ROUND)).report / "DONE"
    try:
        return float(read_json(done)["report"]["tokens"]["mean"]) if done.is_file() else None
    except (KeyError, TypeError, ValueError):
        raise Failure(f"{done} is not a report; remove it, or name --mean-length") from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", help="with commas between (default: all of DEFAULTS)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try the script out")
    parser.add_argument("--layers", type=int, default=LAYERS, help=f"(default: {LAYERS})")
    parser.add_argument("--hidden", type=int, default=HIDDEN, help=f"hidden size (default: {HIDDEN})")
    parser.add_argument("--vocab", type=int, default=VOCAB, help=f"(default: {VOCAB})")
    parser.add_argument("--seq-len", type=int, default=8192, help="tokens of a packed sequence (default: 8192)")
    parser.add_argument(
        "--mean-length", type=float, help=f"tokens of a row (default: the report's, else {MEAN_LENGTH})"
    )
    parser.add_argument("--bins", type=int, default=8, help="packed sequences of a step (default: 8)")
    parser.add_argument("--steps", type=int, default=5, help="timed steps, of which the median counts (default: 5)")
    parser.add_argument("--warmup", type=int, default=2, help="steps before them (default: 2)")
    parser.add_argument("--limit", type=int, default=900, help="seconds of a setting (default: 900)")
    parser.add_argument("--out", default=str(ROOT / "results" / "gpu-bench"), help="(default: results/gpu-bench)")
    parser.add_argument("--work", default="work", help="where the recipe's data report is looked for (default: work)")
    parser.add_argument("--verbose", action="store_true", help="print the log of a setting that fails")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    for name in ("layers", "hidden", "vocab", "seq_len", "bins", "steps", "limit"):
        if getattr(args, name) < 1:
            usage(f"--{name.replace('_', '-')}={getattr(args, name)}; give a number from 1")
    if args.hidden % 32 or (args.hidden > HEAD_DIM * 4 and args.hidden % HEAD_DIM):
        usage(f"--hidden={args.hidden} does not divide into heads; give a multiple of 32, over 512 of {HEAD_DIM}")
    if args.warmup < 0:
        usage(f"--warmup={args.warmup}; give a number from 0")
    args.mean_length_source = "as given"
    if args.mean_length is None:
        counted = counted_mean(Path(args.work))
        args.mean_length = counted or MEAN_LENGTH
        args.mean_length_source = f"the data report of {MODEL}" if counted else "assumed: there is no data report"
    if not 2 <= args.mean_length < args.seq_len / 2:
        usage(f"--mean-length={args.mean_length:g}; give a number from 2, below half of --seq-len={args.seq_len}")
    if args.child:
        try:
            answer = machine(args) if args.child == "machine" else time_setting(args, args.child)
        except Failure:
            raise
        except Exception as error:  # whatever engine, libraries and driver raise: it is a row, not an abort
            traceback.print_exc()
            why = (str(error).strip() or "no reason given").splitlines()[0]
            raise Failure(f"{type(error).__name__}: {why}") from None
        write_json(args.answer, answer)
        return
    settings = [s.strip() for s in args.settings.split(",")] if args.settings else list(DEFAULTS)
    for setting in settings:
        knobs_of(setting)
    bench(args, settings)


if __name__ == "__main__":
    run(main)
