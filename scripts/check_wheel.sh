#!/usr/bin/env bash
# Builds the source distribution and from it the wheel, compares their files with the repository's, installs the wheel into
# a new virtual environment outside the repository, and tries it from an empty folder. What git tracks is what is built.
#
#   bash scripts/check_wheel.sh [--offline] [FOLDER]
#   bash scripts/check_wheel.sh --help
#
#   FOLDER      where the two files are left if nothing is wrong, such as dist; they are deleted unless it is given
#   --offline   fetch nothing: build with the setuptools of the active environment, and see its other packages. Without
#               it everything is installed from the package index, torch in the version of scripts/constraints.txt (on
#               Linux without a GPU set PIP_EXTRA_INDEX_URL, as for scripts/env.sh)
#
# `python` must be that of an environment with the extra dev. The exit status is 1 if something is wrong.

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/options.sh
source "$root/scripts/options.sh"
check_options "--offline" "$@"
offline='' out=''
for word in "$@"; do
    if [[ $word == --offline ]]; then offline=yes; else out=$(realpath -m -- "$word"); fi
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH # which may name the repository
export LC_ALL=C PIP_DISABLE_PIP_VERSION_CHECK=1

fail() {
    printf 'check_wheel: %s\n' "$*" >&2
    exit 1
}

# quietly COMMAND...: shows what it printed only if it fails.
quietly() {
    "$@" >"$work/output" 2>&1 || {
        cat "$work/output" >&2
        fail "this command failed: $*"
    }
}

# In a copy, since setuptools leaves folders beside what it builds and takes up what an earlier build left there.
build() {
    local isolation=()
    if [[ -n $offline ]]; then isolation=(--no-isolation); fi
    mkdir "$work/tree"
    git -C "$root" ls-files -z | tar -C "$root" -c --null -T - | tar -C "$work/tree" -x
    quietly python -m build ${isolation[@]+"${isolation[@]}"} --outdir "$work/built" "$work/tree"
    sdist=$(echo "$work"/built/*.tar.gz) wheel=$(echo "$work"/built/*.whl)
    git -C "$root" ls-files reasoner_rl reward_fns | sort >"$work/tracked"
}

# same_files NAME: the paths on standard input are the files that git tracks in the packages' folders.
same_files() {
    sort >"$work/found"
    if diff "$work/tracked" "$work/found" >"$work/different"; then return; fi
    sed -n 's/^</missing:/p; s/^>/too much:/p' "$work/different" >&2
    fail "the files of the $1 are not those that git tracks in reasoner_rl/ and reward_fns/; see package-data in pyproject.toml"
}

check_files() {
    python -m zipfile -l "$wheel" | awk 'NR > 1 && $1 !~ /\.dist-info\// {print $1}' | same_files wheel
    tar -tzf "$sdist" | cut -d / -f 2- | grep -E '/.*[^/]$' | grep -v '^reasoner_rl\.egg-info/' |
        same_files "source distribution"
    echo "check_wheel: $(wc -l <"$work/tracked") files of the packages are in both, and none of another folder"
}

install() {
    local pip=("$work/venv/bin/python" -m pip)
    if [[ -n $offline ]]; then
        python -m venv --without-pip "$work/venv"
        pip=(python -m pip --python "$work/venv/bin/python")
        # Folders that a .pth file names are searched last, and .pth files in them, as of an editable installation, ignored.
        python -c 'import sys; print(*[path for path in sys.path if path.endswith("-packages")], sep="\n")' \
            >"$(site_packages)/of_the_active_environment.pth"
        quietly "${pip[@]}" install --no-index --no-deps "$wheel"
    else
        python -m venv "$work/venv"
        quietly "${pip[@]}" install "$(grep '^torch==' "$root/scripts/constraints.txt")"
        quietly "${pip[@]}" install "$wheel"
        quietly "${pip[@]}" check
    fi
}

site_packages() { "$work/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }

try() {
    local version recipes
    version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$root/pyproject.toml")
    recipes=$(grep -c '^reasoner_rl/recipes/.*\.yaml$' "$work/tracked")
    mkdir "$work/empty"
    cd "$work/empty"
    PATH=$work/venv/bin:$PATH

    python - "$(site_packages)" <<'EOF' || fail "importing the packages failed"
import sys

import reasoner_rl
import reward_fns

for package in (reasoner_rl, reward_fns):
    if not package.__file__.startswith(sys.argv[1]):
        sys.exit(f"{package.__file__} is not in the new environment")
if not reward_fns.verify_math(r"\boxed{17}", "17").correct:
    sys.exit("verify_math refuses 17 for 17")
EOF
    [[ $(reasoner-rl --version) == "reasoner-rl $version" ]] || fail "reasoner-rl --version does not print $version"
    [[ $(reasoner-rl config | wc -l) == "$recipes" ]] || fail "reasoner-rl config does not list $recipes recipes"
    quietly reasoner-rl config show quickstart
    grep -q '^recipe: online' "$work/output" || fail "reasoner-rl config show quickstart does not show an online recipe"
    quietly reasoner-rl data generate countdown --train 5 --heldout 2 --out problems
    [[ $(cat problems/*.jsonl | wc -l) == 7 ]] || fail "reasoner-rl data generate countdown did not write 7 problems"
    if [[ -z $offline ]]; then quietly reasoner-rl doctor; fi
    echo "check_wheel: version $version installed in an environment of its own works"
}

build
check_files
install
(try)
if [[ -n $out ]]; then
    mkdir -p "$out"
    mv "$sdist" "$wheel" "$out"
    echo "check_wheel: $out has $(basename "$sdist") and $(basename "$wheel")"
fi
