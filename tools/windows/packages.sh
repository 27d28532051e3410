#!/usr/bin/env bash
# Puts what the tests need, but for NumPy, which Wine 8 cannot run, into the Windows Python in $1,
# with the pip of the environment $2; what it downloads stays in pip's cache.
set -euo pipefail
python_dir=$1
venv=$2
stamp=$python_dir/packages.stamp
wanted=$(grep -E '^(pytest|pytest-timeout|hypothesis|psutil)==' requirements-dev.txt |
  grep -v 'python_version <' | sed 's/;.*//')
[ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && exit 0
echo "Windows Python: what the tests need"
# colorama: pytest asks for it on Windows only, and pip looks at the system it runs on.
"$venv/bin/pip" install --quiet --disable-pip-version-check --upgrade --platform win_amd64 \
  --python-version 3.11 --implementation cp --only-binary=:all: \
  --target "$python_dir/Lib/site-packages" $wanted typing-extensions colorama
echo "$wanted" >"$stamp"
