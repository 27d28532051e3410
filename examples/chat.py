"""A line chat: what one client says, all others hear. Try it with ``nc 127.0.0.1 4567``."""

from __future__ import annotations

import argparse
import logging

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
        self.tell(f"* guest {conn.id} came\n".encode(), speaker=conn)

    def on_read_completed(self, conn: Connection, data: bytes) -> None:
        """Pass on whole lines; data comes in arbitrary pieces."""
        conn.data += data
        *lines, rest = conn.data.split(b"\n")
        conn.data = rest
        for line in lines:
            text = line.rstrip(b"\r")
            self.tell(b"guest %d: %s\n" % (conn.id, text), speaker=conn)
        if len(rest) > LONGEST_LINE:
            conn.send(b"* that line is too long\n")
            conn.close()

    def on_connection_closing(self, conn: Connection, reason: CloseReason) -> None:
        """Say who left."""
        self.tell(f"* guest {conn.id} left\n".encode(), speaker=conn)

    def tell(self, line: bytes, speaker: Connection) -> None:
        """Send a line to all but the speaker. Who has fallen too far behind has to go."""
        self.broadcast(line, exclude=speaker, on_full="close")


def main() -> None:
    """Serve until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4567)
    port: int = parser.parse_args().port
    logging.basicConfig(level=logging.INFO)  # says where it listens
    Chat().run(port=port, first_data_timeout=None)


if __name__ == "__main__":
    main()
