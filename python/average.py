"""Average exactly AVERAGE_STEPS into one model: float32 accumulation, one rounding, one tensor in memory at a time.

    python python/average.py tiny 1 --work work
    python python/average.py --of step_250 step_300 --to mean     # any Hugging Face folders of one model

Writes WORK/runs/<model>/round<N>/average/: safetensors in the shards of the first model, an index that says what was
averaged, and config and tokenizer of the first model.
"""

import argparse
import json
import shutil
import struct
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import recipe as recipes
from convert import tensors, verify
from lib import (
    Failure,
    Progress,
    describe,
    is_done,
    log,
    new_folder,
    read_done,
    recipe_hash,
    run,
    usage,
    write_done,
    write_json,
)
from openmath import ENDS

FLOATS = {"F32": 4, "F16": 2, "BF16": 2}  # safetensors' names, bytes


def check_alike(folders: list[Path]) -> dict[str, tuple[Path, tuple[int, ...], str]]:
    """The tensors of the first folder, having compared names, shapes and dtypes of the others. Raises Failure."""
    first = tensors(folders[0])
    for folder in folders[1:]:
        other = tensors(folder)
        differ = first.keys() ^ other.keys()
        if differ:
            raise Failure(f"{folder}: tensor {min(differ)} is only in one of it and {folders[0]}; convert both again")
        for name, (_, shape, dtype) in other.items():
            if (shape, dtype) != first[name][1:]:
                raise Failure(
                    f"{folder}: tensor {name} is {dtype} {list(shape)}, not {first[name][2]} {list(first[name][1])} "
                    f"as in {folders[0]}; convert both again"
                )
    for name, (file, _, dtype) in first.items():
        if dtype not in FLOATS:
            raise Failure(f"{file}: tensor {name} is {dtype}, which has no mean; average unquantised models")
    return first


def write_shard(target: Path, names: list[str], like: dict[str, Any], folders: list[Path], progress: Progress) -> None:
    """Write the mean of `names` as one safetensors file, tensor by tensor.

    The format is 8 bytes of header length, a JSON header padded to 8 bytes, and the tensors' bytes in its order
    (safetensors' README, "Format"). The library writes a file only from all its tensors in memory at once.
    """
    import torch
    from safetensors import safe_open

    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in names:
        _, shape, dtype = like[name]
        size = FLOATS[dtype]
        for extent in shape:
            size *= extent
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    where = [tensors(folder) for folder in folders]
    with ExitStack() as stack, open(target, "wb") as out:
        opened = {
            file: stack.enter_context(safe_open(file, framework="pt"))
            for file in sorted({found[name][0] for found in where for name in names})
        }
        out.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            first = opened[where[0][name][0]].get_tensor(name)
            total = first.to(torch.float32, copy=True)
            for found in where[1:]:
                total += opened[found[name][0]].get_tensor(name)
            total /= len(folders)
            if not bool(torch.isfinite(total).all()):
                raise Failure(f"{target.name}: the mean of tensor {name} is not finite; a checkpoint is broken")
            out.write(memoryview(total.to(first.dtype).reshape(-1).view(torch.uint8).numpy()))
            progress.show(out.tell())


def average(folders: list[Path], target: Path) -> None:
    """Write the mean of `folders` into the existing, empty folder `target`."""
    like = check_alike(folders)
    total = sum(file.stat().st_size for file in {file for file, _, _ in like.values()})
    progress = Progress("average: bytes", total)
    shards: dict[str, list[str]] = {}
    for name, (file, _, _) in like.items():
        shards.setdefault(file.name, []).append(name)
    for shard, names in shards.items():
        write_shard(target / shard, names, like, folders, progress)
    index = {
        "metadata": {"total_size": total, "averaged_from": [str(folder) for folder in folders]},
        "weight_map": {name: shard for shard, names in shards.items() for name in names},
    }
    for path in sorted(folders[0].iterdir()):
        if path.suffix in (".json", ".jinja", ".txt", ".model") and not path.name.endswith(".index.json"):
            shutil.copyfile(path, target / path.name)
    write_json(target / "model.safetensors.index.json", index)


def main() -> None:
    if "--of" in sys.argv:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--of", nargs="+", type=Path, required=True, help="the models")
        parser.add_argument("--to", type=Path, required=True, help="the folder to write; must not exist")
        args = parser.parse_args()
        if args.to.exists():
            usage(f"{args.to} exists; name a new folder")
        with new_folder(args.to) as part:
            average(args.of, part)
        return
    args, recipe, paths = recipes.open_run(recipes.parser(__doc__))
    folders = [paths.convert / f"step_{step}" for step in recipe["AVERAGE_STEPS"].split(",")]
    keys = recipes.stage_keys(recipe, "average")
    remedy = f"run: make convert MODEL={args.model} ROUND={args.round}"
    inputs = {folder.name: recipe_hash(read_done(folder, remedy)["outputs"]) for folder in folders}
    if is_done(paths.average, keys, inputs):
        log(f"average: {paths.average} is already there")
        return
    with new_folder(paths.average) as part:
        average(folders, part)
        verify(part, paths.start, ENDS[recipe["CHAT"]])
        write_done(part, keys, inputs, steps=[int(f.name[5:]) for f in folders], **describe(part))
    log(f"average: mean of steps {recipe['AVERAGE_STEPS']} in {paths.average}, verified")


if __name__ == "__main__":
    run(main)
