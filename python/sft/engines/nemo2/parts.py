"""What engine nemo2 adds to NeMo 2.0: rows in the file's order, and a link that ends with a checkpoint.

Imported inside NeMo's image only, and named there in every checkpoint's context: keep the names.
"""

import json
import math
import os
import time
from pathlib import Path
from typing import Any

from nemo.collections.llm import FineTuningDataModule
from nemo.lightning.io import load_context
from nemo.lightning.pytorch.callbacks import PreemptionCallback
from torch.utils.data import DataLoader, Dataset

from sft.engines.curves import Curves
from sft.engines.learning import check_step
from sft.engines.stop import stop_asked
from sft.lib.progress import START, log, peak_memory


class InOrder(Dataset):
    """`length` rows: those of `rows` from the first to the last, as often as needed."""

    def __init__(self, rows: Dataset, length: int):
        self.rows, self.length, self.collate_fn = rows, length, rows.collate_fn

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        # NeMo fills up a last batch with negative indices, rows without a loss.
        return self.rows[index % len(self.rows) if index >= 0 else index]


class OrderedDataModule(FineTuningDataModule):
    """FineTuningDataModule whose training rows keep the file's order, in every epoch.

    With max_num_samples the dataset permutes blocks of a million rows (NeMo v2.3.1
    nemo/collections/llm/gpt/data/utils.py:352-525), which no argument turns off; without, it is one pass in order,
    which is too short when STEPS * GLOBAL_BATCH is more than the rows. The batch sampler on top goes straight on.
    """

    def train_dataloader(self) -> DataLoader:
        rows = self._create_dataset(self.train_path, max_num_samples=None, **self.dataset_kwargs)
        return self._create_dataloader(InOrder(rows, self.max_train_samples), mode="train")


class Link(PreemptionCallback):
    """Writes down every step, and ends the link by a checkpoint at LINK_END, after LINK_STEPS steps or at LINK_STOP.

    NeMo's own callback does the same on SIGTERM; it is told here that there was one. folder: the run's train folder,
    where checkpoints/training.jsonl and links.jsonl are as engine automodel writes them; steps: the recipe's last.
    """

    def __init__(self, folder: str, steps: int):
        super().__init__()
        self.folder, self.steps = folder, steps
        self.first, self.started = 0, 0.0
        self.curves: Curves | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self.first, self.started = trainer.global_step, time.time()
        if trainer.is_global_zero:
            log(f"train: NeMo has set up and goes on from step {self.first}")
            self.curves = Curves(Path(self.folder), self.first)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_end(trainer, pl_module)
        self.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Also when the link is over: NeMo's callback exits then."""
        super().on_exception(trainer, pl_module, exception)
        self.close()

    def close(self) -> None:
        if self.curves:
            self.curves.close()
            self.curves = None

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if trainer.is_global_zero:
            self.write_step(step, {k: float(v) for k, v in trainer.callback_metrics.items() if v.numel() == 1})
            end, limit = float(os.environ.get("LINK_END") or "inf"), int(os.environ.get("LINK_STEPS") or "0")
            if step < self.steps and (time.time() >= end or step - self.first == limit or stop_asked()):
                log(f"train: the link is over after step {step}; saving a checkpoint for the next one")
                self._interrupted = True
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def write_step(self, step: int, metrics: dict[str, float]) -> None:
        """One line for each step: its number from 0, loss and whatever else NeMo measured."""
        row = metrics | {
            "step": step - 1,
            "timestamp": time.time(),
            "loss": metrics.get("reduced_train_loss", math.nan),
        }
        append(Path(self.folder) / "checkpoints" / "training.jsonl", row)
        if self.curves:
            self.curves.log(step, row)
        if "reduced_train_loss" in metrics:
            check_step(step, row["loss"])
        if step % 20 == 0 or step == self.steps:
            left = (self.steps - step) * (time.time() - self.started) / max(step - self.first, 1)
            log(f"train: step {step}/{self.steps}, loss {row['loss']:.4f}, {left:.0f} s left")

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if trainer.is_global_zero:
            row = {"link": int(START), "from": self.first, "step": trainer.global_step}
            memory = {"seconds": round(time.time() - START, 1), "peak_memory_bytes": peak_memory()}
            append(Path(self.folder) / "links.jsonl", row | memory)


def connector(path: Path, target: str) -> Any:
    """What exports a checkpoint. NeMo's own makes the whole trainer again, with as many GPUs as it had."""
    return load_context(path, subpath="model").exporter(target, path)


def append(path: Path, row: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
