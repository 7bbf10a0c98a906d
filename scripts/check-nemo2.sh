#!/usr/bin/env bash
# check-nemo2.sh: build the NeMo 2.0 runs of the recipes with NeMo's own classes, on a CPU, so that a wrong argument
# fails here and not in the image; and its data set over a few rows, published and corrected.
#
# Builds .venv/nemo2 from docker/requirements-nemo2.txt first (about three minutes, 2 GB) if that is not done yet.
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"
[[ $# == 0 ]] || usage 'wrong argument; usage: check-nemo2.sh'
VENV=${VENV:-$ROOT/.venv}
NEMO2_VENV=${NEMO2_VENV:-$VENV/nemo2}
pins=$ROOT/docker/requirements-nemo2.txt

install() {
    "$NEMO2_VENV/bin/pip" install --quiet --disable-pip-version-check --no-compile "$@" 2>"$NEMO2_VENV/pip.log" ||
        die "pip could not install $pins: $(grep -m 1 ERROR "$NEMO2_VENV/pip.log"); check the network and run: make check-nemo2"
}

exec {fd}>>"$ROOT/.setup.lock"
flock "$fd"
want=$(sha256sum <"$pins")
if [[ ! -f $NEMO2_VENV/PINS || $(<"$NEMO2_VENV/PINS") != "$want" ]]; then
    log "check-nemo2: building $NEMO2_VENV"
    rm -rf -- "$NEMO2_VENV"
    python3 -I -m venv "$NEMO2_VENV" || die "python3 could not make $NEMO2_VENV; run: make setup"
    install "$(grep '^torch==' "$pins")" # with its dependencies, which differ between CPU and GPU builds
    install --no-deps --requirement "$pins"
    printf '%s\n' "$want" >"$NEMO2_VENV/PINS"
    log "check-nemo2: built in $SECONDS s"
fi
exec {fd}>&-
cd -- "$ROOT"
# The libraries' own talk of absent GPU packages tells nobody anything.
PYTHONPATH=python PYTHONWARNINGS=ignore HF_HUB_OFFLINE=1 CUDA_VISIBLE_DEVICES='' "$NEMO2_VENV/bin/python" tests/engines/nemo2_check.py
