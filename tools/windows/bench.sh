#!/usr/bin/env bash
# Cross-builds the servers of the bench and the package for Windows, optimized, and measures them
# under Wine with this system's load generator: $1 is the virtual environment, $2 its Python 3.11,
# what follows goes to bench/run.py.
set -euo pipefail
venv=$1
python=$2
shift 2
. tools/windows/lane.sh

prepare
cmake --preset release
cmake --build --preset release -j "$(nproc)" --target iocp_load
install_package

start_wine
"$venv/bin/python" bench/run.py --windows "$folder" --binaries build/release/bench "$@"
