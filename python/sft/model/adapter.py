"""Adapters of a recipe with LORA_RANK: from the engine's checkpoint to a verified folder of the peft library.

Called by convert.py. The engine's own adapter_config.json names the folder that it trained from, which no other
machine has, and lists every layer; weights and tokenizer are as they should be.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from sft.lib.errors import Failure
from sft.lib.files import read_json, write_json
from sft.model.folder import check_finite, tensors, verify
from sft.model.tokenizer import copy_tokenizer, end_in_tokenizer, name_end_of_turn, verify_tokenizer
from sft.recipe.keys import Recipe
from sft.recipe.paths import Paths
from sft.rows.chat import ENDS

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
# How far logits of a merged model may be from those of adapter on base, both computed in float32: the root mean
# square of the difference over that of the logits. What is left is the rounding of the merged weights.
TOLERANCE = {"F32": 1e-4, "F16": 1e-2, "BF16": 3e-2}


def base_name(recipe: Recipe, paths: Paths) -> str:
    """What an adapter names as its base: the model of the hub where it is that, else the folder."""
    published = recipe["BASE_SOURCE"] == "hub" and recipe["START_FROM"] == "base" and "ROPE_THETA" not in recipe
    return recipe["BASE_MODEL"] if published else str(paths.start)


def config_of(recipe: Recipe, paths: Paths) -> dict[str, Any]:
    """adapter_config.json of a recipe's adapter, in peft's own keys."""
    name = base_name(recipe, paths)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": name,
        "revision": recipe["BASE_REVISION"] if name == recipe["BASE_MODEL"] else None,
        "r": recipe["LORA_RANK"],
        "lora_alpha": recipe["LORA_ALPHA"],
        "lora_dropout": recipe["LORA_DROPOUT"],
        "target_modules": recipe["LORA_TARGETS"],
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "use_dora": False,
        "use_rslora": False,
    }


def expected(recipe: Recipe, start: Path) -> dict[str, tuple[int, int]]:
    """Tensor name -> shape of a whole adapter: A of [rank, in] and B of [out, rank] for each targeted layer."""
    rank, targets = recipe["LORA_RANK"], recipe["LORA_TARGETS"]
    found = {}
    for name, (_, shape, _) in tensors(start).items():
        module = name.removesuffix(".weight")
        if module != name and module.rpartition(".")[2] in targets:
            found[f"base_model.model.{module}.lora_A.weight"] = (rank, shape[1])
            found[f"base_model.model.{module}.lora_B.weight"] = (shape[0], rank)
    return found


def convert(exported: Path, recipe: Recipe, paths: Paths, target: Path) -> None:
    """Fill the empty folder `target` with the adapter of a checkpoint, and verify it. Raises Failure."""
    for name in (WEIGHTS, CONFIG):
        if not (exported / name).is_file():
            raise Failure(f"{exported} has no {name}; train that step again")
    theirs, ours = read_json(exported / CONFIG), config_of(recipe, paths)
    for key in ("peft_type", "task_type", "r", "lora_alpha", "bias", "use_dora"):
        if theirs.get(key) != ours[key]:
            raise Failure(
                f"{exported / CONFIG}: {key} is {theirs.get(key)}, not {ours[key]} as in the recipe; "
                "train that step again"
            )
    trained = {name.rpartition(".")[2] for name in theirs["target_modules"]}
    if trained != set(ours["target_modules"]):
        raise Failure(f"{exported / CONFIG}: target_modules are {sorted(trained)}, not LORA_TARGETS; train it again")
    shutil.copyfile(exported / WEIGHTS, target / WEIGHTS)
    write_json(target / CONFIG, ours)
    copy_tokenizer(paths.start, target)
    end_in_tokenizer(target, ENDS[recipe["CHAT"]])
    try:
        check(target, recipe, paths)
    except Failure as failure:  # the scratch folder will be gone when the user reads this
        raise Failure(str(failure).replace(str(target), str(exported))) from None


def check(folder: Path, recipe: Recipe, paths: Paths) -> None:
    """Raises Failure unless `folder` is the whole, trained adapter that peft loads over the model it was trained on."""
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file

    found, wanted = tensors(folder), expected(recipe, paths.start)
    if differ := found.keys() ^ wanted.keys():
        raise Failure(f"{folder}: tensor {min(differ)} is only in one of it and the recipe's adapter; train it again")
    for name, shape in wanted.items():
        if found[name][1] != shape:
            raise Failure(f"{folder}: tensor {name} has shape {found[name][1]}, not {shape}; train it again")
    check_finite(folder, found)
    weights = load_file(folder / WEIGHTS)
    if not any(bool(tensor.any()) for name, tensor in weights.items() if ".lora_B." in name):
        raise Failure(f"{folder}: every lora_B is zero, so the adapter does nothing; look at the loss of that step")
    verify_tokenizer(folder, paths.start, ENDS[recipe["CHAT"]])
    loaded = get_peft_model_state_dict(load(folder, paths.start), save_embedding_layers=False)
    for name, tensor in weights.items():
        if name not in loaded or not torch.equal(loaded[name].to(tensor), tensor):
            raise Failure(f"{folder}: peft does not load tensor {name} over {paths.start}; convert it again")


def load(folder: Path, start: Path, **options: Any) -> Any:
    """The model in `start` with the adapter in `folder` on it, as the peft library makes it of them."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    options.setdefault("dtype", "auto")
    base = AutoModelForCausalLM.from_pretrained(start, **options)
    return PeftModel.from_pretrained(base, folder).eval()


def merge(folder: Path, recipe: Recipe, paths: Paths, target: Path) -> float:
    """Fill the empty folder `target` with the base model with an adapter merged into it, and verify it.

    Merged in float32 and rounded once, to the base's own type. Returns how far its logits are from those of adapter
    on base, see TOLERANCE. Raises Failure when that is too far.
    """
    import torch
    from transformers import AutoModelForCausalLM

    dtypes = {dtype for _, _, dtype in tensors(paths.start).values()}
    tolerance = max(TOLERANCE.get(dtype, 0) for dtype in dtypes)
    rows = samples(recipe, paths)
    model = load(folder, paths.start, dtype=torch.float32)
    with torch.no_grad():
        before = [model(row).logits for row in rows]
    merged = model.merge_and_unload(safe_merge=True)
    merged.to(AutoModelForCausalLM.from_pretrained(paths.start, dtype="auto").dtype).save_pretrained(target)
    del model, merged
    for name in ("config.json", "generation_config.json"):  # as published, except for what name_end_of_turn changes
        if (paths.start / name).is_file():
            shutil.copyfile(paths.start / name, target / name)
    end = ENDS[recipe["CHAT"]]
    copy_tokenizer(paths.start, target)
    name_end_of_turn(target, end)
    verify(target, paths.start, end)
    again = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).eval()
    with torch.no_grad():
        after = [again(row).logits for row in rows]
    pairs = zip(before, after, strict=True)
    differ = max(float(((new - old).square().mean() / old.square().mean()).sqrt()) for old, new in pairs)
    if not differ <= tolerance:
        raise Failure(
            f"{target}: logits differ from those of {folder} by {differ:.1e} of their size, more than {tolerance:.0e}; "
            "merge it again"
        )
    return differ


def samples(recipe: Recipe, paths: Paths) -> list[Any]:
    """The first tokens, at most 512, of the first rows that were trained on: int64[1, n] each."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(paths.start)
    found = []
    with open(paths.rows, encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            ids = tokenizer.encode(row["input"] + row["output"], add_special_tokens=False)[:512]
            found.append(torch.tensor([ids]))
            if len(found) == 4:
                break
    return found
