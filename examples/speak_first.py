"""A server that speaks first: the time of day (RFC 867), then an orderly end of the stream."""

from __future__ import annotations

import argparse
import contextlib
import time

import iocp_bind


class Daytime(iocp_bind.Server):
    """Tells the time to whoever connects."""

    def on_connection_established(self, conn: iocp_bind.Connection) -> None:
        """Speak, then close: close() sends what is queued first."""
        conn.send(time.strftime("%A, %d %B %Y %H:%M:%S\r\n").encode())
        conn.close()


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4567)
    port: int = parser.parse_args().port
    with Daytime() as server:
        server.start(port=port)
        print("listening on {}:{}".format(*server.address), flush=True)
        server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
