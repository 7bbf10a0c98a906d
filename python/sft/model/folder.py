"""A Hugging Face folder: its tensors, and whether a model made from it is whole."""

from pathlib import Path

from sft.lib.errors import Failure
from sft.lib.file_sets import check_shards
from sft.lib.files import read_json
from sft.model.rope import loaded_rope
from sft.model.tokenizer import stops, verify_tokenizer


def check_weights(folder: Path) -> None:
    """Open every safetensors file: a truncated one is refused here, not after hours in the queue."""
    from safetensors import SafetensorError, safe_open

    shards = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = [folder / name for name in sorted(set(read_json(index)["weight_map"].values()))]
    if not shards:
        raise Failure(f"{folder} has no safetensors file; fetch the model again")
    check_shards(shards)
    for shard in shards:
        if not shard.is_file():
            raise Failure(f"{shard} is missing; fetch the model again")
        try:
            with safe_open(shard, framework="np"):
                pass
        except SafetensorError as error:
            raise Failure(f"{shard}: truncated or not safetensors ({error}); remove it and fetch it again") from None


def tensors(folder: Path) -> dict[str, tuple[Path, tuple[int, ...], str]]:
    """Tensor name -> (file, shape, dtype) of a folder of safetensors. Raises Failure for a broken or missing file."""
    from safetensors import SafetensorError, safe_open

    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = [folder / name for name in sorted(set(read_json(index)["weight_map"].values()))]
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise Failure(f"{folder} has no safetensors file; make it again")
    check_shards(files)
    found = {}
    for file in files:
        if not file.is_file():
            raise Failure(f"{file} is missing; make {folder} again")
        try:
            with safe_open(file, framework="np") as opened:
                for name in opened.keys():  # noqa: SIM118 (not a mapping)
                    if name in found:
                        raise Failure(f"{folder}: tensor {name} is in two files; remove the stale one")
                    view = opened.get_slice(name)
                    found[name] = (file, tuple(view.get_shape()), view.get_dtype())
        except SafetensorError as error:
            raise Failure(f"{file}: truncated or not safetensors ({error}); make {folder} again") from None
    return found


def check_finite(folder: Path, names: dict[str, tuple[Path, tuple[int, ...], str]]) -> None:
    """Read every tensor once. Raises Failure naming the first that holds a NaN or an infinity."""
    import torch
    from safetensors import safe_open

    for file in sorted({file for file, _, _ in names.values()}):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (not a mapping)
                if not bool(torch.isfinite(opened.get_tensor(name)).all()):
                    raise Failure(f"{file}: tensor {name} holds a NaN or an infinity; look at the loss of that step")


def check_same_tensors(folder: Path, reference: Path) -> dict[str, tuple[Path, tuple[int, ...], str]]:
    """The tensors of `folder`, which must have the names and shapes of those of `reference`."""
    found, wanted = tensors(folder), tensors(reference)
    tied = {"lm_head.weight"} if read_json(reference / "config.json").get("tie_word_embeddings") else set()
    differ = (found.keys() ^ wanted.keys()) - tied
    if differ:
        raise Failure(f"{folder}: tensor {min(differ)} is only in one of it and {reference}; it is another model")
    for name in found.keys() & wanted.keys():
        if found[name][1] != wanted[name][1]:
            raise Failure(
                f"{folder}: tensor {name} has shape {found[name][1]}, not {wanted[name][1]} as in "
                f"{reference}; it is another model"
            )
    return found


def verify(folder: Path, start: Path, end_of_turn: str) -> None:
    """Load a folder as a user will and compare it with the model that training started from. Raises Failure."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    check_finite(folder, check_same_tensors(folder, start))
    if loaded_rope(folder) != loaded_rope(start):
        raise Failure(f"{folder}: RoPE is {loaded_rope(folder)}, not {loaded_rope(start)} as trained; convert it again")
    end = verify_tokenizer(folder, start, end_of_turn)
    model, missing = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype="auto")
    lost = [name for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in missing[kind]]
    if lost:
        raise Failure(f"{folder}: transformers does not load tensor {lost[0]}; convert it again")
    for config in (model.config, GenerationConfig.from_pretrained(folder)):
        if end not in stops(config.eos_token_id):
            raise Failure(
                f"{folder}: end-of-sequence ids {config.eos_token_id}, not {end_of_turn} ({end}) throughout; "
                "convert it again"
            )
