#!/usr/bin/env bash
# Makes the virtual environment $1 with $2 as its Python, or brings it up to date with
# requirements-dev.txt. Quick when nothing changed.
set -euo pipefail
venv=$1
python=$2

stamp="$venv/requirements.stamp"
if [ ! -x "$venv/bin/python" ]; then
  "$python" -m venv "$venv"
fi
if ! cmp -s requirements-dev.txt "$stamp"; then
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r requirements-dev.txt
  cp requirements-dev.txt "$stamp"
fi
