#!/usr/bin/env bash
# sandbox.sh: build .venv/sandbox, what the model's own code finds when a model is evaluated with code execution, from
# docker/requirements-sandbox.txt. Does nothing when it is built already from these very pins.
#
# SANDBOX_VENV=dir    another place for it (default: .venv/sandbox; /var/cache/nemo-sft-repro/sandbox for root in a tree that
#                     others cannot read)
# SANDBOX_PYTHON=...  the Python to make it from (default: the first of python3 and /usr/bin/python3 that fits)
#
# As root, the sandbox runs as another user, who must be able to read that Python and these packages.
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"
[[ $# == 0 ]] || usage 'wrong argument; usage: sandbox.sh'
VENV=${VENV:-$ROOT/.venv}
sandbox_venv
pins=$ROOT/docker/requirements-sandbox.txt

# fits PYTHON: whether it is one that the pins have wheels for and, as root, that others can read.
fits() {
    "$1" -Is - 2>/dev/null <<'PYTHON'
import os, pathlib, sys
home = pathlib.Path(sys.base_prefix).resolve()
readable = os.geteuid() != 0 or all(folder.stat().st_mode & 0o5 == 0o5 for folder in (home, *home.parents))
sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 12) and readable))
PYTHON
}

# readable FOLDER: whether every user can enter and read it.
readable() {
    local folder
    folder=$(realpath -m -- "$1")
    until [[ $folder == / ]]; do
        [[ ! -e $folder || $(stat -c %A -- "$folder") == *r-[xt] || $(stat -c %A -- "$folder") == *rw[xt] ]] || return 1
        folder=$(dirname -- "$folder")
    done
}

exec {fd}>>"$ROOT/.setup.lock"
flock "$fd"
want=$(sha256sum <"$pins")
if [[ -f $SANDBOX_VENV/PINS && $(<"$SANDBOX_VENV/PINS") == "$want" ]]; then
    exit 0
fi
[[ -x $VENV/bin/pip ]] || die "$VENV has no pip; run: make setup"
# Only what we built ourselves, or left half-built, is ours to remove.
[[ ! -e $SANDBOX_VENV || -f $SANDBOX_VENV/PINS || -f $SANDBOX_VENV/UNFINISHED ]] ||
    die "$SANDBOX_VENV exists and is not ours; move it away or set another SANDBOX_VENV"
python=
for candidate in ${SANDBOX_PYTHON:+"$SANDBOX_PYTHON"} python3 /usr/bin/python3; do
    if fits "$candidate"; then
        python=$candidate
        break
    fi
done
[[ -n $python && (-z ${SANDBOX_PYTHON:-} || $python == "$SANDBOX_PYTHON") ]] ||
    die "no Python 3.11 or 3.12 that every user can read; name one: SANDBOX_PYTHON=/usr/bin/python3 scripts/sandbox.sh"

log "sandbox: building $SANDBOX_VENV"
if ((EUID == 0)) && ! readable "$(dirname -- "$SANDBOX_VENV")"; then
    log "sandbox: not every user can read $SANDBOX_VENV, which code run by root needs; set SANDBOX_VENV to another place"
fi
rm -rf -- "$SANDBOX_VENV"
(
    umask 022 # another user reads it
    "$python" -Is -m venv --without-pip "$SANDBOX_VENV"
    : >"$SANDBOX_VENV/UNFINISHED"
    # Compiled: the code's time limit runs while it imports, and it cannot keep what it compiles.
    "$VENV/bin/pip" --python "$SANDBOX_VENV/bin/python" install --quiet --disable-pip-version-check --no-deps --compile \
        --only-binary :all: --requirement "$pins" 2>"$SANDBOX_VENV/pip.log"
) || die "pip could not install $pins: $(grep -m 1 ERROR "$SANDBOX_VENV/pip.log"); check the network and run: scripts/sandbox.sh"
printf '%s\n' "$want" >"$SANDBOX_VENV/PINS"
rm -f -- "$SANDBOX_VENV/UNFINISHED"
log "sandbox: built in $SECONDS s"
