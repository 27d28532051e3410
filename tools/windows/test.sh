#!/usr/bin/env bash
# Cross-builds tests and wheel for Windows and runs both under Wine: the C++ tests, and the Python
# tests in a real CPython for Windows. FULL=1 adds the long loads. $1 is this system's virtual
# environment, $2 its Python 3.11.
set -euo pipefail
venv=$1
python=$2
. tools/windows/lane.sh
. tools/repeat.sh

prepare
tools/windows/packages.sh "$folder/python" "$venv"

cmake --preset windows
# clang-tidy for what only Windows has; clang does not know one option that CMake gives GCC.
mkdir -p "$folder/tidy"
sed 's/-fno-keep-inline-dllexport//' "$folder/cpp/compile_commands.json" \
  >"$folder/tidy/compile_commands.json"
"$venv/bin/python" tools/tidy.py "$venv/bin/clang-tidy" "$folder/tidy" \
  cpp/{base,stage/tls}/*_windows.cpp cpp/port/{iocp/*,common/windows_net,port_kinds_windows}.cpp
cmake --build --preset windows -j "$(nproc)"
install_package --target _core

# trustme needs more of Windows than Wine 8 has, so the certificates of the tests are made here.
certificates=$folder/certificates
rm -rf "$certificates"
"$venv/bin/python" tests/python/support/certificates.py "$certificates"

start_wine
# These take minutes under Wine, and are proven on every change on this system's own ports.
loads=(--label-exclude '^slow$')
slow=()
[ -z "${FULL:-}" ] || {
  loads=()
  slow=(-m "slow or not slow")
}
repeatable --rerun-failed env "WINEPREFIX=$WINEPREFIX" ctest --preset windows "${loads[@]}"
# Named with its drive, as some tests work on another one.
repeatable "" env "WINEPREFIX=$WINEPREFIX" "IOCP_BIND_TEST_CERTIFICATES=Z:$certificates" \
  tools/windows/run.sh "$folder/python/python.exe" \
  -m pytest -p no:cacheprovider "${slow[@]}" ${PYTEST_ARGS:-}
