"""Test double: a model's weights as one file in the place of Megatron's distributed checkpoint."""

import os
from pathlib import Path

from safetensors.numpy import load_file, save_file

STEP = 2.0**-10  # what a step adds to every weight: exact in float32


def cached(model: str) -> bool:
    """NeMo-RL v0.7.0's rule of where a converted base model lies (nemo_rl/models/megatron/setup.py:449-460)."""
    root = Path(os.environ["NRL_MEGATRON_CHECKPOINT_DIR"])
    return (root / f"model_{model.replace('/', '_')}" / "iter_0000000").is_dir()


def read(model: str) -> dict:
    return {
        name: tensor for file in sorted(Path(model).glob("*.safetensors")) for name, tensor in load_file(file).items()
    }


def import_model_from_hf_name(hf_model_name: str, output_path: str) -> None:
    folder = Path(output_path) / "iter_0000000"
    folder.mkdir(parents=True)
    save_file(read(hf_model_name), folder / "weights.safetensors")


def write_step(model: str, step: int, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    moved = {name: (tensor + tensor.dtype.type(STEP * step)) for name, tensor in read(model).items()}
    save_file(moved, folder / "weights.safetensors")
