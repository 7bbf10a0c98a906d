#!/usr/bin/env bash
# plan.sh MODEL ROUND [--json|--jobs]: what the recipe will take: tokens, FLOPs, GPU hours, jobs, memory, disk.
#
# From the data report and cluster.env where they are there, else from assumptions that it names. Reads only, and needs
# no .venv: it runs on any login node, before anything is prepared.
# SBATCH_TIMELIMIT=4:00:00  of a job, in any of Slurm's forms
# GPU=h100                  a100, h100, h200, b200 or gb200
# GPU_MEMORY=n              GiB, in place of that GPU's
# MFU=0.4                   the share of the GPUs' peak that the model's FLOPs reach
# BRING_UP=n                seconds of a job before its first step
# SAVE_RESERVE=n            seconds before the time limit at which a link saves
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"
[[ $# -ge 2 ]] || usage 'wrong number of arguments; usage: plan.sh MODEL ROUND [--json|--jobs]'
load_cluster
options=()
for pair in time-limit=SBATCH_TIMELIMIT gpu=GPU gpu-memory=GPU_MEMORY mfu=MFU bring-up=BRING_UP save-reserve=SAVE_RESERVE; do
    name=${pair#*=}
    if [[ -n ${!name:-} ]]; then options+=("--${pair%=*}=${!name}"); fi
done
# -B: it writes nothing, not even compiled files beside the code.
exec python3 -B "$ROOT/python/tools/plan.py" "$1" "$2" --work "${WORK:-$ROOT/work}" "${options[@]}" "${@:3}"
