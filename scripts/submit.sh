#!/usr/bin/env bash
# submit.sh STAGE MODEL ROUND: run or queue a stage; STAGE train stands for the chain from it to the results.
#
# LAUNCHER=local  the sbatch files one after another with bash, here and now (default)
# LAUNCHER=slurm  JOBS training links, each after the one before however that ended (a time-out is normal; a link that
#                 finds the run finished takes seconds), then the other stages, each only if the one before succeeded
# DRY_RUN=1       print the exact commands instead
# REMOVE_AFTER_AVERAGE=1  remove the converted steps when their average is verified
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"
[[ $# == 3 ]] || usage 'wrong number of arguments; usage: submit.sh STAGE MODEL ROUND'
STAGE=$1 MODEL=$2 ROUND=$3
load_cluster
load_recipe "$MODEL" "$ROUND"
check_options
case $STAGE in
    train) stages=(train convert average eval results) ;;
    convert | average | eval | results) stages=("$STAGE") ;;
    *) usage "no stage '$STAGE'; it is train, convert, average, eval or results" ;;
esac
LAUNCHER=${LAUNCHER:-local} JOBS=${JOBS:-4}
[[ $LAUNCHER == local || $LAUNCHER == slurm ]] || usage "LAUNCHER=$LAUNCHER; it is local or slurm"
[[ -f $ROOT/scripts/engines/$ENGINE.sh ]] || dry ||
    die "engine $ENGINE is not part of this version; DRY_RUN=1 LAUNCHER=slurm shows its chain, MODEL=tiny runs one"
[[ $LAUNCHER == slurm || $NODES == 1 ]] || usage "recipe $MODEL needs $NODES nodes; use LAUNCHER=slurm"
[[ $JOBS =~ ^[1-9][0-9]?$ ]] || usage "JOBS=$JOBS; give the number of training links, 1 to 99"
[[ ${LINK_STEPS:-0} =~ ^[0-9]+$ ]] || usage "LINK_STEPS=$LINK_STEPS; give the steps of a link, 0 for no limit"
[[ ${SAVE_RESERVE:-120} =~ ^[0-9]+$ ]] || usage "SAVE_RESERVE=$SAVE_RESERVE; give seconds"

# check_inputs: what the first stage reads is there, so that nothing is queued in vain.
check_inputs() {
    local again="MODEL=$MODEL ROUND=$ROUND" step
    case $STAGE in
        train) stage train --check >/dev/null ;;
        convert) [[ -f $RUN/train/DONE ]] || die "training is not finished; run: make train $again" ;;
        average)
            for step in ${AVERAGE_STEPS//,/ }; do
                [[ -f $RUN/convert/step_$step/DONE || -f $RUN/average/REMOVED ]] ||
                    die "step $step is not converted; run: make convert $again"
            done
            ;;
        eval) [[ -f $RUN/average/DONE ]] || die "nothing is averaged yet; run: make average $again" ;;
        results) [[ -f $RUN/eval/DONE ]] || die "nothing is evaluated yet; run: make eval $again" ;;
    esac
}

# check_free: no chain of this run is queued or running. Slurm's list of it is in chain.tsv.
check_free() {
    local id state
    [[ -f $RUN/chain.tsv ]] && command -v squeue >/dev/null || return 0
    while read -r _ _ id; do
        state=$(squeue -h -j "$id" -t PENDING,CONFIGURING,RUNNING,COMPLETING,SUSPENDED -o %T 2>/dev/null || true)
        [[ -z $state ]] || die "job $id of this run is still $state; wait for it (make status), or scancel it first"
    done <"$RUN/chain.tsv"
}

# put NAME EDGE [ID]: queue a job and set `id`; with DRY_RUN print the command, and take ID for its number.
put() {
    local cmd=(sbatch --parsable --job-name="$1-$MODEL-$ROUND" --output="$RUN/logs/$1-%j.out")
    if [[ $1 == train ]]; then
        cmd+=(--nodes="$NODES")
        if [[ $DEVICE == gpu ]]; then cmd+=(--gpus-per-node="$GPUS_PER_NODE"); fi
    fi
    if [[ ${EXCLUSIVE:-yes} == yes ]]; then cmd+=(--exclusive); fi
    if [[ -n $2 ]]; then cmd+=(--dependency="$2"); fi
    # Cancelled, not pending for ever, when what it waits for has failed.
    if [[ $2 == afterok:* ]]; then cmd+=(--kill-on-invalid-dep=yes); fi
    cmd+=("$CODE/sbatch/$1.sbatch" "$MODEL" "$ROUND")
    if dry; then
        id=$3
        show "${cmd[@]}"
    else
        id=$("${cmd[@]}" 2>"$RUN/logs/sbatch.err") || refused "$1"
        id=${id%%;*} # id;cluster on federated clusters
        printf '%s\t%s\t%s\n' "$(date +%FT%T)" "$1" "$id" >>"$RUN/chain.tsv"
    fi
}
queued() { cut -f 3 "$RUN/chain.tsv" | paste -sd ' '; }

# refused NAME: a chain is queued as a whole or not at all.
refused() {
    local ids
    mapfile -t ids < <(cut -f 3 "$RUN/chain.tsv")
    if ((${#ids[@]})); then scancel "${ids[@]}"; fi
    : >"$RUN/chain.tsv"
    die "sbatch refused the $1 job ($(sed -n '1s/^sbatch: error: //p' "$RUN/logs/sbatch.err")); mend cluster.env or the" \
        "recipe; nothing is queued"
}

queue_chain() {
    local name link edge=''
    for name in "${stages[@]}"; do
        if [[ $name == train ]]; then
            for ((link = 1; link <= JOBS; link++)); do
                put train "$edge" "TRAIN$link"
                edge=afterany:$id
            done
        else
            put "$name" "$edge" "${name^^}"
        fi
        edge=afterok:$id
    done
}

run_chain() {
    local name status
    for name in "${stages[@]}"; do
        while :; do
            if dry; then
                show bash "$CODE/sbatch/$name.sbatch" "$MODEL" "$ROUND"
                break
            fi
            status=0
            bash "$CODE/sbatch/$name.sbatch" "$MODEL" "$ROUND" || status=$?
            [[ $status == 75 ]] || break # 75: the link is over, the run is not
        done
        if ((${status:-0} != 0)); then exit "$status"; fi
    done
}

open_work
open_venv
RUN=$WORK/runs/$MODEL/round$ROUND
if dry; then
    CODE=$RUN/code/SNAPSHOT
else
    check_inputs
    lock "$RUN/.chain.lock" 1 "a chain of $MODEL round $ROUND"
    check_free
    mkdir -p -- "$RUN/logs"
    CODE=$("$ROOT/scripts/snapshot.sh" "$RUN")
fi
export CODE

if [[ $LAUNCHER == local ]]; then
    run_chain
elif dry; then
    queue_chain
else
    command -v sbatch >/dev/null || die "no sbatch here; run on the cluster's login node, or LAUNCHER=local"
    : >"$RUN/chain.tsv"
    queue_chain
    log "queued jobs $(queued); watch them with: make status MODEL=$MODEL ROUND=$ROUND"
fi
