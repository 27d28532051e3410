#!/usr/bin/env bash
# `pip install .` with nothing but what build isolation brings, without io_uring and TLS, in an
# environment of its own; $1 is the Python. The package must say what it lacks, and work.
set -euo pipefail
python=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --disable-pip-version-check -v \
  --config-settings=cmake.define.IOCP_URING=OFF --config-settings=cmake.define.IOCP_TLS=OFF \
  --config-settings=build-dir="$folder/build" . >"$folder/log" 2>&1 || {
  tail -n 50 "$folder/log" >&2
  exit 1
}
for what in 'building with epoll only' 'building without TLS'; do
  grep -q "$what" "$folder/log" || {
    echo "the build did not say: $what" >&2
    exit 1
  }
done
cd "$folder"
venv/bin/python -m iocp_bind info | tee info
grep -q 'io_uring *no: not compiled in: .*liburing-dev' info
grep -q 'TLS: no: not compiled in: .*libssl-dev' info
venv/bin/python -c '
import iocp_bind
try:
    iocp_bind.TLS("cert.pem", "key.pem")
except RuntimeError as error:
    assert iocp_bind.tls_library().reason in str(error)
else:
    raise SystemExit("a TLS was made without a library")
'
venv/bin/python -m iocp_bind demo
