#!/usr/bin/env bash
# install.sh [slow]: install Debian's Slurm, munge, iproute2, bats and bubblewrap when they are missing, and what the
# double of pyxis is built from and runs in; with "slow" also what builds and runs images, what keeps Slurm's accounts,
# and a browser
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

programs=(slurmctld slurmd sbatch srun scontrol munged ip bats gcc busybox mksquashfs bwrap)
install=(apt-get -o DPkg::Lock::Timeout=600 install -y --no-install-recommends slurm-wlm munge iproute2 bats gcc libc6-dev libslurm-dev)
install+=(busybox-static squashfs-tools bubblewrap)
if [[ ${1:-} == slow ]]; then
    programs+=(podman buildah runc debootstrap slurmdbd mariadbd chromium)
    install+=(podman buildah runc debootstrap slurmdbd mariadb-server chromium fonts-dejavu-core)
fi

installed() {
    local program
    for program in "${programs[@]}"; do
        command -v "$program" >/dev/null || return 1
    done
    [[ -f /usr/include/slurm/spank.h ]]
}

if installed; then
    exit 0
fi
if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
    echo "error: something that the tests need is missing; as root on Debian: ${install[*]}" >&2
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
