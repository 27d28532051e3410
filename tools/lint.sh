#!/usr/bin/env bash
# Every linter over everything; $1 is the virtual environment, $2 a build folder with
# compile_commands.json. Stops at the first that complains.
set -euo pipefail
venv=$1
build=$2
mapfile -t cpp < <(git ls-files '*.cpp' '*.h' '*.c')
mapfile -t sources < <(git ls-files 'cpp/*.cpp' 'python/bindings/*.cpp')

echo "clang-format"
"$venv/bin/clang-format" --dry-run -Werror "${cpp[@]}"
echo "clang-tidy"
# Those of Windows are in no command here: tools/windows/test.sh looks at them.
"$venv/bin/python" tools/tidy.py "$venv/bin/clang-tidy" "$build" "${sources[@]}"
echo "ruff"
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
echo "mypy --strict"
"$venv/bin/mypy" python/iocp_bind
"$venv/bin/mypy" examples/*.py bench/*.py bench/servers/*.py
"$venv/bin/mypy" tests/python
MYPYPATH=tests/python "$venv/bin/mypy" tools/*.py
"$venv/bin/mypy" tests/sanitizers/*.py
"$venv/bin/mypy" tests/soak
echo "pyright"
"$venv/bin/pyright" --pythonpath "$venv/bin/python"
