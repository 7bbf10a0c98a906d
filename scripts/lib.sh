# shellcheck shell=bash
# Sourced by every script and job: errors, recipes, folders, locks. Sets the shell's options, nothing else.
set -euo pipefail
# Python's and pip's variables, of an environment module say, are meant for another Python: with them ours would import
# other packages than were pinned, leave asserts out, or install elsewhere. Where pip gets packages from is kept; so is
# what changes no result. (Without compiled files, PYTHONDONTWRITEBYTECODE, the engine imports in 22 s, not in 8.)
kept='PYTHON(UNBUFFERED|FAULTHANDLER|PYCACHEPREFIX)|PIP_((EXTRA_)?INDEX_URL|NO_INDEX|FIND_LINKS|TRUSTED_HOST|(CLIENT_)?CERT'
kept+='|PROXY|(DEFAULT_)?TIMEOUT|RETRIES|(NO_)?CACHE_DIR|KEYRING_PROVIDER|CONFIG_FILE)'
while IFS= read -r name; do unset "$name"; done < <(compgen -e | grep -E '^(PYTHON[A-Z0-9]+|PIP_.*)$' | grep -vxE "$kept")
unset kept name
export PYTHONNOUSERSITE=1
# CDPATH and start-up files make `cd` and every script talk where only an answer is expected; the others change tools.
unset CDPATH BASH_ENV ENV POSIXLY_CORRECT GREP_OPTIONS TAR_OPTIONS
unset -f cd
[[ -d ${TMPDIR:-/} ]] || unset TMPDIR # a job's own, which is gone with it
ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/slurm.sh
. "$ROOT/scripts/slurm.sh"

log() { printf '[%(%H:%M:%S)T] %s\n' -1 "$*"; }
die() { printf 'error: %s\n' "$*" >&2 && exit 1; }
usage() { printf 'error: %s\n' "$*" >&2 && exit 2; }

# help_on_request ARG...: print the calling script's header and exit when the arguments ask for it.
help_on_request() {
    [[ ${1:-} == -h || ${1:-} == --help ]] || return 0
    sed -n '2,/^[^#]/{/^# shellcheck/d;s/^#SBATCH.*//;s/^# \{0,1\}//p}' "$0"
    exit 0
}

# load_cluster: cluster.env, where the environment (so: make's command line) has not said otherwise.
load_cluster() {
    local line
    [[ -f $ROOT/cluster.env ]] || return 0
    while IFS= read -r line || [[ -n $line ]]; do
        [[ -z $line || $line == '#'* ]] && continue
        [[ $line =~ ^([A-Z][A-Z0-9_]*)=([A-Za-z0-9_./:,@+-]*)$ || $line =~ ^(SBATCH_ARGS)=([[:print:]]*)$ ]] ||
            usage "cluster.env: '$line' is not KEY=VALUE; write it without blanks, quotes, '\$' or trailing comment"
        [[ -v ${BASH_REMATCH[1]} ]] || export "${BASH_REMATCH[1]}=${BASH_REMATCH[2]}"
    done <"$ROOT/cluster.env"
}

# load_recipe MODEL ROUND: checks the recipe; then every KEY=VALUE of it is a shell variable, and no other key is one: the
# environment may have any of them.
load_recipe() {
    local keys files file
    files=$(python3 "$ROOT/python/recipe.py" --files -- "$1" "$2") || exit 2
    mapfile -t keys < <(python3 "$ROOT/python/recipe.py" --keys)
    wait $! || exit
    unset "${keys[@]}"
    while IFS= read -r file; do
        # shellcheck source=/dev/null
        . "$file"
    done <<<"$files"
}

# dry: whether commands are to be printed, not run.
dry() { [[ -n ${DRY_RUN:-} ]]; }

# show COMMAND...: print it as it could be typed.
show() {
    local line
    printf -v line '%q ' "$@"
    printf '%s\n' "${line% }"
}

# open_work: WORK as an absolute, writable folder.
open_work() {
    WORK=$(realpath -ms -- "${WORK:-$ROOT/work}")
    export WORK
    if dry; then return; fi
    if ! { mkdir -p -- "$WORK" && : >"$WORK/.writable"; } 2>/dev/null; then
        die "WORK=$WORK is not writable; set WORK to a folder of yours with room"
    fi
    rm -f -- "$WORK/.writable"
    # The download library's scratch space is gigabytes, and would lie in $HOME, where quotas are.
    if [[ ! -v HF_HOME ]]; then export HF_XET_CACHE=${HF_XET_CACHE:-$WORK/.xet}; fi
}

# open_venv: the Python that the stages run in; built by make setup from the very pins of this code.
open_venv() {
    VENV=$(realpath -ms -- "${VENV:-$ROOT/.venv}")
    export VENV
    if dry; then return; fi
    [[ -x $VENV/bin/python && -f $VENV/PINS ]] || die "$VENV is not set up; run: make setup"
    [[ $(<"$VENV/PINS") == "$(pins)" ]] || die "$VENV was built from other pins than docker/requirements.txt; run: make setup"
}
pins() { sha256sum <"$ROOT/docker/requirements.txt" | cut -c1-64; }

# check_options: of the environment, where a slip of the pen would cost something.
check_options() {
    [[ ${REMOVE_AFTER_AVERAGE:-1} == 1 ]] ||
        usage "REMOVE_AFTER_AVERAGE=$REMOVE_AFTER_AVERAGE; give 1 to remove the converted steps, or leave it out"
    gpus_option 1
    [[ ${MERGE:-1} == 1 ]] || usage "MERGE=$MERGE; give 1 to merge an adapter into its base, or leave it out"
}

# open_stage MODEL ROUND: everything that a stage needs before it can run: recipe, folders, Python.
open_stage() {
    [[ $# == 2 ]] || usage "wrong number of arguments; usage: ${0##*/} MODEL ROUND"
    MODEL=$1 ROUND=$2
    load_cluster
    load_recipe "$MODEL" "$ROUND"
    check_options
    open_work
    open_venv
}

# stage NAME [ARG...]: run a stage's Python script for MODEL and ROUND.
stage() {
    local command=("$VENV/bin/python" "$ROOT/python/$1.py" "$MODEL" "$ROUND" --work "$WORK" "${@:2}")
    if dry; then
        show "${command[@]}"
        return
    fi
    # The libraries' own chatter about absent GPU kernels and loading bars is no news to anybody.
    TQDM_DISABLE=1 HF_HUB_DISABLE_PROGRESS_BARS=${HF_HUB_DISABLE_PROGRESS_BARS:-0} \
        TRANSFORMERS_VERBOSITY=error TORCH_LOGS=-all PYTHONWARNINGS=ignore \
        "${command[@]}"
}

# lock FILE SECONDS WHAT: hold FILE until this process and all of its children are gone; wait at most SECONDS.
lock() {
    local fd
    if dry; then return; fi
    mkdir -p -- "${1%/*}"
    exec {fd}>>"$1"
    flock -n "$fd" || log "waiting up to $2 s for $3 ($(tail -n 1 "$1"))"
    flock -w "$2" "$fd" || die "$3 is running already ($(tail -n 1 "$1")); wait for it, or stop it first"
    printf 'job %s on %s, process %s\n' "${SLURM_JOB_ID:-local}" "$(hostname)" $$ >"$1"
}
