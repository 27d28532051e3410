#!/usr/bin/env bash
# Builds OpenSSL for Windows, as static libraries, from Debian's source package, and makes the folder
# $1 a link to it. Each version is built once: what is built is kept in
# ${XDG_CACHE_HOME:-~/.cache}/iocp_bind.
set -euo pipefail
link=$1
cache=${XDG_CACHE_HOME:-$HOME/.cache}/iocp_bind
scratch=$(mktemp -d)
staging=
trap 'rm -rf "$scratch" ${staging:+"$staging"}' EXIT

cached() { # VERSION: where it is once it is built, by this recipe
  echo "$cache/openssl_$1-mingw64-$(sha256sum "$0" | cut -c 1-16)"
}

# The version that this system's programs have, so that a security update reaches both.
version=$(dpkg-query -W -f '${source:Version}' libssl-dev)
target=$(cached "$version")
# Some mirrors have a new tarball before Debian's corrections: a day later they are looked for again.
upstream=$(cached "$version-upstream")
if [ ! -e "$target" ] && [ -n "$(find "$upstream" -maxdepth 0 -mtime -1 2>/dev/null)" ]; then
  target=$upstream
fi
if [ ! -e "$target" ]; then
  if tools/windows/apt_source.sh openssl "$scratch"; then
    source=$(echo "$scratch"/openssl_*.dsc)
  else
    source=$(echo "$scratch"/openssl_*.orig.tar.gz)
    [ -e "$source" ] || exit 1
    echo "OpenSSL for Windows: from the upstream tarball alone, without Debian's corrections" >&2
    target=$upstream
    [ ! -e "$target" ] || touch "$target"
  fi
fi

build() { # into $staging, from $source
  local tool=x86_64-w64-mingw32
  # apt has checked the signature.
  case $source in
    *.dsc) dpkg-source --no-check --extract "$source" "$scratch/source" ;;
    *) mkdir "$scratch/source" && tar -C "$scratch/source" --strip-components=1 -xf "$source" ;;
  esac &&
    cd "$scratch/source" &&
    # Programs carry it with them: at run-time it looks for no module and no file, wherever the
    # folder that it calls its own may be.
    CC="ccache $tool-gcc-posix" AR=$tool-ar RANLIB=$tool-ranlib RC=$tool-windres \
      ./Configure mingw64 no-shared no-module no-dso no-engine no-legacy no-tests no-autoload-config \
      no-idea no-camellia no-seed no-rc2 no-rc4 no-bf no-cast no-des no-md4 no-mdc2 no-whirlpool \
      --prefix=/openssl --libdir=lib &&
    make -j "$(nproc)" build_libs &&
    make install_dev DESTDIR="$staging"
}

if [ ! -e "$target" ]; then
  echo "OpenSSL for Windows: building $(basename "$source")"
  mkdir -p "$cache"
  staging=$(mktemp -d "$cache/openssl.XXXXXX")
  (build) >"$scratch/log" 2>&1 || {
    tail -n 50 "$scratch/log" >&2
    exit 1
  }
  # Whole or not at all; of two that build it at a time the first one wins.
  mv --no-target-directory "$staging/openssl" "$target" 2>/dev/null || [ -e "$target" ]
fi
ln -sfn "$target" "$link"
