"""Training checkpoints as the engines lay them out: which are complete, and which may go.

    python3 python/checkpoints.py qwen7b 1 --work work      # the saved steps

Standard library only, so that a login node can ask.
"""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import nemo_rl_log
import recipe as recipes
from lib import Failure, log, read_jsonl, run

AUTOMODEL = re.compile(r"epoch_\d+_step_(\d+)")
NEMO_RL = re.compile(r"step_(\d+)")
NEMO2 = re.compile(r".*step=(\d+)-last")
KEEP = ("all", "saved", "needed")


def saved_steps(engine: str, folder: Path) -> dict[int, Path]:
    """Optimizer step -> folder of every complete checkpoint, by the exact name that the engine gives it.

    nemo-automodel counts steps from 0 in the folder's name, and removes .incomplete when the checkpoint is published
    (0.7.0 components/checkpoint/lifecycle.py); a step decides its epoch. NeMo-RL writes tmp_step_<N> and renames it to
    step_<N>, and says in training_info.json which step it holds (v0.7.0 nemo_rl/utils/checkpoint.py:197-262). NeMo 2.0
    resumes from ...-last alone, and has the file ...-last-unfinished beside it while it writes or removes it (v2.3.1
    nemo/lightning/resume.py:183-270, nemo/lightning/pytorch/callbacks/model_checkpoint.py, _save_checkpoint).
    Raises Failure for a folder of NeMo-RL that is not what its name says.
    """
    found = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        if engine == "nemo-rl":
            if match := NEMO_RL.fullmatch(path.name):
                found[int(match[1])] = path
                check_info(path, int(match[1]))
        elif engine == "nemo2":
            unfinished = path.with_name(f"{path.name}-unfinished").exists()
            if (match := NEMO2.fullmatch(path.name)) and path.is_dir() and not unfinished:
                found[int(match[1])] = path
        elif (match := AUTOMODEL.fullmatch(path.name)) and not (path / ".incomplete").exists():
            found[int(match[1]) + 1] = path
    return dict(sorted(found.items()))


def check_info(path: Path, step: int) -> None:
    """Raises Failure unless training_info.json, which is what the engine resumes by, names the folder's own step."""
    try:
        total = json.loads((path / "training_info.json").read_text(encoding="utf-8"))["total_steps"]
    except (OSError, ValueError, KeyError, TypeError):
        raise Failure(
            f"{path}/training_info.json is missing or broken; move {path} away and go on without it"
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


def clean_nemo2(folder: Path) -> None:
    """Make NeMo 2.0 go on from the last complete checkpoint, whatever a killed link has left.

    It refuses to go on where every ...-last is unfinished, and of several takes the one whose folder was changed last,
    which after a copy may be any (v2.3.1 nemo/lightning/resume.py:215-265). It removes what is unfinished only after
    that. The marker goes last, so that a kill leaves no half of a checkpoint without it.
    """
    for marker in sorted(folder.glob("*-unfinished")) if folder.is_dir() else ():
        rest = marker.with_name(marker.name.removesuffix("-unfinished"))
        if rest.is_dir():
            shutil.rmtree(rest)
            log(f"train: removed {rest.name}, which a killed link left half-written or half-removed")
        marker.unlink()
    saved = saved_steps("nemo2", folder)
    if len(saved) > 1:
        os.utime(saved[max(saved)])


def superseded(saved: list[int], recipe: recipes.Recipe, keep: str) -> list[int]:
    """The saved steps that may go: none of the recipe's AVERAGE_STEPS, never the newest.

    keep: all; saved (every SAVE_EVERY steps: what goes is what links saved at their time limit); or needed.
    """
    wanted = {int(step) for step in recipe["AVERAGE_STEPS"].split(",")} | {max(saved, default=0)}
    if keep == "saved":
        wanted |= {step for step in saved if step % int(recipe["SAVE_EVERY"]) == 0 or step == int(recipe["STEPS"])}
    return [] if keep == "all" else [step for step in saved if step not in wanted]


def prune(engine: str, folder: Path, recipe: recipes.Recipe, keep: str) -> None:
    """Remove superseded checkpoints; first out of the name, so that a kill leaves no half of one."""
    saved = saved_steps(engine, folder)
    for step in superseded(list(saved), recipe, keep):
        rest = folder / f"tmp_step_{step}"
        saved[step].rename(rest)
        shutil.rmtree(rest)
        log(f"train: removed checkpoint {step}, superseded (KEEP_CHECKPOINTS={keep})")


def losses(folder: Path) -> dict[int, dict[str, Any]]:
    """Optimizer step -> its metrics; of a step that was trained twice (killed after the last save) the later one."""
    log_file = folder / "training.jsonl"
    if not log_file.is_file():
        return {}
    return dict(sorted({row["step"] + 1: row for row in read_jsonl(log_file, torn_tail=True)}.items()))


def history(recipe: recipes.Recipe, paths: recipes.Paths) -> dict[int, dict[str, Any]]:
    """Optimizer step -> its loss and more, from the log of the recipe's engine."""
    if recipe["ENGINE"] == "nemo-rl":
        return nemo_rl_log.history(paths.train)
    return losses(paths.train / "checkpoints")


def main() -> None:
    _, recipe, paths = recipes.open_run(recipes.parser(__doc__))
    for step, path in saved_steps(recipe["ENGINE"], paths.train / "checkpoints").items():
        print(step, path)


if __name__ == "__main__":
    run(main)
