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

from sft.data import tiny, tiny_reasoning
from sft.lib.done import describe, is_done, new_folder, read_done, write_done
from sft.lib.errors import Failure, run, without_torch
from sft.lib.hub import download, local_copy, take
from sft.lib.progress import log
from sft.model.folder import check_weights
from sft.model.rope import check_rope, patch_rope
from sft.recipe.command import open_run, run_parser
from sft.recipe.keys import Recipe, random_sizes, stage_keys

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


def random_base(recipe: Recipe, folder: Path) -> None:
    """A random model of the recipe's sizes: a Llama for Llama 3's template, else a Qwen2."""
    seed = recipe["SEED"]
    layers, hidden, heads, vocab = random_sizes(recipe)
    if recipe["CHAT"] == "llama3":
        texts = tiny_reasoning.texts(seed, recipe["GENERATE_PROBLEMS"])
        tiny_reasoning.write_model(folder, layers, hidden, heads, vocab, texts, seed)
        return
    from sft.data.openmath import format_row  # the tokenizer learns the very text it will see

    texts = []
    for split in recipe["SPLITS"]:
        for row in tiny.rows(split, recipe["GENERATE_PROBLEMS"] // 2, seed):
            formatted = format_row(split, row)
            texts += [formatted["input"], formatted["output"]]
    tiny.write_model(folder, layers, hidden, heads, vocab, texts, seed)


def finish(folder: Path, recipe: Recipe, commit: str) -> None:
    """Patch, check and describe a complete model folder."""
    shutil.copyfile(folder / "config.json", folder / "config.original.json")
    if "ROPE_THETA" in recipe:
        patch_rope(folder / "config.json", recipe["ROPE_THETA"], recipe["MAX_POSITIONS"])
    check_weights(folder)
    check_rope(folder, recipe)
    write_done(folder, stage_keys(recipe, "model"), {}, revision=commit, **describe(folder))


def adopt(folder: Path, recipe: Recipe) -> None:
    """Check and patch a folder that somebody put there by hand. Raises Failure."""
    for name in ("config.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise Failure(f"{folder} has no {name}; complete it, or move it away and run make model again")
    original = folder / "config.original.json"
    if original.is_file():  # of an attempt that was killed
        shutil.copyfile(original, folder / "config.json")
    finish(folder, recipe, "local")


def main() -> None:
    parser = run_parser(__doc__)
    parser.add_argument("--source", type=Path, help="a folder that has the model already, or the hub's cache")
    args, recipe, paths = open_run(parser)
    if paths.start != paths.base:
        read_done(paths.start, f"round {args.round} starts from it: finish make train MODEL={args.model} ROUND=1 first")
        log(f"model: round {args.round} starts from {paths.start}")
        return
    if is_done(paths.base, stage_keys(recipe, "model"), {}):
        if "ROPE_THETA" in recipe:
            patched = patch_rope(paths.base / "config.json", recipe["ROPE_THETA"], recipe["MAX_POSITIONS"])
            log(
                "model: RoPE was back to the published values and is patched again"
                if patched
                else "model: RoPE is already patched"
            )
        check_weights(paths.base)
        log(f"model: {paths.base} is already there")
        return
    if recipe["BASE_SOURCE"] != "random":
        without_torch()
    paths.base.parent.mkdir(parents=True, exist_ok=True)
    name = recipe["BASE_MODEL"]
    given = args.source or (Path(name) if name.startswith("/") else None)
    if paths.base.is_dir():
        log(f"model: {paths.base} was put there by hand: checking it")
        adopt(paths.base, recipe)
    elif recipe["BASE_SOURCE"] == "hub" and given:
        folder, commit = local_copy(given, name, recipe["BASE_REVISION"])
        log(f"model: taking {folder}, revision {commit[:12]}")
        with new_folder(paths.base) as part:
            take(folder, FILES, part)
            check_weights(part)
            finish(part, recipe, commit)
    elif recipe["BASE_SOURCE"] == "random":
        with new_folder(paths.base) as part:
            random_base(recipe, part)
            finish(part, recipe, "random")
    else:
        fetched = paths.base.with_name(f"{paths.base.name}.fetched")
        commit = download(recipe["BASE_MODEL"], recipe["BASE_REVISION"], fetched, "model", FILES)
        # config.json comes back as published if a killed predecessor had patched it already.
        original = fetched / "config.original.json"
        if original.is_file():
            shutil.copyfile(original, fetched / "config.json")
        finish(fetched, recipe, commit)
        fetched.rename(paths.base)
    parameters = sum(p.stat().st_size for p in paths.base.glob("*.safetensors"))
    architecture = json.loads((paths.base / "config.json").read_text(encoding="utf-8")).get("architectures", ["?"])[0]
    log(f"model: {architecture}, {parameters / 1e6:,.1f} MB of weights in {paths.base}")


if __name__ == "__main__":
    run(main)
