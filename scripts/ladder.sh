#!/usr/bin/env bash
# The ladder, a task on which methods can be compared: makes its problems and a tiny model, and warms the model up by SFT.
# Training is then one command for each method, from the same start and with the same held-out problems:
#
#   bash scripts/ladder.sh [--seed N] [--out FOLDER] [key.path=value ...]     results in runs/ladder
#   reasoner-rl train ladder_dapo                                             or ladder_grpo
#   bash scripts/ladder.sh --help
#
#   --seed N         decides problems, weights and the order of examples; 0 unless given
#   --out FOLDER     where results go
#   key.path=value   changes to the recipe of the warm start, ladder_sft
#
# Makes its own virtual environment. Downloads only packages. What is finished with the same settings is not done again.

set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck source=scripts/options.sh
source "$root/scripts/options.sh"
check_options "--seed --out" "$@"
# shellcheck source=scripts/env.sh
source "$root/scripts/env.sh"
exec python "$root/scripts/ladder.py" "$@"
