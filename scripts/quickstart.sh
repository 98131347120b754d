#!/usr/bin/env bash
# The main job on a laptop: builds a tiny model, teaches it to add by SFT, then trains it with DAPO to reason step by step.
# Makes its own virtual environment. Takes about four minutes on two CPU cores after installation; downloads only packages.
#
#   bash scripts/quickstart.sh [--seed N] [--out FOLDER] [key.path=value ...]     results in runs/quickstart
#   bash scripts/quickstart.sh --help
#
#   --seed N         decides problems, weights and sampling; 0 unless given
#   --out FOLDER     where results go
#   key.path=value   changes to the DAPO recipe, such as run.steps=80
#
# Ctrl-C finishes the step and saves; the same command resumes. A finished run, or one with other settings, is moved
# aside to runs/quickstart.1 and so on, and a new one starts.

set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck source=scripts/options.sh
source "$root/scripts/options.sh"
check_options "--seed --out" "$@"
# shellcheck source=scripts/env.sh
source "$root/scripts/env.sh"
exec python "$root/scripts/quickstart.py" "$@"
