"""nginx with TLS: the path of a GET comes back as the body, over connections that stay open.

python echo_nginx.py --tls FILE prints "listening PORT" and becomes nginx, one process that ends at
SIGTERM. The exit code is 77, with the reason on stderr, when nginx is not installed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path

CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr error;
events {{
  worker_connections 8192;
}}
http {{
  access_log off;
  server_tokens off;
  keepalive_requests 1000000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} ssl backlog=1024;
    ssl_certificate {certificate};
    ssl_certificate_key {certificate};
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache off;
    ssl_conf_command NumTickets 1;
    location / {{
      return 200 $request_uri;
    }}
  }}
}}
"""


def announce(port: int) -> None:
    """Say where nginx listens, once it does."""
    until = time.monotonic() + 10.0
    while time.monotonic() < until:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
            print("listening", port, flush=True)
            return
        time.sleep(0.01)


def main() -> None:
    """Choose a port, and become nginx."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tls", type=Path, required=True)
    options = parser.parse_args()
    program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        print("nginx is not installed (apt-get install nginx-light)", file=sys.stderr)
        sys.exit(77)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    # Beside the certificate, which goes when the bench ends.
    folder = tempfile.mkdtemp(prefix="nginx", dir=options.tls.resolve().parent)
    Path(folder).chmod(0o711)
    configuration = Path(folder) / "nginx.conf"
    text = CONFIGURATION.format(folder=folder, port=port, certificate=options.tls.resolve())
    configuration.write_text(text, encoding="utf-8")
    if os.fork() == 0:
        announce(port)
        return
    os.execv(program, [program, "-p", folder, "-c", str(configuration)])


if __name__ == "__main__":
    main()
