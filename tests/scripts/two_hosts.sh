#!/usr/bin/env bash
# Makes two hosts, n1 and n2, out of this machine, runs a command on n1, and removes both hosts when it ends.
#
#   two_hosts.sh [--slurm] COMMAND [ARGUMENT ...]
#
# Each host has processes, a host name, a network interface (10.91.0.1 and 10.91.0.2 on eth0), a shared memory and a
# /tmp/ray of its own. All other files are shared, as in a cluster with a shared file system. As Debian and Ubuntu install
# it, each host's own name resolves to 127.0.1.1 on that host. root can log in to both by ssh without a password.
# --slurm: both are the nodes of a Slurm cluster with the partition "all", whose controller runs on n1.
#
# The exit status is that of the command, or 77 if such hosts cannot be made here: this needs root and Debian's packages
# iproute2 and openssh-server, and slurm-wlm and munge for --slurm. However this script ends, even by SIGKILL, all
# processes of the hosts end with it.

set -euo pipefail

unavailable() {
    printf 'two_hosts.sh: %s\n' "$*" >&2
    exit 77
}

# host NUMBER FOLDER: the first process of a host. It becomes the host's sshd.
host() {
    hostname "n$1"
    mount --bind "$2/hosts$1" /etc/hosts
    mount --bind "$2/ssh_config" /etc/ssh/ssh_config
    if [[ -e /etc/resolv.conf ]]; then mount --bind /dev/null /etc/resolv.conf; fi # no name server answers here
    local folder
    for folder in /tmp/ray /dev/shm /run/sshd ${3:+/run/munge}; do mount -t tmpfs -o mode=755 own "$folder"; done
    ip link set lo up
    touch "$2/ready$1"
    exec /usr/sbin/sshd -D -e -f "$2/sshd_config" 2>>"$2/sshd$1.log"
}

if [[ ${1-} == --host ]]; then
    host "${@:2}"
fi
slurm=''
if [[ ${1-} == --slurm ]]; then
    slurm=yes
    shift
fi
if [[ $# -eq 0 || $1 == -* ]]; then
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
    exit 2
fi
[[ $EUID -eq 0 ]] || unavailable "only root can make hosts"
PATH=$PATH:/usr/sbin:/sbin
for program in ip unshare nsenter setpriv ssh sshd ssh-keygen ${slurm:+munged slurmctld slurmd sbatch}; do
    command -v "$program" >/dev/null || unavailable "$program is not installed"
done

work=$(mktemp -d -t two_hosts.XXXXXX)
holders=()
# shellcheck disable=SC2329 # called by trap
remove() {
    local holder
    for holder in ${holders[@]+"${holders[@]}"}; do
        kill -KILL "$holder" 2>/dev/null || true
        while kill -0 "$holder" 2>/dev/null; do sleep 0.05; done
    done
    rm -rf "$work"
    rmdir --ignore-fail-on-non-empty /tmp/ray
}
mkdir -p /tmp/ray /run/sshd ${slurm:+/run/munge}
trap remove EXIT
trap 'exit 143' TERM HUP
trap 'exit 130' INT

ssh-keygen -q -t ed25519 -N '' -f "$work/host_key"
ssh-keygen -q -t ed25519 -N '' -f "$work/key"
printf '%s\n' "HostKey $work/host_key" "AuthorizedKeysFile $work/key.pub" 'StrictModes no' 'PermitRootLogin yes' \
    'PidFile none' >"$work/sshd_config"
printf '%s\n' "IdentityFile $work/key" 'StrictHostKeyChecking no' 'UserKnownHostsFile /dev/null' 'LogLevel ERROR' \
    >"$work/ssh_config"
for n in 1 2; do
    other=$((3 - n))
    printf '127.0.0.1 localhost\n127.0.1.1 n%s\n10.91.0.%s n%s\n' "$n" "$other" "$other" >"$work/hosts$n"
    # When this script dies, its holder is killed, and by that the host's first process and all others of the host.
    setpriv --pdeathsig KILL unshare --fork --kill-child --pid --mount --mount-proc --net --uts \
        bash "$0" --host "$n" "$work" $slurm &
    holders+=($!)
    disown # or bash would tell of each that it was killed
done
for n in 1 2; do
    for ((tries = 0; tries < 100; tries++)); do
        [[ ! -f $work/ready$n ]] || break
        sleep 0.1
    done
    [[ -f $work/ready$n ]] || unavailable "a host could not be made (this needs namespaces and mounts)"
done

# on NUMBER COMMAND...: runs a command on a host.
on() {
    local holder=${holders[$1 - 1]}
    nsenter --target "$holder" --mount --net --uts --pid="/proc/$holder/ns/pid_for_children" --wd="$PWD" "${@:2}"
}

ip link add eth0 netns "${holders[0]}" type veth peer name eth0 netns "${holders[1]}" ||
    unavailable "the hosts could not be connected"
for n in 1 2; do
    on "$n" ip addr add "10.91.0.$n/24" dev eth0
    on "$n" ip link set eth0 up
    # Most machines have a default route. This one leads back, where connections are refused at once.
    on "$n" ip route add local default dev lo src "10.91.0.$n"
done

# start_slurm: munged and slurmd on both hosts, slurmctld on n1, with all their files in $work.
start_slurm() {
    local n
    export SLURM_CONF=$work/slurm.conf
    mkdir "$work/state" "$work/spool.n1" "$work/spool.n2"
    head -c 1024 /dev/urandom >"$work/munge.key"
    chmod 400 "$work/munge.key"
    cat >"$SLURM_CONF" <<END
ClusterName=two
SlurmctldHost=n1(10.91.0.1)
AuthType=auth/munge
SlurmUser=root
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool.%n
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.%n.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SlurmdParameters=config_overrides
NodeName=n1 NodeAddr=10.91.0.1 CPUs=2 RealMemory=4000
NodeName=n2 NodeAddr=10.91.0.2 CPUs=2 RealMemory=4000
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE
END
    printf 'CgroupPlugin=cgroup/v1\n' >"$work/cgroup.conf"
    for n in 1 2; do
        on "$n" munged --force --key-file="$work/munge.key" --seed-file="$work/munge.seed$n" \
            --log-file="$work/munged$n.log" 2>>"$work/munged$n.log"
    done
    on 1 slurmctld
    for n in 1 2; do on "$n" slurmd; done
    for ((tries = 0; tries < 60; tries++)); do
        [[ $(on 1 sinfo --noheader --Node --format=%T | sort -u) != idle ]] || return 0
        sleep 1
    done
    tail "$work"/*.log >&2
    unavailable "the nodes of Slurm did not become idle"
}
if [[ -n $slurm ]]; then start_slurm; fi

status=0
on 1 "$@" || status=$?
exit "$status"
