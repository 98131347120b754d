#!/usr/bin/env bash
# Builds the documentation site, and fails at a broken link, a page outside the navigation or a heading
# that is linked to and does not exist.
#
#   scripts/site/build.sh [build [FOLDER]]   build into FOLDER, runs/site unless given
#   scripts/site/build.sh serve              serve on http://127.0.0.1:8000, and build again when a page changes
#   scripts/site/build.sh --help
#
# Needs the extra docs: pip install -e '.[docs]'. Nothing is downloaded, and the pages load nothing from elsewhere.

set -euo pipefail

if [[ ${1-} == -h || ${1-} == --help ]]; then
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
    exit 0
fi

out=$(realpath -m "${2-$(dirname "${BASH_SOURCE[0]}")/../../runs/site}")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export NO_MKDOCS_2_WARNING=1 # an advertisement
case ${1-build} in
build) exec python -m mkdocs build --strict --config-file scripts/site/mkdocs.yml --site-dir "$out" ;;
serve) exec python -m mkdocs serve --config-file scripts/site/mkdocs.yml ;;
*)
    echo "build.sh: unknown argument ${1@Q}: build or serve" >&2
    exit 2
    ;;
esac
