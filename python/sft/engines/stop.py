"""Asking a running link to save and end, as it does at its time limit: a file that it looks for after each step.

A signal would not do: torchrun gives its processes 30 seconds to end after one, and NeMo-RL heeds none.
"""

import os
from pathlib import Path


def stop_file(train: Path, job: str) -> Path:
    """Of a run's train folder and a job; train.sbatch gives it to the link as LINK_STOP."""
    return train / f"STOP-{job}"


def stop_asked() -> bool:
    """In a link: whether it is to save and end."""
    file = os.environ.get("LINK_STOP")
    return file is not None and Path(file).exists()
