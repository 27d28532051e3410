"""Echo on asyncio: the Protocol that its documentation shows.

python echo_asyncio.py [--hook NAME] [--host ADDRESS] [--port N]
prints "listening PORT", ends at SIGTERM, on Windows when its standard input ends.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import signal
import sys
from collections.abc import Coroutine
from typing import Protocol, cast

BLOCK = bytes(256 * 1024)


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


HOOKS = {"echo": Echo, "sha256": HashingEcho}


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


async def serve(hook: str, host: str, port: int) -> None:
    """Serve until the program is to end."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(HOOKS[hook], host, port, backlog=1024)
    print("listening", server.sockets[0].getsockname()[1], flush=True)
    await end()
    server.close()


class Runner(Protocol):
    """`asyncio.run`, `uvloop.run`."""

    def __call__(self, main: Coroutine[object, object, None], /) -> None:
        """Run `main` to its end."""


def main(run: Runner) -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--hook", choices=HOOKS, default="echo")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    # asyncio receives into a fresh 256 KiB object each time. glibc maps and unmaps it, which costs
    # several times the echo, until the process has once freed something larger; most programs have
    # by chance. This one does so on purpose: peers are measured at their best.
    bytes(1_000_000)
    run(serve(options.hook, options.host, options.port))


if __name__ == "__main__":
    main(asyncio.run)
