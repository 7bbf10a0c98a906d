"""A recipe as nemo-automodel's configuration."""

from pathlib import Path
from typing import Any

from sft.engines.saved import saved_steps
from sft.recipe.keys import Recipe
from sft.recipe.paths import Paths
from sft.rows.chat import ENDS


def render(recipe: Recipe, paths: Paths, resume: Path | None = None) -> dict[str, Any]:
    """nemo-automodel 0.7.0's configuration of a recipe.

    Everything a run depends on is written out, so that a changed default upstream cannot change it.
    """
    steps, seed = recipe["STEPS"], recipe["SEED"]
    dtype, lora = recipe["DTYPE"], "LORA_RANK" in recipe
    processes = recipe["NODES"] * recipe["GPUS_PER_NODE"]
    shuffle, packing = recipe["SHUFFLE"], recipe["PACKING"]
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
            "global_batch_size": recipe["GLOBAL_BATCH"],
            "local_batch_size": recipe["MICRO_BATCH"],
            "max_steps": steps,
            "num_epochs": None,  # as many as max_steps needs
            "ckpt_every_steps": recipe["SAVE_EVERY"],
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
            "tp_size": recipe["TP"],
            "cp_size": recipe["CP"],
            "pp_size": recipe["PP"],
            "activation_checkpointing": recipe["ACTIVATION_CHECKPOINTING"],
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
            "_target_": "sft.engines.automodel.packed.PackedSteps" if packing else "sft.rows.dataset.SftDataset",
            "path": str(paths.rows),
            "seq_len": recipe["SEQ_LEN"],
            "end_of_turn": ENDS[recipe["CHAT"]],
            **({"global_batch": recipe["GLOBAL_BATCH"], "steps": steps} if packing else {}),
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
            "lr": recipe["LR"],
            "weight_decay": recipe["WEIGHT_DECAY"],
            "betas": [recipe["ADAM_BETA1"], recipe["ADAM_BETA2"]],
            "eps": recipe["ADAM_EPS"],
        },
        "lr_scheduler": {
            "lr_decay_style": recipe["LR_SCHEDULE"],
            "lr_warmup_steps": recipe["WARMUP"],
            "lr_decay_steps": steps,
            "init_lr": recipe["WARMUP_INIT"],
            "max_lr": recipe["LR"],
            "min_lr": recipe["MIN_LR"],
        },
        "clip_grad_norm": {"max_norm": recipe["CLIP_GRAD"]},
    }


def adapter(recipe: Recipe) -> dict[str, Any]:
    """nemo-automodel's LoRA section of a recipe with LORA_RANK; every default that decides something is written out."""
    return {
        "_target_": "nemo_automodel.components._peft.lora.PeftConfig",
        "target_modules": [f"*.{name}" for name in recipe["LORA_TARGETS"]],
        "dim": recipe["LORA_RANK"],
        "alpha": recipe["LORA_ALPHA"],
        "dropout": recipe["LORA_DROPOUT"],
        "dropout_position": "pre",  # as in the peft library, which the adapter is for
        "lora_A_init": "xavier",
        "lora_dtype": "float32",  # see keep_adapters_wide
        "use_memory_efficient_lora": True,
        "use_triton": False,  # its kernels want the activations' type, and are left out with float32
    }


def text(recipe: Recipe, paths: Paths) -> str:
    """The configuration as YAML, as the next link reads it."""
    import yaml

    saved = saved_steps("automodel", paths.train / "checkpoints")
    return yaml.safe_dump(render(recipe, paths, saved.get(max(saved, default=0))), sort_keys=False).rstrip("\n")
