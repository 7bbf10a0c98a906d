# shellcheck shell=bash
# Engine nemo-rl: NeMo-RL's run_sft.py on a Ray cluster inside the Slurm job, in its container.
# shellcheck source=scripts/runtime.sh
. "$ROOT/scripts/runtime.sh"

# engine_container: sets SRUN_CONTAINER and BOX. Without a container NeMo-RL has to be installed on every node.
engine_container() {
    if [[ $CONTAINER_RUNTIME == none && ! -f $NEMO_RL_DIR/examples/run_sft.py ]]; then
        die "NeMo-RL is not in $NEMO_RL_DIR; set CONTAINER_RUNTIME to run its image, or NEMO_RL_DIR"
    fi
    container nemo-rl
}
engine_images() { echo nemo-rl; }

# engine_options: a link is a Ray cluster in a Slurm job.
engine_options() {
    [[ $LAUNCHER == slurm || $STAGE != train ]] ||
        usage "engine nemo-rl trains in Slurm jobs, also on a single node; use LAUNCHER=slurm"
    check_ray_cpus
}
engine_ready() { stage engine --render >/dev/null; }

# engine_renderer: nothing of NeMo-RL is needed to print its options.
engine_renderer() { echo python3; }

# check_ray_cpus: RAY_CPUS, where it is given, is enough. A node's workers take a CPU each, and NeMo-RL asks for one more
# on every node while it sets up: with fewer it would wait for ever (v0.7.0 nemo_rl/distributed/virtual_cluster.py:803,
# nemo_rl/utils/venvs.py:169-172).
check_ray_cpus() {
    local least=$((GPUS_PER_NODE + 1))
    [[ ${RAY_CPUS:-$least} =~ ^[1-9][0-9]*$ && ${RAY_CPUS:-$least} -ge $least ]] ||
        usage "RAY_CPUS=$RAY_CPUS; give $least or more, a CPU for each GPU of a node and one, or leave it out"
}

# nemo_rl_env: what NeMo-RL reads from the environment, so that nothing of it stands on a command line.
nemo_rl_env() {
    local folders
    mapfile -t folders < <(stage train --base)
    wait $! || exit 1
    START=${folders[0]} CACHE=${folders[1]} # keyed by the model's content: see python/sft/engines/nemo_rl/link.py
    export DEVICE NRL_MEGATRON_CHECKPOINT_DIR=${CACHE%/*} NEMO_RL_DIR
    export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1 NRL_CONTAINER=1
    if [[ -n ${NET_IFNAME:-} ]]; then export GLOO_SOCKET_IFNAME=$NET_IFNAME NCCL_SOCKET_IFNAME=$NET_IFNAME; fi
    if [[ -n ${PROFILE_STEPS:-} ]]; then # v0.7.0 nemo_rl/utils/nsys.py
        export PROFILE_STEPS NRL_NSYS_PROFILE_STEP_RANGE=$PROFILE_STEPS NRL_NSYS_WORKER_PATTERNS='*policy*'
    fi
}

# engine_cache: the base model in Megatron's format, converted once, on one node, before any training link.
engine_cache() {
    nemo_rl_env
    if [[ $BACKEND != megatron ]]; then
        log "cache: BACKEND=$BACKEND needs none"
        return
    fi
    if [[ -d $CACHE/iter_0000000 ]]; then
        log "cache: $CACHE is already there"
        return
    fi
    rm -rf -- "$CACHE" "$NRL_MEGATRON_CHECKPOINT_DIR"/.part-*
    mkdir -p -- "$NRL_MEGATRON_CHECKPOINT_DIR"
    engine_container
    export PART=$NRL_MEGATRON_CHECKPOINT_DIR/.part-${SLURM_JOB_ID:-local}
    log "cache: converting $START for Megatron"
    run_inside cache "$START" "$PART" "$DTYPE" || die "$START could not be converted for Megatron (status $?); see above"
    [[ -d $PART/iter_0000000 ]] || die "the converter wrote no $PART/iter_0000000; see above"
    mv -T -- "$PART" "$CACHE"
    log "cache: $CACHE"
}

# engine_convert STEP TARGET: one checkpoint as a Hugging Face folder, as NeMo-RL's own converter writes it. On FSDP2
# there is an export in every checkpoint.
engine_convert() {
    local saved=$RUN/train/checkpoints/step_$1
    [[ $BACKEND == megatron ]] || return 0
    mkdir -p -- "${2%/*}"
    nemo_rl_env
    engine_container
    run_inside convert "$saved" "$2" || die "NeMo-RL's converter failed for step $1 (status $?); see above"
}

# run_inside WORD...: one process in the container, on this node.
run_inside() {
    local launch=()
    if [[ -n ${SLURM_JOB_ID:-} ]]; then launch=(step --nodes=1 --ntasks=1 "${SRUN_CONTAINER[@]}"); fi
    "${launch[@]}" "${BOX[@]}" bash "$ROOT/scripts/engines/nemo-rl-inside.sh" "$@"
}

# engine_train: run one link; returns the status of the Slurm step, which is the driver's.
engine_train() {
    local head ip cpus status=0 watcher logs
    [[ -n ${SLURM_JOB_ID:-} ]] || usage "engine nemo-rl runs in a Slurm job; use LAUNCHER=slurm, also on a single node"
    [[ $SLURM_JOB_NUM_NODES == "$NODES" ]] ||
        usage "the job has $SLURM_JOB_NUM_NODES nodes, the recipe $NODES; submit it with --nodes=$NODES"
    [[ $DEVICE == cpu || $GPUS_FLAG == none ]] || ((${SLURM_GPUS_ON_NODE:-0} >= GPUS_PER_NODE)) || # an exclusive job has all of a node's
        usage "the job has ${SLURM_GPUS_ON_NODE:-no} GPUs a node, the recipe $GPUS_PER_NODE; submit it with --gpus-per-node=$GPUS_PER_NODE"
    if [[ -z ${RAY_CPUS:-} ]]; then
        cpus=$(job_cpus)
        RAY_CPUS=$((cpus > GPUS_PER_NODE ? cpus : GPUS_PER_NODE + 1))
    fi
    check_ray_cpus
    nemo_rl_env
    if [[ $BACKEND == megatron && ! -d $CACHE/iter_0000000 ]]; then
        die "the base model is not converted for Megatron; run: make cache MODEL=$MODEL ROUND=$ROUND"
    fi
    logs=$RUN/train/logs/$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}
    mkdir -p -- "$logs"
    stage train --open --logs "$logs" --keep "${KEEP_CHECKPOINTS:-saved}" || exit # where a caller looks at the status, bash goes on
    RAY_CANARY=$SLURM_JOB_ID-$RANDOM$RANDOM
    printf '%s\n' "$RAY_CANARY" >"$logs/canary"

    head=$(job_hosts | sed -n 1p)
    ip=$(getent ahostsv4 "$head" | awk '{print $1; exit}')
    [[ -n $ip ]] || die "the address of node $head is not known here; fix the cluster's name service"
    export RAY_CANARY RAY_HEAD=$ip RAY_NODES=$NODES RAY_GPUS=$GPUS_PER_NODE RAY_CPUS
    engine_container # last: it hands on what is exported
    log "train: logs $logs"
    stage train --follow --logs "$logs" &
    watcher=$!
    GPUS_OPTION=()
    if [[ $DEVICE == gpu ]]; then gpus_option "$GPUS_PER_NODE"; fi
    step --nodes="$NODES" --ntasks="$NODES" --ntasks-per-node=1 --cpus-per-task="$(job_cpus)" "${GPUS_OPTION[@]}" \
        --kill-on-bad-exit=1 --wait=60 --output="$logs/node-%t.log" "${SRUN_CONTAINER[@]}" "${BOX[@]}" \
        bash "$ROOT/scripts/engines/ray.sh" "$logs" bash "$ROOT/scripts/engines/nemo-rl-inside.sh" train "$logs/overrides" || status=$?
    [[ -f $logs/end || -f $logs/failed ]] || printf 'the step ended with status %s; see %s/node-*.log\n' "$status" "$logs" >"$logs/failed"
    wait "$watcher" || true
    stage train --close --logs "$logs"
    if [[ -f $logs/failed ]]; then
        if ((status == 0)); then status=1; fi
        if [[ -f $logs/driver.log ]]; then grep -aE '(Error|Exception|Killed)' "$logs/driver.log" | tail -n 3 | cut -c 1-300; fi
        # shellcheck disable=SC2034 # train.sbatch says it
        REASON=$(<"$logs/failed")
    fi
    return "$status"
}
