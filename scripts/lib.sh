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

# load_defaults: of every option that nothing has set, the default: what cluster.env.example has commented out. Not exported:
# Python has its own, and a test holds the two together.
load_defaults() {
    local line name
    while IFS= read -r line; do
        [[ $line =~ ^#([A-Z][A-Z0-9_]*)=(.+)$ ]] || continue
        name=${BASH_REMATCH[1]}
        if [[ -z ${!name:-} ]]; then printf -v "$name" %s "${BASH_REMATCH[2]}"; fi
    done <"$ROOT/cluster.env.example"
}

# load_recipe MODEL ROUND: checks the recipe; then every key of it is a shell variable, and no other key is one: the
# environment may have any of them. CHAIN: the stages of its chain.
load_recipe() {
    local lines line
    lines=$(python3 "$ROOT/python/tools/recipe.py" --shell -- "$1" "$2") || exit 2
    while IFS= read -r line; do
        unset "${line%%=*}"
        if [[ $line == *=* ]]; then printf -v "${line%%=*}" %s "${line#*=}"; fi
    done <<<"$lines"
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

# targets WHO: of make, with commas, for the words of options.txt.
targets() {
    local who=${1//recipe/chain,show,plan,data,eval-data,report,inspect,model,generate,status}
    printf '%s\n' "${who//chain/cache,train,convert,average,eval,results}"
}
# heeds WHO TARGET: whether TARGET is one of them.
heeds() { [[ $1 == all || ,$(targets "$1"), == *",$2,"* ]]; }

# given NAME: whether it stands on make's command line, where it is meant for this call; cluster.env is for every recipe.
given() { [[ " ${MAKE_GIVEN:-} " == *" $1 "* ]]; }

# check_options STAGE: each option that STAGE heeds has a value that it may have, and the recipe's engine heeds it, too.
check_options() {
    local name who engines values advice
    while read -r name who engines values advice; do
        if [[ ! $name =~ ^[A-Z] || -z ${!name:-} ]] || ! heeds "$who" "$1"; then continue; fi
        [[ $values == - || ${!name} =~ ^($values)$ ]] || usage "$name=${!name}; $advice"
        if [[ $engines == - || ,$engines, == *",$ENGINE,"* ]]; then continue; fi
        if ! given "$name" && grep -q "^#\{0,1\}$name=" "$ROOT/cluster.env.example"; then continue; fi
        usage "$name=${!name}: engine $ENGINE of this recipe takes no notice of it, only ${engines//,/ and }; leave it out"
    done <"$ROOT/scripts/options.txt"
}

# check_option NAME: the value alone, of one option.
check_option() {
    local values advice
    read -r _ _ _ values advice < <(grep "^$1 " "$ROOT/scripts/options.txt")
    [[ -z ${!1:-} || ${!1} =~ ^($values)$ ]] || usage "$1=${!1}; $advice"
}

# options NAME=VARIABLE...: sets OPTIONS: --NAME VALUE for each VARIABLE that has one.
options() {
    local pair value
    OPTIONS=()
    for pair in "$@"; do
        value=${pair#*=}
        value=${!value:-}
        case $value in
            '') ;;
            -*) OPTIONS+=("--${pair%%=*}=$value") ;; # else it would be taken for another option
            *) OPTIONS+=("--${pair%%=*}" "$value") ;;
        esac
    done
}

# split_args: sets WORDS, the words of ARGS, split at blanks and quotes as a shell does; nothing is expanded or run.
split_args() {
    # shellcheck disable=SC2034 # for the caller
    mapfile -d '' -t WORDS < <(
        python3 -c 'import shlex, sys; [print(word, end="\0") for word in shlex.split(sys.argv[1])]' "${ARGS:-}" 2>/dev/null
    )
    wait $! || usage "ARGS=$ARGS has a quote that is not closed; close it"
}

# open_stage STAGE MODEL ROUND: everything that a stage needs before it can run: recipe, options, folders, Python.
open_stage() {
    [[ $# == 3 ]] || usage "wrong number of arguments; usage: ${0##*/} MODEL ROUND"
    MODEL=$2 ROUND=$3
    load_cluster
    load_recipe "$MODEL" "$ROUND"
    check_options "$1"
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
