#!/usr/bin/env bash
# Trains on all GPUs of this machine, with one worker per GPU, or with one on the CPU if there is no GPU.
#
#   scripts/train_single_node.sh [OPTIONS] RECIPE [key.path=value ...]
#   scripts/train_single_node.sh --help
#
#   RECIPE           name of a shipped recipe, or a YAML file
#   key.path=value   changes to the recipe; they win over what this script sets
#   --workers N      number of workers, instead of one per GPU
#   --dry-run        check the recipe, print what it comes to per step and what would be started, and start nothing;
#                    without GPUs here, --workers is the recipe's cluster.workers_per_node unless given
#
# Ray is started for the run and stopped with it. Ctrl-C or SIGTERM finishes the step and saves; the same command resumes
# from the newest checkpoint. The exit status is that of reasoner-rl train.

set -euo pipefail

# shellcheck source=scripts/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
parse_options "workers" "$@"
take_recipe

if [[ -n $dry_run ]]; then plan; else activate; fi
driver=(
    reasoner-rl train "$recipe" cluster.kind=ray cluster.nodes=1 "cluster.workers_per_node=${workers:-$(count_gpus)}"
    cluster.address=null ${overrides[@]+"${overrides[@]}"}
)
check_machines 1 "this script starts" "for N machines there is scripts/train_multi_node_ray.sh" \
    reasoner-rl config show "${driver[@]:2}"
if [[ -n $dry_run ]]; then
    quote "${driver[@]}"
    exit 0
fi
exec "${driver[@]}"
