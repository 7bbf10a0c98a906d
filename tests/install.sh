#!/usr/bin/env bash
# install.sh: install Debian's Slurm, munge, iproute2 and bats when they are missing
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

install=(apt-get install -y --no-install-recommends slurm-wlm munge iproute2 bats)

installed() {
    local program
    for program in slurmctld slurmd sbatch srun scontrol munged ip bats; do
        command -v "$program" >/dev/null || return 1
    done
}

if installed; then
    exit 0
fi
if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
    echo "error: Slurm, munge, iproute2 or bats is missing; as root on Debian: ${install[*]}" >&2
    exit 1
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
# The package lists are fetched only when the ones at hand do not do: that is the slow part.
if ! "${install[@]}" >"$log" 2>&1 </dev/null; then
    { apt-get update && "${install[@]}"; } >>"$log" 2>&1 </dev/null || true
fi
if ! installed; then
    tail -n 20 "$log" >&2
    echo "error: apt-get could not install what the tests need; see its log above, then run: ${install[*]}" >&2
    exit 1
fi
