# shellcheck shell=bash
# Engine automodel: nemo-automodel under torchrun, one launcher per node, on one machine or under Slurm.
# shellcheck source=scripts/runtime.sh
. "$ROOT/scripts/runtime.sh"

# engine_convert STEP TARGET: nothing to do: the engine writes an export with every checkpoint.
engine_convert() { :; }

# engine_container: sets SRUN_CONTAINER, BOX and BOX_PYTHON; NVIDIA's image is of no use without a GPU.
engine_container() {
    container "$([[ $DEVICE == cpu ]] && echo cpu || echo automodel)"
}

# engine_train: run one link; returns the launcher's status.
engine_train() { torchrun_link; }

# torchrun_link: run python/engine.py under torchrun on the recipe's nodes; its whole output goes to a log of its own.
torchrun_link() {
    local launch=() torchrun=() head cpus status file
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
    fi

    # As many threads as there are cores for each process; Slurm may count more CPUs than the machine has.
    cpus=$(nproc)
    if ((cpus > ${SLURM_CPUS_ON_NODE:-$cpus})); then cpus=$SLURM_CPUS_ON_NODE; fi
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cpus > GPUS_PER_NODE ? cpus / GPUS_PER_NODE : 1))}
    export TQDM_DISABLE=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
    engine_container # last: it hands on what is exported
    torchrun=("$BOX_PYTHON" -m torch.distributed.run --nproc-per-node "$GPUS_PER_NODE" --max-restarts 0 "${torchrun[@]}")
    launch+=("${SRUN_CONTAINER[@]}" "${BOX[@]}")

    cd -- "$ROOT" # python -m looks there first: in the caller's folder may be a queue.py
    log "train: engine log $file"
    set +e
    # tee and grep outlive a Ctrl-C: the engine answers it with a checkpoint, whose lines still belong in the log.
    "${launch[@]}" "${torchrun[@]}" "$ROOT/python/engine.py" "$MODEL" "$ROUND" --work "$WORK" 2>&1 |
        (trap '' INT TERM && tee -a "$file" | grep --line-buffered -E '^(\[[0-9:]{8}\] |error: )')
    status=${PIPESTATUS[0]}
    set -e
    if ((status != 0)); then
        log "train: the launcher ended with status $status; last errors in its log:"
        grep -aE '(Error|Signal|Killed|error: |fatal: )' "$file" | tail -n 3 | cut -c 1-300
    fi
    return "$status"
}
