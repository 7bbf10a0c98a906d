"""Training checkpoints and the losses of their steps, asked of the recipe's engine.

Standard library only, so that a login node can ask.
"""

from pathlib import Path
from typing import Any

from sft.engines.registry import part
from sft.lib.files import read_jsonl
from sft.recipe.keys import Recipe
from sft.recipe.paths import Paths


def saved_steps(engine: str, folder: Path) -> dict[int, Path]:
    """Optimizer step -> folder of every complete checkpoint, by the exact name that the engine gives it.

    Raises Failure for a folder of NeMo-RL that is not what its name says.
    """
    found = part(engine, "saved").saved_steps(folder) if folder.is_dir() else {}
    return dict(sorted(found.items()))


def history(recipe: Recipe, paths: Paths) -> dict[int, dict[str, Any]]:
    """Optimizer step -> its loss and more, from the log of the recipe's engine."""
    return part(recipe["ENGINE"], "saved").history(paths.train)


def losses(folder: Path) -> dict[int, dict[str, Any]]:
    """Optimizer step -> its metrics, of a link that writes training.jsonl; of a step that was trained twice (killed
    after the last save) the later one."""
    log_file = folder / "training.jsonl"
    if not log_file.is_file():
        return {}
    return dict(sorted({row["step"] + 1: row for row in read_jsonl(log_file, torn_tail=True)}.items()))
