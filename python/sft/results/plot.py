"""A run's curve of losses."""

from pathlib import Path
from typing import Any


def draw(metrics: dict[int, dict[str, Any]], title: str, target: Path) -> None:
    """Loss and, where it is logged, learning rate over the steps, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, left = plt.subplots(figsize=(7, 4), dpi=120)
    left.plot(list(metrics), [m["loss"] for m in metrics.values()], color="tab:blue", linewidth=1.2)
    left.set_xlabel("optimizer step")
    left.set_ylabel("training loss", color="tab:blue")
    left.set_yscale("log")
    left.grid(alpha=0.3)
    if all("lr" in m for m in metrics.values()):  # NeMo-RL does not print it
        right = left.twinx()
        right.plot(list(metrics), [m["lr"] for m in metrics.values()], color="tab:gray", linewidth=1, linestyle="--")
        right.set_ylabel("learning rate", color="tab:gray")
    left.set_title(title)
    figure.tight_layout()
    figure.savefig(target)
    plt.close(figure)
