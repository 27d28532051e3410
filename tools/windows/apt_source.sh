#!/usr/bin/env bash
# Downloads Debian's source package $1 into the folder $2; what follows goes to apt: with --tar-only
# the upstream tarball comes alone. apt does it, with this system's configuration, so mirrors, proxies
# and keys are those of its packages. Needs no root: the package lists, and the sources as entries of
# type deb-src, live in a temporary folder.
set -euo pipefail
package=$1
folder=$2
shift 2
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT

mkdir -p "$state"/{lists/partial,cache/archives/partial,parts}
eval "$(apt-config shell list Dir::Etc::sourcelist/f parts Dir::Etc::sourceparts/d)"
# Both formats: lines that begin with "deb", and stanzas with "Types: deb".
for file in "$list" "$parts"/*.list "$parts"/*.sources; do
  [ -e "$file" ] || continue
  sed -E 's/^[[:space:]]*deb([[:space:]])/deb-src\1/; s/^Types:.*/Types: deb-src/I' "$file" \
    >"$state/parts/${file##*/}"
done
apt=(apt-get -q -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$state/parts"
  -o Dir::State::lists="$state/lists" -o Dir::Cache="$state/cache" -o APT::Sandbox::User="$(id -un)")
# A repository without sources is no reason to give up: the package decides.
"${apt[@]}" update >"$state/log" 2>&1 || true
(cd "$folder" && "${apt[@]}" source --download-only --only-source "$@" "$package") \
  >>"$state/log" 2>&1 || {
  cat "$state/log" >&2
  exit 1
}
