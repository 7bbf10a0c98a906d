#!/usr/bin/env bash
# gpu-bench.sh [OPTION...]: tokens/s, MFU and memory of LoRA on a Llama-3.1-8B shape, by settings of nemo-automodel.
#
# Random weights, synthetic tokens, no download. Writes results/gpu-bench/<gpu>.json and .md.
# ARGS='--settings flash+chunked,sdpa'   options, quoted as in a shell; OPTION... are added to them
# ARGS='--device cpu --layers 2 --hidden 64 --vocab 512 --seq-len 128 --mean-length 40'   without a GPU, to try it out
# PYTHON=python3                         a Python that has torch with CUDA, say that of the automodel image, not .venv's;
#                                        by itself: PYTHONPATH and the user's site-packages are left out
#
# The options: .venv/bin/python tests/bench/gpu_bench.py --help
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"
load_cluster
split_args
if [[ -z ${PYTHON:-} ]]; then
    open_venv
    PYTHON=$VENV/bin/python
fi
command=("$PYTHON" "$ROOT/tests/bench/gpu_bench.py" --work "${WORK:-$ROOT/work}" "${WORDS[@]}" "$@")
if dry; then
    show "${command[@]}"
    exit
fi
exec "${command[@]}"
