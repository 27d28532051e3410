#!/usr/bin/env bash
# Which lines and branches of cpp/ all the tests take: the C++ ones and, with a module that counts,
# the Python ones. $1 is the virtual environment. The summary is printed, and stands line by line in
# build/coverage/html. Ends with an error below 95 % of lines or 85 % of branches.
#
# Not counted: the files of Windows, which this system cannot run; branches that only an exception
# takes, as nearly every call has one in gcov's eyes; those of asserts, which must never be taken.
# Nothing is inlined (CMakePresets.json): gcov would count a branch once for each place it is in.
# The cost of a message is not measured here, as the counting would cost more. The protections of a
# release are not checked, as this build is none.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/repeat.sh
venv=$(realpath "$1")
build=build/coverage

cmake --preset coverage -DPython_EXECUTABLE="$venv/bin/python" \
  -Dpybind11_DIR="$("$venv/bin/python" -m pybind11 --cmakedir)" >/dev/null
cmake --build --preset coverage -j "${JOBS:-$(nproc)}"
find $build -name '*.gcda' -delete

repeatable --rerun-failed ctest --preset coverage -j "${JOBS:-$(nproc)}"

# The package as it is here, with the module that counts.
rm -rf $build/python
mkdir -p $build/python
cp -r python/iocp_bind $build/python/
cp $build/_core.*.so $build/python/iocp_bind/
repeatable "" env "PYTHONPATH=$PWD/$build/python" "$venv/bin/python" -m pytest -q -p no:cacheprovider -m "" \
  --ignore tests/python/test_cost.py --ignore tests/python/test_hardening.py

rm -rf $build/html
mkdir $build/html
repeatable "" "$venv/bin/gcovr" --root . --object-directory $build --filter 'cpp/' \
  --exclude 'cpp/port/(iocp/.*|common/windows_net|port_kinds_windows)\.(cpp|h)' \
  --gcov-ignore-errors=no_working_dir_found --exclude-throw-branches --exclude-unreachable-branches \
  --exclude-branches-by-pattern '\s*assert\(' \
  --txt-metric line --txt $build/lines.txt --json $build/coverage.json \
  --html-details $build/html/index.html \
  --print-summary --fail-under-line 95 --fail-under-branch 85 $build
