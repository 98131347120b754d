#!/usr/bin/env bash
# Measures a model on AIME 2024, or on any other file of problems, as the recipe `aime` says: 32 responses per problem at
# temperature 1.0 and top-p 0.7 (avg@32), into one result file that pins everything.
#
#   scripts/eval_aime.sh [OPTIONS] MODEL FILE [key.path=value ...]
#   scripts/eval_aime.sh --help
#
#   MODEL            folder of a checkpoint, or a name on the Hugging Face hub
#   FILE             problems: a .parquet or .jsonl file, such as aime-2024.parquet
#   key.path=value   changes to the recipe, such as rollout.engine.kind=vllm; they win over what this script sets
#   --out FOLDER     folder of the result; runs/aime/MODEL's last part if it is left out
#   --workers N      number of workers, instead of one per GPU; on a CPU the default is this process, without Ray
#   --dry-run        check the recipe, print what would be started, and start nothing
#
# A second call with the same arguments resumes what was interrupted, or shows what is finished. The exit status is that
# of reasoner-rl eval.

set -euo pipefail

# shellcheck source=scripts/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
parse_options "out workers" "$@"

model=${rest[0]-} file=${rest[1]-}
[[ -n $model && $model != *=* ]] || fail "MODEL is missing: a checkpoint's folder or a name on the hub; --help tells more"
[[ -n $file && $file != *=* ]] || fail "FILE is missing: problems in a .parquet or .jsonl file; --help tells more"
overrides=("${rest[@]:2}")
check_overrides

name=$(basename "$file")
name=${name%.*} # with the underscores of the recipe's own name for it, since seeds depend on the name
cluster=()
gpus=$(count_gpus)
if [[ -n $workers || $gpus -gt 1 ]]; then
    cluster=(cluster.kind=ray cluster.nodes=1 "cluster.workers_per_node=${workers:-$gpus}" cluster.address=null)
fi
settings=(
    "model.path=$model" "evaluation.datasets=[{path: \"$file\", name: \"${name//-/_}\"}]"
    ${cluster[@]+"${cluster[@]}"} ${overrides[@]+"${overrides[@]}"}
)
driver=(reasoner-rl eval run aime "${settings[@]}" --out "${out:-runs/aime/$(basename "$model")}")
activate
if [[ -n $dry_run ]]; then
    reasoner-rl config show aime "${settings[@]}" >/dev/null
    quote "${driver[@]}"
    exit 0
fi
exec "${driver[@]}"
