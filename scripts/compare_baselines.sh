#!/usr/bin/env bash
# Fourteen ways to train, from SFT to DAPO, from the same start and with about as many generated tokens each: held-out
# accuracy with paired intervals against tokens and seconds. Under two hours on two cores; the same command resumes.
#
#   bash scripts/compare_baselines.sh [--seeds 0 1 2] [--jobs 2] [--out FOLDER]     results in runs/baselines
#   bash scripts/compare_baselines.sh --help
#
# Makes its own virtual environment. Downloads only packages.

set -euo pipefail

if [[ ${1-} == -h || ${1-} == --help ]]; then
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
    exit 0
fi

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck source=scripts/env.sh
source "$root/scripts/env.sh"
exec python "$root/scripts/compare_baselines.py" "$@"
