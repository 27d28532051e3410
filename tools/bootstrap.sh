#!/usr/bin/env bash
# Installs the Debian packages that building and testing needs, and those named as arguments, where
# they are missing and it may; where it may not, names them.
set -euo pipefail

packages=(g++ ccache make cmake ninja-build pkg-config liburing-dev libgtest-dev libssl-dev python3
  python3-venv python3-dev curl gnutls-bin openssl redis-tools sslscan testssl.sh valgrind "$@")

if ! command -v dpkg-query >/dev/null; then
  echo "Not a Debian system: see to it that what Debian calls ${packages[*]} is installed." >&2
  exit 0
fi
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
    missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  exit 0
fi

if [ "$(id -u)" -eq 0 ]; then
  as_root=()
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
  as_root=(sudo -n)
else
  echo "These Debian packages are missing, and installing them needs root:" >&2
  echo "    apt-get install ${missing[*]}" >&2
  exit 1
fi
echo "installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -q
"${as_root[@]}" apt-get install -q -y --no-install-recommends "${missing[@]}"
