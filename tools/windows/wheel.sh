#!/usr/bin/env bash
# Makes a wheel for CPython 3.11 on Windows in the folder $3, of the module that was cross-built in $1
# with the environment $2: what `pip wheel` makes on Windows itself.
set -euo pipefail
build=$1
venv=$2
folder=$3
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT

"$venv/bin/python" -c '
import sys
from scikit_build_core.build import prepare_metadata_for_build_wheel
prepare_metadata_for_build_wheel(sys.argv[1])' "$stage" >/dev/null
sed -i -E 's/^Tag: .*/Tag: cp311-cp311-win_amd64/' "$stage"/*.dist-info/WHEEL
cp -r python/iocp_bind "$stage"
find "$stage" -name __pycache__ -exec rm -rf {} +
cmake --install "$build" --component python --prefix "$stage" --strip >/dev/null
rm -f "$folder"/*-win_amd64.whl
mkdir -p "$folder"
"$venv/bin/python" -m wheel pack --dest-dir "$folder" "$stage"
