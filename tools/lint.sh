#!/usr/bin/env bash
# Every linter over everything; $1 is the virtual environment, $2 a build folder with
# compile_commands.json. Stops at the first that complains.
set -euo pipefail
venv=$1
build=$2
mapfile -t cpp < <(git ls-files '*.cpp' '*.h' '*.c')
mapfile -t headers < <(git ls-files 'cpp/*.h' 'python/bindings/*.h')
mapfile -t sources < <(git ls-files 'cpp/*.cpp' 'python/bindings/*.cpp')

echo "clang-format"
"$venv/bin/clang-format" --dry-run -Werror "${cpp[@]}"
# Only what changed since it was last found good: a source, or any header.
newest=$(ls -t .clang-tidy "${headers[@]}" | head -n 1)
stale=()
for source in "${sources[@]}"; do
  # Those of Windows are in no command here: tools/windows/test.sh looks at them.
  grep -q "/$source\"" "$build/compile_commands.json" || continue
  stamp="$build/tidied/$source"
  [[ $stamp -nt $source && $stamp -nt $newest ]] || stale+=("$source")
done
echo "clang-tidy: ${#stale[@]} of ${#sources[@]} sources"
if [ ${#stale[@]} -gt 0 ]; then
  printf '%s\0' "${stale[@]}" | xargs -0 -n 1 -P "$(nproc)" bash -c '
    echo "  $2"
    "$0" --quiet -p "$1" "$2" 2>/dev/null || exit 1
    mkdir -p "$1/tidied/$(dirname "$2")" && touch "$1/tidied/$2"' "$venv/bin/clang-tidy" "$build"
fi
echo "ruff"
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
echo "mypy --strict"
"$venv/bin/mypy" python/iocp_bind
"$venv/bin/mypy" examples/*.py bench/*.py bench/servers/*.py
"$venv/bin/mypy" tests/python
MYPYPATH=tests/python "$venv/bin/mypy" tools/mutants.py
"$venv/bin/mypy" tests/sanitizers/*.py
"$venv/bin/mypy" tests/soak
echo "pyright"
"$venv/bin/pyright" --pythonpath "$venv/bin/python"
