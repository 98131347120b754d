#!/usr/bin/env bash
# Fourteen ways to train, from SFT to DAPO, from the same start and with about as many generated tokens each: held-out
# accuracy with paired intervals against tokens and seconds. Under two hours on two cores; the same command resumes.
#
#   bash scripts/compare_baselines.sh [--seeds 0 1 2] [--jobs 2] [--out FOLDER] [--from FOLDER]
#   bash scripts/compare_baselines.sh --help
#
#   --seeds N ...    a run of each method per seed; 0 1 2 unless given
#   --jobs N         runs at a time, of one thread each; 2 unless given
#   --out FOLDER     where results go, runs/baselines unless given; METHOD/seed_N/log.txt there has what a run prints
#   --from FOLDER    a finished ladder to start from, made by scripts/ladder.sh; one is made in OUT/ladder unless given
#
# Ctrl-C, or closing the terminal, stops the runs after their current step (nohup keeps them); a second start in the
# same folder is refused meanwhile. Makes its own virtual environment. Downloads only packages.

set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck source=scripts/options.sh
source "$root/scripts/options.sh"
check_options "--seeds --jobs --out --from" "$@"
# shellcheck source=scripts/env.sh
source "$root/scripts/env.sh"
exec python "$root/scripts/compare_baselines.py" "$@"
