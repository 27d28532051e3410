"""A server that speaks first: the time of day (RFC 867), then an orderly end of the stream."""

from __future__ import annotations

import argparse
import logging
import time

import iocp_bind


class Daytime(iocp_bind.Server):
    """Tells the time to whoever connects."""

    def on_connection_established(self, conn: iocp_bind.Connection) -> None:
        """Speak, then close: close() sends what is queued first."""
        conn.send(time.strftime("%A, %d %B %Y %H:%M:%S\r\n").encode())
        conn.close()


def main() -> None:
    """Serve until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4567)
    port: int = parser.parse_args().port
    logging.basicConfig(level=logging.INFO)  # says where it listens
    Daytime().run(port=port)


if __name__ == "__main__":
    main()
