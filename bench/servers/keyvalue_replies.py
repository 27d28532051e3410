"""examples/keyvalue.py: each reply a send of its own, or with --joined one send for each hook.

python keyvalue_replies.py [--backend NAME] [--joined] prints "listening PORT" and ends at SIGTERM.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import resp
from keyvalue import KeyValue

import iocp_bind


class Separate(KeyValue):
    """Says where it listens."""

    def start(self, *args: Any, **options: Any) -> None:
        """Start, and print the port."""
        super().start(*args, **options)
        print("listening", self.address[1], flush=True)


class Joined(Separate):
    """The same with the replies joined; well-behaved clients only."""

    def on_read_completed(self, conn: iocp_bind.Connection, data: bytes) -> None:
        """Carry out what is whole, and send all replies at once."""
        client = conn.data
        data, at = client.rest + data, 0
        replies = []
        while found := resp.command_at(data, at):
            arguments, at = found
            if arguments:
                replies.append(self.execute(conn, arguments))
        client.rest = data[at:]
        conn.send(b"".join(replies))


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--joined", action="store_true")
    options = parser.parse_args()
    server = (Joined if options.joined else Separate)()
    server.run(port=0, backend=options.backend)


if __name__ == "__main__":
    main()
