# shellcheck shell=bash
# Sourced by every script and job: errors, recipes, folders, locks. Sets the shell's options, nothing else.
set -euo pipefail
# Python's and pip's variables, of an environment module say, are meant for another Python: with them ours would import
# other packages than were pinned, leave asserts out, or install elsewhere. Where pip gets packages from is kept; so is
# what changes no result. (Without compiled files, PYTHONDONTWRITEBYTECODE, the engine imports in 22 s, not in 8.)
kept='PYTHON(UNBUFFERED|FAULTHANDLER|PYCACHEPREFIX)|PIP_((EXTRA_)?INDEX_URL|NO_INDEX|FIND_LINKS|TRUSTED_HOST|(CLIENT_)?CERT'
kept+='|PROXY|(DEFAULT_)?TIMEOUT|RETRIES|(NO_)?CACHE_DIR|KEYRING_PROVIDER|CONFIG_FILE)'
IGNORED='' # for make doctor
while IFS= read -r name; do unset "$name" && IGNORED+="$name "; done < <(compgen -e | grep -E '^(PYTHON[A-Z0-9]+|PIP_.*)$' | grep -vxE "$kept")
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

# clusters: the names of clusters/NAME.env, one a line.
clusters() { find "$ROOT/clusters" -maxdepth 1 -name '*.env' -printf '%f\n' 2>/dev/null | sed 's/\.env$//' | LC_ALL=C sort; }

# unknown_cluster NAME: why it is none; nothing where it is one.
unknown_cluster() {
    local names
    names=$(clusters)
    if grep -qxF -- "$1" <<<"$names"; then return; fi
    names=${names:+"take ${names//$'\n'/, }"}
    printf 'there is no clusters/%s.env; %s, or copy cluster.env.example to it\n' "$1" "${names:-leave out CLUSTER}"
}

# queued_for MODEL ROUND: the names of the clusters that the run was queued for, as its folder says, one a line. The run is
# below WORK; where the environment has none, below that of cluster.env or of any of the clusters.
queued_for() {
    local file works=() work
    if [[ -n ${WORK:-} ]]; then
        works=("$WORK")
    else
        works=("$ROOT/work")
        while read -r file; do
            work=$(sed -n 's/^WORK=//p' "$file" 2>/dev/null | tail -n 1)
            if [[ -n $work ]]; then works+=("$work"); fi
        done < <(printf '%s\n' "$ROOT/cluster.env" && clusters | sed "s|.*|$ROOT/clusters/&.env|")
    fi
    for work in "${works[@]}"; do
        if [[ -f $work/runs/$1/round$2/CLUSTER ]]; then cat -- "$work/runs/$1/round$2/CLUSTER"; fi
    done | LC_ALL=C sort -u
}

# load_cluster [MODEL ROUND]: cluster.env, where the environment (so: make's command line) has not said otherwise. With
# CLUSTER=NAME clusters/NAME.env in its place; a run that was queued for one stays there.
load_cluster() {
    local line queued problem
    CLUSTER_FILE=cluster.env
    OVERRIDDEN='' # for make doctor: what the environment says otherwise
    if [[ $# -ge 2 && -z ${CLUSTER:-} ]]; then
        queued=$(queued_for "$1" "$2")
        [[ $queued != *$'\n'* ]] || usage "$1 round $2 was queued for ${queued//$'\n'/ and }; say which, e.g. CLUSTER=${queued%%$'\n'*}"
        if [[ -n $queued ]]; then
            log "CLUSTER=$queued, for which $1 round $2 was queued" >&2
            export CLUSTER=$queued
        fi
    fi
    if [[ -n ${CLUSTER:-} ]]; then
        problem=$(unknown_cluster "$CLUSTER")
        [[ -z $problem ]] || usage "$problem"
        CLUSTER_FILE=clusters/$CLUSTER.env
    fi
    [[ -f $ROOT/$CLUSTER_FILE ]] || return 0
    while IFS= read -r line || [[ -n $line ]]; do
        [[ -z $line || $line == '#'* ]] && continue
        [[ $line =~ ^([A-Z][A-Z0-9_]*)=([A-Za-z0-9_./:,@+-]*)$ || $line =~ ^(SBATCH_ARGS)=([[:print:]]*)$ ]] ||
            usage "$CLUSTER_FILE: '$line' is not KEY=VALUE; write it without blanks, quotes, '\$', '~' or trailing comment"
        [[ ${BASH_REMATCH[1]} != CLUSTER ]] || usage "$CLUSTER_FILE: CLUSTER names such a file; give it to make, or export it"
        if [[ ! -v ${BASH_REMATCH[1]} ]]; then
            export "${BASH_REMATCH[1]}=${BASH_REMATCH[2]}"
        elif [[ ${!BASH_REMATCH[1]} != "${BASH_REMATCH[2]}" ]] && ! given "${BASH_REMATCH[1]}"; then
            OVERRIDDEN+="${BASH_REMATCH[1]} "
        fi
    done <"$ROOT/$CLUSTER_FILE"
}

# record_cluster RUN: for which cluster a run is queued, where there are names.
record_cluster() {
    [[ -n ${CLUSTER:-} && ! -f $1/CLUSTER ]] || return 0
    printf '%s\n' "$CLUSTER" >"$1/.CLUSTER.part-$$"
    mv -- "$1/.CLUSTER.part-$$" "$1/CLUSTER"
}

# check_cluster RUN: the run in this folder was not queued for another cluster.
check_cluster() {
    local queued=''
    if [[ -f $1/CLUSTER ]]; then queued=$(<"$1/CLUSTER"); fi
    [[ -z $queued || $queued == "${CLUSTER:-}" ]] ||
        die "this run was queued for CLUSTER=$queued; say so, or remove $1/CLUSTER when no job of it is left there"
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

# ahead WORD: whether a job ahead of the chain makes it, as PREPARE=1 has it: data, or container:IMAGE. MADE: all of them.
ahead() { [[ " $MADE " == *" $1 "* ]]; }

# check_container: the engine's images are there, and what they mount; docker and podman have them on the nodes. Sets BOX
# and SRUN_CONTAINER for training's.
check_container() {
    local where=$LAUNCHER-$CONTAINER_RUNTIME images name
    SRUN_CONTAINER=() BOX=()
    if [[ $where == local-pyxis ]]; then usage "CONTAINER_RUNTIME=pyxis is srun's; use LAUNCHER=slurm, or another runtime"; fi
    if [[ $where == slurm-docker || $where == slurm-podman ]]; then return; fi
    # shellcheck source=scripts/engines/automodel.sh
    . "$ROOT/scripts/engines/$ENGINE.sh"
    mapfile -t images < <(engine_images)
    ahead "container:${images[0]}" || engine_container
    for name in "${images[@]:1}"; do # else a run would train, and not be converted
        if [[ $CONTAINER_RUNTIME != none ]] && ! ahead "container:$name"; then container_image "$name" >/dev/null; fi
    done
}

# choose_launcher: before load_defaults: where nobody has said otherwise, a recipe that needs GPUs or several nodes is queued
# on a machine that has sbatch; not in a job. CHOSEN: why.
choose_launcher() {
    CHOSEN=''
    if [[ -n ${LAUNCHER:-}${SLURM_JOB_ID:-} || $DEVICE-$NODES == cpu-1 ]] || ! command -v sbatch >/dev/null; then return; fi
    LAUNCHER=slurm
    # shellcheck disable=SC2034 # for the caller
    CHOSEN="LAUNCHER=slurm: sbatch is here, and recipe $MODEL has NODES=$NODES and DEVICE=$DEVICE; LAUNCHER=local is without it"
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

# sandbox_venv: sets SANDBOX_VENV, where the model's own code finds its packages: beside those of the stages. As root that
# code runs as another user, who must be able to read the place.
sandbox_venv() {
    local other=(setpriv --reuid=65534 --regid=65534 --clear-groups test -r "$VENV" -a -x "$VENV")
    export SANDBOX_VENV=${SANDBOX_VENV:-}
    if [[ -n $SANDBOX_VENV ]]; then return; fi
    if ((EUID == 0)) && ! "${other[@]}" 2>/dev/null; then
        SANDBOX_VENV=/var/cache/nemo-sft-repro/sandbox
    else
        SANDBOX_VENV=$VENV/sandbox
    fi
}

# targets WHO: of make, with commas, for the words of options.txt.
targets() {
    local who=${1//recipe/chain,doctor,show,plan,data,eval-data,report,inspect,model,generate,status,logs,cancel,clean-run,export}
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
    load_cluster "$MODEL" "$ROUND"
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
    # The libraries' own chatter about absent GPU kernels and loading bars tells nobody anything.
    local settings=(TQDM_DISABLE=1 HF_HUB_DISABLE_PROGRESS_BARS="${HF_HUB_DISABLE_PROGRESS_BARS:-0}")
    settings+=(TRANSFORMERS_VERBOSITY=error TORCH_LOGS=-all PYTHONWARNINGS=ignore)
    if [[ -z ${OMP_WAIT_POLICY:-} ]] && crowded; then settings+=(OMP_WAIT_POLICY=passive); fi
    env "${settings[@]}" "${command[@]}"
}

# crowded [FILE]: whether others keep half of the cores busy, in each of three looks at what runs. There, threads that wait
# for each other had better sleep: spinning makes torch several times as slow. Where nobody else computes, sleeping costs a
# quarter.
crowded() {
    local running cores file=${1:-/proc/loadavg}
    cores=$(nproc)
    for _ in 1 2 3; do
        [[ -r $file ]] || return 1
        read -r _ _ _ running _ <"$file"
        ((${running%/*} - 1 >= (cores + 1) / 2)) || return 1 # one of them is this shell
        sleep 0.02
    done
}

# patience: for how many seconds to wait for a lock: a job has the time that Slurm gives it, a user wants to know now.
patience() { if [[ -n ${SLURM_JOB_ID:-} ]]; then echo 604800; else echo 1; fi; }

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
