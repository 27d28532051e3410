#!/usr/bin/env bash
# Runs a Windows program under Wine, in the prefix that WINEPREFIX names. Wine wants no file as
# standard input or output, so there is nothing to read, and a pipe to write to.
set -euo pipefail
: "${WINEPREFIX:?names the folder of a Windows of its own}"
export WINEPREFIX
. "$(dirname "$0")/environment.sh"
wine "$@" </dev/null 2>&1 | cat
