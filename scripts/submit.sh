#!/usr/bin/env bash
# submit.sh STAGE MODEL ROUND: run or queue a stage; STAGE train stands for the chain from it to the results.
#
# LAUNCHER=local  the sbatch files one after another with bash, here and now (default)
# LAUNCHER=slurm  (default for a recipe that needs GPUs or several nodes, where sbatch is here) JOBS training links, each after the one before however that ended (a time-out is normal; a link that
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
# EVAL_TASKS=n|auto   the evaluation as an array of jobs, n for each model, or as many as make plan says; the results job
#                 grades what they answer
# EVAL=no         end the chain before the evaluation
# EVAL_ROWS=n, EVAL_BATCH=n, BENCH, MODE, PROTOCOL, MODEL_DIR, SERVER, JUDGE   of the evaluation: see sbatch/eval.sbatch
# MERGE=1         make convert: of a recipe that trains an adapter, also the base with it merged in, step_<S>-merged/
# DOCTOR=no       queue without asking make doctor first
# PREPARE=1       what is missing for STAGE train or eval first: the image (container), model, data, eval-data; as jobs ahead
#                 of the others, one after another, or here with LAUNCHER=local. They heed the options of make model, make
#                 data and make eval-data; WORKERS=n asks for n CPUs
# REMOVE_AFTER_AVERAGE=1  remove the converted steps when their average is verified
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"
[[ $# == 3 ]] || usage 'wrong number of arguments; usage: submit.sh STAGE MODEL ROUND'
STAGE=$1 MODEL=$2 ROUND=$3
load_cluster "$MODEL" "$ROUND"
load_recipe "$MODEL" "$ROUND"
check_options "$STAGE"
choose_launcher
load_defaults
site_options
# shellcheck source=scripts/engines/automodel.sh
. "$ROOT/scripts/engines/$ENGINE.sh"
# shellcheck source=scripts/engines/vllm.sh
. "$ROOT/scripts/engines/vllm.sh"
ending=convert
if [[ " $CHAIN " == *' average '* ]]; then ending=average; fi
# What no stage of this chain would look at.
[[ -z ${MERGE:-} || $STAGE != @(train|convert) || -n ${LORA_RANK:-} ]] ||
    usage "recipe $MODEL trains no adapter; leave out MERGE=$MERGE"
[[ -z ${REMOVE_AFTER_AVERAGE:-} || $STAGE != train || $ending == average ]] ||
    usage "recipe $MODEL averages nothing; leave out REMOVE_AFTER_AVERAGE=$REMOVE_AFTER_AVERAGE"
for name in EVAL_ROWS EVAL_BATCH EVAL_TASKS BENCH MODE PROTOCOL MODEL_DIR SERVER JUDGE; do
    [[ -z ${!name:-} || $STAGE != train || -n ${EVAL_SET:-} ]] ||
        usage "recipe $MODEL names no EVAL_SET, hence evaluates nothing; leave out $name=${!name}"
done
case $STAGE in
    train)
        read -ra stages <<<"$CHAIN"
        if [[ ${EVAL:-} == no ]]; then read -ra stages <<<"${CHAIN% eval results}"; fi
        [[ -n ${EVAL_SET:-} ]] || dry || log "recipe $MODEL names no EVAL_SET: the chain ends with $ending"
        ;;
    cache | convert | average | eval | results) stages=("$STAGE") ;;
    *) usage "no stage '$STAGE'; it is cache, train, convert, average, eval or results" ;;
esac
[[ $STAGE != average || $ending == average ]] ||
    usage "recipe $MODEL ends with step $AVERAGE_STEPS, there is nothing to average; run: make convert MODEL=$MODEL ROUND=$ROUND"
[[ $STAGE != cache || " $CHAIN " == *' cache '* ]] ||
    usage "recipe $MODEL needs no cache; run: make train MODEL=$MODEL ROUND=$ROUND"
for name in DATA_SRC MODEL_SRC BENCH_SRC GITHUB_ENDPOINT LANG_MODEL LANG_MODEL_URL LANG_MODEL_SHA256 TOKENIZER REPORT BUILDER \
    BUILDER_ARGS; do
    if [[ -z ${PREPARE:-} ]] && given "$name"; then usage "$name=${!name} is for what PREPARE=1 makes ahead of a chain; add that, or leave it out"; fi
done
if [[ $LAUNCHER == local ]]; then
    for name in JOBS EVAL_TASKS RUN_AFTER TIME_MIN MAIL_USER MAIL_TYPE CPU_PARTITION EXCLUSIVE "${!SBATCH_@}"; do
        if given "$name"; then usage "$name=${!name} is for Slurm's jobs; use LAUNCHER=slurm, or leave it out"; fi
    done
fi
[[ $LAUNCHER == slurm || $NODES == 1 ]] || usage "recipe $MODEL needs $NODES nodes; use LAUNCHER=slurm"
engine_options

# planned FIGURE OPTION DEFAULT: what make plan says; of a CPU, which it has no estimate of, the default.
planned() {
    local said status=0
    said=$("$ROOT/scripts/tool.sh" plan "$MODEL" "$ROUND" "--$1" 2>&1) || status=$?
    if [[ $DEVICE == cpu && $status == 1 && $said == *'no estimate'* ]]; then
        log "$2=auto: no estimate for a CPU yet, so $2=$3" >&2
        said=$3 status=0
    fi
    if ((status == 0)); then printf '%s\n' "$said"; else printf '%s\n' "$said" >&2; fi
    return "$status"
}
EVAL_TASKS=${EVAL_TASKS:-1}
if [[ $EVAL_TASKS == auto ]]; then EVAL_TASKS=$(planned eval-tasks EVAL_TASKS 1) || exit; fi
export EVAL_TASKS
if [[ $STAGE == eval && $EVAL_TASKS != 1 ]]; then stages=(eval results); fi # where the answers are graded
if [[ $JOBS == auto ]]; then JOBS=$(planned jobs JOBS "$(sed -n 's/^#JOBS=//p' "$ROOT/cluster.env.example")") || exit; fi

# find_missing: with PREPARE=1 puts what is missing ahead of the stages. An image only where it could be built: no job is to
# wait for one that cannot. MADE: all of it.
find_missing() {
    local name images=() words=() missing=() names
    [[ -n ${PREPARE:-} ]] || return 0
    if [[ $STAGE == train ]]; then mapfile -t images < <(engine_images); fi
    if [[ " ${stages[*]} " == *' eval '* ]]; then
        words=(--eval)
        if vllm_here; then images+=(vllm); fi
    fi
    if [[ $STAGE == eval ]]; then words=(--only-eval); fi
    for name in "${images[@]}"; do
        if [[ $name == vllm && -n ${EVAL_IMAGE:-} || $name != vllm && -n ${CONTAINER_IMAGE:-} ]]; then continue; fi
        if [[ $CONTAINER_RUNTIME == none || $LAUNCHER-$CONTAINER_RUNTIME == slurm-@(docker|podman) ]]; then continue; fi
        if dry || (CONTAINER_IMAGE='' container_image "$name") >/dev/null 2>&1; then continue; fi
        "$ROOT/scripts/container.sh" "$name" --check
        missing+=("container:$name")
    done
    names=$(python3 "$ROOT/python/tools/missing.py" "$MODEL" "$ROUND" --work "$WORK" "${words[@]}" ${BENCH:+--bench="$BENCH"}) || exit
    mapfile -t -O ${#missing[@]} missing < <(printf '%s' "${names:+$names$'\n'}")
    stages=("${missing[@]}" "${stages[@]}")
    MADE=${missing[*]}
}

# check_made: without PREPARE=1, all that is missing in one line, before the stages name one thing after another.
check_made() {
    local names eval=()
    if [[ -n ${PREPARE:-} ]]; then return; fi
    if [[ " ${stages[*]} " == *' eval '* ]]; then eval=(--eval); fi
    names=$(python3 "$ROOT/python/tools/missing.py" "$MODEL" "$ROUND" --work "$WORK" "${eval[@]}" ${BENCH:+--bench="$BENCH"}) || exit
    names=${names//$'\n'/ }
    [[ -z $names ]] || die "$MODEL round $ROUND has no ${names// /, no } below $WORK; run: make $names MODEL=$MODEL ROUND=$ROUND${BENCH:+ BENCH=$BENCH}, or add PREPARE=1"
}

# check_inputs: what the first stage reads is there, so that nothing is queued in vain.
check_inputs() {
    local again="MODEL=$MODEL ROUND=$ROUND" step
    case $STAGE in
        cache)
            [[ -n $(stage train --base) ]]
            check_container
            ;;
        train)
            check_made
            if ahead data || ahead model; then stage train --check --unmade; else SAVED=$(stage train --check); fi
            engine_ready
            check_container
            if [[ " ${stages[*]} " == *' eval '* ]]; then check_eval; fi
            ;;
        convert) [[ -f $RUN/train/DONE ]] || die "training is not finished; run: make train $again" ;;
        average)
            for step in ${AVERAGE_STEPS//,/ }; do
                [[ -f $RUN/convert/step_$step/DONE || -f $RUN/average/REMOVED ]] ||
                    die "step $step is not converted; run: make convert $again"
            done
            ;;
        eval)
            if [[ -n ${MODEL_DIR:-} ]]; then
                [[ -f $MODEL_DIR/config.json ]] || usage "MODEL_DIR=$MODEL_DIR has no config.json; give the folder of a model"
            elif [[ $ending == average ]]; then
                [[ -f $RUN/average/DONE ]] || die "nothing is averaged yet; run: make average $again"
            else
                [[ -f $RUN/convert/step_$AVERAGE_STEPS/DONE ]] ||
                    die "step $AVERAGE_STEPS is not converted; run: make convert $again"
            fi
            check_eval
            ;;
        results) compgen -G "$RUN/eval*/DONE" >/dev/null || die "nothing is evaluated yet; run: make eval $again" ;;
    esac
}

# check_eval: the sets and vLLM are there, for an evaluation that is hours away.
check_eval() {
    eval_options
    if ahead data || ahead eval-data; then OPTIONS+=(--unmade); fi
    stage eval --check "${OPTIONS[@]}"
    if ! ahead container:vllm && vllm_here && [[ $LAUNCHER-$CONTAINER_RUNTIME != slurm-@(docker|podman) ]]; then vllm_container; fi
}

# check_free: no chain of this run is queued or running. Slurm's list of it is in chain.tsv.
check_free() {
    local ids id='' state
    [[ -s $RUN/chain.tsv ]] && command -v squeue >/dev/null || return 0
    ids=$(cut -f 3 "$RUN/chain.tsv" | paste -sd ,)
    IFS='|' read -r id state < <(slurm squeue -h -S i -j "$ids" -t PENDING,CONFIGURING,RUNNING,COMPLETING,SUSPENDED \
        -o '%F|%T' 2>/dev/null | grep -xE "(${ids//,/|})[|][A-Z_]+" || true) || true
    [[ -z $id ]] || die "job $id of this run is still $state; wait for it, or run: make cancel MODEL=$MODEL ROUND=$ROUND"
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
    elif [[ $1 == @(container|model|data|eval-data|average|results) ]]; then
        if [[ $1 == @(data|average) && -n ${WORKERS:-} ]]; then cmd+=(--cpus-per-task="$WORKERS"); fi
        if [[ -n ${CPU_PARTITION:-} ]]; then cmd+=(--partition="$CPU_PARTITION"); fi
    elif [[ $DEVICE == gpu ]]; then
        if [[ $1 == eval ]]; then gpus_option "${EVAL_TP:-1}"; else gpus_option 1; fi
        cmd+=("${GPUS_OPTION[@]}")
    fi
    if [[ $1 == eval && $EVAL_TASKS != 1 ]]; then
        if [[ -n ${MODEL_DIR:-} ]]; then cmd+=(--array="0-$((EVAL_TASKS - 1))"); else cmd+=(--array="0-$((2 * EVAL_TASKS - 1))"); fi
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
    die "$1 (${said:-it says nothing}); fix $CLUSTER_FILE or the recipe; nothing is queued"
}

queue_chain() {
    local name link step gate='' edge ids
    if [[ -n ${RUN_AFTER:-} ]]; then gate=afterok:${RUN_AFTER//,/:}; fi
    for name in "${stages[@]}"; do
        edge=$gate
        case $name in
            train)
                # None waits in the queue for all of the nodes, only to find nothing to do.
                if ((SAVED >= STEPS)); then
                    log "train: already at the last step, $STEPS: no link is queued"
                    continue
                fi
                # Every link waits for what the first waits for: one after a cancelled link must not start alone.
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
            container:*)
                put container "$edge" CONTAINER "${name#*:}"
                gate=afterok:$id
                ;;
            *)
                put "$name" "$edge" "${name^^}"
                gate=afterok:$id
                if [[ $name == eval && $EVAL_TASKS != 1 ]] && selects; then
                    put eval "$gate" EVAL-SELECT select
                    gate=afterok:$id
                fi
                ;;
        esac
    done
}

run_chain() {
    local name status words
    for name in "${stages[@]}"; do
        words=("$CODE/sbatch/${name%%:*}.sbatch" "$MODEL" "$ROUND")
        if [[ $name == container:* ]]; then words+=("${name#*:}"); fi
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
MADE='' # by jobs ahead
SAVED=0 # the last saved step, where train is asked
CONVERT_STEPS=${CONVERSION_STEP:-$AVERAGE_STEPS}
if [[ $CONVERT_STEPS == last ]]; then CONVERT_STEPS=$STEPS; fi
open_work
open_venv
RUN=$WORK/runs/$MODEL/round$ROUND
find_missing
if dry; then
    CODE=$RUN/code/SNAPSHOT
else
    check_cluster "$RUN"
    check_free # before the inputs: a chain that runs may yet make them
    check_inputs
    if [[ $LAUNCHER == slurm && ${DOCTOR:-yes} == yes ]]; then "$ROOT/scripts/tool.sh" doctor "$MODEL" "$ROUND" "$STAGE" "$MADE"; fi
    lock "$RUN/.chain.lock" 1 "a chain of $MODEL round $ROUND"
    check_free
    mkdir -p -- "$RUN/logs"
    CODE=$("$ROOT/scripts/snapshot.sh" "$RUN")
fi
export CODE
if [[ -n $CHOSEN ]]; then log "$CHOSEN" >&2; fi
if [[ -n ${PREPARE:-} ]]; then log "PREPARE=1: made first: ${MADE:-nothing, all is here}" >&2; fi

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
    record_cluster "$RUN"
    log "queued jobs $(queued); watch them with: make status MODEL=$MODEL ROUND=$ROUND"
fi
