#!/usr/bin/env bash
# setup.sh [loggers|test]: build .venv from the pins in docker/requirements.txt. "loggers" adds tensorboard and wandb
# (docker/requirements-loggers.txt). "test" adds them, docker/requirements-test.txt and, as .venv/standin, the Python of
# the tests' stand-in for NeMo-RL's image. Does nothing when it is built already from these very pins.
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
help_on_request "$@"
[[ $# == 0 || $* == test || $* == loggers ]] || usage 'wrong argument; usage: setup.sh [loggers|test]'
VENV=${VENV:-$ROOT/.venv}

# install FILE [VENV [OPTION...]]: the pins of FILE, without a resolver: the file lists every package there is to be.
install() {
    "${2:-$VENV}/bin/pip" install --quiet --disable-pip-version-check --no-compile --no-deps "${@:3}" --requirement "$1" 2>"$VENV/pip.log" ||
        die "pip could not install $1: $(grep -m 1 ERROR "$VENV/pip.log"); check the network and run: make setup"
    check_pins "$1" "${2:-$VENV}"
}

# check_pins FILE VENV: the pins are what is in the environment: a configuration file of pip may have put them elsewhere.
check_pins() {
    local wrong
    wrong=$("$2/bin/python" -I -c 'if True:
        import re, sys, sysconfig
        from importlib.metadata import distributions

        def name(text):
            return re.sub("[-_.]+", "-", text).lower()

        found = distributions(path=[sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
        versions = {name(d.metadata["Name"]): d.version.split("+")[0] for d in found}
        pins = [line.split() for line in open(sys.argv[1])]
        pins = [words[0].split("==") for words in pins if len(words) == 1 and "==" in words[0]]
        print(*["==".join(pin) for pin in pins if versions.get(name(pin[0])) != pin[1]][:3], sep=", ")
    ' "$1") || die "$2 has no Python that runs; remove it and run: make setup"
    [[ -z $wrong ]] || die "pip did not put $wrong into $2; see: python3 -m pip config list, then run: make setup"
}

trap 'echo "error: interrupted; run the same command again to go on" >&2 && exit 130' INT # pip would blame the network
exec {fd}>>"$ROOT/.setup.lock"
flock "$fd"

if [[ ! -f $VENV/PINS || $(<"$VENV/PINS") != "$(pins)" ]]; then
    # Only what we built ourselves, or left half-built, is ours to remove.
    [[ ! -e $VENV || -f $VENV/PINS || -f $VENV/UNFINISHED ]] || die "$VENV exists and is not ours; move it away or set another VENV"
    # fasttext-wheel ends at 3.12. For 3.13 there is fasttext-numpy2, which trains from memory that it does not clear, and
    # fasttext-predict, which does not train.
    python3 -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' ||
        die "python3 is $(python3 -V 2>&1); put a Python 3.11 or 3.12 first in PATH and run: make setup"
    log "setup: building $VENV (about two minutes, 2 GB)"
    rm -rf -- "$VENV"
    if ! python3 -I -m venv "$VENV" >/dev/null 2>&1; then # Debian ships ensurepip apart
        if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
            die "python3 has no venv module; run: apt-get install python3-venv"
        fi
        apt=(apt-get -o DPkg::Lock::Timeout=600 -qq) # another may be installing
        "${apt[@]}" install -y --no-install-recommends python3-venv >/dev/null 2>&1 ||
            { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends python3-venv; } >/dev/null 2>&1 ||
            die "apt-get could not install python3-venv; install it by hand"
        python3 -I -m venv "$VENV"
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

# add NAME: the pins of docker/requirements-NAME.txt, once.
add() {
    local file=$ROOT/docker/requirements-$1.txt want
    want=$(sha256sum <"$file")
    if [[ ! -f $VENV/PINS-$1 || $(<"$VENV/PINS-$1") != "$want" ]]; then
        install "$file"
        printf '%s\n' "$want" >"$VENV/PINS-$1"
    fi
}

if (($#)); then add loggers; fi
if [[ ${1:-} == test ]]; then
    add test
    want=$(sha256sum <"$ROOT/docker/requirements-standin.txt")
    if [[ ! -f $VENV/standin/PINS || $(<"$VENV/standin/PINS") != "$want" ]]; then
        rm -rf -- "$VENV/standin"
        python3 -m venv "$VENV/standin"
        install "$ROOT/docker/requirements-standin.txt" "$VENV/standin" --ignore-requires-python
        # Its packages take precedence over ours, torch and transformers among them.
        "$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$("$VENV/standin/bin/python" -c \
            'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth"
        printf '%s\n' "$want" >"$VENV/standin/PINS"
    fi
fi
