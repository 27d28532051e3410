"""Echo of messages on Twisted: its own protocols cut them and send them.

python echo_twisted.py --hook length-prefix|lines [--host ADDRESS] [--port N]
prints "listening PORT", ends at SIGTERM. Exit code 77 (with the reason on stderr) when Twisted is
not installed.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

try:
    from twisted.internet import reactor
    from twisted.internet.protocol import Factory
    from twisted.protocols.basic import Int32StringReceiver, LineOnlyReceiver
except ImportError:
    print("Twisted is not installed (pip install twisted)", file=sys.stderr)
    sys.exit(77)


class LengthPrefixEcho(Int32StringReceiver):
    """Messages behind a length of four bytes."""

    transport: Any

    def connectionMade(self) -> None:  # noqa: N802
        """Send what is small at once, as the other servers do."""
        self.transport.setTcpNoDelay(True)

    def stringReceived(self, string: bytes) -> None:  # noqa: N802
        """Send it back."""
        self.sendString(string)  # type: ignore[no-untyped-call]


class LinesEcho(LineOnlyReceiver):
    """Messages with a line end behind them."""

    transport: Any
    delimiter = b"\n"

    def connectionMade(self) -> None:  # noqa: N802
        """Send what is small at once, as the other servers do."""
        self.transport.setTcpNoDelay(True)

    def lineReceived(self, line: bytes) -> None:  # noqa: N802
        """Send it back."""
        self.sendLine(line)  # type: ignore[no-untyped-call]


HOOKS = {"length-prefix": LengthPrefixEcho, "lines": LinesEcho}


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--hook", choices=HOOKS, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    # As in echo_asyncio.py: Twisted joins what it sends, up to 128 KiB.
    bytes(1_000_000)
    factory = Factory.forProtocol(HOOKS[options.hook])
    # Its type says that this is a class.
    running: Any = reactor
    listener = running.listenTCP(options.port, factory, backlog=1024, interface=options.host)
    print("listening", listener.getHost().port, flush=True)
    running.run()


if __name__ == "__main__":
    main()
