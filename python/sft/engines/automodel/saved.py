"""What nemo-automodel saves: checkpoints by step, and training.jsonl beside them."""

import re
from pathlib import Path
from typing import Any

from sft.engines.saved import losses
from sft.recipe.keys import Recipe

STEP = re.compile(r"epoch_\d+_step_(\d+)")


def saved_steps(folder: Path) -> dict[int, Path]:
    """Steps are counted from 0 in a folder's name, and .incomplete is removed when the checkpoint is published
    (0.7.0 components/checkpoint/lifecycle.py); a step decides its epoch."""
    found = {}
    for path in folder.iterdir():
        if (match := STEP.fullmatch(path.name)) and not (path / ".incomplete").exists():
            found[int(match[1]) + 1] = path
    return found


def history(train: Path) -> dict[int, dict[str, Any]]:
    return losses(train / "checkpoints")


def exported(saved: Path, recipe: Recipe) -> Path | None:
    """The folder of a checkpoint that has its weights in Hugging Face's names: it writes one with each."""
    return saved / "model" if "LORA_RANK" in recipe else saved / "model" / "consolidated"
