# shellcheck shell=bash
# Engine automodel: nemo-automodel under torchrun, one launcher per node, on one machine or under Slurm.
# shellcheck source=scripts/runtime.sh
. "$ROOT/scripts/runtime.sh"

# engine_convert STEP TARGET: nothing to do: the engine writes an export with every checkpoint.
engine_convert() { :; }

# engine_images: the images that a chain runs in, that of training first. NVIDIA's is of no use without a GPU.
engine_images() { if [[ $DEVICE == cpu ]]; then echo cpu; else echo automodel; fi; }

# engine_container: sets SRUN_CONTAINER, BOX and BOX_PYTHON.
engine_container() { container "$(engine_images)"; }

# engine_options: whether the options suit it. engine_ready: whether its configuration can be made.
engine_options() { :; }
engine_ready() { :; }

# engine_renderer: the Python that prints its configuration: with a YAML library.
engine_renderer() {
    open_venv
    printf '%s\n' "$VENV/bin/python"
}

# engine_train: run one link; returns the launcher's status.
engine_train() { torchrun_link; }

# attended COMMAND...: run it in a process group of its own, for torchrun would answer a Ctrl-C by ending what trains. The
# first one asks the link to save and end, a second one ends it.
attended() {
    local status
    set -m
    "$@" </dev/null &
    set +m
    trap 'if [[ -e $LINK_STOP ]]; then kill -TERM -- "-$!"; else ask_to_stop; fi' INT
    trap 'kill -TERM -- "-$!"' TERM HUP
    while :; do
        status=0
        wait "$!" || status=$?
        if ((status <= 128)) || ! kill -0 "$!" 2>/dev/null; then break; fi # else only the wait has ended
    done
    trap - INT TERM HUP
    return "$status"
}
ask_to_stop() { : >"$LINK_STOP" && log 'train: interrupted: saving after this step; a second Ctrl-C ends it without'; }

# torchrun_link: run python/engine.py under torchrun on the recipe's nodes; its whole output goes to a log of its own.
torchrun_link() {
    local run=() launch=() torchrun=() head cpus status file
    file=$RUN/train/logs/${SLURM_JOB_ID:-local}-${SLURM_RESTART_COUNT:-0}-$(date +%Y%m%dT%H%M%S).log
    mkdir -p -- "${file%/*}"

    if [[ -n ${SLURM_JOB_ID:-} ]]; then
        [[ $SLURM_JOB_NUM_NODES == "$NODES" ]] ||
            usage "the job has $SLURM_JOB_NUM_NODES nodes, the recipe $NODES; submit it with --nodes=$NODES"
        head=$(job_hosts | sed -n 1p)
        launch=(step --nodes="$NODES" --ntasks-per-node=1 --kill-on-bad-exit=1 --cpus-per-task="$(job_cpus)")
        if [[ -n ${SLURM_GPUS_ON_NODE:-} && $DEVICE == gpu ]]; then
            gpus_option "$GPUS_PER_NODE"
            launch+=("${GPUS_OPTION[@]}")
        fi
        torchrun=(
            --nnodes "$NODES"
            --rdzv-backend c10d
            --rdzv-id "$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"
            --rdzv-endpoint "$head:$((20000 + SLURM_JOB_ID % 10000))" # below the ephemeral ports
        )
        if [[ -n ${NET_IFNAME:-} ]]; then
            export GLOO_SOCKET_IFNAME=$NET_IFNAME NCCL_SOCKET_IFNAME=$NET_IFNAME
        fi
    else
        [[ $NODES == 1 ]] || usage "recipe $MODEL needs $NODES nodes; use LAUNCHER=slurm"
        [[ $CONTAINER_RUNTIME != pyxis ]] || usage "CONTAINER_RUNTIME=pyxis is srun's; submit a job, or take another"
        torchrun=(--standalone)
        run=(attended)
    fi

    # As many threads as there are cores for each process; Slurm may count more CPUs than the machine has.
    cpus=$(nproc)
    if ((cpus > ${SLURM_CPUS_ON_NODE:-$cpus})); then cpus=$SLURM_CPUS_ON_NODE; fi
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cpus > GPUS_PER_NODE ? cpus / GPUS_PER_NODE : 1))}
    if [[ $DEVICE == cpu && -z ${OMP_WAIT_POLICY:-} ]] && crowded; then export OMP_WAIT_POLICY=passive; fi
    export TQDM_DISABLE=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
    engine_container # last: it hands on what is exported
    torchrun=("$BOX_PYTHON" -m torch.distributed.run --nproc-per-node "$GPUS_PER_NODE" --max-restarts 0 "${torchrun[@]}")
    launch+=("${SRUN_CONTAINER[@]}" "${BOX[@]}")

    cd -- "$ROOT" # python -m looks there first: in the caller's folder may be a queue.py
    log "train: engine log $file"
    set +e
    # tee and grep outlive a Ctrl-C: the engine answers it with a checkpoint, whose lines still belong in the log.
    "${run[@]}" "${launch[@]}" "${torchrun[@]}" "$ROOT/python/engine.py" "$MODEL" "$ROUND" --work "$WORK" 2>&1 |
        (trap '' INT TERM && tee -a "$file" | grep --line-buffered -E '^(\[[0-9:]{8}\] |error: )')
    status=${PIPESTATUS[0]}
    set -e
    if ((status != 0)) && [[ ${#run[@]} == 0 || ! -e $LINK_STOP ]]; then
        log "train: the launcher ended with status $status; last errors in its log:"
        grep -aE '(Error|Signal|Killed|error: |fatal: )' "$file" | tail -n 3 | cut -c 1-300
    fi
    return "$status"
}
