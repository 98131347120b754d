#!/usr/bin/env bash
# Runs the core tests with the oldest and the newest torch and transformers that pyproject.toml admits, each pair in a
# virtual environment of its own (.venv-oldest, .venv-newest), which is made if need be and takes several GB.
#
#   scripts/test_versions.sh [oldest|newest|transformers]... [-- PYTEST ARGUMENTS]     without names: oldest newest
#
#   oldest         torch and transformers at the lower bounds of pyproject.toml
#   newest         whatever pip finds newest within the bounds
#   transformers   in .venv, with the transformers of scripts/constraints-newest.txt laid over it: a small set of tests
#                  in under a minute, which scripts/test.sh runs too. The environment must be there (scripts/env.sh).
#
# Core tests are those of generation with the embedded engine, FSDP2 training, losses, the hybrid engine and whole runs;
# vLLM, Ray and Megatron are not installed, and tests that need them are skipped. Ends with the status of the first
# that failed. What ran, and when, is in docs/start/install.md.
#
#   PYTHON                makes the environments of oldest and newest; python3 unless set, which must be 3.11 or newer
#   REASONER_RL_VENV      environment of transformers, instead of .venv
#   PIP_EXTRA_INDEX_URL   read by pip. On Linux without a GPU, name PyTorch's index of CPU wheels here: otherwise the
#                         CUDA build is taken, which runs the tests on the CPU too.

set -euo pipefail

if [[ ${1-} == -h || ${1-} == --help ]]; then
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
    exit 0
fi

cd "$(dirname "${BASH_SOURCE[0]}")/.."
core=(
    tests/rollout/test_hf_engine.py tests/rollout/test_sampling.py tests/rollout/test_stop_strings.py
    tests/training/test_fsdp_backend.py tests/training/test_backend_parity.py tests/training/test_value_parity.py
    tests/training/test_attention.py tests/training/test_shared_prompts.py tests/training/test_token_logprobs.py
    tests/training/test_optimizer.py tests/training/test_checkpoint_store.py
    tests/losses tests/hybrid tests/prompts
    tests/trainer/test_online.py tests/trainer/test_sft.py tests/commands/test_evaluate.py
)
# Where a newer transformers is noticed first: its caches, its models under FSDP2, templates, one short run. Not on
# several ranks, whose processes take most of the time to start.
small=(
    tests/rollout/test_hf_engine.py tests/hybrid tests/prompts/test_render_prompts.py
    tests/training/test_fsdp_backend.py
    tests/trainer/test_sft.py::test_the_loss_falls_and_a_stopped_run_resumes_exactly
    --deselect tests/training/test_fsdp_backend.py::test_many_ranks_give_the_result_of_one
    --deselect tests/hybrid/test_hybrid_engine.py::test_every_rank_helps_to_find_out_what_differs
)

say() { printf 'test_versions: %s\n' "$*"; }

# lower_bound PACKAGE: what pyproject.toml asks for at least, as PACKAGE==VERSION.
lower_bound() {
    sed -n "s/^ *\"$1>=\([0-9.]*\).*/$1==\1/p" pyproject.toml
}

# tests PYTHON [ARGUMENTS]: pytest, on the CPU.
tests() {
    local python=$1
    shift
    "$python" -c 'import torch, transformers
print("torch", torch.__version__, "transformers", transformers.__version__)'
    OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} HF_HUB_OFFLINE=1 CUDA_VISIBLE_DEVICES="" \
        "$python" -m pytest -q "$@" ${arguments[@]+"${arguments[@]}"}
}

# in_own_environment NAME REQUIREMENT...: the core tests with these requirements.
in_own_environment() {
    local venv=.venv-$1 python
    shift
    python=$venv/bin/python
    "$python" -m pip --version >/dev/null 2>&1 || "${PYTHON:-python3}" -m venv --clear "$venv"
    say "installing $* into $venv"
    "$python" -m pip install -q --upgrade "$@" -e '.[dev]'
    tests "$python" "${core[@]}"
}

over_main_environment() {
    local python=${REASONER_RL_VENV:-.venv}/bin/python overlay
    if [[ ! -x $python ]]; then
        say "there is no $python: make the environment with \`source scripts/env.sh\`, or set REASONER_RL_VENV" >&2
        return 1
    fi
    overlay=$(dirname "$(dirname "$python")")/newest-transformers
    if ! cmp -s scripts/constraints-newest.txt "$overlay/installed.txt"; then
        say "installing $(grep '^transformers==' scripts/constraints-newest.txt) into $overlay"
        rm -rf "$overlay"
        "$python" -m pip install -q --no-deps --target "$overlay" -r scripts/constraints-newest.txt
        cp scripts/constraints-newest.txt "$overlay/installed.txt"
    fi
    PYTHONPATH=$overlay${PYTHONPATH:+:$PYTHONPATH} tests "$python" "${small[@]}"
}

names=() arguments=()
while [[ $# -gt 0 && $1 != -- ]]; do
    case $1 in
        oldest | newest | transformers) names+=("$1") ;;
        *)
            say "unknown: $1 (known: oldest, newest, transformers; arguments of pytest go behind --)" >&2
            exit 2
            ;;
    esac
    shift
done
[[ $# -eq 0 ]] || arguments=("${@:2}")
[[ ${#names[@]} -gt 0 ]] || names=(oldest newest)

status=0
for name in "${names[@]}"; do
    # A shell of its own, which its first failure ends. Not behind `||`, where bash would continue after failures.
    set +e
    case $name in
        oldest) (set -e && in_own_environment oldest "$(lower_bound torch)" "$(lower_bound transformers)") ;;
        newest) (set -e && in_own_environment newest torch transformers) ;;
        transformers) (set -e && over_main_environment) ;;
    esac
    ended=$?
    set -e
    [[ $ended -eq 0 ]] || say "failed with $name, status $ended"
    [[ $status -ne 0 ]] || status=$ended
done
exit "$status"
