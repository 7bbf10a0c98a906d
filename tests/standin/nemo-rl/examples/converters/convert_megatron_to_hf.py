"""Test double of NeMo-RL v0.7.0's converter: the same arguments, and the same refusal of a folder that exists."""

import argparse
import shutil
from pathlib import Path

import yaml

parser = argparse.ArgumentParser()
parser.add_argument("--config", required=True)
parser.add_argument("--megatron-ckpt-path", type=Path, required=True)
parser.add_argument("--hf-ckpt-path", type=Path, required=True)
args = parser.parse_args()
model = Path(yaml.safe_load(Path(args.config).read_text())["policy"]["model_name"])
args.hf_ckpt_path.mkdir(parents=True)
shutil.copyfile(args.megatron_ckpt_path / "weights.safetensors", args.hf_ckpt_path / "model.safetensors")
for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
    if (model / name).is_file():
        shutil.copyfile(model / name, args.hf_ckpt_path / name)
