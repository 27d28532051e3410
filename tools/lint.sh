#!/usr/bin/env bash
# Every linter over everything; $1 is the virtual environment, $2 a build folder with
# compile_commands.json. Stops at the first that complains.
set -euo pipefail
venv=$1
build=$2
mapfile -t cpp < <(git ls-files '*.cpp' '*.h' '*.c')
mapfile -t tidied < <(git ls-files 'cpp/*.cpp' 'python/bindings/*.cpp')

echo "clang-format"
"$venv/bin/clang-format" --dry-run -Werror "${cpp[@]}"
echo "clang-tidy"
printf '%s\0' "${tidied[@]}" |
  xargs -0 -n 1 -P "$(nproc)" "$venv/bin/clang-tidy" --quiet -p "$build" 2>/dev/null
echo "ruff"
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
echo "mypy --strict"
"$venv/bin/mypy" python/iocp_bind
"$venv/bin/mypy" examples/*.py bench/*.py bench/servers/*.py
"$venv/bin/mypy" tests/python
