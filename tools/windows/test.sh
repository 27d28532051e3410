#!/usr/bin/env bash
# Cross-builds tests and wheel for Windows and runs both under Wine: the C++ tests, and the Python
# tests in a real CPython for Windows. $1 is this system's virtual environment, $2 its Python 3.11.
set -euo pipefail
venv=$1
python=$2
folder=$PWD/build/windows
export WINEPREFIX=$folder/wine

"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
  echo "the Windows lane needs Python 3.11, as Debian 12 has it: make test-windows PYTHON=python3.11" >&2
  exit 1
}
tools/bootstrap.sh g++-mingw-w64-x86-64-posix wine wine64
mkdir -p "$folder"
tools/windows/python.sh "$folder/python" "$venv/bin/python"
tools/windows/packages.sh "$folder/python" "$venv"

cmake --preset windows -DPython_EXECUTABLE="$PWD/$venv/bin/python" \
  -Dpybind11_DIR="$("$venv/bin/python" -m pybind11 --cmakedir)" \
  -DPython_INCLUDE_DIR="$folder/python/include" \
  -DPython_LIBRARY="$folder/python/libs/libpython311.a" -DPYTHON_MODULE_EXTENSION=.pyd
# clang-tidy for what only Windows has; clang does not know one option that CMake gives GCC.
mkdir -p "$folder/tidy"
sed 's/-fno-keep-inline-dllexport//' "$folder/cpp/compile_commands.json" \
  >"$folder/tidy/compile_commands.json"
printf '%s\0' cpp/port/{iocp_*,windows_net,port_kinds_windows}.cpp |
  xargs -0 -n 1 -P "$(nproc)" "$venv/bin/clang-tidy" --quiet -p "$folder/tidy" 2>/dev/null
cmake --build --preset windows -j "$(nproc)"
tools/windows/wheel.sh "$folder/cpp" "$venv" "$folder/wheel"
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --upgrade \
  --platform win_amd64 --python-version 3.11 --implementation cp --only-binary=:all: \
  --target "$folder/python/Lib/site-packages" "$folder"/wheel/*-win_amd64.whl

# Wine's own processes outlive the program that started them, and hold its output: so they are
# started here, with a file for it, and ended when all is done. The folder must be there before.
mkdir -p "$WINEPREFIX"
trap 'wineserver --kill || true' EXIT
{ wineserver --persistent && timeout 300 wine cmd /c exit; } </dev/null >"$folder/wine.log" 2>&1 || {
  echo "Wine does not start; it said:" >&2
  cat "$folder/wine.log" >&2
  exit 1
}
ctest --preset windows
tools/windows/run.sh "$folder/python/python.exe" -m pytest -p no:cacheprovider ${PYTEST_ARGS:-}
