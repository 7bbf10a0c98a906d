"""A checkpoint as the stand-in for NeMo-RL saves it, without Ray: for test_trace.py, by the stand-in's Python.

python tests/engines/standin_save.py MODEL FOLDER     # writes FOLDER/step_3
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "standin/nemo-rl/examples"))
import run_sft


def main() -> None:
    state = {"epoch": 0, "step": 3, "total_steps": 3, "consumed_samples": 24, "total_valid_tokens": 0.0}
    config = {"policy": {"model_name": sys.argv[1]}, "checkpointing": {"save_optimizer": True}}
    run_sft.save(Path(sys.argv[2]), 3, state, config)


if __name__ == "__main__":  # saving starts a process that imports the main module again
    main()
