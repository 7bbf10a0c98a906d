"""A Hugging Face folder as a Megatron checkpoint, by NeMo-RL's own importer, inside the engine's image.

    python nemo_rl_cache.py MODEL TARGET DTYPE

Standard library and NeMo-RL only. A file, not a program on standard input: saving starts a process that imports the
main module again (Megatron-Core core/dist_checkpointing/strategies/filesystem_async.py:53-65).
"""

import argparse

# NeMo-RL calls its importer inside a policy worker, with that worker's configuration. One process needs what its own
# test gives it (v0.7.0 tests/functional/test_converter_roundtrip.py:256-284): all sizes 1, and no fused accumulation of
# gradients, whose kernel comes with APEX, which the image lacks. A training worker takes sizes and fusions from its own
# configuration again.
MEGATRON = {
    "tensor_model_parallel_size": 1,
    "pipeline_model_parallel_size": 1,
    "context_parallel_size": 1,
    "expert_model_parallel_size": 1,
    "expert_tensor_parallel_size": 1,
    "num_layers_in_first_pipeline_stage": None,
    "num_layers_in_last_pipeline_stage": None,
    "sequence_parallel": False,
    "gradient_accumulation_fusion": False,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a Hugging Face folder")
    parser.add_argument("target", help="the folder to write; iter_0000000 is in it then")
    parser.add_argument("dtype", help="the recipe's DTYPE")
    args = parser.parse_args()

    # Not above: the process that saving starts needs none of it.
    import nemo_rl.models.megatron.community_import as nemo_rl
    from megatron.bridge.training.model_load_save import temporary_distributed_context

    # A process group of one over gloo: a conversion needs no GPU, and none of RANK, WORLD_SIZE and MASTER_ADDR are set.
    with temporary_distributed_context(backend="gloo"):
        nemo_rl.import_model_from_hf_name(
            args.model, args.target, megatron_config=MEGATRON | {"pipeline_dtype": args.dtype}
        )


if __name__ == "__main__":
    main()
