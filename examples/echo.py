"""An echo server: the smallest useful one."""

from __future__ import annotations

import argparse
import contextlib

import iocp_bind


class Echo(iocp_bind.Server):
    """Sends back what it receives."""

    def on_read_completed(self, conn: iocp_bind.Connection, data: bytes) -> None:
        """Echo."""
        conn.send(data)


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4567)
    port: int = parser.parse_args().port
    with Echo() as server:
        server.start(port=port)
        print("listening on {}:{}".format(*server.address), flush=True)
        server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
