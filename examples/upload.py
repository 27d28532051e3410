"""Answers an upload with its SHA-256: ``nc -N 127.0.0.1 4567 < FILE``."""

from __future__ import annotations

import argparse
import hashlib
import logging

import iocp_bind
from iocp_bind import Connection


class Upload(iocp_bind.Server):
    """Reads until the client has finished sending, then answers and closes."""

    def on_connection_established(self, conn: Connection) -> None:
        """Begin a digest of what this client sends."""
        conn.data = hashlib.sha256()

    def on_read_completed(self, conn: Connection, data: bytes) -> None:
        """Take a piece into it; the upload is never in memory as a whole."""
        conn.data.update(data)

    def on_end_of_stream(self, conn: Connection) -> None:
        """Answer. The client still listens, although it has finished sending."""
        conn.send(f"{conn.data.hexdigest()}  {conn.bytes_received} bytes\n".encode())
        conn.close()


def main() -> None:
    """Serve until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4567)
    port: int = parser.parse_args().port
    logging.basicConfig(level=logging.INFO)  # says where it listens
    Upload().run(port=port)


if __name__ == "__main__":
    main()
