"""How fast lines are broadcast, who misses any, and what one that stops reading costs the others.

    python bench/broadcast.py lines   [--readers 10] [--lines 200000] [--rounds 3]
    python bench/broadcast.py threads [--readers 50] [--seconds 4] [--threads 8]
    python bench/broadcast.py stopped [--readers 100] [--lines 100000] [--rounds 5]

`lines`: one client publishes lines of 100 bytes, and the server broadcasts each to all others, in
turns with the same server on asyncio. `threads`: threads of the server broadcast as fast as they
can. `stopped`: as `lines`, in turns with one reader that stops at once. The readers are a process
of their own, and so is each server. Ends with 1 when a reader that reads has missed a line.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import selectors
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import iocp_bind
from iocp_bind import Connection

LINE = b"x" * 99 + b"\n"
PATIENCE = 120.0  # seconds, for one round


# ---- The servers, each in a process of its own until its standard input ends.


class Broadcaster(iocp_bind.Server):
    """Broadcasts each line that a client sends."""

    def on_read_completed(self, conn: Connection, data: bytes) -> None:
        """Cut out the lines."""
        *lines, conn.data = ((conn.data or b"") + data).split(b"\n")
        for line in lines:
            self.broadcast(line + b"\n", exclude=conn)


def serve(backend: str, threads: int, seconds: float) -> None:
    """Serve with iocp_bind; with `threads`, broadcast from them to as many as a line says."""
    server = Broadcaster()
    options: Any = {"backend": backend, "first_data_timeout": None, "max_connections": 10_000}
    server.start(port=0, **options)
    with server:
        print(*server.address, flush=True)
        accepted = [0] * threads

        def broadcast(index: int) -> None:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                for _ in range(100):
                    accepted[index] += server.broadcast(LINE)

        if threads:
            expected = int(sys.stdin.readline())
            while server.connection_count < expected:
                time.sleep(0.01)
            senders = [threading.Thread(target=broadcast, args=(n,)) for n in range(threads)]
            for sender in senders:
                sender.start()
            for sender in senders:
                sender.join()
            print(json.dumps({"accepted": sum(accepted)}), flush=True)
        sys.stdin.read()
        skipped = server.stats().broadcasts_skipped
    print(json.dumps({"skipped": skipped}), flush=True)


async def serve_asyncio() -> None:
    """Serve the same with asyncio."""
    transports: set[asyncio.WriteTransport] = set()

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            self.rest = b""
            transports.add(transport)

        def data_received(self, data: bytes) -> None:
            *lines, self.rest = (self.rest + data).split(b"\n")
            for line in lines:
                for transport in transports:
                    if transport is not self.transport:
                        transport.write(line + b"\n")

        def connection_lost(self, _error: Exception | None) -> None:
            transports.discard(self.transport)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Protocol, "127.0.0.1", 0)
    print(*server.sockets[0].getsockname(), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    print(json.dumps({"skipped": 0}), flush=True)


# ---- The clients.


@contextlib.contextmanager
def running(name: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], tuple[str, int]]]:
    """Run a server; its address."""
    command = [sys.executable, __file__, "serve", name, *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        host, port = process.stdout.readline().split()
        yield process, (host, int(port))


def read_all(readers: list[socket.socket], expected: int) -> int:
    """Read from all until each has got so many bytes or too much time has passed; how many."""
    got = dict.fromkeys(readers, 0)
    until = time.monotonic() + PATIENCE
    with selectors.DefaultSelector() as selector:
        for reader in readers:
            selector.register(reader, selectors.EVENT_READ)
        while selector.get_map() and time.monotonic() < until:
            for key, _ in selector.select(1):
                ready = key.fileobj
                assert isinstance(ready, socket.socket)
                got[ready] += len(ready.recv(1 << 18))
                if got[ready] >= expected:
                    selector.unregister(ready)
    return sum(got.values())


def finish(process: subprocess.Popen[str]) -> dict[str, int]:
    """End a server; what it reports."""
    out, _ = process.communicate()
    report: dict[str, int] = json.loads(out.splitlines()[-1])
    return report


def publish(name: str, count: int, lines: int, stopped: int = 0) -> tuple[float, bool]:
    """Lines a second, and whether every reader got each. `stopped` more do not read at all."""
    with contextlib.ExitStack() as stack:
        process, address = stack.enter_context(running(name))
        clients = [
            stack.enter_context(socket.create_connection(address)) for _ in range(count + stopped)
        ]
        # Accepted behind the readers, as it came last: they are all there when its lines come.
        publisher = stack.enter_context(socket.create_connection(address))
        began = time.monotonic()
        sender = threading.Thread(target=publisher.sendall, args=(LINE * lines,))
        sender.start()
        got = read_all(clients[:count], len(LINE) * lines)
        took = time.monotonic() - began
        whole = got == count * len(LINE) * lines
        if whole:
            sender.join()
        publisher.shutdown(socket.SHUT_RDWR)
        finish(process)
    return lines / took, whole


def compare(what: str, one: list[float], other: list[float]) -> None:
    """Print the medians and the median of the ratios."""
    ratio = statistics.median(a / b for a, b in zip(one, other, strict=True))
    print(
        f"{what}: {statistics.median(one):,.0f} and {statistics.median(other):,.0f} lines/s, "
        f"ratio {ratio:.2f}"
    )


def backends() -> list[str]:
    """Return those that this system has."""
    known = iocp_bind.backends()
    return [name for name in known if known[name].available]


def measure_lines(options: argparse.Namespace) -> bool:
    """Compare with asyncio."""
    good = True
    for name in backends():
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(options.rounds):
            rate, whole = publish(name, options.readers or 10, options.lines or 200_000)
            good = good and whole
            ours.append(rate)
            theirs.append(publish("asyncio", options.readers or 10, options.lines or 200_000)[0])
        compare(f"{name} against asyncio", ours, theirs)
    return good


def measure_stopped(options: argparse.Namespace) -> bool:
    """Compare with and without a reader that stops."""
    good = True
    count, lines = (options.readers or 100) - 1, options.lines or 100_000
    for name in backends():
        with_it: list[float] = []
        without: list[float] = []
        for turn in range(options.rounds):
            order = ((1, with_it), (0, without))
            for stopped, rates in order if turn % 2 else reversed(order):
                rate, whole = publish(name, count + 1 - stopped, lines, stopped)
                good = good and whole
                rates.append(rate)
        compare(f"{name}, one of {count + 1} readers stopped, against none", with_it, without)
    return good


class Reading(threading.Thread):
    """Reads from all clients until their streams end, and counts."""

    def __init__(self, clients: list[socket.socket]) -> None:
        super().__init__(daemon=True)
        self.clients = clients
        self.got = 0

    def run(self) -> None:
        """Read."""
        with selectors.DefaultSelector() as selector:
            for client in self.clients:
                selector.register(client, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select(1):
                    reader = key.fileobj
                    assert isinstance(reader, socket.socket)
                    data = reader.recv(1 << 18)
                    self.got += len(data)
                    if not data:
                        selector.unregister(reader)


def measure_threads(options: argparse.Namespace) -> bool:
    """Broadcast from threads."""
    good = True
    count = options.readers or 50
    for name in backends():
        with contextlib.ExitStack() as stack:
            process, address = stack.enter_context(
                running(name, str(options.threads), str(options.seconds))
            )
            clients = [stack.enter_context(socket.create_connection(address)) for _ in range(count)]
            assert process.stdin is not None
            assert process.stdout is not None
            reading = Reading(clients)
            reading.start()
            process.stdin.write(f"{count}\n")
            process.stdin.flush()
            accepted = json.loads(process.stdout.readline())["accepted"]
            skipped = finish(process)["skipped"]
            reading.join(PATIENCE)
        missing = accepted - reading.got // len(LINE)
        good = good and missing == 0 and skipped == 0
        print(
            f"{name}: {options.threads} threads, {count} readers: {accepted:,} accepted, "
            f"{skipped:,} skipped, {missing:,} of the accepted missing"
        )
    return good


def main() -> int:
    """Measure one case, or serve."""
    if sys.argv[1:2] == ["serve"]:
        name, *rest = sys.argv[2:]
        if name == "asyncio":
            asyncio.run(serve_asyncio())
        else:
            serve(name, int(rest[0]) if rest else 0, float(rest[1]) if rest else 0.0)
        return 0
    parser = argparse.ArgumentParser(description="How fast lines are broadcast.")
    cases = {"lines": measure_lines, "threads": measure_threads, "stopped": measure_stopped}
    parser.add_argument("case", choices=cases)
    parser.add_argument("--readers", type=int)
    parser.add_argument("--lines", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    return 0 if cases[options.case](options) else 1


if __name__ == "__main__":
    sys.exit(main())
