#!/usr/bin/env bash
# up.sh DIR [NODES=4]: start a private Slurm below DIR and print the path of its slurm.conf
#
# munged, slurmctld and one slurmd per virtual node; nothing in /etc, no systemd. Every node has
# its own network, UTS and mount namespace: host name nodeK, address NET_PREFIX.K on eth0, 16 CPUs, 8 GPUs
# (twins of /dev/null). The file systems are the host's, except for /dev/shm and /tmp/ray-0: Ray names its sockets there as if
# it had the machine to itself. Mounts made later below DIR show up on the nodes too.
#
# Environment: PORT_BASE (26800), NET_BRIDGE and NET_PREFIX (both derived from PORT_BASE), KILL_WAIT (5 seconds),
# GRES=none (no GPUs in Slurm's eyes), ACCOUNTS=yes (mariadbd and slurmdbd, for sacct), EXTRA_CONF (lines for slurm.conf) and SPANK (path of a plugin for srun and the nodes). Fixtures with different
# PORT_BASE live side by side.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
umask 022
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

die() {
    echo "error: $*" >&2
    exit 1
}

(($# == 1 || $# == 2)) || die 'wrong number of arguments; usage: up.sh DIR [NODES]'
nodes=${2:-4}
base=${PORT_BASE:-26800}
[[ $nodes =~ ^[1-9][0-9]?$ ]] || die "NODES is '$nodes'; give a number from 1 to 99"
[[ $base =~ ^[1-9][0-9]{3,4}$ && $base -lt 65535 ]] || die "PORT_BASE is '$base'; give a port from 1000 to 65534"
bridge=${NET_BRIDGE:-slurm$base}
prefix=${NET_PREFIX:-10.$((base / 256)).$((base % 256))}
# The kernel takes 15 characters, and the nodes' ends are called after the bridge: BRIDGEn99.
[[ $bridge =~ ^[A-Za-z0-9]{1,12}$ ]] || die "NET_BRIDGE is '$bridge'; give 1 to 12 letters and digits"
((EUID == 0)) || die 'network namespaces and device nodes need root; run as root'
programs=(slurmctld slurmd munged ip)
if [[ ${ACCOUNTS:-} == yes ]]; then programs+=(slurmdbd mariadbd mariadb mariadb-install-db); fi
for program in "${programs[@]}"; do
    command -v "$program" >/dev/null || die "$program is missing; run tests/install.sh"
done

mkdir -p -- "$1"
dir=$(readlink -f -- "$1")
[[ $dir =~ ^/[A-Za-z0-9/._+-]+$ ]] || die "slurm.conf cannot hold the path '$dir'; use letters, digits and ._+-"
"$here/down.sh" "$dir"
if [[ -e $dir/slurm.conf ]]; then # an earlier run's
    rm -rf -- "${dir:?}"/{accounts,dev,log,munge,ray,run,spool,state}
fi
mkdir -p "$dir"/{accounts,dev,log,munge,ray,run,spool,state} /tmp/ray-0
chmod 755 "$dir" # jobs of other users must reach munge's socket
chmod 700 "$dir/munge"

if [[ -e /sys/class/net/$bridge ]]; then
    owner=$(<"/sys/class/net/$bridge/ifalias")
    die "interface $bridge is in use (${owner:-not by a fixture}); set PORT_BASE, or run down.sh on that directory"
fi
[[ -z $(ip -4 -o addr show to "$prefix.0/24") ]] || die "subnet $prefix.0/24 is in use; set NET_PREFIX or PORT_BASE"
if (: <"/dev/tcp/127.0.0.1/$base") 2>/dev/null; then
    die "port $base is in use; set PORT_BASE"
fi

# Whoever captures our output waits until nobody holds it open any more, and the daemons stay: give them
# nothing of the caller's. 255 is bash's handle on this script.
for fd in "/proc/$$/fd/"*; do
    fd=${fd##*/}
    if ((fd > 2 && fd != 255)); then
        exec {fd}>&-
    fi
done
exec 3>&1 4>&2 </dev/null >>"$dir/log/up.log" 2>&1

start() { # start COMMAND...: run within what is left of 18 seconds, without the caller's output
    timeout "$((SECONDS < 17 ? 18 - SECONDS : 1))" "$@" 3>&- 4>&-
}

gave_up() {
    local last
    last=$(tail -n 1 "$dir/log/up.log")
    "$here/down.sh" "$dir" || true
    echo "error: $step failed (${last:-no message}); $remedy" >&4
    exit 1
}
trap gave_up EXIT

step='creating network namespaces'
remedy='run as root with CAP_SYS_ADMIN and CAP_NET_ADMIN, in docker with --privileged'
ip link add name "$bridge" type bridge
ip link set "$bridge" alias "$dir" # tells down.sh whose it is, even when DIR is gone
ip addr add "$prefix.254/24" dev "$bridge"
ip link set "$bridge" up
for ((i = 1; i <= nodes; i++)); do
    net=$bridge-node$i
    ip netns add "$net"
    ip link add name "${bridge}n$i" type veth peer name eth0 netns "$net"
    ip link set "${bridge}n$i" master "$bridge" up
    ip -n "$net" addr add "$prefix.$i/24" dev eth0
    ip -n "$net" link set lo up
    ip -n "$net" link set eth0 up
    # Programs look for a route to learn their own address; this one need not lead anywhere.
    ip -n "$net" route add default via "$prefix.254"
done

step='sharing mounts with the nodes'
# Mounts made later reach the nodes only below a shared mount. systemd shares /, containers mostly do not.
if [[ $(findmnt -n -o PROPAGATION -T "$dir") != *shared* ]]; then
    mountpoint -q "$dir" || mount --bind "$dir" "$dir"
    mount --make-shared "$dir"
fi

step='writing the configuration'
remedy="see $dir/log"
host=$(uname -n)
host=${host%%.*}
{
    echo '127.0.0.1 localhost'
    echo "$prefix.254 $host"
    for ((i = 1; i <= nodes; i++)); do
        echo "$prefix.$i node$i"
    done
} >"$dir/hosts"
for ((i = 0; i < 8; i++)); do
    [[ -e $dir/dev/nvidia$i ]] || mknod -m 666 "$dir/dev/nvidia$i" c 1 3 # Slurm insists on device nodes
done
gres='Gres=gpu:8'
echo "NodeName=node[1-$nodes] Name=gpu File=$dir/dev/nvidia[0-7]" >"$dir/gres.conf"
if [[ ${GRES:-} == none ]]; then
    gres=''
    : >"$dir/gres.conf"
fi
{ if [[ -n ${SPANK:-} ]]; then echo "required $SPANK"; fi; } >"$dir/plugstack.conf"
accounts=''
if [[ ${ACCOUNTS:-} == yes ]]; then
    accounts="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((base + 2))
AccountingStoragePass=$dir/run/munge.socket"
    (umask 077 && cat >"$dir/slurmdbd.conf") <<CONF
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((base + 2))
SlurmUser=root
LogFile=$dir/log/slurmdbd.log
PidFile=$dir/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=accounts
CONF
fi
# cred_expire is also the delay of a requeue (default: two minutes). ReturnToService=1: a node that a test sets
# down stays down, one that was merely silent comes back.
cat >"$dir/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host($prefix.254)
SlurmctldPort=$base
SlurmdPort=$((base + 1))
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.socket,cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd.%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.%n.log
PlugStackConfig=$dir/plugstack.conf
JobCompType=jobcomp/filetxt
JobCompLoc=$dir/log/jobcomp.txt
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
SlurmdParameters=config_overrides
SlurmdTimeout=10
KillWait=${KILL_WAIT:-5}
OverTimeLimit=0
JobRequeue=1
MinJobAge=3600
ReturnToService=1
${gres:+GresTypes=gpu}
NodeName=node[1-$nodes] NodeAddr=$prefix.[1-$nodes] CPUs=16 Boards=1 Sockets=1 CoresPerSocket=16 ThreadsPerCore=1 RealMemory=2000000 $gres
PartitionName=batch Nodes=node[1-$nodes] Default=YES MaxTime=INFINITE State=UP
$accounts
${EXTRA_CONF:-}
CONF
export SLURM_CONF=$dir/slurm.conf

step='starting munged'
(umask 077 && head -c 128 /dev/urandom >"$dir/munge/key")
# --force: a throwaway key may lie below a directory that others can write to.
start munged --force --num-threads=2 --key-file="$dir/munge/key" --seed-file="$dir/munge/seed" \
    --socket="$dir/run/munge.socket" --pid-file="$dir/run/munged.pid" --log-file="$dir/log/munged.log"

if [[ ${ACCOUNTS:-} == yes ]]; then
    step='starting the accounts'
    database=(--no-defaults --user=root --datadir="$dir/accounts")
    export MYSQL_UNIX_PORT=$dir/run/mariadb.sock
    start mariadb-install-db "${database[@]}" --auth-root-authentication-method=socket --skip-test-db
    setsid mariadbd "${database[@]}" --socket="$MYSQL_UNIX_PORT" --skip-networking --innodb-log-file-size=16M 3>&- 4>&- &
    until start mariadb --no-defaults -e 'create database if not exists accounts'; do sleep 0.2; done
    start slurmdbd -s
    until (: <"/dev/tcp/127.0.0.1/$((base + 2))") 2>/dev/null; do
        ((SECONDS < 18)) || exit 1
        sleep 0.2
    done
fi

step='starting slurmctld'
start slurmctld -c

step='starting slurmd'
for ((i = 1; i <= nodes; i++)); do
    # An empty resolv.conf makes unknown names fail at once instead of after a timeout.
    start nsenter --net="/run/netns/$bridge-node$i" unshare --uts --mount --propagation slave sh -euc "
        hostname node$i
        mount --bind $dir/hosts /etc/hosts
        if [ -e /etc/resolv.conf ]; then mount --bind /dev/null /etc/resolv.conf; fi
        mount -t tmpfs -o size=2g,mode=1777 shm /dev/shm
        mkdir -m 700 $dir/ray/node$i
        mount --bind $dir/ray/node$i /tmp/ray-0
        exec slurmd -N node$i"
done

step='waiting for idle nodes'
until
    states=$(start sinfo -h -N -p batch -o %t 2>&1 || true)
    [[ $(grep -cx idle <<<"$states") == "$nodes" ]]
do
    echo "node states: ${states//$'\n'/ }"
    ((SECONDS < 18)) || exit 1
    sleep 0.2
done

trap - EXIT
echo "$SLURM_CONF" >&3
