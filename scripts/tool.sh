#!/usr/bin/env bash
# tool.sh NAME [ARG...]: what only looks, ends runs, or makes data beside the chain. tool.sh NAME --help says more.
#
# NAME: show, plan, doctor, report, inspect, status, logs, runs, compare, cancel, clean-run, export, sft-data, eval-data or generate
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"

# tool.sh show MODEL ROUND: print a recipe.
#
# ENGINE_CONFIG=1   the engine's own configuration of it instead
tool_show() {
    local renderer
    [[ -n ${ENGINE_CONFIG:-} ]] || exec python3 "$ROOT/python/tools/recipe.py" -- "$1" "$2"
    load_cluster "$1" "$2"
    load_recipe "$1" "$2"
    check_options show
    WORK=$(realpath -ms -- "${WORK:-$ROOT/work}") # only named: nothing is written
    # shellcheck source=scripts/engines/automodel.sh
    . "$ROOT/scripts/engines/$ENGINE.sh"
    renderer=$(engine_renderer) || exit
    "$renderer" "$ROOT/python/engine.py" "$1" "$2" --work "$WORK" --render
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
# NODES=n GPUS_PER_NODE=n   on make's command line: plan for so many, with the layout that fits them, and print the file
#                           of a recipe that has it
# SCALE=print               that file alone, to be saved
tool_plan() {
    local name
    load_cluster "$1" "$2"
    for name in NODES GPUS_PER_NODE SCALE; do
        given "$name" || unset "$name" # of the environment, a recipe's keys mean nothing
    done
    options time-limit=SBATCH_TIMELIMIT gpu=GPU gpu-memory=GPU_MEMORY mfu=MFU bring-up=BRING_UP save-reserve=SAVE_RESERVE \
        nodes=NODES gpus-per-node=GPUS_PER_NODE scale=SCALE
    # -B: it writes nothing, not even compiled files beside the code.
    exec python3 -B "$ROOT/python/tools/plan.py" "$1" "$2" --work "${WORK:-$ROOT/work}" "${OPTIONS[@]}" "${@:3}"
}

# tool.sh doctor MODEL ROUND [STAGE [MADE]]: check what a run needs of this site: a table with a verdict and a remedy for each
# thing. Changes nothing. MODEL may be an empty word; STAGE: nothing but the first fault of its jobs.
#
# NODE=1   also run a job of a minute, on two nodes where there are two: WORK, srun, container, network, clocks, /tmp
tool_doctor() {
    # shellcheck disable=SC2034 # check_container reads them
    local MODEL=$1 ROUND=$2 MADE=${4:-} command ENGINE=automodel DEVICE=cpu NODES=1 GPUS_PER_NODE=0 found='' words=() answers=() name
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        die "python3 is $(python3 -V 2>&1); put a Python 3.11 or 3.12 first in PATH"
    if [[ -n $MODEL ]]; then
        load_cluster "$MODEL" "$ROUND"
        load_recipe "$MODEL" "$ROUND"
        check_options doctor
        choose_launcher
    else
        load_cluster
    fi
    load_defaults
    site_options
    WORK=$(realpath -ms -- "${WORK:-$ROOT/work}")
    VENV=$(realpath -ms -- "${VENV:-$ROOT/.venv}")
    # shellcheck disable=SC2034 # container_mounts reads it
    local UNMADE=$WORK # the stages make it
    found=$(
        check_container 2>&1 && printf '%s' "${BOX[*]: -1}${SRUN_CONTAINER[*]:0:1}"
    ) || true
    if [[ -n ${EVAL_SET:-} && ${3:-train}-${EVAL:-} == @(train-|eval-*) ]] && ! ahead container:vllm; then
        # shellcheck source=scripts/engines/vllm.sh
        . "$ROOT/scripts/engines/vllm.sh"
        if vllm_here; then
            words[0]=$(vllm_found 2>&1) || true
            answers=(--answers="${words[0]}")
        fi
    fi
    command=(python3 -B "$ROOT/python/tools/doctor.py" "$MODEL" "$ROUND" --work "$WORK" --venv "$VENV" --launcher "$LAUNCHER")
    command+=(--gpus-flag "$GPUS_FLAG" --cluster-file "$CLUSTER_FILE" --container="$found" "${answers[@]}")
    command+=(--ignored="$IGNORED$(foreign_variables)" --overridden="$OVERRIDDEN")
    if [[ -n ${NODE:-} ]]; then command+=(--node); fi
    if [[ -n ${3:-} ]]; then command+=(--faults "$3"); fi
    words=("${SITE_OPTIONS[@]}")
    GPUS_OPTION=()
    case ${3:-train} in # as submit.sh asks for them
        train)
            words+=(--nodes="$NODES")
            if [[ $DEVICE == gpu ]]; then gpus_option "$GPUS_PER_NODE"; fi
            ;;
        average | results) if [[ -n ${CPU_PARTITION:-} ]]; then words+=(--partition="$CPU_PARTITION"); fi ;;
        *) if [[ $DEVICE == gpu ]]; then gpus_option 1; fi ;;
    esac
    words+=("${GPUS_OPTION[@]}")
    if [[ $EXCLUSIVE == yes ]]; then words+=(--exclusive); fi
    for name in LAUNCHER NODE SAVE_RESERVE; do check_option "$name"; done # also without a recipe
    export WORK VENV SAVE_RESERVE
    exec "${command[@]}" --options="${words[*]}"
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
    load_cluster "$1" "$2"
    WORK=$(realpath -ms -- "${WORK:-$ROOT/work}") # only read, so it need not be writable
    open_venv
    stage tools/inspect_rows ${ROW:+--row="$ROW"} "${@:3}"
}

# tool.sh status MODEL ROUND: what each stage of a run is doing, how training goes, why jobs wait. Reads files and squeue,
# needs neither .venv nor a live Slurm.
#
# WATCH=n    again after n seconds, until everything is done or Ctrl-C
# GPU=h100   the GPU whose hours are planned
tool_status() {
    load_cluster "$1" "$2"
    options watch=WATCH gpu=GPU
    exec python3 "$ROOT/python/runs/status.py" "$1" "$2" --work "${WORK:-$ROOT/work}" "${OPTIONS[@]}"
}

# tool.sh logs MODEL ROUND: the lines that matter of the last link: errors, warnings, its last steps, what is saved, how it
# ended. Needs neither .venv nor a live Slurm.
tool_logs() {
    load_cluster "$1" "$2"
    exec python3 "$ROOT/python/runs/logs.py" "$1" "$2" --work "${WORK:-$ROOT/work}"
}

# tool.sh runs: a table of all runs below WORK, and WORK/index.html with plots of their losses and scores. Needs no .venv.
tool_runs() {
    load_cluster
    exec python3 "$ROOT/python/runs/runs.py" --work "${WORK:-$ROOT/work}"
}

# tool.sh cancel MODEL ROUND: cancel the jobs of a run's chain; a link that is training saves first. Needs no .venv.
#
# CANCEL_WAIT=n   seconds that the link has for it; 0: none (default: 900)
tool_cancel() {
    load_cluster "$1" "$2"
    options wait=CANCEL_WAIT
    exec python3 "$ROOT/python/runs/cancel.py" "$1" "$2" --work "${WORK:-$ROOT/work}" "${OPTIONS[@]}"
}

# tool.sh clean-run MODEL ROUND [--yes] [--all]: list what a run no longer needs, with sizes: checkpoints, converted steps,
# logs. The model that it ends with, evaluation and results stay. Needs no .venv.
#
# YES=1   on make's command line: remove it
# ALL=1   likewise: the whole run
tool_clean-run() {
    local name words=()
    load_cluster "$1" "$2"
    for name in YES ALL; do
        given "$name" || continue
        check_option "$name"
        words+=("--${name,,}")
    done
    exec python3 "$ROOT/python/runs/clean_run.py" "$1" "$2" --work "${WORK:-$ROOT/work}" "${words[@]}" "${@:3}"
}

# tool.sh export MODEL ROUND: the model that a finished run ends with, and a model card, to a folder or to the hub.
#
# TO=dir              a folder that is not there yet
# TO=hub:owner/name   a repository of the hub, private; HF_TOKEN from the environment
# PUBLIC=1            on make's command line: a public one
tool_export() {
    open_stage export "$@"
    options to=TO
    given PUBLIC || PUBLIC=''
    stage runs/export "${OPTIONS[@]}" ${PUBLIC:+--public}
}

# tool.sh compare: two runs side by side: scores with their errors, recipes, problems that changed. Needs no .venv.
#
# A=dir B=dir   results, or runs: what make results wrote, or the folder that it is in
tool_compare() {
    load_cluster
    [[ -n ${A:-} && -n ${B:-} ]] || usage 'A or B is missing; name two runs: A=work/runs/tiny/round1 B=results/tiny'
    exec python3 -B "$ROOT/python/runs/compare.py" --work "${WORK:-$ROOT/work}" -- "$A" "$B"
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
    lock "$WORK/data/.lock" "$(patience)" "make data below $WORK"
    TRANSFORMERS_VERBOSITY=error PYTHONWARNINGS=ignore "${command[@]}"
}

# tool.sh eval-data MODEL ROUND: fetch what the recipe's EVAL_SET names: GPQA, MMLU, and benchmarks such as gsm8k.
#
# BENCH=name,file.jsonl  these benchmarks instead: python/sft/eval/benchmarks/pins.json, or a file of problem and
#                        expected_answer
# BENCH_SRC=dir          take the benchmarks' files from there, in place of the download
# DATA_SRC=dir           likewise, those of GPQA and MMLU
# GITHUB_ENDPOINT=url    a mirror of https://github.com
# HF_TOKEN               GPQA and hle-math are gated: accept their terms on the hub first
tool_eval-data() {
    open_stage eval-data "$@"
    options source=DATA_SRC bench=BENCH bench-source=BENCH_SRC
    lock "$WORK/data/.lock" "$(patience)" "make data below $WORK"
    stage tools/eval_data "${OPTIONS[@]}"
}

# tool.sh generate MODEL ROUND: answers of the last checkpoint to the test rows, by NeMo 2.0's own llm.generate, as the
# Llama 3 notebooks make them. Needs a GPU: on one machine, or in a Slurm job (srun scripts/tool.sh generate ... in an
# allocation). make eval measures the exported model instead.
tool_generate() {
    open_stage generate "$@"
    # shellcheck source=scripts/engines/nemo2.sh
    . "$ROOT/scripts/engines/$ENGINE.sh"
    declare -F engine_generate >/dev/null ||
        usage "engine $ENGINE does not generate by itself; run: make eval MODEL=$MODEL ROUND=$ROUND"
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
    'tool.sh runs') [[ $# == 0 ]] ;;
esac || usage "wrong number of arguments; usage: $call"
"tool_$tool" "$@"
