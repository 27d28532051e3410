#!/usr/bin/env bash
# Builds OpenSSL for Windows, as static libraries, from Debian's source package, and makes the folder
# $1 a link to it. It is built once for each version: what is built is kept in
# ${XDG_CACHE_HOME:-~/.cache}/iocp_bind.
set -euo pipefail
link=$1
cache=${XDG_CACHE_HOME:-$HOME/.cache}/iocp_bind
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# The version is that of the day, so a security update comes with the next build. apt has checked the
# signature.
tools/windows/apt_source.sh openssl "$folder"
tarball=$(echo "$folder"/openssl_*.orig.tar.gz)
target=$cache/$(basename "$tarball" .orig.tar.gz)-mingw64-$(sha256sum "$0" | cut -c 1-16)
if [ ! -e "$target/lib/libssl.a" ]; then
  mkdir -p "$folder/source"
  tar -C "$folder/source" --strip-components=1 -xf "$tarball"
  echo "OpenSSL for Windows: building $(basename "$target")"
  (
    cd "$folder/source"
    tool=x86_64-w64-mingw32
    # Programs carry it with them: no module, file or table of its own is looked for at run-time.
    CC="ccache $tool-gcc-posix" AR=$tool-ar RANLIB=$tool-ranlib RC=$tool-windres \
      ./Configure mingw64 no-shared no-module no-dso no-engine no-legacy no-tests no-autoload-config \
      no-idea no-camellia no-seed no-rc2 no-rc4 no-bf no-cast no-des no-md4 no-mdc2 no-whirlpool \
      --prefix="$target.new" --libdir=lib
    make -j "$(nproc)" build_libs
    rm -rf "$target.new"
    make install_dev
  ) >"$folder/log" 2>&1 || {
    tail -n 50 "$folder/log" >&2
    exit 1
  }
  rm -rf "$target"
  mv "$target.new" "$target"
fi
ln -sfn "$target" "$link"
