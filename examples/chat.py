"""A line chat: what one client says, all others hear. Try it with ``nc 127.0.0.1 4567``."""

from __future__ import annotations

import argparse
import contextlib

import iocp_bind
from iocp_bind import CloseReason, Connection

# A peer decides how long a line gets; we decide how long it may get.
LONGEST_LINE = 4096


class Chat(iocp_bind.Server):
    """Puts lines together, one buffer for each connection in `conn.data`."""

    def on_connection_established(self, conn: Connection) -> None:
        """Greet."""
        conn.data = bytearray()
        conn.send(f"welcome, guest {conn.id}; {self.connection_count} here\n".encode())
        self.broadcast(f"* guest {conn.id} came\n".encode(), exclude=conn)

    def on_read_completed(self, conn: Connection, data: bytes) -> None:
        """Pass on whole lines; data comes in arbitrary pieces."""
        conn.data += data
        *lines, rest = conn.data.split(b"\n")
        conn.data = rest
        for line in lines:
            text = line.rstrip(b"\r")
            self.broadcast(b"guest %d: %s\n" % (conn.id, text), exclude=conn)
        if len(rest) > LONGEST_LINE:
            conn.send(b"* that line is too long\n")
            conn.close()

    def on_connection_closing(self, conn: Connection, reason: CloseReason) -> None:
        """Say who left."""
        self.broadcast(f"* guest {conn.id} left\n".encode())


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4567)
    port: int = parser.parse_args().port
    with Chat() as server:
        server.start(port=port, first_data_timeout=None)
        print("listening on {}:{}".format(*server.address), flush=True)
        server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
