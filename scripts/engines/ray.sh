#!/usr/bin/env bash
# ray.sh LOGS COMMAND...: one node of a Ray cluster, run on every node by one srun, inside the engine's container.
#
# The first task is the head: it starts Ray, waits for the other nodes, runs COMMAND into LOGS/driver.log, and its
# status is the job's. The others start Ray and stay until the head has written LOGS/end. A node that cannot go on
# writes the reason into LOGS/failed, and ends with a status that makes srun end the others.
#
# Environment, from the job: RAY_HEAD (its address), RAY_NODES, RAY_GPUS (a node's), RAY_CPUS (a node's), RAY_CANARY
# (the job and what else LOGS/canary must hold), RAY_WAIT (seconds for all nodes to join, 1800), RAY_TRIES (starts of a node, 5),
# SETUP_COMMAND (run once a node, before Ray), RAY_TMPDIR (where Ray's files of this link go, removed at its end: /tmp)
#
# Not `ray symmetric-run`: there a worker that cannot start ends with status 0, workers see the head's end after a
# minute, and its `ray stop` ends every Ray process that it can see.
set -euo pipefail
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    sed -n '2,/^[^#]/{/^[^#]/d;s/^# \{0,1\}//p}' "$0"
    exit 0
fi
(($# >= 2)) || { echo 'error: wrong number of arguments; usage: ray.sh LOGS COMMAND...' >&2 && exit 2; }
logs=$1 rank=${SLURM_PROCID:-0} here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
shift
# All below the ephemeral range, where the kernel may have given a port away already; Ray's workers between 10002 and
# 11000, NeMo-RL's own rendezvous above 25000 (v0.7.0 ray.sub:143-155).
port=${RAY_PORT:-9900}

say() { printf '[%(%H:%M:%S)T] ray: %s: %s\n' -1 "$(hostname)" "$*"; }
# fail REASON: the first reason stands.
fail() {
    (set -o noclobber && printf '%s\n' "$(hostname): $*" >"$logs/failed") 2>/dev/null || true
    say "$*"
    exit 1
}

[[ $(cat "$logs/canary" 2>/dev/null) == "$RAY_CANARY" ]] ||
    { echo "error: $(hostname) does not see $logs; put WORK on a file system that all nodes share" >&2 && exit 1; }

# Of this user and this job: /tmp/ray may be another user's. A socket's path has 107 bytes at most, 68 of them Ray's own.
user=ray-${SLURM_JOB_UID:-$UID}
mkdir -p -- "${RAY_TMPDIR:=/tmp}" && RAY_TMPDIR=$(realpath -- "$RAY_TMPDIR")
mkdir -m 700 -- "${RAY_TMPDIR%/}/$user" 2>/dev/null || true
RAY_TMPDIR=${RAY_TMPDIR%/}/$user
[[ -O $RAY_TMPDIR && ! -L $RAY_TMPDIR ]] || fail "$RAY_TMPDIR is not yours; set RAY_TMPDIR to a short folder of yours on each node"
export RAY_TMPDIR=$RAY_TMPDIR/${RAY_CANARY%-*}
((${#RAY_TMPDIR} <= 39)) || fail "$RAY_TMPDIR is too long for Ray's sockets; set RAY_TMPDIR to a shorter folder"
rm -rf -- "$RAY_TMPDIR" && mkdir -- "$RAY_TMPDIR" # what a requeued job's first try has left
trap 'rm -rf -- "$RAY_TMPDIR"' EXIT

# Ray's children must not take themselves for tasks of this Slurm step, nor for ranks of its MPI.
while read -r name; do unset "$name"; done < <(compgen -e | grep -E '^(SLURM|PMI|PMIX|OMPI|MPI)' || true)
unset UV_CACHE_DIR # the host's
export RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 RAY_DISABLE_IMPORT_WARNING=1 PYTHONUNBUFFERED=1
limit=$(ulimit -Hn)
if [[ $limit == unlimited || $limit -gt 65535 ]]; then limit=65535; fi
ulimit -Sn "$limit"

if [[ -n ${SETUP_COMMAND:-} ]]; then
    say "SETUP_COMMAND"
    bash -euo pipefail -c "$SETUP_COMMAND" || fail "SETUP_COMMAND failed with status $?; see node-$rank.log"
fi
command -v ray >/dev/null || fail 'there is no ray here; use the image of the engine'

ray=0
# start_ray OPTION...: in the background, as a process group; it ends when one of its processes does.
start_ray() {
    ((ray == 0)) || kill -9 -- "-$ray" 2>/dev/null || true # what a start that failed has left
    setsid ray start "$@" --block --disable-usage-stats --num-gpus="$RAY_GPUS" --num-cpus="$RAY_CPUS" \
        --resources="{\"worker_units\": $RAY_GPUS, \"slurm_managed_ray_cluster\": 1}" \
        --node-manager-port=$((port + 3)) --object-manager-port=$((port + 4)) --runtime-env-agent-port=$((port + 5)) \
        --dashboard-agent-grpc-port=$((port + 6)) --dashboard-agent-listen-port=$((port + 7)) \
        --metrics-export-port=$((port + 8)) --min-worker-port=10002 --max-worker-port=11000 &
    ray=$!
}
stop_ray() {
    local second
    if [[ ${PROFILE_STEPS:-} ]]; then
        cp -r "$RAY_TMPDIR/ray/session_latest/logs/nsight" "$logs/nsight-$(hostname)" 2>/dev/null || say 'no profile was written'
    fi
    if ((ray)); then
        kill "$ray" 2>/dev/null || true
        for ((second = 0; second < 5; second++)); do
            kill -0 "$ray" 2>/dev/null || break
            sleep 1
        done
        # Ray would drain its nodes for half a minute. There is nothing in them, and the next link may want the ports.
        kill -9 -- "-$ray" 2>/dev/null || true
    fi
    rm -rf -- "$RAY_TMPDIR" || true # what has just been killed may still write
}
trap stop_ray EXIT

if ((rank == 0)); then
    say "head of $RAY_NODES nodes"
    # answers: whether something listens at the head's port.
    answers() { (: <"/dev/tcp/$RAY_HEAD/$port") 2>/dev/null; }
    for ((second = 0; ; second++)); do # a link before this one may still be on its way out
        if ! answers; then break; fi
        ((second < 60)) || fail "port $port is taken; end what holds it, or set RAY_PORT"
        sleep 1
    done
    head=(--head --node-ip-address="$RAY_HEAD" --port="$port" --include-dashboard=false)
    start_ray "${head[@]}"
    for ((second = 0, try = 1; ; second++)); do
        if ! kill -0 "$ray" 2>/dev/null; then # as when the processes of the link before this one are not all gone
            ((try++ < ${RAY_TRIES:-5})) || fail 'Ray did not start on the head; see node-0.log'
            say 'Ray did not start; again'
            sleep 2
            start_ray "${head[@]}"
        elif answers; then
            break
        fi
        ((second < ${RAY_WAIT:-1800})) || fail 'the head of Ray does not answer; see node-0.log'
        sleep 1
    done
    printf '%s:%s\n' "$RAY_HEAD" "$port" >"$logs/.head"
    mv "$logs/.head" "$logs/head"
    export RAY_ADDRESS=$RAY_HEAD:$port
    python "$here/ray_wait.py" --address "$RAY_ADDRESS" --nodes "$RAY_NODES" \
        --gpus $((RAY_NODES * RAY_GPUS)) --folder "$logs" --timeout "${RAY_WAIT:-1800}" ||
        fail 'Ray did not come up; see node-*.log'
    : >"$logs/ready"
    say "the cluster is up; driver log $logs/driver.log"
    : >"$logs/driver"
    "$@" >"$logs/driver.log" 2>&1 &
    driver=$!
    while kill -0 "$driver" 2>/dev/null; do
        if [[ -f $logs/failed ]] || ! kill -0 "$ray" 2>/dev/null; then
            [[ -f $logs/failed ]] || reason='Ray ended on the head; see node-0.log'
            kill "$driver" 2>/dev/null || true
            fail "${reason:-$(<"$logs/failed")}"
        fi
        sleep 1
    done
    status=0
    wait "$driver" || status=$?
    printf '%s\n' "$status" >"$logs/.end"
    mv "$logs/.end" "$logs/end"
    why=$(head -c 300 "$logs/reason" 2>/dev/null || tail -n 1 "$logs/driver.log" | grep -a '^error: ' | cut -c 1-300 || true)
    ((status == 0)) || fail "the driver ended with status $status${why:+ ($why)}; see $logs/driver.log"
    exit 0
fi

for ((second = 0; ; second++)); do # the head may still be importing the image
    if [[ -f $logs/head ]]; then break; fi
    if [[ -f $logs/failed || -f $logs/end ]]; then exit 1; fi
    ((second < ${RAY_WAIT:-1800})) || fail "no head after $second s; see node-0.log"
    sleep 1
done
for ((try = 1; ; try++)); do
    start_ray --address="$(<"$logs/head")"
    while kill -0 "$ray" 2>/dev/null; do
        if [[ -f $logs/end ]]; then exit 0; fi
        sleep 1
    done
    status=0
    wait "$ray" || status=$?
    if [[ -f $logs/end ]]; then exit 0; fi
    [[ ! -f $logs/ready ]] || fail "Ray ended here with status $status, in the middle of the link; see node-$rank.log"
    ((try < ${RAY_TRIES:-5})) || fail "Ray did not start here in $try tries (status $status); see node-$rank.log"
    say "Ray did not start (status $status); again"
    sleep $((2 * try))
done
