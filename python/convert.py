"""Turn checkpoints into verified Hugging Face folders, one for each of AVERAGE_STEPS.

    python python/convert.py tiny 1 --work work            # all of AVERAGE_STEPS
    python python/convert.py tiny 1 --work work --step 400 # one
    python python/convert.py reasoning-lora 1 --merge      # an adapter, and the base with the adapter merged into it

Writes WORK/runs/<model>/round<N>/convert/step_<S>/. Before a folder appears under its name it is loaded and compared
with the model that training started from: same tensors, finite, RoPE and chat template kept. Config, generation
config and tokenizer name the trained end-of-turn token as EOS: the Math bases stop at another one, with which every
server would run each answer to its token limit. Of a recipe with LORA_RANK the folder is an adapter of the peft
library, see adapter.py; with --merge, step_<S>-merged/ is a whole model beside it.
"""

import json
import os
import shutil
import time
from itertools import islice
from pathlib import Path
from typing import Any

import recipe as recipes
from chat_template import give_default, without_default
from checkpoints import saved_steps
from file_sets import check_shards
from lib import (
    Failure,
    describe,
    is_done,
    log,
    new_folder,
    read_done,
    read_json,
    run,
    sha256,
    usage,
    write_done,
    write_json,
)
from model import loaded_rope, rope_of
from openmath import ENDS

# What of the model's folder is not weights: the tokenizer is the one that training started from, unchanged.
TOKENIZER_FILES = {
    f"{n}.json" for n in ("tokenizer", "tokenizer_config", "vocab", "special_tokens_map", "added_tokens")
}
TOKENIZER_FILES |= {"merges.txt", "chat_template.jinja"}

# What exporters note of how they loaded the base.
LOADING = ("is_local", "local_files_only", "trust_remote_code", "name_or_path")
# What a config.json may hold of how the base was to be asked (transformers kept it there once), and of where it lay.
NOT_OF_A_RESULT = {
    "max_length", "min_length", "max_new_tokens", "min_new_tokens", "do_sample", "temperature", "top_k", "top_p",
    "min_p",
    "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size", "num_beams", "num_beam_groups",
    "num_return_sequences", "early_stopping", "diversity_penalty", "bad_words_ids", "forced_bos_token_id",
    "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens", "_name_or_path", *LOADING,
}  # fmt: skip


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


def stops(ids: int | list[int] | None) -> set[int]:
    """The ids at which generation stops, of an eos_token_id in any of its forms."""
    return set() if ids is None else {ids} if isinstance(ids, int) else set(ids)


def copy_tokenizer(start: Path, folder: Path) -> None:
    for name in sorted(TOKENIZER_FILES):
        if (start / name).is_file():
            shutil.copyfile(start / name, folder / name)


def end_in_tokenizer(folder: Path, end_of_turn: str) -> Any:
    """Make `folder`'s tokenizer stop at the trained end-of-turn token; returns it as it was."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    end = tokenizer.convert_tokens_to_ids(end_of_turn)
    if end is None or tokenizer.encode(end_of_turn, add_special_tokens=False) != [end]:
        raise Failure(f"{folder}: {end_of_turn} is not one token of the tokenizer; it cannot end a turn")
    tokenizer_config = read_json(folder / "tokenizer_config.json")
    tokenizer_config["eos_token"] = end_of_turn
    for name in LOADING:
        tokenizer_config.pop(name, None)
    config = folder / "config.json"
    positions = read_json(config).get("max_position_embeddings", 0) if config.is_file() else 0
    if tokenizer_config.get("model_max_length", positions) < positions:  # of the base, before its RoPE was widened
        tokenizer_config["model_max_length"] = positions
    write_json(folder / "tokenizer_config.json", tokenizer_config)
    special = folder / "special_tokens_map.json"
    if special.is_file():
        write_json(special, read_json(special) | {"eos_token": end_of_turn})
    return tokenizer


def name_end_of_turn(folder: Path, end_of_turn: str) -> int:
    """Make `folder`'s config, generation config and tokenizer stop at the trained end-of-turn token; returns its id.

    Lists that it is in already stay as they are: Llama 3.1's Instruct models stop at two more. Nothing else of the
    base's generation config is kept: Qwen2.5's bases ask servers for at most 2,048 new tokens, its Instruct models for
    a temperature.
    """
    tokenizer = end_in_tokenizer(folder, end_of_turn)
    end = tokenizer.convert_tokens_to_ids(end_of_turn)
    config = {key: value for key, value in read_json(folder / "config.json").items() if key not in NOT_OF_A_RESULT}
    generation_file = folder / "generation_config.json"
    given: dict[str, Any] = read_json(generation_file) if generation_file.is_file() else {}
    if end not in stops(config.get("eos_token_id")):
        config["eos_token_id"] = end
    # transformers 4 (older servers) reads the flat key only, transformers 5 either: with the nested one alone an
    # older server would fall back to theta 10000 without a word.
    config["rope_theta"] = rope_of(config, folder / "config.json", scaled=True)[0]
    scaling = {k: v for k, v in (config.get("rope_parameters") or {}).items() if k != "rope_theta"}
    if scaling.get("rope_type", "default") != "default":
        config["rope_scaling"] = scaling
    # Likewise the type: transformers before 4.56 reads torch_dtype alone, and takes float32 where there is none.
    if dtype := config.get("dtype", config.get("torch_dtype")):
        config |= {"dtype": dtype, "torch_dtype": dtype}
    if config.get("use_cache") is False:  # as trainers set it
        config["use_cache"] = True
    write_json(folder / "config.json", config)
    generation = {key: given.get(key, config.get(key)) for key in ("bos_token_id", "pad_token_id")}
    if generation["pad_token_id"] is None:
        generation["pad_token_id"] = tokenizer.pad_token_id
    generation = {key: value for key, value in generation.items() if value is not None}
    ids = given.get("eos_token_id")
    write_json(generation_file, generation | {"eos_token_id": ids if end in stops(ids) else end})
    return end


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


def verify_tokenizer(folder: Path, start: Path, end_of_turn: str) -> int:
    """The id of the end-of-turn token. Raises Failure unless the tokenizer is the trained one, and stops there."""
    from transformers import AutoTokenizer

    tokenizer, trained = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(start)
    ours, theirs = (without_default(t.chat_template) for t in (tokenizer, trained))
    if tokenizer.get_vocab() != trained.get_vocab() or ours != theirs:
        raise Failure(f"{folder}: tokenizer or chat template differ from those of {start}; convert it again")
    end = tokenizer.convert_tokens_to_ids(end_of_turn)
    if tokenizer.eos_token_id != end:
        raise Failure(
            f"{folder}: end-of-sequence ids {tokenizer.eos_token_id}, not {end_of_turn} ({end}) throughout; "
            "convert it again"
        )
    return end


def trained_turns(recipe: recipes.Recipe, paths: recipes.Paths) -> list[Any]:
    """The turns of the first rows that were trained on; none where the data are gone, or plain text."""
    from verdicts import turns

    if recipe["CHAT"] == "none" or not paths.rows.is_file():
        return []
    with open(paths.rows, encoding="utf-8") as file:
        return [turns(json.loads(line)["input"], recipe["CHAT"]) for line in islice(file, 64)]


def export_of(recipe: recipes.Recipe, saved: Path, made: Path | None) -> Path:
    """The folder of a checkpoint that has its weights in Hugging Face's names.

    Both engines on FSDP2 write one with every checkpoint (of an adapter, the adapter alone); of a Megatron checkpoint
    NeMo-RL's converter makes one.
    """
    if recipe["ENGINE"] == "nemo2" or (recipe["ENGINE"] == "nemo-rl" and recipe["BACKEND"] == "megatron"):
        if made is None:
            raise Failure(f"{saved} is a Megatron checkpoint; run: make convert, which calls the engine's converter")
        return made
    if "LORA_RANK" in recipe:
        return saved / "model"
    inner = "policy/weights/model" if recipe["ENGINE"] == "nemo-rl" else "model"
    return saved / inner / "consolidated"


def name_type(folder: Path, start: Path) -> None:
    """Name the type in `folder`'s config as `start` does, where the weights have it.

    nemo-automodel trains in float32 and says so, but exports weights in the type that they had.
    """
    original = read_json(start / "config.json")
    dtype = original.get("dtype", original.get("torch_dtype"))
    types = [{dtype for _, _, dtype in tensors(model).values()} for model in (folder, start)]
    if dtype and types[0] == types[1]:
        write_json(folder / "config.json", read_json(folder / "config.json") | {"dtype": dtype})


def convert(exported: Path, start: Path, target: Path, end_of_turn: str) -> None:
    """Fill the empty folder `target` from a checkpoint's export, and verify it."""
    if not (exported / "config.json").is_file():
        raise Failure(f"{exported} has no config.json; train that step again")
    tensors(exported)
    for path in sorted(exported.iterdir()):
        if path.name not in TOKENIZER_FILES and path.suffix in (".safetensors", ".json"):
            shutil.copyfile(path, target / path.name)
    # nemo-automodel leaves the generation config out.
    if (start / "generation_config.json").is_file() and not (target / "generation_config.json").is_file():
        shutil.copyfile(start / "generation_config.json", target / "generation_config.json")
    name_type(target, start)
    copy_tokenizer(start, target)
    name_end_of_turn(target, end_of_turn)
    try:
        verify(target, start, end_of_turn)
    except Failure as failure:  # the scratch folder will be gone when the user reads this
        raise Failure(str(failure).replace(str(target), str(exported))) from None


def main() -> None:
    parser = recipes.parser(__doc__)
    parser.add_argument("--step", type=int, help="only this step (default: all of AVERAGE_STEPS)")
    parser.add_argument("--again", action="store_true", help="also what was removed once it was averaged")
    parser.add_argument("--exported", type=Path, help="that step as the engine's converter wrote it")
    parser.add_argument("--todo", action="store_true", help="print the steps that are not converted yet, and stop")
    parser.add_argument("--merge", action="store_true", help="also merge an adapter into its base")
    args, recipe, paths = recipes.open_run(parser)
    lora = "LORA_RANK" in recipe
    if args.merge and not lora:
        usage(f"recipe {args.model} trains no adapter; leave out MERGE=1 (--merge)")
    steps = [args.step] if args.step else [int(s) for s in recipe["AVERAGE_STEPS"].split(",")]
    keys = recipes.stage_keys(recipe, "convert")
    saved = saved_steps(recipe["ENGINE"], paths.train / "checkpoints")
    gone = {} if args.again else recipes.removed(paths)
    again = f"MODEL={args.model} ROUND={args.round}"

    def demand_saved(step: int) -> None:
        if step not in saved:
            have = " ".join(map(str, saved)) or "none"
            raise Failure(f"step {step} is not saved (saved: {have}); run: make train {again}")

    for step in steps:
        if not (paths.convert / f"step_{step}").is_dir() and f"step_{step}" not in gone:
            demand_saved(step)
    train = read_done(paths.train, f"run: make train {again}")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import adapter as adapters  # which uses what is above

    for step in steps:
        target = paths.convert / f"step_{step}"
        # Not only what was trained on but this very training: one that was done over has other checkpoints.
        inputs = train["inputs"] | {"train": sha256(paths.train / "DONE"), "step": str(step)}
        kept = None if target.is_dir() else gone.get(target.name)
        if is_done(target, keys, inputs):
            if not args.todo:
                log(f"convert: step {step} is already there")
        elif kept and kept["recipe"] == keys and kept["inputs"] == inputs:
            if not args.todo:
                log(f"convert: step {step} is averaged and was removed; --step {step} --again makes it again")
        else:
            demand_saved(step)
            if args.todo:
                print(step)
                continue
            started = time.time()
            exported = export_of(recipe, saved[step], args.exported)
            with new_folder(target) as part:
                if lora:
                    adapters.convert(exported, recipe, paths, part)
                else:
                    convert(exported, paths.start, part, ENDS[recipe["CHAT"]])
                facts = {"chat_template": give_default(part, trained_turns(recipe, paths))}
                facts |= {"step": step, "seconds": round(time.time() - started, 1)}
                write_done(part, keys, inputs, **facts, **describe(part))
            log(f"convert: step {step} in {target}, verified; chat template: {facts['chat_template']}")
        if not args.merge:
            continue
        merged = target.with_name(f"{target.name}-merged")
        inputs |= {"adapter": sha256(target / "DONE")}
        if is_done(merged, keys, inputs):
            if not args.todo:
                log(f"convert: step {step} is merged already")
        elif args.todo:
            print(step)
        else:
            started = time.time()
            with new_folder(merged) as part:
                differ = adapters.merge(target, recipe, paths, part)
                facts = {"chat_template": give_default(part, trained_turns(recipe, paths))}
                facts |= {"step": step, "seconds": round(time.time() - started, 1), "differ": differ}
                write_done(part, keys, inputs, **facts, **describe(part))
            log(f"convert: step {step} merged in {merged}, verified: logits differ by {differ:.1e} of their size")


if __name__ == "__main__":
    run(main)
