"""A line chat: what one client says, all others hear. Try it with ``nc 127.0.0.1 4567``."""

from __future__ import annotations

import argparse
import logging

import iocp_bind
from iocp_bind import CloseReason, Connection


class Chat(iocp_bind.Server):
    """Gets whole lines. Whoever sends a longer one than it takes is disconnected."""

    framing = iocp_bind.Delimiter(b"\r\n", b"\n", max_size=4096)

    def on_connection_established(self, conn: Connection) -> None:
        """Greet."""
        conn.send_message(f"welcome, guest {conn.id}; {self.connection_count} here".encode())
        self.tell(f"* guest {conn.id} came".encode(), speaker=conn)

    def on_message(self, conn: Connection, message: bytes) -> None:
        """Pass a line on."""
        self.tell(b"guest %d: %s" % (conn.id, message), speaker=conn)

    def on_connection_closing(self, conn: Connection, reason: CloseReason) -> None:
        """Say who left."""
        self.tell(f"* guest {conn.id} left".encode(), speaker=conn)

    def tell(self, line: bytes, speaker: Connection) -> None:
        """Send a line to all but the speaker. Who has fallen too far behind has to go."""
        self.broadcast_message(line, exclude=speaker, on_full="close")


def main() -> None:
    """Serve until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4567)
    port: int = parser.parse_args().port
    logging.basicConfig(level=logging.INFO)  # says where it listens
    Chat().run(port=port, first_data_timeout=None)


if __name__ == "__main__":
    main()
