#!/usr/bin/env bash
# What the scripts that launch a run have in common. To be sourced, by scripts/train_*.sh and scripts/run_*.sh.
# The environment is that of scripts/env.sh: REASONER_RL_VENV if set, else .venv beside pyproject.toml. Launching does not
# make it, since machines of a cluster often have no way to a package index.

# shellcheck disable=SC2034 # in the whole file: variables are for the scripts that source it

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${REASONER_RL_VENV:-$root/.venv}

# Set by parse_options, as far as the options were given.
address='' data='' dry_run='' fn='' hosts='' nodes='' out='' port='' rest=() shown='' workers=''

# fail MESSAGE: what was asked for is wrong.
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

# give_up MESSAGE: a machine failed; the status is that of reasoner-rl for a worker that failed.
give_up() {
    printf 'error: %s\n' "$*" >&2
    exit 3
}

# parse_options "NAME NAME..." ARGUMENTS...: sets a variable for each option --NAME VALUE or --NAME=VALUE of those named,
# and dry_run; what follows the options goes to the array rest. Answers --help with the header of the calling script.
parse_options() {
    local allowed=" $1 " name
    shift
    while [[ ${1-} == -* ]]; do
        if [[ $1 == --*=* ]]; then set -- "${1%%=*}" "${1#*=}" "${@:2}"; fi
        name=${1#--}
        if [[ $1 == -h || $1 == --help ]]; then
            sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
            exit 0
        elif [[ $1 == --dry-run ]]; then
            dry_run=yes
            shift
            continue
        elif [[ $1 != --* || $allowed != *" $name "* ]]; then
            fail "unknown option $1; --help lists the options"
        elif [[ -z ${2-} ]]; then
            fail "$1 needs a value"
        elif [[ $name == @(nodes|port|workers) && ! $2 =~ ^[1-9][0-9]*$ ]]; then
            fail "$1 must be a whole number, at least 1; it is '$2'"
        fi
        printf -v "$name" '%s' "$2"
        shift 2
    done
    rest=("$@")
}

# take_recipe: divides rest into recipe and overrides.
take_recipe() {
    recipe=${rest[0]-}
    [[ -n $recipe ]] || fail "RECIPE is missing: the name of a shipped recipe or a YAML file; --help tells more"
    overrides=("${rest[@]:1}")
    check_overrides
}

check_overrides() {
    local override
    for override in ${overrides[@]+"${overrides[@]}"}; do
        [[ $override != -* ]] || fail "$override: options come before RECIPE and before key.path=value"
        [[ $override == *=* ]] || fail "'$override' must read key.path=value"
    done
}

# quote WORDS...: the words as one line that a POSIX shell reads back.
quote() {
    local word line=''
    for word in "$@"; do
        [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]] || word="'${word//\'/\'\\\'\'}'"
        line+=" $word"
    done
    printf '%s\n' "${line# }"
}

# count_gpus: GPUs that Ray will find on this machine, or 1 if it has none: a worker on the CPU.
count_gpus() {
    local count commas
    if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
        commas=${CUDA_VISIBLE_DEVICES//[^,]/}
        count=$((${#commas} + 1))
    else
        count=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ') || count=1
    fi
    printf '%s\n' "$count"
}

activate() {
    [[ -f $venv/bin/activate ]] ||
        fail "$venv is no environment; make it: REASONER_RL_EXTRAS=cluster,vllm source scripts/env.sh"
    # shellcheck disable=SC1091
    source "$venv/bin/activate"
}

# of_cluster KEY: cluster.KEY of what `reasoner-rl config show` prints, from standard input.
of_cluster() { sed -n "/^cluster:/,/^[^ ]/s/^  $1: //p"; }

# below_cluster SECTION KEY: cluster.SECTION.KEY of the same.
below_cluster() { sed -n "/^cluster:/,/^[^ ]/{/^  $1:/,/^  [^ ]/s/^    $2: //p}"; }

# machines_apart: the number of machines for generation alone, of what `reasoner-rl config show` prints, from standard input.
machines_apart() {
    local nodes
    nodes=$(below_cluster generation nodes)
    printf '%s\n' "${nodes:-0}"
}

# show_recipe: the recipe with the overrides. of_recipe KEY: what it has for cluster.KEY.
show_recipe() {
    reasoner-rl config show "$recipe" cluster.kind=ray cluster.address=auto ${overrides[@]+"${overrides[@]}"}
}
of_recipe() { show_recipe | of_cluster "$1"; }

# plan: for a dry run, which needs neither GPUs nor machines: finds reasoner-rl, and without --workers and without GPUs here
# takes the number of workers from the recipe.
plan() {
    command -v reasoner-rl >/dev/null || activate
    if [[ -z $workers && -z ${CUDA_VISIBLE_DEVICES-} ]] && ! nvidia-smi -L >/dev/null 2>&1; then
        workers=$(of_recipe workers_per_node)
    fi
}

# check_plan COMMAND...: runs `reasoner-rl config show`, which refuses what the run would refuse, and in a dry run prints
# what the recipe comes to per step, as comments.
check_plan() {
    shown=$("$@")
    if [[ -n $dry_run ]]; then sed -n '/^# /p' <<<"$shown"; fi
}

# check_machines COUNT "WHAT HAS THEM" "HOW TO HAVE N" COMMAND...: check_plan, which also refuses a recipe that wants another
# number of machines. In a recipe cluster.nodes=1 is the default and leaves the number open; in an override it is a choice
# like any other. Machines for generation alone (cluster.generation.nodes) count too.
check_machines() {
    local asked wanted apart has
    asked=$(show_recipe)
    wanted=$(of_cluster nodes <<<"$asked") apart=$(machines_apart <<<"$asked")
    if [[ $wanted == 1 || $((wanted + apart)) == "$1" ]]; then
        check_plan "${@:4}"
        wanted=$(of_cluster nodes <<<"$shown")
        apart=$(machines_apart <<<"$shown")
    fi
    [[ $((wanted + apart)) == "$1" ]] && return
    has="cluster.nodes=$wanted"
    if [[ $apart != 0 ]]; then has+=" and cluster.generation.nodes=$apart"; fi
    fail "the recipe with its overrides has $has, and $2 $1: ${3//N/$((wanted + apart))}, or add cluster.nodes=$(($1 - apart))"
}

# use_token: without a token Ray runs commands from anyone who can reach its port. This makes a token for the run, unless
# RAY_AUTH_MODE=disabled.
use_token() {
    export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}
    export RAY_AUTH_TOKEN=${RAY_AUTH_TOKEN:-$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')}
}

# start_apart COMMAND...: starts it in the background, in a process group of its own, where Ctrl-C in the terminal and its
# closing do not reach it.
start_apart() {
    set -m
    "$@" &
    set +m
}

# drive COMMAND...: runs the driver and returns its status. A signal is passed on, so that the driver saves and ends with
# status 130, and a second one, so that it ends at once. It runs apart, or Ctrl-C would reach it twice.
drive() {
    local status
    pid='' early='' interrupted=''
    trap pass_on INT TERM HUP
    start_apart "$@"
    pid=$!
    if [[ -n $early ]]; then kill -TERM "$pid"; fi
    while true; do
        interrupted='' status=0
        wait "$pid" || status=$?
        # After a signal to this script, wait returns the signal's number while the driver still runs: wait again.
        [[ -n $interrupted ]] || return "$status"
    done
}

pass_on() {
    interrupted=yes
    if [[ -z $pid ]]; then
        early=yes
    else
        kill -TERM "$pid" 2>/dev/null || true
    fi
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0" # run instead of sourced, as with --help: print the text above
fi
