#!/usr/bin/env bash
# Makes the virtual environment $1 with $2 as its Python, or brings it up to date with the
# requirements in $3. Quick when nothing changed.
set -euo pipefail
venv=$1
python=$2
requirements=$3

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
  echo "$python is older than Python 3.10; name another one: make PYTHON=python3.11 ..." >&2
  exit 1
}
# pip is the last thing to arrive in a new environment.
if [ ! -x "$venv/bin/pip" ]; then
  echo "making the virtual environment $venv"
  "$python" -m venv --clear "$venv"
fi
stamp="$venv/$requirements.stamp"
if ! cmp -s "$requirements" "$stamp"; then
  echo "installing $requirements into $venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$requirements"
  cp "$requirements" "$stamp"
fi
