"""A line protocol: an adding machine. ``ADD 5``, ``TOTAL``, ``QUIT``; try ``nc 127.0.0.1 4567``."""

from __future__ import annotations

import argparse
import logging

import iocp_bind
from iocp_bind import Connection


class Adder(iocp_bind.Server):
    """Answers each line with one line. The total of a client is in `conn.data`."""

    framing = iocp_bind.Delimiter(b"\r\n", b"\n", max_size=100)

    def on_connection_established(self, conn: Connection) -> None:
        """Begin at zero."""
        conn.data = 0

    def on_messages(self, conn: Connection, messages: list[bytes]) -> None:
        """Answer all lines that have come, as one send."""
        answers = []
        for line in messages:
            if line == b"QUIT":
                answers.append(b"BYE")
                break
            answers.append(self.answer(conn, line))
        conn.send_messages(answers)
        if answers[-1] == b"BYE":
            conn.close()

    def answer(self, conn: Connection, line: bytes) -> bytes:
        """Do what one line says."""
        match line.split():
            case [b"ADD", number] if number.isdigit():
                conn.data += int(number)
                return b"OK"
            case [b"TOTAL"]:
                return b"%d" % conn.data
        return b"ERROR: ADD and a number, TOTAL, or QUIT"


def main() -> None:
    """Serve until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4567)
    port: int = parser.parse_args().port
    logging.basicConfig(level=logging.INFO)  # says where it listens
    Adder().run(port=port)


if __name__ == "__main__":
    main()
