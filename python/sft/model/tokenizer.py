"""The tokenizer of a trained model: copied from its base, with the end of turn that it was trained on."""

import shutil
from pathlib import Path
from typing import Any

from sft.lib.errors import Failure
from sft.lib.files import read_json, write_json
from sft.model.rope import rope_of
from sft.rows.chat import without_default

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
