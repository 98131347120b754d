#!/usr/bin/env bash
# Trains on this machine with a verifier of your own, and a little reward for keeping to the format.
#
#   scripts/train_own_verifier.sh [OPTIONS] RECIPE [key.path=value ...]
#   scripts/train_own_verifier.sh --help
#
#   --fn FILE.py:FUNCTION   the verifier, or package.module:function; reward_fns/custom_template.py unless given
#   --workers N, --dry-run  as for scripts/train_single_node.sh, which this hands over to
#   RECIPE                  name of a shipped recipe, or a YAML file
#   key.path=value          changes to the recipe; they win over what this script sets
#
# To try a verifier on responses first: reasoner-rl verify FILE.jsonl --fn FILE.py:FUNCTION

set -euo pipefail

# shellcheck source=scripts/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
parse_options "fn workers" "$@"
take_recipe

# The first function decides accuracy; the second only adds to the score, and to the metric reward/format.
verifier="{fn: ${fn:-$root/reward_fns/custom_template.py:compute_score}, name: verifier}"
format="{fn: 'reward_fns.format_reward:compute_score', name: format, weight: 0.1, parameters: {outside: true}}"
options=(${dry_run:+--dry-run} ${workers:+--workers "$workers"})
exec bash "$root/scripts/train_single_node.sh" ${options[@]+"${options[@]}"} "$recipe" \
    "reward.functions=[$verifier, $format]" reward.timeout_seconds=10 reward.memory_gib=4 \
    ${overrides[@]+"${overrides[@]}"}
