"""An echo server with TLS. At SIGHUP it reads its certificate again.

Without --cert it makes a certificate with the program `openssl`, in a temporary folder that goes
when the server ends, and says where. A client must be given that file, as in
``openssl s_client -connect localhost:4567 -CAfile /tmp/.../cert.pem``.
"""

from __future__ import annotations

import argparse
import logging
import signal
import subprocess
import tempfile
from pathlib import Path

import iocp_bind

logger = logging.getLogger("tls_echo")


class Echo(iocp_bind.Server):
    """Sends back what it receives, and says who has come."""

    def on_connection_established(self, conn: iocp_bind.Connection) -> None:
        """Say what TLS has settled; the handshake is done."""
        if conn.tls is not None:
            logger.info("a client with %s and %s", conn.tls.version, conn.tls.cipher)

    def on_read_completed(self, conn: iocp_bind.Connection, data: bytes) -> None:
        """Echo."""
        conn.send(data)


def make_certificate(cert: Path, key: Path) -> None:
    """Make a certificate for this machine, which nobody else vouches for."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "30", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command, "-out", cert, "-keyout", key], check=True, capture_output=True)
    logger.info("made a certificate: give clients %s", cert)


def main() -> None:
    """Look at the arguments, and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4567)
    parser.add_argument("--cert", type=Path, help="a certificate, in PEM format")
    parser.add_argument("--key", type=Path, help="its private key; default: it is in that file")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    if args.cert is not None:
        serve(args.port, args.cert, args.key or args.cert)
        return
    with tempfile.TemporaryDirectory() as folder:
        cert, key = Path(folder, "cert.pem"), Path(folder, "key.pem")
        make_certificate(cert, key)
        serve(args.port, cert, key)


def serve(port: int, cert: Path, key: Path) -> None:
    """Serve with these files until Ctrl-C or SIGTERM."""
    server = Echo()

    def renew(*_: object) -> None:
        try:
            server.tls = iocp_bind.TLS(cert, key)
        except (OSError, ValueError) as error:  # the old one stays
            logger.error("the certificate was not renewed: %s", error)
        else:
            logger.info("new clients get the certificate in %s", cert)

    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, renew)
    server.run(port=port, tls=iocp_bind.TLS(cert, key))


if __name__ == "__main__":
    main()
