#!/usr/bin/env bash
# selftest.sh: check the Slurm fixture itself, on four nodes; prints the seconds of every step
# shellcheck disable=SC2016 # what stands in single quotes is for the job to expand
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/slurm-selftest.XXXXXX")
chmod 755 "$dir"
current=start

finish() {
    local status=$?
    "$here/down.sh" "$dir" || status=1
    if ((status)); then
        echo "error: selftest failed in '$current'; see $dir" >&2
        exit 1
    fi
    rm -rf -- "$dir"
}
trap finish EXIT

step() { # step NAME COMMAND...: run and time it
    local start=${EPOCHREALTIME//[!0-9]/} tenths
    current=$1
    "${@:2}"
    tenths=$(((${EPOCHREALTIME//[!0-9]/} - start) / 100000))
    printf '%-24s %d.%d s\n' "$current" $((tenths / 10)) $((tenths % 10))
}

expect() { # expect WHAT WANT GOT
    if [[ $3 != "$2" ]]; then
        echo "$1: expected '$2', got '$3'" >&2
        return 1
    fi
}

await() { # await SECONDS WANT COMMAND...: until the command prints WANT
    local end=$((SECONDS + $1)) got
    while got=$("${@:3}" || true) && [[ $got != "$2" ]]; do
        if ((SECONDS >= end)); then
            expect "${*:3}" "$2" "$got"
        fi
        sleep 0.2
    done
}

submit() { # submit OPTION...: prints the job's id
    timeout 30 sbatch --parsable --output="$dir/%j.out" "$@"
}

field() { # field NAME JOB: one field of scontrol show job
    timeout 5 scontrol show job -o "$2" | tr ' ' '\n' | sed -n "s/^$1=//p"
}

node_state() { # node_state NODE
    timeout 5 sinfo -h -n "$1" -o %t
}

bring_up() {
    SLURM_CONF=$("$here/up.sh" "$dir" 4)
    export SLURM_CONF
    expect SLURM_CONF "$dir/slurm.conf" "$SLURM_CONF"
}

batch_job() {
    local job
    job=$(submit --wait --gres=gpu:8 --wrap 'echo "$CUDA_VISIBLE_DEVICES"')
    expect JobState COMPLETED "$(field JobState "$job")"
    expect CUDA_VISIBLE_DEVICES 0,1,2,3,4,5,6,7 "$(cat "$dir/$job.out")"
}

# Every node has its own name and address, and reaches the other by name.
two_nodes() {
    timeout 30 srun -N 2 bash -c 'echo "$(hostname) $(ip -4 -o addr show eth0)"
        for peer in $(scontrol show hostnames); do
            : <"/dev/tcp/$peer/$0"
        done' "$(scontrol show config | sed -n 's/^SlurmdPort *= //p')" | sort >"$dir/two_nodes.out"
    sed 's/^/    /' "$dir/two_nodes.out"
    expect hostname 'node1 node2' "$(awk '{ print $1 }' "$dir/two_nodes.out" | paste -sd ' ')"
    expect addresses 2 "$(awk '{ print $5 }' "$dir/two_nodes.out" | sort -u | wc -l)"
}

late_mount() {
    mkdir "$dir/late"
    mount -t tmpfs -o size=1m late "$dir/late"
    touch "$dir/late/seen"
    timeout 30 srun ls "$dir/late/seen" >/dev/null
    umount "$dir/late"
}

broken_chain() {
    local first second
    first=$(submit --wrap 'exit 3')
    second=$(submit --dependency=afterok:"$first" --kill-on-invalid-dep=yes --wrap true)
    await 15 FAILED field JobState "$first"
    await 15 CANCELLED field JobState "$second"
    expect 'squeue -t all' CANCELLED "$(squeue -h -t all -j "$second" -o %T)"
}

lost_node() {
    local job node start
    job=$(submit --requeue --wrap 'echo "${SLURM_RESTART_COUNT:-0} $(hostname)"
        [ -n "$SLURM_RESTART_COUNT" ] || sleep 60')
    await 10 RUNNING field JobState "$job"
    node=$(field BatchHost "$job")
    await 5 "0 $node" cat "$dir/$job.out"
    start=$SECONDS
    scontrol update nodename="$node" state=down reason=test
    await 30 COMPLETED field JobState "$job"
    echo "    requeued from $node, completed on $(field BatchHost "$job") after $((SECONDS - start)) s"
    expect Restarts 1 "$(field Restarts "$job")"
    expect 'restart count and host' "1 $(field BatchHost "$job")" "$(tail -n 1 "$dir/$job.out")"
    if [[ $(field BatchHost "$job") == "$node" ]]; then
        echo "the job restarted on the node that is down" >&2
        return 1
    fi
    expect "state of $node" down "$(node_state "$node")"
    scontrol update nodename="$node" state=resume
    await 20 idle node_state "$node"
}

step up bring_up
step 'batch job' batch_job
step 'two nodes' two_nodes
step 'late mount' late_mount
step 'broken chain' broken_chain
step 'lost node' lost_node
step down "$here/down.sh" "$dir"
step 'down again' "$here/down.sh" "$dir"
