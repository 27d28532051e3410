# To be sourced: the steps of the lanes for Windows. `venv` is this system's virtual environment,
# `python` its Python 3.11.
folder=$PWD/build/windows
export WINEPREFIX=$folder/wine
. tools/windows/environment.sh

# Compiler, Wine, a Python for Windows, and OpenSSL.
prepare() {
  "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
    echo "the Windows lane needs Python 3.11, as Debian 12 has it: PYTHON=python3.11" >&2
    exit 1
  }
  tools/bootstrap.sh dpkg-dev g++-mingw-w64-x86-64-posix perl wine wine64
  mkdir -p "$folder"
  tools/windows/python.sh "$folder/python" "$venv/bin/python"
  tools/windows/openssl.sh "$folder/openssl"
}

# Builds what users get, a wheel, and puts it into the Python for Windows. Arguments go to the build:
# `--target _core` leaves out the programs of the bench.
install_package() {
  cmake --preset windows-release -DPython_EXECUTABLE="$PWD/$venv/bin/python" \
    -Dpybind11_DIR="$("$venv/bin/python" -m pybind11 --cmakedir)" \
    -DPython_INCLUDE_DIR="$folder/python/include" \
    -DPython_LIBRARY="$folder/python/libs/libpython311.a" -DPYTHON_MODULE_EXTENSION=.pyd
  cmake --build --preset windows-release -j "$(nproc)" "$@"
  tools/windows/wheel.sh "$folder/release" "$venv" "$folder/wheel"
  "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --upgrade \
    --platform win_amd64 --python-version 3.11 --implementation cp --only-binary=:all: \
    --target "$folder/python/Lib/site-packages" "$folder/wheel"/*-win_amd64.whl
}

# Wine's own processes outlive the program that started them, and hold its output: so they are
# started here, with a file for it, and ended when all is done. The folder must be there before.
start_wine() {
  mkdir -p "$WINEPREFIX"
  trap 'wineserver --kill || true' EXIT
  { wineserver --persistent && timeout 300 wine cmd /c exit; } </dev/null >"$folder/wine.log" 2>&1 || {
    echo "Wine does not start; it said:" >&2
    cat "$folder/wine.log" >&2
    exit 1
  }
}
