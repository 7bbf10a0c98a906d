"""python/engine.py, with what reaches the model on record: under torchrun, in place of it.

    RECORD=FOLDER torchrun --nproc-per-node 2 tests/engines/recording.py little 1 --work work

Writes FOLDER/<rank>.jsonl, a line for each forward pass of training: input_ids and position_ids. When the engine saves
its last step, FOLDER/logits.pt gets the logits of its own model, as it is in memory then, for the first rows.
"""

import functools
import json
import os
import sys
from pathlib import Path
from typing import Any

import engine as stage
from sft.engines.automodel import link
from sft.lib.errors import run

FOLDER = Path(os.environ["RECORD"])
ROWS = 4


def observe() -> None:
    import torch

    link.without_cuda()
    from nemo_automodel.components.models.llama.model import LlamaForCausalLM
    from nemo_automodel.recipes.llm import train_ft

    forward = LlamaForCausalLM.forward

    @functools.wraps(forward)
    def recorded(self: Any, *args: Any, **options: Any) -> Any:
        if self.training:
            line = {name: options[name].tolist() for name in ("input_ids", "position_ids") if name in options}
            with open(FOLDER / f"{os.environ['RANK']}.jsonl", "a") as file:
                file.write(json.dumps(line) + "\n")
        return forward(self, *args, **options)

    LlamaForCausalLM.forward = recorded
    engine = train_ft.TrainFinetuneRecipeForNextTokenPrediction
    save = engine.save_checkpoint

    def saved(self: Any, epoch: int, step: int, *rest: Any, **options: Any) -> None:
        save(self, epoch, step, *rest, **options)
        if not self.step_scheduler.is_last_step:
            return
        from sft.rows.dataset import SftDataset

        path, end = (self.cfg.dataset.get(name) for name in ("path", "end_of_turn"))
        dataset = SftDataset(path, 10_000, end, self.tokenizer)
        model = self.model_parts[0].eval()
        with torch.no_grad():
            logits = [model(input_ids=torch.tensor([dataset[i]["input_ids"]])).logits for i in range(ROWS)]
        if self.dist_env.is_main:
            torch.save(logits, FOLDER / "logits.pt")

    engine.save_checkpoint = saved


if __name__ == "__main__":
    if "--check" not in sys.argv:
        observe()
    run(stage.main)
