"""Hugging Face folders to Megatron checkpoints and back, by the stand-in for NeMo-RL's image.

    python tests/engines/megatron_roundtrip.py FOLDER:DTYPE...     # writes FOLDER-megatron and FOLDER-again

Run by test_megatron.py, all models in one process: the imports take longer than a model.
"""

import sys

import megatron_cpu  # noqa: F401 (first: it makes the others importable)
import nemo_rl_cache
from megatron.bridge.training.model_load_save import temporary_distributed_context
from nemo_rl.models.megatron import community_import


def main() -> None:
    for entry in sys.argv[1:]:
        folder, _, dtype = entry.partition(":")
        with temporary_distributed_context(backend="gloo"):
            community_import.import_model_from_hf_name(
                folder, f"{folder}-megatron", nemo_rl_cache.MEGATRON | {"pipeline_dtype": dtype}
            )
        community_import.export_model_from_megatron(folder, f"{folder}-megatron/iter_0000000", f"{folder}-again")


if __name__ == "__main__":
    main()
