#!/usr/bin/env bash
# check-nemo-rl.sh: train recipe tiny-nemo-rl with NeMo-RL itself, on a CPU, and look at what it did.
#
# Both rounds, megatron and fsdp, through Slurm jobs, Ray and the links of a real run: the first link is killed with
# SIGKILL, the second trains the same steps again and ends before its time limit, the third ends the run; then convert,
# average, eval. Checked are the loss of the first step against transformers on the same rows, the losses after resuming,
# and the score. 15 minutes on two cores, 4 GiB. Builds .venv/nemo-rl from docker/requirements-nemo-rl.txt first.
#
# NEMO_RL_DIR=dir     a checkout of NeMo-RL v0.7.0; nothing is written there
# TRACE=file          record what NeMo-RL wrote and printed (tests/traces/nemo-rl-v0.7.0.json)
# WORK=dir            keep everything there (default: a folder that is removed after success)
# SLURM_CONF=file     the Slurm to use; else one is started as root, for this only
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"
[[ $# == 0 ]] || usage 'wrong argument; usage: check-nemo-rl.sh'

get="git clone --depth 1 --branch v0.7.0 https://github.com/NVIDIA-NeMo/RL"
[[ -n ${NEMO_RL_DIR:-} ]] || usage "NEMO_RL_DIR is not set; get NeMo-RL by: $get; then run: make check-nemo-rl NEMO_RL_DIR=RL"
[[ -f $NEMO_RL_DIR/examples/run_sft.py && -f $NEMO_RL_DIR/nemo_rl/package_info.py ]] ||
    usage "NEMO_RL_DIR=$NEMO_RL_DIR is not a checkout of NeMo-RL; get one by: $get"
version=$(sed -n 's/^\(MAJOR\|MINOR\|PATCH\) = \([0-9]*\)$/\2/p' "$NEMO_RL_DIR/nemo_rl/package_info.py" | paste -sd .)
[[ $version == 0.7.* ]] || usage "NEMO_RL_DIR=$NEMO_RL_DIR is NeMo-RL ${version:-of no known version}, not 0.7; get it by: $get"
NEMO_RL_DIR=$(realpath -- "$NEMO_RL_DIR")

VENV=${VENV:-$ROOT/.venv}
export VENV
"$ROOT/scripts/setup.sh" test
nemo_rl=${NEMO_RL_CPU_VENV:-$VENV/nemo-rl}
pins=("$ROOT/docker/requirements-standin.txt" "$ROOT/docker/requirements-nemo-rl.txt")
exec {fd}>>"$ROOT/.setup.lock"
flock "$fd"
want=$(cat "${pins[@]}" | sha256sum)
if [[ ! -f $nemo_rl/PINS || $(<"$nemo_rl/PINS") != "$want" ]]; then
    log "check-nemo-rl: building $nemo_rl"
    rm -rf -- "$nemo_rl"
    python3 -m venv "$nemo_rl"
    for file in "${pins[@]}"; do # without a resolver: the files list every package there is to be
        "$nemo_rl/bin/pip" install --quiet --disable-pip-version-check --no-compile --no-deps --ignore-requires-python \
            --requirement "$file" 2>"$nemo_rl/pip.log" ||
            die "pip could not install $file: $(grep -m 1 ERROR "$nemo_rl/pip.log"); check the network and run: make check-nemo-rl"
    done
    site='import sysconfig; print(sysconfig.get_path("purelib"))'
    "$VENV/bin/python" -c "$site" >"$("$nemo_rl/bin/python" -c "$site")/base.pth" # its own packages go first
    printf '%s\n' "$want" >"$nemo_rl/PINS"
fi
exec {fd}>&-

# What is of this check only: a Slurm, and the folder of workers' environments as the image has it.
private=$(mktemp -d /tmp/check-nemo-rl-XXXXXX)
chmod 755 "$private"
clean() {
    local status=$?
    if [[ -d $private/slurm ]]; then "$ROOT/tests/slurm/down.sh" "$private/slurm" || true; fi
    if ((status)); then log "check-nemo-rl: failed; what there is of it is in $WORK"; else rm -rf -- "$private"; fi
}
trap clean EXIT
WORK=$(realpath -ms -- "${WORK:-$private/work}")
for actor in megatron_policy_worker.MegatronPolicyWorker dtensor_policy_worker_v2.DTensorPolicyWorkerV2; do
    bin=$private/venvs/nemo_rl.models.policy.workers.$actor/bin
    mkdir -p -- "$bin"
    # shellcheck disable=SC2016 # a script's own arguments
    printf '#!/bin/sh\nexec "%s/bin/python" "$@"\n' "$nemo_rl" >"$bin/python"
    chmod +x "$bin/python"
done
if [[ -z ${SLURM_CONF:-} ]]; then
    SLURM_CONF=$("$ROOT/tests/slurm/up.sh" "$private/slurm" 1) || exit
    export NET_IFNAME=eth0
fi
export SLURM_CONF WORK NEMO_RL_DIR NEMO_RL_VENV_DIR=$private/venvs PATH=$nemo_rl/bin:$PATH
export LAUNCHER=slurm CONTAINER_RUNTIME=none JOBS=3 RAY_CPUS=2 OMP_NUM_THREADS=1 SAVE_RESERVE=60 SET_UP_RESERVE=60
cd -- "$ROOT"
scripts/model.sh tiny-nemo-rl 1
scripts/data.sh tiny-nemo-rl 1
rounds=$(sed -n 's/^ROUNDS=//p' recipes/tiny-nemo-rl/tiny-nemo-rl.env)
for round in ${rounds//,/ }; do
    "$VENV/bin/python" tests/engines/nemo_rl_check.py tiny-nemo-rl "$round" --work "$WORK"
done
"$VENV/bin/python" tests/engines/nemo_rl_trace.py --work "$WORK" --checkout "$NEMO_RL_DIR" --to "${TRACE:-$WORK/trace.json}"
