#!/usr/bin/env bash
# Trains on all machines of a Slurm job. Submit it from the root of the repository:
#
#   sbatch --nodes=N [SBATCH OPTIONS] scripts/train_multi_node_slurm.sh [OPTIONS] RECIPE [key.path=value ...]
#   scripts/train_multi_node_slurm.sh --dry-run [--nodes N] RECIPE [key.path=value ...]    anywhere, with machines made up
#   scripts/train_multi_node_slurm.sh --help
#
#   RECIPE           name of a shipped recipe, or a YAML file
#   key.path=value   changes to the recipe; they win over what this script sets
#   --workers N      workers per machine; one per GPU of the first machine unless given
#   --dry-run        check the recipe, print what it comes to per step and what would be started, and start nothing; without
#                    GPUs here, --workers is the recipe's cluster.workers_per_node unless given
#   --nodes N        machines of a dry run outside of Slurm; unless given, the recipe's cluster.nodes, or 2 where that is 1.
#                    A job has the machines that sbatch gave it, 2 without --nodes=N. Where the recipe's cluster.nodes is
#                    neither that number nor 1, the job ends with status 2 before anything starts
#
# Where GPUs have to be asked for, add --gpus-per-node=8 or what the cluster wants. The repository, its environment, the
# folder this is submitted from and the output must be on a file system that all machines share.
#
# 300 seconds before the time limit a signal makes the driver finish its step and save; it ends with status 130. Where a
# step takes longer, send the signal earlier, with --signal=B:TERM@SECONDS. `scancel --batch --signal=TERM JOB` ends a job the same way.
# cluster.restarts=N starts workers that died or hung anew, up to N times within the job. Where a machine fails, Slurm ends
# the job, and requeues it.
# Submitted again, or requeued by Slurm, the run resumes from the newest checkpoint in run.output_dir. Otherwise the status
# is that of reasoner-rl train, or 3 if Ray does not start on a machine.

#SBATCH --job-name=reasoner_rl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append

set -euo pipefail

# Slurm runs a copy of this script from a folder of its own.
here=$(dirname "${BASH_SOURCE[0]}")
[[ -f $here/launch.sh ]] || here=${SLURM_SUBMIT_DIR-}/scripts
if [[ ! -f $here/launch.sh ]]; then
    echo "error: submit this script from the root of the repository" >&2
    exit 2
fi
# shellcheck source=scripts/launch.sh
source "$here/launch.sh"
parse_options "nodes workers" "$@"
take_recipe

ip=HEAD_ADDRESS
if [[ -n ${SLURM_JOB_ID-} ]]; then
    [[ -z $nodes ]] || fail "--nodes is for --dry-run outside of Slurm; this job has the machines that sbatch gave it"
    mapfile -t machines < <(scontrol show hostnames "${SLURM_JOB_NODELIST-}")
    [[ ${#machines[@]} -gt 0 ]] || give_up "scontrol names no machines of job $SLURM_JOB_ID"
elif [[ -z $dry_run ]]; then
    fail "this is no Slurm job: submit this script with sbatch, or see --dry-run"
else
    plan
    if [[ -z $nodes ]]; then
        nodes=$(of_recipe nodes)
        if [[ ${nodes:-1} == 1 ]]; then nodes=2; fi
    fi
    mapfile -t machines < <(printf 'node%d\n' $(seq "$nodes"))
fi
first=${machines[0]} others=("${machines[@]:1}")
port=$((20000 + ${SLURM_JOB_ID:-0} % 10000)) # differs between jobs; Ray's other ports lie below and above
workers=${workers:-${SLURM_GPUS_ON_NODE:-$(count_gpus)}}

# Steps of this job share its machines with each other and with the driver, and may use all CPUs.
step=(srun --overlap --cpu-bind=none --ntasks-per-node=1)
on_first=("${step[@]}" --nodes=1 --ntasks=1 "--nodelist=$first")
on_others=(
    "${step[@]}" "--nodes=${#others[@]}" "--ntasks=${#others[@]}" "--nodelist=$(IFS=, && printf '%s' "${others[*]-}")"
)
ask_address=("${on_first[@]}" bash -c 'hostname --ip-address; hostname --all-ip-addresses')

# What is started, once ip is known.
set_commands() {
    local settings=(
        cluster.kind=ray "cluster.nodes=${#machines[@]}" "cluster.workers_per_node=$workers"
        "cluster.address=$ip:$port" ${overrides[@]+"${overrides[@]}"}
    )
    check=(reasoner-rl config show "$recipe" "${settings[@]}")
    driver=(reasoner-rl train "$recipe" "${settings[@]}")
    # --block: Slurm ends what a step has left running.
    start_head=(
        "${on_first[@]}" ray start --head "--node-ip-address=$ip" "--port=$port" --include-dashboard=false
        --disable-usage-stats --block
    )
    start_others=("${on_others[@]}" ray start "--address=$ip:$port" --disable-usage-stats --block)
}

check_job() {
    check_machines "${#machines[@]}" "the number of machines of this job is" "submit it with sbatch --nodes=N" "${check[@]}"
}

if [[ -n $dry_run ]]; then
    command -v reasoner-rl >/dev/null || activate
    set_commands
    check_job
    quote "${ask_address[@]}"
    quote "${check[@]}"
    quote "${start_head[@]}"
    if [[ ${#others[@]} -gt 0 ]]; then quote "${start_others[@]}"; fi
    quote "${driver[@]}"
    exit 0
fi

# The first of the addresses that is IPv4 and that other machines can reach.
find_address() {
    local address
    for address in $("${ask_address[@]}"); do
        if [[ $address =~ ^[0-9.]+$ && $address != 127.* ]]; then
            ip=$address
            return
        fi
    done
    give_up "$first tells no IPv4 address that other machines can reach"
}

wait_for_head() {
    local second
    for ((second = 0; second < 300; second++)); do
        if (exec 3<>"/dev/tcp/$ip/$port") 2>/dev/null; then return; fi
        kill -0 "$1" 2>/dev/null || break
        sleep 1
    done
    give_up "Ray did not start on $first"
}

stop_ray() {
    trap '' INT TERM HUP
    if [[ ${#steps[@]} -gt 0 ]]; then kill "${steps[@]}" 2>/dev/null || true; fi
    wait
}

# The driver runs here and not in a step: srun answers SIGTERM by killing its step, before a checkpoint could be written.
[[ ${SLURMD_NODENAME-$first} == "$first" ]] || fail "this must run on the job's first machine, $first: use sbatch"
activate
find_address
set_commands
check_job # reports a mistake in the recipe before anything is started
use_token # srun hands the environment on

steps=()
trap stop_ray EXIT
trap 'exit 143' TERM HUP
trap 'exit 130' INT
"${start_head[@]}" &
steps+=($!)
wait_for_head "${steps[0]}"
if [[ ${#others[@]} -gt 0 ]]; then
    "${start_others[@]}" &
    steps+=($!)
fi
drive "${driver[@]}"
