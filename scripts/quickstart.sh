#!/usr/bin/env bash
# The main job on a laptop: builds a tiny model, teaches it to add by SFT, then lets DAPO find out that reasoning pays.
# Makes its own virtual environment. Takes about four minutes on two CPU cores after installation; downloads only packages.
#
#   bash scripts/quickstart.sh [--seed N] [key.path=value ...]     results in runs/quickstart
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck source=scripts/env.sh
source "$root/scripts/env.sh"
exec python "$root/scripts/quickstart.py" "$@"
