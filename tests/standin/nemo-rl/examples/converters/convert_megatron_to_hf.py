"""Test double of NeMo-RL v0.7.0's converter: the same arguments, over Megatron-Bridge's own export."""

import argparse
import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parents[2]))
from nemo_rl.models.megatron.community_import import export_model_from_megatron

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True)
    parser.add_argument("--megatron-ckpt-path", required=True)
    parser.add_argument("--hf-ckpt-path", required=True)
    args = parser.parse_args()
    model = yaml.safe_load(Path(args.config).read_text())["policy"]["model_name"]
    export_model_from_megatron(model, args.megatron_ckpt_path, args.hf_ckpt_path)
