#!/usr/bin/env bash
# DAPO's reference run (arXiv 2503.14476): Qwen2.5-32B on DAPO-Math-17K, with AIME 2024 held out, on 16 machines of 8 GPUs.
#
#   sbatch scripts/run_dapo_qwen2.5_32b.sh [--data FOLDER] [key.path=value ...]        from the root of the repository
#   scripts/run_dapo_qwen2.5_32b.sh --hosts "HOST1 HOST2 ..." [--data FOLDER] [key.path=value ...]
#   scripts/run_dapo_qwen2.5_32b.sh [--address HOST:PORT] [--data FOLDER] [key.path=value ...]
#   scripts/run_dapo_qwen2.5_32b.sh --help
#
#   --data FOLDER      where dapo-math-17k.parquet and aime-2024.parquet are; data/ of the repository unless given
#   --hosts, --address, --nodes, --workers, --port, --dry-run
#                      as for scripts/train_multi_node_ray.sh or, in a Slurm job, scripts/train_multi_node_slurm.sh, which
#                      this hands over to; outside of Slurm --address auto unless given
#   key.path=value     changes to the recipe dapo_qwen2.5_32b, such as model.path=FOLDER; on N machines instead of 16,
#                      cluster.nodes=N (in Slurm with sbatch --nodes=N), or the run is refused
#
# Submitted or called again, the run resumes from the newest checkpoint in run.output_dir. Nothing of it was run on GPUs yet.

#SBATCH --job-name=dapo_qwen2.5_32b
#SBATCH --nodes=16
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --signal=B:TERM@3600
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
parse_options "address data hosts nodes port workers" "$@"
data=${data:-$root/data} overrides=(${rest[@]+"${rest[@]}"})
check_overrides

for file in dapo-math-17k.parquet aime-2024.parquet; do
    if [[ -n $dry_run && ! -f $data/$file ]]; then
        printf '# %s does not exist yet\n' "$data/$file"
        continue
    fi
    [[ -f $data/$file ]] ||
        fail "$data/$file does not exist: data/README.md says where it is from, --data FOLDER where it is"
done

script=train_multi_node_slurm.sh
if [[ -z ${SLURM_JOB_ID-} ]]; then
    script=train_multi_node_ray.sh
    if [[ -z $hosts ]]; then address=${address:-auto}; fi
fi
options=(${dry_run:+--dry-run})
for name in address hosts nodes port workers; do
    if [[ -n ${!name} ]]; then options+=("--$name" "${!name}"); fi
done
exec bash "$root/scripts/$script" ${options[@]+"${options[@]}"} dapo_qwen2.5_32b \
    "data.train.path=$data/dapo-math-17k.parquet" "evaluation.datasets.0.path=$data/aime-2024.parquet" \
    ${overrides[@]+"${overrides[@]}"}
