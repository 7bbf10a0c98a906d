"""Where a run keeps what: the folders below WORK."""

from pathlib import Path
from typing import Any

from sft.lib.done import read_done
from sft.lib.errors import Failure
from sft.lib.files import read_json
from sft.recipe.chain import ending
from sft.recipe.keys import Recipe
from sft.recipe.read import load

# --- where things lie --------------------------------------------------------------------------------------------

REMOVED = "REMOVED"  # beside the average's DONE: step_<S> -> DONE of a converted step that was removed after averaging


# The data file that training reads, by SCHEMA; the tutorials' own form lies beside it.
ROWS = {"openmath": "all.jsonl", "nemotron": "training.jsonl", "dolly": "rendered.jsonl", "squad": "rendered.jsonl"}


class Paths:
    """The folders of one run below WORK: the output mirrors the stages, and no round shares one with another."""

    def __init__(self, work: str | Path, model: str, round_: str, recipe: Recipe):
        self.work = Path(work).resolve()
        self.base = self.work / "models" / recipe["BASE_MODEL"].split("/")[-1]
        self.dataset = self.work / "data" / recipe["DATASET"].split("/")[-1].lower()
        self.data = self.dataset / f"round{recipe.get('DATA_ROUND', round_)}"
        # The file of it that the trainer reads: one {"input", "output"} a line; as published, not rendered.
        published = recipe.get("VARIANT") == "published"
        self.rows = self.data / ("training.jsonl" if published else ROWS[recipe["SCHEMA"]])
        self.run = self.work / "runs" / model / f"round{round_}"
        self.report, self.train, self.convert, self.average, self.eval, self.results = (
            self.run / stage for stage in ("report", "train", "convert", "average", "eval", "results")
        )
        # make sft-data writes there; the set that training validates on, where the recipe names one.
        self.validation = self.work / "data" / recipe.get("VAL_DATASET", "none") / "round1"
        # What training starts from: the patched base, or the model that round 1 ended with.
        first = recipe["START_FROM"] == "round1"
        self.start: Path = Paths(work, model, "1", load(model, "1")).final if first else self.base
        # The model that the run ends with: the average, or the one step that there is of it.
        averages = ending(recipe) == "average"
        self.final: Path = self.average if averages else self.convert / f"step_{recipe['AVERAGE_STEPS'][0]}"


def read_data(paths: Paths, again: str) -> dict[str, Any]:
    """The manifest of the prepared data. Raises Failure when there is none, or not in the form that engines read.

    again: MODEL=... ROUND=... of the make commands that errors name.
    """
    done = read_done(paths.data, f"run: make data {again}")
    made = done["recipe"]
    if paths.rows.name not in done["outputs"] or made.get("DATA_FORM", "text") != "text":
        form = f"DATA_FORMAT={made.get('DATA_FORMAT')} DATA_FORM={made.get('DATA_FORM')}"
        raise Failure(f"{paths.data} holds {form}, not input/output JSONL; run make data {again} in another WORK")
    return done


def removed(paths: Paths) -> dict[str, dict[str, Any]]:
    """The manifests of the steps that were removed when they had been averaged, by folder name."""
    record = paths.average / REMOVED
    return read_json(record) if record.is_file() and (paths.average / "DONE").is_file() else {}


def converted(paths: Paths, step: int | str, remedy: str) -> dict[str, Any]:
    """The manifest of a converted step, be it there or averaged and removed. Raises Failure with `remedy`."""
    folder = paths.convert / f"step_{step}"
    kept = None if folder.is_dir() else removed(paths).get(folder.name)
    return kept or read_done(folder, remedy)
