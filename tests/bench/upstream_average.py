"""NeMo-Skills' average_checkpoints.py as its behaviour is described, none of its code: what the bench compares with.

    python tests/bench/upstream_average.py FOLDER TARGET STEP...

Folders of FOLDER whose names contain `step_<STEP>` are averaged shard by shard: for each tensor every folder's file is
opened anew, sums are float32, and a shard is saved from memory when all of its tensors are there.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

INDEX = "model.safetensors.index.json"


def weight_map(folder: Path) -> dict[str, str]:
    """Tensor -> shard."""
    return json.loads((folder / INDEX).read_text())["weight_map"]


def average(source: Path, target: Path, steps: list[str]) -> None:
    folders = sorted(p for p in source.iterdir() if p.is_dir() and any(f"step_{step}" in p.name for step in steps))
    first = weight_map(folders[0])
    maps = [weight_map(folder) for folder in folders]
    if any(other.keys() != first.keys() for other in maps):
        sys.exit("the checkpoints have different tensors")
    target.mkdir(parents=True)
    for shard in sorted(set(first.values())):
        made = {}
        for name in (name for name, file in first.items() if file == shard):
            total, dtype = None, None
            for folder, files in zip(folders, maps, strict=True):
                with safe_open(folder / files[name], framework="pt") as opened:
                    tensor = opened.get_tensor(name)
                if total is None:
                    total, dtype = tensor.to(torch.float32), tensor.dtype
                else:
                    total += tensor.to(torch.float32)
            total /= len(folders)
            made[name] = total.to(dtype)
        save_file(made, target / shard, metadata={"format": "pt"})
    index = json.loads((folders[0] / INDEX).read_text())
    index["metadata"]["averaged_from"] = [str(folder) for folder in folders]
    (target / INDEX).write_text(json.dumps(index, indent=2))
    for path in folders[0].iterdir():
        if path.is_file() and path.suffix != ".safetensors" and path.name != INDEX:
            shutil.copy(path, target)


if __name__ == "__main__":
    average(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
