"""Megatron-Core's own forward and backward on packed rows against transformers' on the same rows one by one.

    torchrun --nproc-per-node TP tests/engines/megatron_parity.py ROWS.json MODEL... >differences.json

Run by test_megatron.py with the Python of docker/requirements-standin.txt. ROWS.json: {"rows": [{"ids": [...], "loss":
[...]}], "packs": [[row, ...], ...], "unit": n}; a row is padded to a multiple of unit tokens, as NeMo-RL does. Printed
of each model: for each case the two mean losses, and the largest differences of logits (absolute) and of gradients
(relative to the largest gradient of the same weight). Beside the case "right" stand some that are wrong on purpose.
"""

import json
import os
import sys
from typing import Any

import megatron_cpu
import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.bridge import AutoBridge
from megatron.core import parallel_state
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region
from transformers import AutoModelForCausalLM

Rows = list[dict[str, list[int]]]
PAD = 0


def megatron_model(path: str, tp: int, **changes: Any) -> tuple[Any, torch.nn.Module]:
    bridge = AutoBridge.from_hf_pretrained(path)
    provider = megatron_cpu.configure(bridge.to_megatron_provider(load_weights=True))
    provider.tensor_model_parallel_size, provider.sequence_parallel = tp, False
    provider.moe_aux_loss_coeff = 0.0  # Bridge's own 1e-3 enters the gradients, but no loss that is compared here
    for name, value in changes.items():
        assert hasattr(provider, name), name
        setattr(provider, name, value)
    provider.finalize()
    return bridge, provider.provide_distributed_model(wrap_with_ddp=False, use_cpu_initialization=True)


def packed_logits(model: torch.nn.Module, rows: Rows, packs: list[list[int]], unit: int) -> list[torch.Tensor]:
    """Logits of each row, [tokens, vocabulary], from one forward a pack."""
    found: dict[int, torch.Tensor] = {}
    for pack in packs:
        sizes = [-(-len(rows[i]["ids"]) // unit) * unit for i in pack]
        ids = [token for i, n in zip(pack, sizes, strict=True) for token in (rows[i]["ids"] + [PAD] * unit)[:n]]
        bounds = torch.tensor([0, *sizes]).cumsum(0).int()
        packed = PackedSeqParams(
            qkv_format="thd",
            cu_seqlens_q=bounds,
            cu_seqlens_kv=bounds,
            max_seqlen_q=max(sizes),
            max_seqlen_kv=max(sizes),
        )
        logits = model(input_ids=torch.tensor([ids]), position_ids=None, attention_mask=None, packed_seq_params=packed)
        parts = gather_from_tensor_model_parallel_region(logits)[0].float().split(sizes)
        found |= {i: part[: len(rows[i]["ids"])] for i, part in zip(pack, parts, strict=True)}
    return [found[i] for i in range(len(rows))]


def mean_loss(logits: list[torch.Tensor], rows: Rows) -> torch.Tensor:
    """Over all tokens that carry loss: row["loss"][i] is about token i, which position i - 1 predicts."""
    total, count = torch.zeros(()), 0
    for part, row in zip(logits, rows, strict=True):
        mask = torch.tensor(row["loss"][1:], dtype=torch.bool)
        total = total + F.cross_entropy(part[:-1], torch.tensor(row["ids"][1:]), reduction="none")[mask].sum()
        count += int(mask.sum())
    return total / count


def gradients(bridge: Any, model: Any) -> dict[str, torch.Tensor]:
    """Gradients under Hugging Face's names: exported as if they were the weights, which Bridge only cuts and joins."""
    with torch.no_grad():
        for weight in model[0].parameters():
            weight.copy_(weight.grad)
    return {name: tensor.clone() for name, tensor in bridge.export_hf_weights(model, cpu=True, show_progress=False)}


def experts(name: str, gradient: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """A weight's parts under the names of a checkpoint: transformers holds all experts of a layer in one."""
    path, _, kind = name.rpartition(".")
    if not path.endswith(".experts"):
        return [(name, gradient)]
    parts = ("gate_proj", "up_proj") if kind == "gate_up_proj" else (kind,)
    return [
        (f"{path}.{number}.{part}.weight", piece)
        for number, expert in enumerate(gradient)
        for part, piece in zip(parts, expert.chunk(len(parts)), strict=True)
    ]


def shifted(rows: Rows) -> Rows:
    """Masks that are one token late."""
    return [{"ids": row["ids"], "loss": [0, *row["loss"][:-1]]} for row in rows]


def unmasked(rows: Rows) -> Rows:
    """Prompts that carry loss."""
    return [{"ids": row["ids"], "loss": [0] + [1] * (len(row["ids"]) - 1)} for row in rows]


CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "right": ({}, lambda rows: rows),
    "rope": ({"rotary_base": 10000}, lambda rows: rows),
    "shifted": ({}, shifted),
    "unmasked": ({}, unmasked),
}


def compare(path: str, rows: Rows, packs: list[list[int]], unit: int, tp: int) -> dict[str, dict[str, Any]]:
    """Case -> the differences."""
    reference = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    wanted = [reference(torch.tensor([row["ids"]])).logits[0] for row in rows]
    loss = mean_loss(wanted, rows)
    loss.backward()
    expected = {
        part: gradient for name, weight in reference.named_parameters() for part, gradient in experts(name, weight.grad)
    }
    found = {}
    for name, (changes, change) in CASES.items():
        case = change(rows)
        bridge, model = megatron_model(path, tp, **changes)
        logits = [part[:, : wanted[0].shape[1]] for part in packed_logits(model[0], case, packs, unit)]
        ours = mean_loss(logits, case)
        ours.backward()
        made = gradients(bridge, model)
        assert made.keys() >= expected.keys(), expected.keys() - made.keys()
        off = {n: ((made[n] - g).abs().max() / g.abs().max()).item() for n, g in expected.items()}
        found[name] = {
            "loss": ours.item(),
            "reference": loss.item(),
            "logits": max((a - b).abs().max().item() for a, b in zip(logits, wanted, strict=True)),
            "gradients": max(off.values()),
            "worst": max(off, key=off.__getitem__),
            "tokens": sum(sum(row["loss"]) for row in case),
        }
    return found


def main() -> None:
    with open(sys.argv[1]) as opened:
        given = json.load(opened)
    tp = int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo")
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=tp)
    found = {path: compare(path, given["rows"], given["packs"], given["unit"], tp) for path in sys.argv[2:]}
    if dist.get_rank() == 0:
        print(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
