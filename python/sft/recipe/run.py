"""The identity of a training run: every link trains the same recipe on the same data and base."""

from typing import Any

from sft.lib.done import code_identity, read_done, recipe_hash
from sft.lib.errors import Failure
from sft.lib.files import read_json, write_json
from sft.recipe.checks import check_epochs
from sft.recipe.keys import Recipe, stage_keys
from sft.recipe.paths import Paths, read_data


def identity(recipe: Recipe, paths: Paths, args: Any) -> tuple[dict[str, str], dict[str, str]]:
    """(recipe keys, input hashes) of the run, checked against its first link's record.

    Raises Failure when data or model are missing, cut short, or not those that the run was started with.
    """
    again = f"MODEL={args.model} ROUND={args.round}"
    data = read_data(paths, again)
    if data["rows"]["all"] < recipe["GLOBAL_BATCH"]:
        rows, batch = data["rows"]["all"], recipe["GLOBAL_BATCH"]
        raise Failure(f"{paths.data} has {rows} rows, which do not fill one GLOBAL_BATCH={batch}; prepare more data")
    if "MAX_EPOCHS" in recipe:
        check_epochs(recipe, data["rows"]["all"])
    model = read_done(paths.start, f"run: make model {again}" if paths.start == paths.base else "finish round 1 first")
    for folder, done, stage in ((paths.data, data, "data"), (paths.start, model, "model")):
        for name, size in done["bytes"].items():
            if not (folder / name).is_file() or (folder / name).stat().st_size != size:
                raise Failure(
                    f"{folder / name} is missing or not of {size} bytes; remove {folder} and run: make {stage} {again}"
                )
    keys = stage_keys(recipe, "train")
    inputs = {"data": data["outputs"][paths.rows.name], "model": recipe_hash(model["outputs"])}
    check_record(paths, {"recipe": keys, "inputs": inputs})
    return keys, inputs


def check_record(paths: Paths, now: dict[str, dict[str, str]]) -> None:
    """What of "recipe" and "inputs" is given, against the run's first link. Raises Failure when it is other."""
    record = paths.train / "RUN"
    if not record.is_file():
        return
    first = read_json(record)
    for what in now:
        for name in sorted(first[what].keys() | now[what].keys()):
            was, is_ = first[what].get(name), now[what].get(name)
            if was != is_:
                raise Failure(
                    f"{paths.train} was started with other {what} ({name}: {str(was)[:16]}, now {str(is_)[:16]}); "
                    "restore it, or move the run away to start over"
                )


def record(paths: Paths, keys: dict[str, str], inputs: dict[str, str]) -> None:
    """Write what the run's first link was started with, which every later one is checked against."""
    if not (paths.train / "RUN").is_file():
        paths.train.mkdir(parents=True, exist_ok=True)
        write_json(paths.train / "RUN", {"recipe": keys, "inputs": inputs, "code": code_identity()})
