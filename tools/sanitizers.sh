#!/usr/bin/env bash
# All tests under sanitizers: the C++ tests through ctest, then the Python tests through pytest with
# the module of the same build. $1 is the virtual environment; the rest are what to build with, asan
# (and ubsan) or tsan. TESTS names some of the programs of tests/cpp; all of them without it.
# PYTEST_ARGS picks Python tests. Any report of any process fails, a leak too, and ends with the
# command that repeats the failure.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/repeat.sh
venv=$PWD/$1
jobs=$(nproc)

# The thread sanitizer of gcc 12 finds no room where addresses are random by more than 28 bits.
fixed=()
[ "$(cat /proc/sys/vm/mmap_rnd_bits)" -le 28 ] || fixed=(setarch --addr-no-randomize)

# For both. When a thread's variables of a loaded module lie at an address that ends in 010, the
# run-time of gcc 12 takes the 16 bytes before them for glibc's note of their place and size. Newer
# glibcs write no such note. The leak check would then read any place, and the thread sanitizer
# would clear it.
both=intercept_tls_get_addr=0
# The first report ends its process.
asan=$both:detect_stack_use_after_return=1:strict_init_order=1:check_initialization_order=1
lsan=suppressions=$PWD/tests/sanitizers/lsan.supp:print_suppressions=0
ubsan=print_stacktrace=1
tsan=$both:second_deadlock_stack=1:halt_on_error=1
tsan+=:suppressions=$PWD/tests/sanitizers/tsan.supp

build_all() {
  "${fixed[@]}" cmake --preset "$1" -DIOCP_BUILD_PYTHON=ON -DPython_EXECUTABLE="$venv/bin/python" \
    -Dpybind11_DIR="$("$venv/bin/python" -m pybind11 --cmakedir)"
  "${fixed[@]}" cmake --build --preset "$1" -j "$jobs" ${TESTS:+--target _core $TESTS}
}

test_cpp() {
  repeatable --rerun-failed \
    env "ASAN_OPTIONS=$asan" "UBSAN_OPTIONS=$ubsan" "TSAN_OPTIONS=$tsan" \
    "${fixed[@]}" ctest --preset "$1" -j "$jobs" ${TESTS:+-L "^(${TESTS// /|})\$"}
}

test_python() {
  local build=$PWD/build/$1 passed=0
  rm -rf "$build/python" "$build/reports"
  mkdir -p "$build/reports"
  cmake --install "$build" --component python --prefix "$build/python"
  cp -r python/iocp_bind/. "$build/python/iocp_bind/"
  # Python itself is not built with the sanitizer, whose run-time therefore has to come first, and
  # to find libstdc++ there. Its own allocator would hide blocks. Reports go to files, as tests keep
  # what their children say; but those of ubsan, which knows no files here: pytest must not keep what
  # its own process says. The leak check is tests/sanitizers/sitecustomize.py's.
  local log=log_path=$build/reports/report
  local python=(env "ASAN_OPTIONS=$asan:$log:leak_check_at_exit=0" "LSAN_OPTIONS=$lsan"
    "UBSAN_OPTIONS=$ubsan" "TSAN_OPTIONS=$tsan:$log" PYTHONMALLOC=malloc
    "PYTHONPATH=$build/python:$PWD/tests/sanitizers"
    "LD_PRELOAD=$(g++ -print-file-name="lib$1.so"):$(g++ -print-file-name=libstdc++.so)"
    "${fixed[@]}" "$venv/bin/python")
  if [ "$1" = asan ]; then
    "${python[@]}" -c 'import ctypes; [ctypes.CDLL(None).malloc(n) for n in range(1, 100)]' || true
    rm "$build"/reports/* || {
      echo "a planted leak was not reported" >&2
      return 1
    }
  fi
  local tests=("${python[@]}" -m pytest -p sanitized --capture=sys -m "" ${PYTEST_ARGS:-})
  "${tests[@]}" || passed=$?
  if compgen -G "$build/reports/*" >/dev/null; then
    cat "$build"/reports/*
    passed=1
  fi
  [ $passed -eq 0 ] || how_to_repeat "${tests[@]}"
  return $passed
}

for sanitizer in "${@:2}"; do
  for step in build_all test_cpp test_python; do
    echo "==== $sanitizer: $step"
    $step "$sanitizer"
  done
done
