"""Average exactly AVERAGE_STEPS into one model: float32 accumulation in the order of the steps, one rounding.

    python python/average.py tiny 1 --work work
    python python/average.py tiny 1 --work work --remove-inputs   # and then remove the converted steps
    python python/average.py --of step_250 step_300 --to mean     # any Hugging Face folders of one model

Writes WORK/runs/<model>/round<N>/average/: safetensors in the shards of the first model, an index that says what was
averaged, and config and tokenizer of the first model. The shards' hashes in DONE are those of what was computed.
--remove-inputs reads the files back from the disk and compares them with DONE before it removes anything.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from sft.lib.done import describe, is_done, new_folder, recipe_hash, write_done
from sft.lib.errors import Failure, run, usage
from sft.lib.files import read_json, sha256, write_json
from sft.lib.progress import log
from sft.model.folder import tensors, verify
from sft.model.mean import SIZES, Layout, size_of, write_means
from sft.recipe.command import open_run, run_parser
from sft.recipe.keys import stage_keys
from sft.recipe.paths import REMOVED, Paths, converted, removed
from sft.rows.chat import ENDS


def check_alike(folders: list[Path]) -> list[Layout]:
    """The tensors of each folder: of the same names, shapes and dtypes, and such as have a mean. Raises Failure."""
    for folder in folders:
        config = folder / "config.json"
        if config.is_file() and read_json(config).get("quantization_config"):
            raise Failure(f"{folder} is quantised (quantization_config in config.json); average unquantised models")
    layouts = [tensors(folder) for folder in folders]
    first = layouts[0]
    for folder, other in zip(folders[1:], layouts[1:], strict=True):
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
        if dtype not in SIZES:
            raise Failure(f"{file}: tensor {name} is {dtype}, which has no mean here; average F32, F16 or BF16 models")
    return layouts


def average(folders: list[Path], target: Path, workers: int | None = None) -> dict[str, str]:
    """Write the mean of `folders` into the existing, empty folder `target`; returns the sha256 of each shard.

    workers: processes; without it one for each core. Raises Failure for folders that have no mean.
    """
    layouts = check_alike(folders)
    shards: dict[str, list[str]] = {}
    for name, (file, _, _) in layouts[0].items():
        shards.setdefault(file.name, []).append(name)
    digests = write_means(target, shards, layouts, workers)
    total = sum(map(size_of, layouts[0].values()))
    index = {
        "metadata": {"total_size": total, "averaged_from": [str(folder) for folder in folders]},
        "weight_map": {name: shard for shard, names in shards.items() for name in names},
    }
    for path in sorted(folders[0].iterdir()):
        if path.suffix in (".json", ".jinja", ".txt", ".model") and not path.name.endswith(".index.json"):
            shutil.copyfile(path, target / path.name)
    write_json(target / "model.safetensors.index.json", index)
    return digests


def check_written(folder: Path) -> None:
    """Read every file of a finished stage back from the disk. Raises Failure unless it is what DONE says."""
    for name, digest in read_json(folder / "DONE")["outputs"].items():
        file = folder / name
        if file.is_file():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())  # what is not on the disk yet could not be dropped from memory
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if not file.is_file() or sha256(file) != digest:
            raise Failure(f"{file} is not what was written; no step was removed; remove {folder} and average again")


def remove_inputs(paths: Paths, folders: list[Path]) -> None:
    """Remove the converted steps that are averaged, having read the average back; their manifests are kept beside it.

    Steps that are gone already are passed over. The checkpoints of training are not touched.
    """
    there = [folder for folder in folders if folder.is_dir()]
    for folder in folders:
        if folder not in there:  # what is left of it, should we have been stopped in the middle
            shutil.rmtree(folder.with_name(f".{folder.name}.part"), ignore_errors=True)
    if not there:
        return
    check_written(paths.average)
    # First the record, then each folder under its scratch name: whatever stops us, a rerun finds its way.
    write_json(paths.average / REMOVED, removed(paths) | {f.name: read_json(f / "DONE") for f in there})
    for folder in there:
        part = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        folder.rename(part)
        shutil.rmtree(part)
    names = ", ".join(folder.name for folder in there)
    log(f"average: read back from the disk as written; removed {names} of {paths.convert}")


def main() -> None:
    workers: dict[str, Any] = {"type": int, "help": "processes (default: one per core)"}
    if "--of" in sys.argv:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--of", nargs="+", type=Path, required=True, help="the models")
        parser.add_argument("--to", type=Path, required=True, help="the folder to write; must not exist")
        parser.add_argument("--workers", **workers)
        args = parser.parse_args()
        if args.to.exists():
            usage(f"{args.to} exists; name a new folder")
        with new_folder(args.to) as part:
            average(args.of, part, args.workers)
        return
    parser = run_parser(__doc__)
    parser.add_argument("--remove-inputs", action="store_true", help="remove the converted steps once averaged")
    parser.add_argument("--workers", **workers)
    args, recipe, paths = open_run(parser)
    steps = recipe["AVERAGE_STEPS"]
    folders = [paths.convert / f"step_{step}" for step in steps]
    keys = stage_keys(recipe, "average")
    again = f"run: make convert MODEL={args.model} ROUND={args.round}"
    inputs = {f"step_{step}": recipe_hash(converted(paths, step, again)["outputs"]) for step in steps}
    if is_done(paths.average, keys, inputs):
        log(f"average: {paths.average} is already there")
    else:
        with new_folder(paths.average) as part:
            digests = average(folders, part, args.workers)
            verify(part, paths.start, ENDS[recipe["CHAT"]])
            facts = describe(part, digests)
            write_done(part, keys, inputs, steps=list(steps), **facts)
        log(f"average: mean of steps {recipe['text']['AVERAGE_STEPS']} in {paths.average}, verified")
    if args.remove_inputs:
        remove_inputs(paths, folders)


if __name__ == "__main__":
    run(main)
