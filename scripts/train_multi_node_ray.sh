#!/usr/bin/env bash
# Trains on several machines, on a Ray cluster that is running or on one that is started for the run over ssh.
#
#   scripts/train_multi_node_ray.sh --address HOST:PORT [OPTIONS] RECIPE [key.path=value ...]
#   scripts/train_multi_node_ray.sh --hosts "HOST1 HOST2 ..." [OPTIONS] RECIPE [key.path=value ...]
#   scripts/train_multi_node_ray.sh --help
#
#   RECIPE                name of a shipped recipe, or a YAML file
#   key.path=value        changes to the recipe; they win over what this script sets
#   --address HOST:PORT   head of a running Ray cluster that this machine belongs to; auto: find it
#   --hosts "HOST ..."    start Ray on these machines, and stop it on them when the run ends, however it ends. The first is
#                         this machine. The others are reached by ssh without a password. Stopping is `ray stop`, which
#                         ends everything of Ray that belongs to you on these machines. A recipe whose cluster.nodes
#                         is neither their number nor 1 is refused.
#   --nodes N             number of machines, with --address; the recipe's cluster.nodes unless given
#   --workers N           workers per machine; unless given, with --hosts one per GPU of this machine, with --address the
#                         recipe's cluster.workers_per_node
#   --port P              of Ray's head, with --hosts; 6379 unless given
#   --dry-run             check the recipe, print what it comes to per step and what would be started, and start nothing;
#                         with --hosts and without GPUs here, --workers is the recipe's cluster.workers_per_node unless given
#
# The repository, its environment, the folder this is called in and the output must be on a file system that all machines
# share. The driver runs here. It waits at most cluster.deadlines.start seconds until all machines have registered, and
# prints how many there are and how many it needs. Ctrl-C or SIGTERM finishes the step and saves; the same command resumes from
# the newest checkpoint. The exit status is that of reasoner-rl train, or 3 if Ray does not start on a machine.
#
# cluster.restarts=N starts the workers anew after one of them, or its machine, died or hung, up to N times within this
# command, and cluster.min_nodes=M then goes on with M machines where the others do not come back. Ray's head, which with
# --hosts is on this machine, must live: with it the run ends. Ray is not started again on a machine that has failed.
#
# Newer versions of Ray ask for a token, and with --hosts one is made for the run. Where you start Ray yourself, set
# RAY_AUTH_MODE for every `ray start` and for this script alike: to token, with the same ~/.ray/auth_token or RAY_AUTH_TOKEN
# everywhere, or to disabled. Unset, the head asks for a token as soon as there is such a file, and the others bring none.

set -euo pipefail

# shellcheck source=scripts/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
parse_options "address hosts nodes port workers" "$@"
[[ -z $address || -z $hosts ]] || fail "give --address or --hosts, not both"
[[ -n $address || -n $hosts ]] || fail "give --address HOST:PORT or --hosts \"HOST ...\"; --help tells more"
[[ -n $hosts || -z $port ]] || fail "--port is for --hosts; --address names its port"
[[ -z $hosts || -z $nodes ]] || fail "--nodes is for --address; with --hosts every host is one"
take_recipe

# --address: Ray is running.

if [[ -n $address ]]; then
    driver=(
        reasoner-rl train "$recipe" cluster.kind=ray "cluster.address=$address" ${nodes:+"cluster.nodes=$nodes"}
        ${workers:+"cluster.workers_per_node=$workers"} ${overrides[@]+"${overrides[@]}"}
    )
    if [[ -n $dry_run ]]; then
        command -v reasoner-rl >/dev/null || activate
        check_plan reasoner-rl config show "${driver[@]:2}"
        quote "${driver[@]}"
        exit 0
    fi
    activate
    exec "${driver[@]}"
fi

# --hosts: start Ray, train, stop Ray.

read -ra machines <<<"$hosts"
[[ ${#machines[@]} -gt 0 ]] || fail "--hosts names no machine"
first=${machines[0]} others=("${machines[@]:1}") port=${port:-6379}
if [[ -n $dry_run ]]; then plan; fi
settings=(
    cluster.kind=ray "cluster.nodes=${#machines[@]}" "cluster.workers_per_node=${workers:-$(count_gpus)}"
    "cluster.address=$first:$port" ${overrides[@]+"${overrides[@]}"}
)
check=(reasoner-rl config show "$recipe" "${settings[@]}")
driver=(reasoner-rl train "$recipe" "${settings[@]}")
remote=(ssh -o BatchMode=yes -o ConnectTimeout=20)
there="cd $(quote "$root") && . $(quote "$venv/bin/activate")"
start_head=(ray start --head "--port=$port" --include-dashboard=false --disable-usage-stats)
if [[ $first =~ ^[0-9.]+$ ]]; then start_head+=("--node-ip-address=$first"); fi
# The token comes by standard input: arguments can be read by all users of a machine.
start_other() {
    printf '%s' "read -r RAY_AUTH_TOKEN && export RAY_AUTH_TOKEN RAY_AUTH_MODE=${RAY_AUTH_MODE:-token} && $there && " \
        "timeout $(below_cluster deadlines start <<<"$shown") ray start --address=$first:$port --disable-usage-stats"
}
# A `ray start` that has not reached the head yet is none of the processes that `ray stop` knows.
stop_other="$there && { pkill -f $(quote "[r]ay start --address=$first:$port"); ray stop; }"

check_hosts() { check_machines "${#machines[@]}" "the number of --hosts is" "name N hosts" "${check[@]}"; }

if [[ -n $dry_run ]]; then
    check_hosts
    quote "${check[@]}"
    quote "${start_head[@]}"
    for host in ${others[@]+"${others[@]}"}; do quote "${remote[@]}" "$host" "$(start_other)"; done
    quote "${driver[@]}"
    for host in ${others[@]+"${others[@]}"}; do quote "${remote[@]}" "$host" "$stop_other"; done
    quote ray stop
    exit 0
fi

check_this_machine_is_first() {
    local own resolved
    own=" $(hostname) $(hostname -s) $(hostname -f 2>/dev/null || true) $(hostname -I 2>/dev/null || true) "
    [[ $own != *" $first "* ]] || return 0
    resolved=$(getent ahostsv4 "$first" | sed 's/ .*//;q') || true
    [[ -n $resolved && $own == *" $resolved "* ]] ||
        fail "the first of --hosts must be this machine, $(hostname); it is $first"
}

check_port_is_free() {
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
        fail "something listens on port $port of this machine already: an earlier Ray? Choose another --port, or ray stop"
    fi
}

stop_ray() {
    local host
    trap '' INT TERM HUP
    kill ${starting[@]+"${starting[@]}"} 2>/dev/null || true
    for host in ${others[@]+"${others[@]}"}; do
        "${remote[@]}" "$host" "$stop_other" </dev/null >/dev/null ||
            printf 'error: Ray could not be stopped on %s\n' "$host" >&2 &
    done
    ray stop >/dev/null || printf 'error: Ray could not be stopped on this machine\n' >&2
    wait
    rm -f "$told"
}

# Ray's head takes the address of the default route, or without one that of the host name, which may be a loopback address.
check_head_can_be_reached() {
    local address
    address=$(sed -n 's/\x1b\[[0-9;]*m//g; s/.*Local node IP: \([0-9.]*\).*/\1/p' "$told") # Ray colours it
    [[ ${#others[@]} -eq 0 || $address != 127.* ]] ||
        give_up "Ray's head has taken $address, which no other machine can reach: name this machine by its address in --hosts"
}

activate
check_this_machine_is_first
check_port_is_free
check_hosts # reports a mistake in the recipe before anything is started
use_token

starting=() told=$(mktemp)
trap stop_ray EXIT
trap 'exit 143' TERM HUP
trap 'exit 130' INT
start_apart "${start_head[@]}" >"$told"
wait $! || give_up "Ray did not start on this machine"
check_head_can_be_reached
for host in ${others[@]+"${others[@]}"}; do
    "${remote[@]}" "$host" "$(start_other)" <<<"$RAY_AUTH_TOKEN" >/dev/null &
    starting+=($!)
done
for index in ${starting[@]+"${!starting[@]}"}; do
    wait "${starting[$index]}" || give_up "Ray did not start on ${others[$index]}"
done
starting=() # a later process may have the number of one that has ended
drive "${driver[@]}"
