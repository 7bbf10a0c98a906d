#!/usr/bin/env bash
# submit.sh STAGE MODEL ROUND: run or queue a stage; STAGE train stands for the chain from it to the results.
#
# LAUNCHER=local  the sbatch files one after another with bash, here and now (default)
# LAUNCHER=slurm  JOBS training links, each after the one before however that ended (a time-out is normal; a link that
#                 finds the run finished takes seconds), then the other stages, each only if the one before succeeded.
#                 Engine nemo-rl converts the base model first; conversions of several steps run side by side
# JOBS=n|auto     so many links, or as many as make plan says
# RUN_AFTER=id,id     start only after these jobs, if they succeed
# CONVERSION_STEP=n   make convert: this step, or last, in place of AVERAGE_STEPS
# KEEP_CHECKPOINTS=saved|all|needed   what a link of engine nemo-rl keeps: all but superseded time-out saves (default), all,
#                 or only AVERAGE_STEPS
# LINK_STEPS=n    the steps of a link of engine automodel or nemo2, 0 for no limit (default)
# SBATCH_ARGS, GPUS_FLAG               more of sbatch's options, and how GPUs are asked for: see slurm.sh
# TIME_MIN, MAIL_USER, MAIL_TYPE      as sbatch's options; CPU_PARTITION for the jobs that need no GPU
# DRY_RUN=1       print the exact commands instead
# EVAL_ROWS=n, EVAL_BATCH=n   of the evaluation: the first n rows of each set, n prompts at a time
# MERGE=1         make convert: of a recipe that trains an adapter, also the base with it merged in, step_<S>-merged/
# REMOVE_AFTER_AVERAGE=1  remove the converted steps when their average is verified
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"
[[ $# == 3 ]] || usage 'wrong number of arguments; usage: submit.sh STAGE MODEL ROUND'
STAGE=$1 MODEL=$2 ROUND=$3
load_cluster
load_recipe "$MODEL" "$ROUND"
check_options "$STAGE"
load_defaults
site_options
ending=convert
if [[ " $CHAIN " == *' average '* ]]; then ending=average; fi
# What no stage of this chain would look at.
[[ -z ${MERGE:-} || $STAGE != @(train|convert) || -n ${LORA_RANK:-} ]] ||
    usage "recipe $MODEL trains no adapter; leave out MERGE=$MERGE"
[[ -z ${REMOVE_AFTER_AVERAGE:-} || $STAGE != train || $ending == average ]] ||
    usage "recipe $MODEL averages nothing; leave out REMOVE_AFTER_AVERAGE=$REMOVE_AFTER_AVERAGE"
for name in EVAL_ROWS EVAL_BATCH; do
    [[ -z ${!name:-} || $STAGE != train || -n ${EVAL_SET:-} ]] ||
        usage "recipe $MODEL names no EVAL_SET, hence evaluates nothing; leave out $name=${!name}"
done
case $STAGE in
    train)
        read -ra stages <<<"$CHAIN"
        [[ -n ${EVAL_SET:-} ]] || dry || log "recipe $MODEL names no EVAL_SET: the chain ends with $ending"
        ;;
    cache | convert | average | eval | results) stages=("$STAGE") ;;
    *) usage "no stage '$STAGE'; it is cache, train, convert, average, eval or results" ;;
esac
[[ $STAGE != average || $ending == average ]] ||
    usage "recipe $MODEL ends with step $AVERAGE_STEPS, there is nothing to average; run: make convert MODEL=$MODEL ROUND=$ROUND"
[[ $STAGE != cache || $ENGINE == nemo-rl ]] ||
    usage "engine $ENGINE needs no cache; run: make train MODEL=$MODEL ROUND=$ROUND"
if [[ $LAUNCHER == local ]]; then
    for name in JOBS RUN_AFTER TIME_MIN MAIL_USER MAIL_TYPE CPU_PARTITION EXCLUSIVE "${!SBATCH_@}"; do
        if given "$name"; then usage "$name=${!name} is for Slurm's jobs; use LAUNCHER=slurm, or leave it out"; fi
    done
fi
[[ -f $ROOT/scripts/engines/$ENGINE.sh ]] || dry ||
    die "engine $ENGINE is not part of this version; DRY_RUN=1 LAUNCHER=slurm shows its chain, MODEL=tiny runs one"
[[ $LAUNCHER == slurm || $NODES == 1 ]] || usage "recipe $MODEL needs $NODES nodes; use LAUNCHER=slurm"
[[ $ENGINE != nemo-rl || $LAUNCHER == slurm || $STAGE != train ]] ||
    usage "engine nemo-rl trains in Slurm jobs, also on a single node; use LAUNCHER=slurm"
if [[ $JOBS == auto ]]; then JOBS=$("$ROOT/scripts/tool.sh" plan "$MODEL" "$ROUND" --jobs) || exit; fi
if [[ $ENGINE == nemo-rl ]]; then
    # shellcheck source=scripts/engines/nemo-rl.sh
    . "$ROOT/scripts/engines/nemo-rl.sh"
    check_ray_cpus
fi

# check_inputs: what the first stage reads is there, so that nothing is queued in vain.
check_inputs() {
    local again="MODEL=$MODEL ROUND=$ROUND" step
    case $STAGE in
        cache)
            [[ -n $(stage train --base) ]]
            check_container
            ;;
        train)
            stage train --check >/dev/null
            if [[ $ENGINE == nemo-rl ]]; then stage engine --render >/dev/null; fi
            check_container
            ;;
        convert) [[ -f $RUN/train/DONE ]] || die "training is not finished; run: make train $again" ;;
        average)
            for step in ${AVERAGE_STEPS//,/ }; do
                [[ -f $RUN/convert/step_$step/DONE || -f $RUN/average/REMOVED ]] ||
                    die "step $step is not converted; run: make convert $again"
            done
            ;;
        eval)
            if [[ $ending == average ]]; then
                [[ -f $RUN/average/DONE ]] || die "nothing is averaged yet; run: make average $again"
            else
                [[ -f $RUN/convert/step_$AVERAGE_STEPS/DONE ]] ||
                    die "step $AVERAGE_STEPS is not converted; run: make convert $again"
            fi
            ;;
        results) [[ -f $RUN/eval/DONE ]] || die "nothing is evaluated yet; run: make eval $again" ;;
    esac
}

# check_container: the engine's image is there, and what it mounts; docker and podman have them on the nodes.
check_container() {
    local where=$LAUNCHER-$CONTAINER_RUNTIME
    if [[ $where == local-pyxis ]]; then usage "CONTAINER_RUNTIME=pyxis is srun's; use LAUNCHER=slurm, or another runtime"; fi
    if [[ $where == slurm-docker || $where == slurm-podman ]]; then return; fi
    # shellcheck source=scripts/engines/automodel.sh
    . "$ROOT/scripts/engines/$ENGINE.sh"
    engine_container
}

# check_free: no chain of this run is queued or running. Slurm's list of it is in chain.tsv.
check_free() {
    local id state
    [[ -f $RUN/chain.tsv ]] && command -v squeue >/dev/null || return 0
    while read -r _ _ id; do
        state=$(slurm squeue -h -j "$id" -t PENDING,CONFIGURING,RUNNING,COMPLETING,SUSPENDED -o "$id|%T" 2>/dev/null |
            sed -n "s/^$id|//p;T;q") || true
        [[ -z $state ]] || die "job $id of this run is still $state; wait for it (make status), or scancel it first"
    done <"$RUN/chain.tsv"
}

# check_after: the jobs of RUN_AFTER exist. Slurm takes a dependency on one that does not for fulfilled.
check_after() {
    local id
    for id in ${RUN_AFTER//,/ }; do
        slurm squeue -h -t all -j "$id" -o '%A,%F' 2>/dev/null | grep -cE "^($id,[0-9]+|[0-9]+,$id)\$" >/dev/null ||
            die "RUN_AFTER: Slurm knows no job $id (any more); give another, or leave it out if it has succeeded"
    done
}

# put NAME EDGE ID [STEP]: queue a job and set `id`; with DRY_RUN print the command, and take ID for its number.
put() {
    local cmd=(sbatch --parsable --export=ALL "${SITE_OPTIONS[@]}") answer
    cmd+=(--job-name="$1-$MODEL-$ROUND${4:+-$4}" --output="$RUN/logs/$1-%j.out")
    if [[ $1 == train ]]; then
        cmd+=(--nodes="$NODES")
        if [[ $DEVICE == gpu ]]; then gpus_option "$GPUS_PER_NODE" && cmd+=("${GPUS_OPTION[@]}"); fi
    elif [[ $1 == average || $1 == results ]]; then
        if [[ -n ${CPU_PARTITION:-} ]]; then cmd+=(--partition="$CPU_PARTITION"); fi
    elif [[ $DEVICE == gpu ]]; then
        gpus_option 1
        cmd+=("${GPUS_OPTION[@]}")
    fi
    if [[ $1 == train && -n ${TIME_MIN:-} ]]; then cmd+=(--time-min="$TIME_MIN"); fi
    if [[ -n ${MAIL_USER:-} ]]; then cmd+=(--mail-user="$MAIL_USER" --mail-type="$MAIL_TYPE"); fi
    if [[ $EXCLUSIVE == yes ]]; then cmd+=(--exclusive); fi
    if [[ -n $2 ]]; then cmd+=(--dependency="$2"); fi
    # Cancelled, not pending for ever, when what it waits for has failed.
    if [[ $2 == *afterok:* ]]; then cmd+=(--kill-on-invalid-dep=yes); fi
    cmd+=("$CODE/sbatch/$1.sbatch" "$MODEL" "$ROUND" "${@:4}")
    if dry; then
        id=$3
        show "${cmd[@]}"
    else
        answer=$(slurm "${cmd[@]}" 2>"$RUN/logs/sbatch.err") || refused "sbatch refused the $1 job" <"$RUN/logs/sbatch.err"
        id=$(job_number <<<"$answer")
        [[ -n $id ]] || refused "sbatch gave no number for the $1 job" <<<"$answer"
        printf '%s\t%s\t%s\n' "$(date +%FT%T)" "$1" "$id" >>"$RUN/chain.tsv"
    fi
}
queued() { cut -f 3 "$RUN/chain.tsv" | paste -sd ' '; }

# refused WHAT: a chain is queued as a whole or not at all. On standard input: what sbatch said. A job that it has queued
# without a word is known by its script, which is this run's own copy.
refused() {
    local said ids
    said=$(awk '/[^ \r]/ { if (sub(/^sbatch: error: /, "")) error = error ? error : $0; else if (!other) other = $0 }
        END { print error ? error : other }' | tr -d '\r' | cut -c 1-300)
    mapfile -t ids < <({
        cut -f 3 "$RUN/chain.tsv"
        slurm squeue -h -u "$(id -un)" -o '%A %o' 2>/dev/null |
            script="$CODE/sbatch/" awk 'index($0, $1 " " ENVIRON["script"]) == 1 && $1 ~ /^[0-9]+$/ { print $1 }' || true
    } | sort -un)
    if ((${#ids[@]})) && ! slurm scancel "${ids[@]}"; then
        die "$1 (${said:-it says nothing}), and scancel failed; run: scancel ${ids[*]}"
    fi
    : >"$RUN/chain.tsv"
    die "$1 (${said:-it says nothing}); fix cluster.env or the recipe; nothing is queued"
}

queue_chain() {
    local name link step gate='' edge ids
    if [[ -n ${RUN_AFTER:-} ]]; then gate=afterok:${RUN_AFTER//,/:}; fi
    for name in "${stages[@]}"; do
        edge=$gate
        case $name in
            train) # every link waits for what the first waits for: one after a cancelled link must not start alone
                for ((link = 1; link <= JOBS; link++)); do
                    put train "$edge" "TRAIN$link"
                    edge=afterany:$id${gate:+,$gate}
                done
                gate=afterok:$id
                ;;
            convert)
                ids=''
                for step in ${CONVERT_STEPS//,/ }; do
                    put convert "$edge" "CONVERT$step" "$step"
                    ids+=:$id
                done
                gate=afterok$ids
                ;;
            *)
                put "$name" "$edge" "${name^^}"
                gate=afterok:$id
                ;;
        esac
    done
}

run_chain() {
    local name status words
    for name in "${stages[@]}"; do
        words=("$CODE/sbatch/$name.sbatch" "$MODEL" "$ROUND")
        if [[ $name == convert && -n ${CONVERSION_STEP:-} ]]; then words+=("$CONVERT_STEPS"); fi
        while :; do
            if dry; then
                show bash "${words[@]}"
                break
            fi
            status=0
            bash "${words[@]}" || status=$?
            [[ $status == 75 ]] || break # 75: the link is over, the run is not
        done
        if ((${status:-0} != 0)); then exit "$status"; fi
    done
}

RUN_AFTER=${RUN_AFTER:-}
CONVERT_STEPS=${CONVERSION_STEP:-$AVERAGE_STEPS}
if [[ $CONVERT_STEPS == last ]]; then CONVERT_STEPS=$STEPS; fi
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
    check_after
    dropped=$(sbatch_dropped)
    if [[ -n $dropped ]]; then log "of the environment these do not count: $dropped; more options go in SBATCH_ARGS"; fi
    : >"$RUN/chain.tsv"
    queue_chain
    log "queued jobs $(queued); watch them with: make status MODEL=$MODEL ROUND=$ROUND"
fi
