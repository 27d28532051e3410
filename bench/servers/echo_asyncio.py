"""Echo on asyncio: the Protocol that its documentation shows, or one that cuts messages by hand.

python echo_asyncio.py [--hook NAME] [--host ADDRESS] [--port N] [--tls FILE]
prints "listening PORT", ends at SIGTERM, on Windows when its standard input ends.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import signal
import ssl
import struct
import sys
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Protocol, cast

BLOCK = bytes(256 * 1024)
LENGTH = struct.Struct(">I")
length_at, length_of = LENGTH.unpack_from, LENGTH.pack
MAX_SIZE = 1 << 20
MAX_LINE = 64 * 1024
FEW = 16


class Echo(asyncio.Protocol):
    """One client: what it sends goes back."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport to write to."""
        # A cast, as uvloop's transports are not derived from asyncio's.
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Send it back."""
        self.transport.write(data)


class HashingEcho(Echo):
    """The same with a hook that computes."""

    def data_received(self, data: bytes) -> None:
        """Hash 256 KiB, then send it back."""
        hashlib.sha256(BLOCK).digest()
        self.transport.write(data)


class LengthPrefixEcho(Echo):
    """Messages behind a length of four bytes, cut in one loop and sent in one piece."""

    rest = b""

    def data_received(self, data: bytes) -> None:
        """Send back each message that is complete, and keep the rest."""
        if self.rest:
            data = self.rest + data
        replies: list[bytes] = []
        at, end = 0, len(data)
        while (begin := at + 4) <= end:
            stop = begin + length_at(data, at)[0]
            if stop > end:
                # One that is complete is shorter, as the loop receives less than this at a time.
                if stop - begin > MAX_SIZE:
                    self.transport.abort()
                break
            message = data[begin:stop]
            replies.append(length_of(len(message)))
            replies.append(message)
            at = stop
        self.rest = data[at:]
        if len(replies) > FEW:
            self.transport.write(b"".join(replies))
        elif replies:
            # uvloop sends these from where they are; for many that costs more than to join them.
            self.transport.writelines(replies)


class LinesEcho(Echo):
    """Messages with a line end behind them, cut by one call and sent in one piece."""

    rest = b""

    def data_received(self, data: bytes) -> None:
        """Send back each line that is complete, and keep the rest."""
        lines = (self.rest + data).split(b"\n")
        self.rest = lines.pop()
        if len(self.rest) > MAX_LINE:
            self.transport.abort()
        elif lines:
            lines.append(b"")
            self.transport.write(b"\n".join(lines))


HOOKS = {
    "echo": Echo,
    "sha256": HashingEcho,
    "length-prefix": LengthPrefixEcho,
    "lines": LinesEcho,
}


async def end() -> None:
    """Wait for SIGTERM or SIGINT; on Windows for the end of the standard input."""
    loop = asyncio.get_running_loop()
    if sys.platform == "win32":
        await loop.run_in_executor(None, sys.stdin.read)
        return
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    await ended.wait()


Listen = Callable[[str, str, int, "ssl.SSLContext | None"], Awaitable[asyncio.Server]]
"""Starts to serve with a hook, at a host and port, with TLS or without."""


async def listen(hook: str, host: str, port: int, context: ssl.SSLContext | None) -> asyncio.Server:
    """Start to serve."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(HOOKS[hook], host, port, backlog=1024, ssl=context)


def tls_context(file: str | None) -> ssl.SSLContext | None:
    """TLS with the certificate and key in the file, and one ticket for each handshake."""
    if file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    context.num_tickets = 1
    return context


async def serve(starting: Awaitable[asyncio.Server]) -> None:
    """Serve until the program is to end."""
    server = await starting
    print("listening", server.sockets[0].getsockname()[1], flush=True)
    await end()
    server.close()


class Runner(Protocol):
    """`asyncio.run`, `uvloop.run`."""

    def __call__(self, main: Coroutine[object, object, None], /) -> None:
        """Run `main` to its end."""


def main(run: Runner, listen: Listen = listen, hooks: Collection[str] = HOOKS) -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--hook", choices=hooks, default="echo")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tls", metavar="FILE")
    options = parser.parse_args()
    # asyncio receives into a fresh 256 KiB object each time. glibc maps and unmaps it, which costs
    # several times the echo, until the process has once freed something larger; most programs have
    # by chance. This one does so on purpose: peers are measured at their best.
    bytes(1_000_000)
    run(serve(listen(options.hook, options.host, options.port, tls_context(options.tls))))


if __name__ == "__main__":
    main(asyncio.run)
