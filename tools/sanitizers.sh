#!/usr/bin/env bash
# All tests under sanitizers, on every port of this system: the C++ tests through ctest, then the
# Python tests through pytest with the module of the same build. $1 is the virtual environment; the
# rest are the lanes, asan (with ubsan) and tsan, both if none is named. Any report fails, leaks too.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$PWD/$1
shift
lanes=("${@:-asan}")
[ $# -gt 0 ] || lanes=(asan tsan)
here=$PWD/tests/sanitizers
jobs=$(nproc)

# The first report ends the process, which fails.
export ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1:strict_init_order=1:check_initialization_order=1
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1

# The thread sanitizer of gcc 12 finds no room where addresses are random by more than 28 bits.
fixed_addresses=()
[ "$(cat /proc/sys/vm/mmap_rnd_bits)" -le 28 ] || fixed_addresses=(setarch --addr-no-randomize)

for lane in "${lanes[@]}"; do
  build=$PWD/build/$lane
  echo "==== $lane: build"
  "${fixed_addresses[@]}" cmake --preset "$lane" -DIOCP_BUILD_PYTHON=ON \
    -DPython_EXECUTABLE="$venv/bin/python" \
    -Dpybind11_DIR="$("$venv/bin/python" -m pybind11 --cmakedir)" >/dev/null
  "${fixed_addresses[@]}" cmake --build --preset "$lane" -j "$jobs"

  echo "==== $lane: C++"
  # The simulation has one thread: nothing for tsan.
  "${fixed_addresses[@]}" ctest --preset "$lane" -j "$jobs" --progress

  echo "==== $lane: Python"
  rm -rf "$build/python"
  cmake --install "$build" --component python --prefix "$build/python" >/dev/null
  cp -r python/iocp_bind/. "$build/python/iocp_bind/"
  # Python itself is not built with the sanitizer, so its run-time comes first; libstdc++ with it,
  # which it looks for at the start. Python's own allocator would hide its blocks.
  runtime=$(g++ -print-file-name="lib$lane.so"):$(g++ -print-file-name=libstdc++.so)
  "${fixed_addresses[@]}" env LD_PRELOAD="$runtime" PYTHONMALLOC=malloc \
    PYTHONPATH="$build/python:$here" \
    "$venv/bin/python" -m pytest -p sanitized ${PYTEST_ARGS:-}
done
