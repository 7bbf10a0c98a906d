"""Fetch the base model at its revision and widen its RoPE where the recipe says so.

    python python/model.py qwen7b 1 --work /lustre/me/sft
    python python/model.py qwen7b 1 --work /lustre/me/sft --source ~/.cache/huggingface

--source, or a BASE_MODEL that is a path: a folder that has the model already, or the hub's cache. A copy that was put
into WORK/models by hand is taken as it is. Each is checked and patched like a download; the source stays as it is.
Writes WORK/models/<base>/ with config.json patched, config.original.json as published (the baseline is evaluated
with it), and DONE with the commit and the sha256 of every file. HF_ENDPOINT and HF_TOKEN are honoured.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import recipe as recipes
import tiny
import tiny_reasoning
from file_sets import check_shards
from hub import download, local_copy, take
from lib import Failure, describe, is_done, log, new_folder, read_done, read_json, run, write_done, write_json

# What Qwen2.5-Math ships with, and the only values the patch accepts to replace
# (NeMo-Skills 8b18f39 docs/releases/openmathreasoning/training.md:80-81).
PUBLISHED_THETA, PUBLISHED_POSITIONS = 10000.0, 4096
FILES = [
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "merges.txt",
    "vocab.*",
    "*.model",
    "*.jinja",
    "LICENSE*",
]


# --- RoPE --------------------------------------------------------------------------------------------------------


def rope_of(config: dict[str, Any], where: Path, scaled: bool = False) -> tuple[float, int]:
    """(theta, positions) of a config, in the flat form or in transformers 5's rope_parameters.

    scaled: accept RoPE that is scaled in some other way as well, as Llama 3.1's is. Raises Failure when neither or two
    different ones are there, or RoPE is scaled and must not be.
    """
    nested = config.get("rope_parameters") or {}
    kind = nested.get("rope_type", "default")
    if not scaled and (kind != "default" or config.get("rope_scaling")):
        raise Failure(f"{where}: RoPE is scaled already (rope_type {kind}); fetch the published config again")
    thetas = {float(c["rope_theta"]) for c in (config, nested) if "rope_theta" in c}
    if len(thetas) != 1 or "max_position_embeddings" not in config:
        raise Failure(f"{where}: found rope_theta {sorted(thetas)}, not just one; fetch the published config again")
    return thetas.pop(), int(config["max_position_embeddings"])


def patch_rope(path: Path, theta: float, positions: int) -> bool:
    """Widen RoPE in a config.json from the published values; False when it is so already.

    Raises Failure and leaves the file alone when its values are neither the published nor the wanted pair.
    """
    config = read_json(path)
    found = rope_of(config, path)
    if found == (theta, positions):
        return False
    if found != (PUBLISHED_THETA, PUBLISHED_POSITIONS):
        raise Failure(
            f"{path}: rope_theta {found[0]:g} with {found[1]} positions is neither the published "
            f"({PUBLISHED_THETA:g}, {PUBLISHED_POSITIONS}) nor the patched pair; fetch the published config again"
        )
    for part in (config, config.get("rope_parameters") or {}):
        if "rope_theta" in part:
            part["rope_theta"] = theta
    config["max_position_embeddings"] = positions
    write_json(path, config)
    if rope_of(read_json(path), path) != (theta, positions):
        raise Failure(f"{path}: reads back differently after the patch; check the file system")
    return True


def loaded_rope(folder: Path) -> tuple[float, int]:
    """(theta, positions) as transformers understands a model folder: what training will really use."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    return float(config.rope_parameters["rope_theta"]), int(config.max_position_embeddings)


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


def random_base(recipe: recipes.Recipe, folder: Path) -> None:
    """A random model of the recipe's sizes: a Llama for Llama 3's template, else a Qwen2."""
    seed = int(recipe["SEED"])
    layers, hidden, heads, vocab = (int(recipe[f"RANDOM_{k}"]) for k in ("LAYERS", "HIDDEN", "HEADS", "VOCAB"))
    if recipe["CHAT"] == "llama3":
        texts = tiny_reasoning.texts(seed, int(recipe["GENERATE_PROBLEMS"]))
        tiny_reasoning.write_model(folder, layers, hidden, heads, vocab, texts, seed)
        return
    from openmath import format_row  # the tokenizer learns the very text it will see

    texts = []
    for split in recipe["SPLITS"].split(","):
        for row in tiny.rows(split, int(recipe["GENERATE_PROBLEMS"]) // 2, seed):
            formatted = format_row(split, row)
            texts += [formatted["input"], formatted["output"]]
    tiny.write_model(folder, layers, hidden, heads, vocab, texts, seed)


def finish(folder: Path, keys: recipes.Recipe, commit: str) -> None:
    """Patch, check and describe a complete model folder."""
    shutil.copyfile(folder / "config.json", folder / "config.original.json")
    if "ROPE_THETA" in keys:
        theta, positions = float(keys["ROPE_THETA"]), int(keys["MAX_POSITIONS"])
        patch_rope(folder / "config.json", theta, positions)
    check_weights(folder)
    check_rope(folder, keys)
    write_done(folder, keys, {}, revision=commit, **describe(folder))


def adopt(folder: Path, keys: recipes.Recipe) -> None:
    """Check and patch a folder that somebody put there by hand. Raises Failure."""
    for name in ("config.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise Failure(f"{folder} has no {name}; complete it, or move it away and run make model again")
    original = folder / "config.original.json"
    if original.is_file():  # of an attempt that was killed
        shutil.copyfile(original, folder / "config.json")
    finish(folder, keys, "local")


def check_rope(folder: Path, keys: recipes.Recipe) -> None:
    """Compare what transformers loads with the recipe. Raises Failure when they differ."""
    found = loaded_rope(folder)
    if "ROPE_THETA" in keys and found != (float(keys["ROPE_THETA"]), int(keys["MAX_POSITIONS"])):
        raise Failure(f"{folder} loads with RoPE {found}, not the recipe's; remove it and run make model again")
    log(f"model: RoPE theta {found[0]:g}, {found[1]} positions, as transformers loads it")


def main() -> None:
    parser = recipes.parser(__doc__)
    parser.add_argument("--source", type=Path, help="a folder that has the model already, or the hub's cache")
    args, recipe, paths = recipes.open_run(parser)
    if paths.start != paths.base:
        read_done(paths.start, f"round {args.round} starts from it: finish make train MODEL={args.model} ROUND=1 first")
        log(f"model: round {args.round} starts from {paths.start}")
        return
    keys = recipes.stage_keys(recipe, "model")
    if is_done(paths.base, keys, {}):
        if "ROPE_THETA" in keys:
            patched = patch_rope(paths.base / "config.json", float(keys["ROPE_THETA"]), int(keys["MAX_POSITIONS"]))
            log(
                "model: RoPE was back to the published values and is patched anew"
                if patched
                else "model: RoPE is already patched"
            )
        check_weights(paths.base)
        log(f"model: {paths.base} is already there")
        return
    paths.base.parent.mkdir(parents=True, exist_ok=True)
    name = recipe["BASE_MODEL"]
    given = args.source or (Path(name) if name.startswith("/") else None)
    if paths.base.is_dir():
        log(f"model: {paths.base} was put there by hand: checking it")
        adopt(paths.base, keys)
    elif recipe["BASE_SOURCE"] == "hub" and given:
        folder, commit = local_copy(given, name, recipe["BASE_REVISION"])
        log(f"model: taking {folder}, revision {commit[:12]}")
        with new_folder(paths.base) as part:
            take(folder, FILES, part)
            check_weights(part)
            finish(part, keys, commit)
    elif recipe["BASE_SOURCE"] == "random":
        with new_folder(paths.base) as part:
            random_base(recipe, part)
            finish(part, keys, "random")
    else:
        fetched = paths.base.with_name(f"{paths.base.name}.fetched")
        commit = download(recipe["BASE_MODEL"], recipe["BASE_REVISION"], fetched, "model", FILES)
        # config.json comes back as published if a killed predecessor had patched it already.
        original = fetched / "config.original.json"
        if original.is_file():
            shutil.copyfile(original, fetched / "config.json")
        finish(fetched, keys, commit)
        fetched.rename(paths.base)
    parameters = sum(p.stat().st_size for p in paths.base.glob("*.safetensors"))
    architecture = json.loads((paths.base / "config.json").read_text(encoding="utf-8")).get("architectures", ["?"])[0]
    log(f"model: {architecture}, {parameters / 1e6:,.1f} MB of weights in {paths.base}")


if __name__ == "__main__":
    run(main)
