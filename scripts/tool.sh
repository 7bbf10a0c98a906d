#!/usr/bin/env bash
# tool.sh NAME [ARG...]: what only looks, or makes data beside the chain. tool.sh NAME --help says more.
#
# NAME: show, plan, report, inspect, status, sft-data, eval-data or generate
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"

# tool.sh show MODEL ROUND: print a recipe.
#
# ENGINE_CONFIG=1   the engine's own configuration of it instead
tool_show() {
    [[ -n ${ENGINE_CONFIG:-} ]] || exec python3 "$ROOT/python/tools/recipe.py" -- "$1" "$2"
    load_cluster
    load_recipe "$1" "$2"
    check_options show
    WORK=$(realpath -ms -- "${WORK:-$ROOT/work}") # only named: nothing is written
    local python=python3
    if [[ $ENGINE == automodel ]]; then # its configuration is printed by a YAML library
        open_venv
        python=$VENV/bin/python
    fi
    "$python" "$ROOT/python/engine.py" "$1" "$2" --work "$WORK" --render
}

# tool.sh plan MODEL ROUND [--json|--jobs]: what the recipe will take: tokens, FLOPs, GPU hours, jobs, memory, disk.
#
# From the data report and cluster.env where they are there, else from assumptions that it names. Reads only, and needs
# no .venv: it runs on any login node, before anything is prepared.
# SBATCH_TIMELIMIT=4:00:00  of a job, in any of Slurm's forms
# GPU=h100                  a100, h100, h200, b200 or gb200
# GPU_MEMORY=n              GiB, in place of that GPU's
# MFU=0.4                   the share of the GPUs' peak that the model's FLOPs reach
# BRING_UP=n                seconds of a job before its first step
# SAVE_RESERVE=n            seconds before the time limit at which a link saves
tool_plan() {
    load_cluster
    options time-limit=SBATCH_TIMELIMIT gpu=GPU gpu-memory=GPU_MEMORY mfu=MFU bring-up=BRING_UP save-reserve=SAVE_RESERVE
    # -B: it writes nothing, not even compiled files beside the code.
    exec python3 -B "$ROOT/python/tools/plan.py" "$1" "$2" --work "${WORK:-$ROOT/work}" "${OPTIONS[@]}" "${@:3}"
}

# tool.sh report MODEL ROUND: token lengths of the prepared data, and the steps that it makes.
#
# ROWS=n         count n rows, 0: all of them (default: a random 2,000)
# TOKENIZER=dir  in place of the base model's
# WORKERS=n      processes (default: one per core)
tool_report() {
    open_stage tools/report "$@"
    options rows=ROWS tokenizer=TOKENIZER workers=WORKERS
    stage tools/report "${OPTIONS[@]}"
}

# tool.sh inspect MODEL ROUND [--full]: the first rows as the trainer sees them, and a verdict on what makes runs fail.
#
# ROW=n     that row, from 1, in place of the first three
# --full    leave nothing out of long rows and batches
# NO_COLOR=1   brackets in place of colours
tool_inspect() {
    # shellcheck disable=SC2034 # stage reads them
    MODEL=$1 ROUND=$2
    load_cluster
    WORK=$(realpath -ms -- "${WORK:-$ROOT/work}") # only read, so it need not be writable
    open_venv
    stage tools/inspect_rows ${ROW:+--row="$ROW"} "${@:3}"
}

# tool.sh status MODEL ROUND: what each stage of a run is doing. Reads files and squeue, needs neither .venv nor a live
# Slurm.
tool_status() {
    load_cluster
    exec python3 "$ROOT/python/tools/status.py" "$1" "$2" --work "${WORK:-$ROOT/work}"
}

# tool.sh sft-data [OPTION...]: make SFT data from model generations, as WORK/data/NAME/round1.
#
# INPUT='gen/output-rs*.jsonl'   graded generations: globs with commas, or else blanks, between
# NAME=mydata                    of the data set
# ARGS='--tokenizer dir --prompt-config generic/math'   options, quoted as in a shell; OPTION... are added to them
# WORKERS=n                      processes (default: one per core)
#
# The options: .venv/bin/python python/tools/sft_data.py --help
tool_sft-data() {
    local command
    load_cluster
    options input-files=INPUT name=NAME workers=WORKERS
    split_args
    open_work
    open_venv
    command=("$VENV/bin/python" "$ROOT/python/tools/sft_data.py" --work "$WORK" "${OPTIONS[@]}" "${WORDS[@]}" "$@")
    if dry; then
        show "${command[@]}"
        return
    fi
    lock "$WORK/data/.lock" 1 "make data below $WORK"
    TRANSFORMERS_VERBOSITY=error PYTHONWARNINGS=ignore "${command[@]}"
}

# tool.sh eval-data MODEL ROUND: fetch the multiple-choice sets that the recipe's EVAL_SET names: GPQA and MMLU.
#
# DATA_SRC=dir  take their files in place of the download
# HF_TOKEN      GPQA is gated: accept its terms on the hub first
tool_eval-data() {
    open_stage eval-data "$@"
    options source=DATA_SRC
    lock "$WORK/data/.lock" 1 "make data below $WORK"
    stage tools/eval_data "${OPTIONS[@]}"
}

# tool.sh generate MODEL ROUND: answers of the last checkpoint to the test rows, by NeMo 2.0's own llm.generate, as the
# Llama 3 notebooks make them. Needs a GPU: on one machine, or in a Slurm job (srun scripts/tool.sh generate ... in an
# allocation). make eval measures the exported model instead.
tool_generate() {
    open_stage generate "$@"
    [[ $ENGINE == nemo2 ]] || usage "engine $ENGINE does not generate by itself; run: make eval MODEL=$MODEL ROUND=$ROUND"
    # shellcheck source=scripts/engines/nemo2.sh
    . "$ROOT/scripts/engines/nemo2.sh"
    engine_generate
}

# about NAME: the comment above its function.
about() {
    awk -v end="tool_$1() {" '/^#/ { text = text substr($0, 3) "\n"; next } $0 == end { printf "%s", text } { text = "" }' "$0"
}

tool=${1:-}
declare -F "tool_$tool" >/dev/null || {
    mapfile -t names < <(compgen -A function tool_)
    usage "there is no tool '$tool'; it is ${names[*]#tool_}"
}
shift
help=$(about "$tool")
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    printf '%s\n' "$help"
    exit
fi
call=${help%%:*}
case $call in
    *'MODEL ROUND') [[ $# == 2 ]] ;;
    *'MODEL ROUND'*) [[ $# -ge 2 ]] ;;
esac || usage "wrong number of arguments; usage: $call"
"tool_$tool" "$@"
