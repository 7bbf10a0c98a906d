"""What NeMo 2.0 saves: checkpoints by step; training.jsonl beside them is written by parts.Link."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

from sft.engines.saved import losses
from sft.lib.progress import log
from sft.recipe.keys import Recipe

STEP = re.compile(r".*step=(\d+)-last")


def saved_steps(folder: Path) -> dict[int, Path]:
    """It resumes from ...-last alone, and has the file ...-last-unfinished beside it while it writes or removes it
    (v2.3.1 nemo/lightning/resume.py:183-270, nemo/lightning/pytorch/callbacks/model_checkpoint.py, _save_checkpoint).
    """
    found = {}
    for path in folder.iterdir():
        unfinished = path.with_name(f"{path.name}-unfinished").exists()
        if (match := STEP.fullmatch(path.name)) and path.is_dir() and not unfinished:
            found[int(match[1])] = path
    return found


def history(train: Path) -> dict[int, dict[str, Any]]:
    return losses(train / "checkpoints")


def clean(folder: Path) -> None:
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
    saved = saved_steps(folder) if folder.is_dir() else {}
    if len(saved) > 1:
        os.utime(saved[max(saved)])


def exported(saved: Path, recipe: Recipe) -> Path | None:
    """None: NeMo's exporter makes a folder in Hugging Face's names of a checkpoint."""
    return None
