"""One training link with nemo-automodel: from the last checkpoint to the last step, or as far as time allows.

    torchrun --nproc-per-node 2 python/train.py tiny 1 --work work
    python python/train.py tiny 1 --work work --render      # print the YAML, train nothing
    python python/train.py tiny 1 --work work --check       # inputs and identity only; prints the last saved step

A link resumes by itself. It ends at the recipe's last step, LINK_END (seconds since the epoch; set by the job from
its time limit), after LINK_STEPS steps, or on SIGTERM; in each case with a checkpoint of the step it is at.
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import learning
import recipe as recipes
from checkpoints import history, saved_steps
from lib import (
    START,
    Failure,
    code_identity,
    log,
    peak_memory,
    read_done,
    read_json,
    read_jsonl,
    recipe_hash,
    run,
    write_done,
    write_json,
)
from nemo_rl import check_epochs
from openmath import ENDS


def render(recipe: recipes.Recipe, paths: recipes.Paths, resume: Path | None = None) -> dict[str, Any]:
    """nemo-automodel 0.7.0's configuration of a recipe.

    Everything a run depends on is written out, so that a changed default upstream cannot change it.
    """
    number = {k: float(recipe[k]) for k in ("LR", "MIN_LR", "WARMUP_INIT", "WEIGHT_DECAY", "ADAM_EPS", "CLIP_GRAD")}
    steps, seed = int(recipe["STEPS"]), int(recipe["SEED"])
    dtype, lora = recipe["DTYPE"], "LORA_RANK" in recipe
    processes = int(recipe["NODES"]) * int(recipe["GPUS_PER_NODE"])
    shuffle, packing = recipe.get("SHUFFLE", "true") == "true", recipe["PACKING"] == "true"
    checkpoint: dict[str, Any] = {
        "enabled": True,
        "checkpoint_dir": str(paths.train / "checkpoints"),
        "model_save_format": "safetensors",
        "save_consolidated": "every",  # every saved step can be converted, also after a link was killed
    }
    if resume:
        # Named outright: a checkpoint found by itself is skipped in silence when the model's path has changed.
        checkpoint["restore_from"] = resume.name
    return {
        "recipe": "TrainFinetuneRecipeForNextTokenPrediction",
        "seed": seed,
        "step_scheduler": {
            "global_batch_size": int(recipe["GLOBAL_BATCH"]),
            "local_batch_size": int(recipe["MICRO_BATCH"]),
            "max_steps": steps,
            "num_epochs": None,  # as many as max_steps needs
            "ckpt_every_steps": int(recipe["SAVE_EVERY"]),
            "save_checkpoint_every_epoch": False,
        },
        "dist_env": {"backend": "gloo" if recipe["DEVICE"] == "cpu" else "nccl", "timeout_minutes": 30},
        "model": {
            "_target_": "nemo_automodel.NeMoAutoModelForCausalLM.from_pretrained",
            "pretrained_model_name_or_path": str(paths.start),
            # What is trained is held in float32, whatever it is computed in: at 5e-6 most of an update is below
            # bfloat16's resolution. Only a base that adapters leave alone need not be; but FSDP wants one type.
            "torch_dtype": dtype if lora and processes == 1 else "float32",
            "attn_implementation": "sdpa",
        },
        **({"peft": adapter(recipe)} if lora else {}),
        "checkpoint": checkpoint,
        "distributed": {
            "strategy": "fsdp2",
            "tp_size": int(recipe["TP"]),
            "cp_size": int(recipe["CP"]),
            "pp_size": int(recipe["PP"]),
            "activation_checkpointing": recipe.get("ACTIVATION_CHECKPOINTING", "false") == "true",
            "mp_policy": {
                "_target_": "torch.distributed.fsdp.MixedPrecisionPolicy",
                "param_dtype": dtype,
                "reduce_dtype": "float32",
                "output_dtype": None,
                "cast_forward_inputs": False,
            },
            # One process is not sharded, and what is not sharded has no policy: autocast stands in for it.
            "autocast_dtype": dtype if processes == 1 and dtype != "float32" else None,
        },
        "loss_fn": {"_target_": "nemo_automodel.components.loss.masked_ce.MaskedCrossEntropy"},
        "dataset": {
            "_target_": "packed.PackedSteps" if packing else "dataset.SftDataset",
            "path": str(paths.rows),
            "seq_len": int(recipe["SEQ_LEN"]),
            "end_of_turn": ENDS[recipe["CHAT"]],
            **({"global_batch": int(recipe["GLOBAL_BATCH"]), "steps": steps} if packing else {}),
            **({"shuffle": shuffle, "seed": seed} if packing else {}),
        },
        "dataloader": {
            "_target_": "torchdata.stateful_dataloader.StatefulDataLoader",
            **(
                {"batch_size": None, "shuffle": False}  # an item is a whole step, in its order
                if packing
                else {
                    "collate_fn": "nemo_automodel.components.datasets.utils.default_collater",
                    "shuffle": shuffle,
                    "drop_last": True,
                }
            ),
        },
        "optimizer": {
            "_target_": "torch.optim.AdamW",
            "lr": number["LR"],
            "weight_decay": number["WEIGHT_DECAY"],
            "betas": [float(recipe["ADAM_BETA1"]), float(recipe["ADAM_BETA2"])],
            "eps": number["ADAM_EPS"],
        },
        "lr_scheduler": {
            "lr_decay_style": recipe["LR_SCHEDULE"],
            "lr_warmup_steps": int(recipe["WARMUP"]),
            "lr_decay_steps": steps,
            "init_lr": number["WARMUP_INIT"],
            "max_lr": number["LR"],
            "min_lr": number["MIN_LR"],
        },
        "clip_grad_norm": {"max_norm": number["CLIP_GRAD"]},
    }


def adapter(recipe: recipes.Recipe) -> dict[str, Any]:
    """nemo-automodel's LoRA section of a recipe with LORA_RANK; every default that decides something is written out."""
    return {
        "_target_": "nemo_automodel.components._peft.lora.PeftConfig",
        "target_modules": [f"*.{name}" for name in recipe["LORA_TARGETS"].split(",")],
        "dim": int(recipe["LORA_RANK"]),
        "alpha": int(recipe["LORA_ALPHA"]),
        "dropout": float(recipe["LORA_DROPOUT"]),
        "dropout_position": "pre",  # as in the peft library, which the adapter is for
        "lora_A_init": "xavier",
        "lora_dtype": "float32",  # see keep_adapters_wide
        "use_memory_efficient_lora": True,
        "use_triton": False,  # its kernels want the activations' type, and are left out with float32
    }


def identity(recipe: recipes.Recipe, paths: recipes.Paths, args: Any) -> tuple[recipes.Recipe, dict[str, str]]:
    """(recipe keys, input hashes) of the run, checked against its first link's record.

    Raises Failure when data or model are missing, cut short, or not those that the run was started with.
    """
    again = f"MODEL={args.model} ROUND={args.round}"
    data = recipes.read_data(paths, again)
    if data["rows"]["all"] < int(recipe["GLOBAL_BATCH"]):
        rows, batch = data["rows"]["all"], recipe["GLOBAL_BATCH"]
        raise Failure(f"{paths.data} has {rows} rows, which do not fill one GLOBAL_BATCH={batch}; prepare more data")
    if "MAX_EPOCHS" in recipe:
        check_epochs(recipe, data["rows"]["all"])
    model = read_done(paths.start, f"run: make model {again}" if paths.start == paths.base else "finish round 1 first")
    for folder, done, stage in ((paths.data, data, "data"), (paths.start, model, "model")):
        for name, size in done["bytes"].items():
            if not (folder / name).is_file() or (folder / name).stat().st_size != size:
                raise Failure(
                    f"{folder / name} is missing or not of {size} bytes; remove {folder} and run: make {stage} {again}"
                )
    keys = recipes.stage_keys(recipe, "train")
    inputs = {"data": data["outputs"][paths.rows.name], "model": recipe_hash(model["outputs"])}
    record = paths.train / "RUN"
    if record.is_file():
        first = read_json(record)
        now = {"recipe": keys, "inputs": inputs}
        for what in ("recipe", "inputs"):
            for name in sorted(first[what].keys() | now[what].keys()):
                was, is_ = first[what].get(name), now[what].get(name)
                if was != is_:
                    raise Failure(
                        f"{paths.train} was started with other {what} ({name}: {str(was)[:16]}, now {str(is_)[:16]}); "
                        "restore it, or move the run away to start over"
                    )
    return keys, inputs


def record(paths: recipes.Paths, keys: recipes.Recipe, inputs: dict[str, str]) -> None:
    """Write what the run's first link was started with, which every later one is checked against."""
    if not (paths.train / "RUN").is_file():
        paths.train.mkdir(parents=True, exist_ok=True)
        write_json(paths.train / "RUN", {"recipe": keys, "inputs": inputs, "code": code_identity()})


# --- the engine --------------------------------------------------------------------------------------------------


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


def trim_torn_line(path: Path) -> None:
    """Drop the unfinished last line that a killed writer left, so that the next record starts a line of its own."""
    if path.is_file():
        with open(path, "rb+") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)


def train(config: dict[str, Any], paths: recipes.Paths, resume: int, steps: int) -> None:
    """Run the engine from step `resume` until the last step or the end of the link."""
    import torch

    if not torch.cuda.is_available():
        without_cuda()
    from nemo_automodel.components.config import loader
    from nemo_automodel.recipes.llm import train_ft

    from packed import block_causal

    loader.set_enable_user_modules(True)  # dataset and packed are ours
    packing = config["dataset"]["_target_"] == "packed.PackedSteps"
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
            learning.check_step(step, float(data.metrics["loss"]), data.metrics["num_label_tokens"])
            if not self.dist_env.is_main:
                return
            if step % 20 == 0 or step == steps:
                left = (steps - step) * (time.time() - started) / max(step - resume, 1)
                loss, rate = float(data.metrics["loss"]), data.metrics["lr"]
                log(f"train: step {step}/{steps}, loss {loss:.4f}, lr {rate:.2e}, {left:.0f} s left")
            if step < steps and (time.time() >= end or step - resume == limit):
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


def finish(recipe: recipes.Recipe, paths: recipes.Paths, keys: recipes.Recipe, inputs: dict[str, str]) -> None:
    """Write DONE for a run whose last step is saved, once: steps, links, seconds and memory from its own records."""
    if (paths.train / "DONE").is_file():
        return
    steps = int(recipe["STEPS"])
    metrics = history(recipe, paths)
    missing = [step for step in range(1, steps + 1) if step not in metrics]
    if not metrics:
        raise Failure(f"{paths.train}/logs has no step of a run that is at its last; restore the logs of its links")
    if missing and recipe["ENGINE"] == "automodel":  # which logs a step before it saves it; NeMo-RL does so after
        raise Failure(
            f"{paths.train}/checkpoints/training.jsonl has no step {missing[0]}; the record is not whole; restore it"
        )
    record = paths.train / "links.jsonl"  # a link that was killed before its first save is not in it
    links = {row["link"]: row for row in read_jsonl(record, torn_tail=True)} if record.is_file() else {}
    write_done(
        paths.train,
        keys,
        inputs,
        steps=steps,
        unlogged=len(missing),
        final_loss=metrics[max(metrics)]["loss"],
        links=len(links),
        seconds=round(sum(link["seconds"] for link in links.values()), 1),
        peak_memory_bytes=max((link["peak_memory_bytes"] for link in links.values()), default=0),
    )


def main() -> None:
    parser = recipes.parser(__doc__)
    parser.add_argument("--render", action="store_true", help="print the engine's configuration and stop")
    parser.add_argument("--check", action="store_true", help="check the inputs, print the last saved step and stop")
    args, recipe, paths = recipes.open_run(parser)
    steps = int(recipe["STEPS"])
    saved = saved_steps(recipe["ENGINE"], paths.train / "checkpoints")
    resume = max(saved, default=0)
    if args.render:
        import yaml

        print(yaml.safe_dump(render(recipe, paths, saved.get(resume)), sort_keys=False), end="")
        return
    keys, inputs = identity(recipe, paths, args)
    if args.check:
        if resume >= steps:
            finish(recipe, paths, keys, inputs)
        elif not resume:  # before anything is queued
            rows = read_done(paths.data, "")["rows"]["all"]
            learning.check_rows(recipe, paths.rows, rows, paths.start)
        print(resume)
        return

    rank = int(os.environ.get("RANK", "0"))
    config = render(recipe, paths, saved.get(resume))
    if rank == 0:
        record(paths, keys, inputs)
        write_json(paths.train / "automodel.json", config)
        trim_torn_line(paths.train / "checkpoints" / "training.jsonl")
    try:
        train(config, paths, resume, steps)
    except Failure as failure:
        raise failure if rank == 0 else Failure(f"rank {rank}: {failure}") from None


if __name__ == "__main__":
    run(main)
