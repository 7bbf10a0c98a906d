#!/usr/bin/env bash
# nemo-rl-inside.sh WORD...: what of engine nemo-rl runs inside its image.
#
# train OVERRIDES                run_sft.py with a file of overrides, one a line
# cache MODEL TARGET DTYPE       a Hugging Face folder as a Megatron checkpoint
# convert STEP TARGET            a Megatron checkpoint as a Hugging Face folder
#
# Environment: NEMO_RL_DIR; LINK_END (when the link has to have saved, in seconds since the
# epoch). Beside OVERRIDES lie `reserve`: the seconds of what is left then that are not for training; `version`: what
# OVERRIDES was written for, and a key that only this version has; and, after an exception, `reason`.
set -euo pipefail
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    sed -n '2,/^[^#]/{/^[^#]/d;s/^# \{0,1\}//p}' "$0"
    exit 0
fi
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
inside=$here/python/sft/engines/nemo_rl/inside
cd -- "${NEMO_RL_DIR:-/opt/nemo-rl}"

# Without a GPU (DEVICE, of the recipe) every Python that NeMo-RL starts is told so before it imports NeMo-RL.
if [[ ${DEVICE:-gpu} == cpu ]]; then
    export PYTHONPATH=$inside/cpu:$inside:$PWD${PYTHONPATH:+:$PYTHONPATH}
    export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-9.0} # the image sets it, and the driver asks for it
fi

# The image keeps a virtual environment for each kind of worker (v0.7.0 nemo_rl/utils/prefetch_venvs.py); what uses
# Megatron outside of one takes the Megatron worker's.
megatron=${NEMO_RL_VENV_DIR:-/opt/ray_venvs}/nemo_rl.models.policy.workers.megatron_policy_worker.MegatronPolicyWorker
python_with_megatron() {
    if [[ -x $megatron/bin/python ]]; then "$megatron/bin/python" "$@"; else uv run --extra mcore python "$@"; fi
}

# must_save_by RESERVE: the link's time left as NeMo-RL counts it, from when training starts: DD:HH:MM:SS.
must_save_by() {
    local left=$((LINK_END - $(date +%s) - $1))
    ((left > 0)) || left=1 # one step
    printf '%02d:%02d:%02d:%02d' $((left / 86400)) $((left / 3600 % 24)) $((left / 60 % 60)) $((left % 60))
}

case ${1:-} in
    train)
        mapfile -t overrides <"$2"
        if [[ -n ${LINK_END:-} ]]; then
            for i in "${!overrides[@]}"; do
                if [[ ${overrides[i]} == checkpointing.checkpoint_must_save_by=* ]]; then
                    overrides[i]=checkpointing.checkpoint_must_save_by=\'$(must_save_by "$(<"${2%/*}/reserve")")\'
                fi
            done
        fi
        read -r version marker <"${2%/*}/version"
        grep -qs "^ *$marker:" examples/configs/sft.yaml || {
            echo "error: the NeMo-RL in $PWD is not version $version; set NEMO_RL_VERSION to what it is, or take another image" >&2
            exit 1
        }
        exec python "$inside/nemo_rl_driver.py" "${2%/*}/reason" examples/run_sft.py --config examples/configs/sft.yaml "${overrides[@]}"
        ;;
    cache)
        python_with_megatron "$inside/nemo_rl_cache.py" "$2" "$3" "$4"
        ;;
    convert)
        # Its own configuration names the model, hence RoPE and tokenizer, that the step was trained from.
        python_with_megatron examples/converters/convert_megatron_to_hf.py --config "$2/config.yaml" \
            --megatron-ckpt-path "$2/policy/weights/iter_0000000" --hf-ckpt-path "$3"
        ;;
    *) echo "error: there is no '${1:-}'; it is train, cache or convert" >&2 && exit 2 ;;
esac
