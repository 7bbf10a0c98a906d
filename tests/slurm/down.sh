#!/usr/bin/env bash
# down.sh DIR: stop the Slurm that up.sh started below DIR, with its jobs, namespaces and bridge
#
# Idempotent, and works even when DIR itself is gone. Exits 1 and names what would not go away.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
shopt -s nullglob inherit_errexit

if (($# != 1 || EUID != 0)); then
    echo 'error: down.sh needs root and one argument; usage: down.sh DIR' >&2
    exit 1
fi
dir=$(readlink -m -- "$1")

# up.sh wrote DIR into the alias of its bridge, and named the namespaces after the bridge.
bridge=$(grep -lsxF -- "$dir" /sys/class/net/*/ifalias || true)
bridge=${bridge%/ifalias}
bridge=${bridge##*/}
namespaces=()
if [[ $bridge ]]; then
    namespaces=("/run/netns/$bridge-node"*)
fi

declare -A on_node=() caller=()
for namespace in "${namespaces[@]}"; do
    on_node[$(stat -c %i "$namespace")]=1
done
for ((pid = $$; pid > 1; )); do
    caller[$pid]=1
    pid=$(awk '$1 == "PPid:" { print $2 }' "/proc/$pid/status")
done
our_net=$(stat -L -c %i /proc/self/ns/net)

# ours: ids of DIR's live processes, our ancestors apart. Whatever runs on a node is DIR's. Of the processes
# with DIR's SLURM_CONF, so are those in a network other than ours (jobs whose namespace lost its name) and
# Slurm's own, but not a shell or a test runner beside us that merely exports it.
ours() {
    local path link pid net exe
    local -A configured=()
    while read -r path; do
        configured[${path//[!0-9]/}]=1
    done < <(grep -lszxF -- "SLURM_CONF=$dir/slurm.conf" /proc/[0-9]*/environ)
    while read -r path link; do
        pid=${path//[!0-9]/}
        net=${link//[!0-9]/}
        if [[ -z $net || ${caller[$pid]:-} ]]; then # no network: it is exiting
            continue
        elif [[ ${on_node[$net]:-} ]]; then
            echo "$pid"
        elif [[ ${configured[$pid]:-} ]]; then
            exe=$(readlink "/proc/$pid/exe" || true)
            if [[ $net != "$our_net" || $exe =~ /(slurm[^/]*|munged|mariadbd|srun|sbatch|salloc)$ ]]; then
                echo "$pid"
            fi
        fi
    done < <(find /proc/[0-9]*/ns/net -maxdepth 0 -printf '%h %l\n' 2>/dev/null)
}

# Nearly everything goes at TERM; a slurmstepd without its controller does not.
pids=()
for ((try = 0; try < 50; try++)); do
    found=$(ours)
    read -ra pids -d '' <<<"$found" || true
    ((${#pids[@]})) || break
    signal=TERM
    ((try < 20)) || signal=KILL
    kill -s "$signal" "${pids[@]}" 2>/dev/null || true
    sleep 0.1
done

left=()
for pid in "${pids[@]}"; do
    left+=("process $pid ($(cat "/proc/$pid/comm" 2>/dev/null || true))")
done
# A mount at DIR that shows a directory, not the root of a file system, is the one up.sh made. Lazily, because
# the caller may well stand in it.
if [[ $(findmnt -n -o FSROOT -M "$dir" | tail -n 1) == /?* ]]; then
    umount --recursive --lazy "$dir" || left+=("mount $dir")
fi
if [[ $bridge ]]; then
    for port in "/sys/class/net/$bridge/brif/"*; do
        ip link del "${port##*/}" || left+=("interface ${port##*/}")
    done
    for namespace in "${namespaces[@]}"; do
        ip netns del "${namespace##*/}" || left+=("namespace ${namespace##*/}")
    done
    # Last, for it is what a second attempt finds the others by.
    if ((${#left[@]} == 0)); then
        ip link del "$bridge" || left+=("interface $bridge")
    fi
fi
if ((${#left[@]})); then
    printf -v list '%s, ' "${left[@]}"
    echo "error: $dir left ${list%, }; end them by hand and run down.sh again" >&2
    exit 1
fi
