# shellcheck shell=bash
# Engine nemo2: NeMo 2.0 under torchrun in NVIDIA's image, as engine automodel is: the same launcher, another script.
# shellcheck source=scripts/engines/automodel.sh
. "$ROOT/scripts/engines/automodel.sh"

# engine_images: the Llama 3 notebooks have an image of their own. It is NeMo 2.1's, which cannot export an adapter; 2.3 can.
engine_images() {
    if [[ $SCHEMA == nemotron ]]; then
        echo nemo2
    else
        echo nemo2-llama3
        if [[ -n ${LORA_RANK:-} ]]; then echo nemo2; fi
    fi
}

# engine_renderer: nothing of NeMo is needed to print its configuration.
engine_renderer() { echo python3; }

# engine_container [IMAGE]: sets SRUN_CONTAINER, BOX and BOX_PYTHON.
# NEMO2_PYTHON: a Python that has NeMo 2.0, for CONTAINER_RUNTIME=none.
engine_container() {
    local image
    image=${1:-$(engine_images | sed -n 1p)}
    if [[ $CONTAINER_RUNTIME == none && ! -x ${NEMO2_PYTHON:-} ]]; then
        die "NeMo 2.0 is only in NVIDIA's image; set CONTAINER_RUNTIME, or NEMO2_PYTHON to a Python that has it"
    fi
    export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false # before: it hands on what is exported
    container "$image"
    if [[ $CONTAINER_RUNTIME == none ]]; then BOX_PYTHON=$(realpath -s -- "$NEMO2_PYTHON"); fi
}

# engine_train: run one link; the first one converts the base model.
engine_train() {
    engine_cache || return
    stage train --open || return
    torchrun_link
}

# engine_cache: the base model in NeMo's format, converted once, on one node: see base_folder in python/sft/engines/nemo2/config.py.
engine_cache() {
    local folders
    folders=$(stage train --base) || return
    if [[ -d ${folders##*$'\n'} ]]; then return; fi
    ( # a lock is let go with its process
        lock "$WORK/models/.nemo2.lock" 3600 "a conversion for NeMo 2.0 below $WORK"
        engine_container
        run_inside --import-base || die "the base model could not be converted for NeMo 2.0 (status $?); see above"
    )
}

# engine_convert STEP TARGET: one checkpoint as a Hugging Face folder, or an adapter.
engine_convert() {
    mkdir -p -- "${2%/*}"
    engine_container "$(engine_images | tail -n 1)"
    run_inside --export "$1" --target "$2" || die "NeMo 2.0's export failed for step $1 (status $?); see above"
}

# engine_generate: answers of the last checkpoint to the test rows, as the Llama 3 notebooks make them: on one GPU.
engine_generate() {
    engine_container
    run_inside --generate || die "NeMo 2.0's generation failed (status $?); see above"
}

# run_inside OPTION...: python/engine.py as one process in the container, on this node.
run_inside() {
    local launch=() python=("$BOX_PYTHON")
    if [[ $1 == --generate ]]; then python+=(-m torch.distributed.run --standalone --nproc-per-node 1); fi
    if [[ -n ${SLURM_JOB_ID:-} ]]; then launch=(step --nodes=1 --ntasks=1 "${SRUN_CONTAINER[@]}"); fi
    (cd -- "$ROOT" && "${launch[@]}" "${BOX[@]}" "${python[@]}" "$ROOT/python/engine.py" "$MODEL" "$ROUND" --work "$WORK" "$@")
}
