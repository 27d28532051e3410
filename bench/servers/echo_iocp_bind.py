"""Echo on iocp_bind with default options, as the README shows it.

python echo_iocp_bind.py [--backend NAME] [--workers N] [--hook NAME] [--one-by-one]
[--host ADDRESS] [--port N] [--tls FILE] prints "listening PORT", ends at SIGTERM, on Windows when
its standard input ends. The hooks "length-prefix" and "lines" get lists of messages, with
--one-by-one each message by itself. With --list it prints one line per back-end: its name, a tab,
and nothing when it is available or else why it is not.
"""

from __future__ import annotations

import argparse
import hashlib
import signal
import sys
from typing import Any

import iocp_bind

BLOCK = bytes(256 * 1024)


class Echo(iocp_bind.Server):
    """Each message goes back to its client."""

    def on_read_completed(self, conn: iocp_bind.Connection, data: bytes | memoryview) -> None:
        """Send it back."""
        conn.send(data)


class HashingEcho(iocp_bind.Server):
    """A hook that computes: hashlib lets go of the GIL meanwhile."""

    def on_read_completed(self, conn: iocp_bind.Connection, data: bytes | memoryview) -> None:
        """Hash 256 KiB, then send it back."""
        hashlib.sha256(BLOCK).digest()
        conn.send(data)


class MessagesEcho(iocp_bind.Server):
    """Messages go back to their client as they come: all that are complete at once."""

    def on_messages(self, conn: iocp_bind.Connection, messages: list[bytes]) -> None:
        """Send them back."""
        conn.send_messages(messages)


class MessageEcho(iocp_bind.Server):
    """Messages go back to their client one by one."""

    def on_message(self, conn: iocp_bind.Connection, message: bytes) -> None:
        """Send it back."""
        conn.send_message(message)


HOOKS = {"echo": Echo, "sha256": HashingEcho}
FRAMINGS = {"length-prefix": iocp_bind.LengthPrefix(4), "lines": iocp_bind.Delimiter(b"\n")}


def end(_number: int, _frame: object) -> None:
    """Leave `serve_forever`; the `with` block then shuts the server down."""
    sys.exit(0)


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--hook", choices=[*HOOKS, *FRAMINGS], default="echo")
    parser.add_argument("--one-by-one", action="store_true")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tls", metavar="FILE")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    if options.list:
        for name, info in iocp_bind.backends().items():
            print(name, "" if info.available else info.reason, sep="\t")
        return
    signal.signal(signal.SIGTERM, end)
    framing = FRAMINGS.get(options.hook)
    if framing is None:
        kind = HOOKS[options.hook]
    else:
        kind = MessageEcho if options.one_by_one else MessagesEcho
    # An older version, which is measured beside this one, does not know of it.
    tls: dict[str, Any] = {"tls": iocp_bind.TLS(options.tls)} if options.tls else {}
    with kind() as server:
        server.start(
            options.host,
            options.port,
            backend=options.backend,
            workers=options.workers,
            framing=framing,
            **tls,
        )
        print("listening", server.address[1], flush=True)
        if sys.platform == "win32":
            sys.stdin.read()
        else:
            server.serve_forever()


if __name__ == "__main__":
    main()
