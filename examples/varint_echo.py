"""An echo of messages as protobuf delimits them: each behind its length, a varint.

Protobuf's ``parseDelimitedFrom`` and ``writeDelimitedTo`` read and write such a stream.
"""

from __future__ import annotations

import argparse
import logging

import iocp_bind
from iocp_bind import Connection


class VarintEcho(iocp_bind.Server):
    """Sends every message back. A real server would parse it: ``Request.FromString(message)``."""

    framing = iocp_bind.VarintPrefix(max_size=4 * 1024 * 1024)

    def on_messages(self, conn: Connection, messages: list[bytes]) -> None:
        """Answer all messages that have come, as one send."""
        conn.send_messages(messages)


def main() -> None:
    """Serve until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4567)
    port: int = parser.parse_args().port
    logging.basicConfig(level=logging.INFO)  # says where it listens
    VarintEcho().run(port=port)


if __name__ == "__main__":
    main()
