"""An echo server: the smallest useful one."""

from __future__ import annotations

import argparse
import logging

import iocp_bind


class Echo(iocp_bind.Server):
    """Sends back what it receives."""

    def on_read_completed(self, conn: iocp_bind.Connection, data: bytes) -> None:
        """Echo."""
        conn.send(data)


def main() -> None:
    """Serve until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4567)
    port: int = parser.parse_args().port
    logging.basicConfig(level=logging.INFO)  # says where it listens
    Echo().run(port=port)


if __name__ == "__main__":
    main()
