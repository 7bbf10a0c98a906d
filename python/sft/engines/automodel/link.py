"""One training job with nemo-automodel, from the last checkpoint until its time is up."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

from sft.engines import learning
from sft.engines.automodel.config import render
from sft.engines.curves import Curves, check
from sft.engines.saved import saved_steps
from sft.engines.stop import stop_asked
from sft.lib.errors import Failure, hidden
from sft.lib.files import trim_torn_line, write_json
from sft.lib.progress import START, log, peak_memory
from sft.recipe.keys import Recipe
from sft.recipe.paths import Paths
from sft.recipe.run import identity, record


def without_cuda() -> None:
    """What nemo-automodel 0.7.0 needs to run on a CPU: its recipe calls four CUDA functions unconditionally.

    Dynamo is off because compiling one step costs more than the demo; the losses are the same.
    """
    import nemo_automodel._transformers.auto_model as auto_model
    import torch

    torch._dynamo.config.disable = True
    torch.cuda.reset_peak_memory_stats = lambda *a, **k: None
    torch.cuda.max_memory_allocated = lambda *a, **k: 0
    torch.cuda.current_device = lambda: 0
    real = auto_model.apply_model_infrastructure
    auto_model.apply_model_infrastructure = lambda *a, **k: real(*a, **{**k, "device": torch.device("cpu")})


def keep_adapters_wide() -> None:
    """Make lora_dtype hold: nemo-automodel 0.7.0 casts adapters to the base's type when it initialises them.

    (components/checkpoint/checkpointing.py:1561-1585.) Done before the optimizer and a checkpoint see them. Sharded
    models need it not: all of them is in float32.
    """
    import torch
    from nemo_automodel.recipes.llm import train_ft

    build = train_ft.build_model

    def widened(*args: Any, **options: Any) -> Any:
        model = build(*args, **options)
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.dtype != torch.float32:
                parameter.data = parameter.data.float()
        return model

    train_ft.build_model = widened


def whole_steps() -> None:
    """Make nemo-automodel's scheduler take what a data loader of PackedSteps gives as all micro-batches of a step.

    Its own (0.7.0 components/training/step_scheduler.py:__iter__) gives each step the same number of items.
    """
    from nemo_automodel.components.training import step_scheduler

    class StepScheduler(step_scheduler.StepScheduler):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.grad_acc_steps = 1

        def __iter__(self) -> Iterator[list[dict[str, Any]]]:
            for (batches,) in super().__iter__():
                yield batches

    step_scheduler.StepScheduler = StepScheduler


def train(config: dict[str, Any], paths: Paths, resume: int, steps: int, curves: Curves | None) -> None:
    """Run the engine from step `resume` until the last step or the end of the link. curves: of the first process."""
    import torch

    cpu = not torch.cuda.is_available()
    # Over a second of import, for what only `curves` uses. NVIDIA's image may hold a release that cannot do without.
    with hidden("wandb") if cpu else nullcontext():
        if cpu:
            without_cuda()
        from nemo_automodel.components.config import loader
        from nemo_automodel.recipes.llm import train_ft

    from sft.engines.automodel.packed import block_causal

    loader.set_enable_user_modules(True)  # dataset and packed are ours
    packing = config["dataset"]["_target_"].endswith(".PackedSteps")
    if packing:
        whole_steps()
    if "peft" in config:
        keep_adapters_wide()
    build = train_ft.build_metric_logger

    def write_through(path: Path, **options: Any) -> Any:
        """Every loss line on disk before the next step: a SIGKILL must not take the last hundred with it."""
        logger = build(path, **options)
        logger.buffer_size, logger._fsync_on_write = 1, True
        return logger

    train_ft.build_metric_logger = write_through
    train_ft._HAS_WANDB = False  # else it takes the run that curves has opened, and logs every step again
    autocast = config["distributed"]["autocast_dtype"]

    def precision() -> AbstractContextManager[Any]:
        """As the engine's _autocast_context, which its own step does not use, and which knows no CPU."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.autocast(device, getattr(torch, autocast)) if autocast else nullcontext()

    end, limit = float(os.environ.get("LINK_END") or "inf"), int(os.environ.get("LINK_STEPS") or "0")

    class Link(train_ft.TrainFinetuneRecipeForNextTokenPrediction):
        """The engine's own recipe, which asks itself to stop, by the signal it knows, when the link is over."""

        def _forward_backward_step(self, idx: int, batch: dict[str, Any], **options: Any) -> None:
            if packing:  # only now, on the device: the masks of a whole step would take gigabytes
                batch = dict(batch)
                documents = batch.pop("documents").to(self.dist_env.device)
                batch["attention_mask"] = block_causal(documents)
            with precision():
                super()._forward_backward_step(idx, batch, **options)

        def log_train_metrics(self, data: Any) -> None:
            super().log_train_metrics(data)
            step = data.step + 1
            if curves:
                curves.log(step, data.metrics)
            learning.check_step(step, float(data.metrics["loss"]), data.metrics["num_label_tokens"])
            if not self.dist_env.is_main:
                return
            if step % 20 == 0 or step == steps:
                left = (steps - step) * (time.time() - started) / max(step - resume, 1)
                loss, rate = float(data.metrics["loss"]), data.metrics["lr"]
                log(f"train: step {step}/{steps}, loss {loss:.4f}, lr {rate:.2e}, {left:.0f} s left")
            if step < steps and (time.time() >= end or step - resume == limit or stop_asked()):
                log(f"train: the link is over after step {step}; saving a checkpoint for the next one")
                signal.raise_signal(signal.SIGTERM)

        def save_checkpoint(self, epoch: int, step: int, *rest: Any, **options: Any) -> None:
            super().save_checkpoint(epoch, step, *rest, **options)
            memory = torch.tensor(peak_memory(), dtype=torch.float64, device=self.dist_env.device or "cpu")
            torch.distributed.all_reduce(memory)  # of all processes
            if self.dist_env.is_main:
                record = {
                    "link": int(START),
                    "from": resume,
                    "step": step + 1,
                    "seconds": round(time.time() - START, 1),
                }
                with open(paths.train / "links.jsonl", "a", encoding="utf-8") as file:
                    file.write(json.dumps(record | {"peak_memory_bytes": int(memory.item())}) + "\n")

    engine = Link(loader.ConfigNode(config))
    engine.setup()
    if engine.step_scheduler.step != resume:
        raise Failure(f"the engine starts at step {engine.step_scheduler.step} instead of {resume}; see its log")
    started = time.time()
    engine.run_train_validation_loop()


def open_link(recipe: Recipe, paths: Paths, args: Any) -> None:
    """Nothing: the engine removes what a killed link left half-written."""


def base_folders(paths: Paths) -> list[Path]:
    """What training starts from: the Hugging Face folder itself."""
    return [paths.start]


def link(recipe: Recipe, paths: Paths, args: Any) -> None:
    """One process of a link: to the recipe's last step, or as far as time allows.

    It ends at LINK_END (seconds since the epoch; set by the job from its time limit), after LINK_STEPS steps, when the
    file LINK_STOP appears, or on SIGTERM; in each case with a checkpoint of the step it is at.
    """
    keys, inputs = identity(recipe, paths, args)
    saved = saved_steps("automodel", paths.train / "checkpoints")
    resume, rank = max(saved, default=0), int(os.environ.get("RANK", "0"))
    config = render(recipe, paths, saved.get(resume))
    if rank == 0:
        check()
        record(paths, keys, inputs)
        write_json(paths.train / "automodel.json", config)
        trim_torn_line(paths.train / "checkpoints" / "training.jsonl")
    curves = Curves(paths.train, resume) if rank == 0 else None
    try:
        train(config, paths, resume, recipe["STEPS"], curves)
    except Failure as failure:
        raise failure if rank == 0 else Failure(f"rank {rank}: {failure}") from None
    finally:
        if curves:
            curves.close()
    leave()


def leave() -> NoReturn:
    """End a link that has saved all it has to, without what libraries do when Python exits.

    Under load a thread of torch's (2.13, on a CPU) still ran then, and its end aborted the process: "terminate called
    without an active exception". A good link would count as a failed one.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
