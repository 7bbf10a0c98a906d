#!/usr/bin/env bash
# setup.sh [test]: build .venv from the pins in docker/requirements.txt; with "test" add docker/requirements-test.txt and,
# as .venv/standin, the Python of the tests' stand-in for NeMo-RL's image. Does nothing when it is built already from
# these very pins.
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"
[[ $# == 0 || $* == test ]] || usage 'wrong argument; usage: setup.sh [test]'
VENV=${VENV:-$ROOT/.venv}

# install FILE [VENV [OPTION...]]: the pins of FILE, without a resolver: the file lists every package there is to be.
install() {
    "${2:-$VENV}/bin/pip" install --quiet --disable-pip-version-check --no-compile --no-deps "${@:3}" --requirement "$1" 2>"$VENV/pip.log" ||
        die "pip could not install $1: $(grep -m 1 ERROR "$VENV/pip.log"); check the network and run: make setup"
}

exec {fd}>>"$ROOT/.setup.lock"
flock "$fd"

if [[ ! -f $VENV/PINS || $(<"$VENV/PINS") != "$(pins)" ]]; then
    # Only what we built ourselves, or left half-built, is ours to remove.
    [[ ! -e $VENV || -f $VENV/PINS || -f $VENV/UNFINISHED ]] || die "$VENV exists and is not ours; move it away or set another VENV"
    log "setup: building $VENV (about two minutes, 2 GB)"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "python3 is $(python3 -V); install Python 3.11 or newer"
    rm -rf -- "$VENV"
    if ! python3 -m venv "$VENV" >/dev/null 2>&1; then # Debian ships ensurepip apart
        if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
            die "python3 has no venv module; run: apt-get install python3-venv"
        fi
        apt-get install -y -qq --no-install-recommends python3-venv >/dev/null 2>&1 ||
            { apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv; } >/dev/null 2>&1 ||
            die "apt-get could not install python3-venv; install it by hand"
        python3 -m venv "$VENV"
    fi
    : >"$VENV/UNFINISHED"
    # torch with its dependencies, which differ between CPU and GPU builds; then everything else as pinned.
    "$VENV/bin/pip" install --quiet --disable-pip-version-check --no-compile \
        "$(grep '^torch==' "$ROOT/docker/requirements.txt")" 2>"$VENV/pip.log" ||
        die "pip could not install torch: $(grep -m 1 ERROR "$VENV/pip.log"); check the network and run: make setup"
    install "$ROOT/docker/requirements.txt"
    pins >"$VENV/PINS"
    rm -f -- "$VENV/UNFINISHED"
    log "setup: done in $SECONDS s"
fi

if [[ ${1:-} == test ]]; then
    want=$(sha256sum <"$ROOT/docker/requirements-test.txt")
    if [[ ! -f $VENV/PINS-test || $(<"$VENV/PINS-test") != "$want" ]]; then
        install "$ROOT/docker/requirements-test.txt"
        printf '%s\n' "$want" >"$VENV/PINS-test"
    fi
    want=$(sha256sum <"$ROOT/docker/requirements-standin.txt")
    if [[ ! -f $VENV/standin/PINS || $(<"$VENV/standin/PINS") != "$want" ]]; then
        rm -rf -- "$VENV/standin"
        python3 -m venv "$VENV/standin"
        install "$ROOT/docker/requirements-standin.txt" "$VENV/standin" --ignore-requires-python
        # Its packages go before ours, torch and transformers among them.
        "$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$("$VENV/standin/bin/python" -c \
            'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth"
        printf '%s\n' "$want" >"$VENV/standin/PINS"
    fi
fi
