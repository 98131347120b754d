#!/usr/bin/env bash
# What a script does with its options before it installs anything. To be sourced:
#
#   source scripts/options.sh
#   check_options "--seed --out" "$@"
#
# -h and --help print the comment at the head of the script that calls it, and end it. An option that is not among the
# names ends it with status 2. Values are left to the Python program that gets the same arguments.

check_options() {
    local names=" $1 " word
    shift
    for word in "$@"; do
        case $word in
            -h | --help)
                sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
                exit 0
                ;;
            -- | -[0-9]*) ;; # the end of options; a value
            -*)
                if [[ $names != *" ${word%%=*} "* ]]; then
                    printf 'error: unknown option %s; --help lists the options\n' "$word" >&2
                    exit 2
                fi
                ;;
        esac
    done
}
