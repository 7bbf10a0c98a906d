"""What NeMo-RL saves: checkpoints by step, which of them may go, and the losses that its driver printed."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from sft.engines.nemo_rl import driver_log
from sft.lib.errors import Failure
from sft.lib.progress import log
from sft.recipe.engines import backend_of
from sft.recipe.keys import Recipe

STEP = re.compile(r"step_(\d+)")
KEEP = ("all", "saved", "needed")


def saved_steps(folder: Path) -> dict[int, Path]:
    """It writes tmp_step_<N> and renames it to step_<N>, and says in training_info.json which step that holds
    (v0.7.0 nemo_rl/utils/checkpoint.py:197-262). Raises Failure for a folder that is not what its name says."""
    found = {}
    for path in folder.iterdir():
        if match := STEP.fullmatch(path.name):
            found[int(match[1])] = path
            check_info(path, int(match[1]))
    return found


def history(train: Path) -> dict[int, dict[str, Any]]:
    return driver_log.history(train)


def check_info(path: Path, step: int) -> None:
    """Raises Failure unless training_info.json, which is what the engine resumes by, names the folder's own step."""
    try:
        total = json.loads((path / "training_info.json").read_text(encoding="utf-8"))["total_steps"]
    except (OSError, ValueError, KeyError, TypeError):
        raise Failure(
            f"{path}/training_info.json is missing or broken; move {path} away and continue without it"
        ) from None
    if total != step:
        raise Failure(f"{path} holds step {total} by its training_info.json; give it its name back, or move it away")


def clean(folder: Path) -> None:
    """Remove what links that were killed while NeMo-RL v0.7.0 saved have left: it never does so itself.

    A checkpoint is saved over another of its step by renaming that to old_step_<N>; where the kill fell just between
    the two renames, the old one is the only one, and gets its name back.
    """
    for old in sorted(folder.glob("old_step_*")) if folder.is_dir() else ():
        step = folder / old.name.removeprefix("old_")
        if not step.exists():
            old.rename(step)
            log(f"train: {step.name} was being replaced when a link was killed; restored")
    for rest in sorted([*folder.glob("tmp_step_*"), *folder.glob("old_step_*")]) if folder.is_dir() else ():
        shutil.rmtree(rest)
        log(f"train: removed {rest.name}, which a killed link left half-written")


def superseded(saved: list[int], recipe: Recipe, keep: str) -> list[int]:
    """The saved steps that may go: none of the recipe's AVERAGE_STEPS, never the newest.

    keep: all; saved (every SAVE_EVERY steps: what goes is what links saved at their time limit); or needed.
    """
    wanted = {int(step) for step in recipe["AVERAGE_STEPS"]} | {max(saved, default=0)}
    if keep == "saved":
        wanted |= {step for step in saved if step % recipe["SAVE_EVERY"] == 0 or step == recipe["STEPS"]}
    return [] if keep == "all" else [step for step in saved if step not in wanted]


def prune(folder: Path, recipe: Recipe, keep: str) -> None:
    """Remove superseded checkpoints; first out of the name, so that a kill leaves no half of one."""
    saved = saved_steps(folder) if folder.is_dir() else {}
    for step in superseded(sorted(saved), recipe, keep):
        rest = folder / f"tmp_step_{step}"
        saved[step].rename(rest)
        shutil.rmtree(rest)
        log(f"train: removed checkpoint {step}, superseded (KEEP_CHECKPOINTS={keep})")


def exported(saved: Path, recipe: Recipe) -> Path | None:
    """The folder of a checkpoint that has its weights in Hugging Face's names; None: Megatron's converter makes it."""
    return saved / "policy/weights/model/consolidated" if backend_of(recipe) == "fsdp" else None
