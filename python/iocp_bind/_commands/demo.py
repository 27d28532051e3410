"""``python -m iocp_bind demo``: real clients against a real server, with a report."""

from __future__ import annotations

import hashlib
import random
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable

import iocp_bind
from iocp_bind import CloseReason, Connection
from iocp_bind._commands._output import say

CLIENTS = 100
MESSAGES = 20
LARGE = 16 * 1024 * 1024
DEADLINE = 30.0

Address = tuple[str, int]


class DemoServer(iocp_bind.Server):
    """Echoes, and counts the calls of its hooks."""

    def __init__(self) -> None:
        """Start with nothing seen."""
        super().__init__()
        self.established = 0
        self.reasons: Counter[CloseReason] = Counter()
        self.changed = threading.Condition()

    def on_connection_established(self, conn: Connection) -> None:
        """Count."""
        with self.changed:
            self.established += 1

    def on_read_completed(self, conn: Connection, data: bytes) -> None:
        """Echo."""
        conn.send(data)

    def on_connection_closing(self, conn: Connection, reason: CloseReason) -> None:
        """Count."""
        with self.changed:
            self.reasons[reason] += 1
            self.changed.notify_all()


def _connect(address: Address) -> socket.socket:
    return socket.create_connection(address, timeout=DEADLINE)


def _receive_exactly(client: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = client.recv(min(size - len(parts), 1 << 20))
        if not part:
            raise ConnectionError(f"the stream ended after {len(parts)} of {size} bytes")
        parts += part
    return bytes(parts)


def _many_clients(address: Address) -> str:
    """Let all clients talk at once, each message of a size of its own."""
    clients = [_connect(address) for _ in range(CLIENTS)]
    pick = random.Random(1)
    total = 0
    for _ in range(MESSAGES):
        messages = [pick.randbytes(pick.randint(1, 5000)) for _ in clients]
        for client, message in zip(clients, messages, strict=True):
            client.sendall(message)
        for client, message in zip(clients, messages, strict=True):
            if _receive_exactly(client, len(message)) != message:
                raise ConnectionError("an echo came back changed")
            total += len(message)
    for client in clients:
        client.close()
    return f"{CLIENTS} clients at once, {CLIENTS * MESSAGES} messages, {total:,} bytes, all right"


def _large_stream(address: Address) -> str:
    """Send far more than any buffer holds, and read it back at the same time."""
    data = random.Random(2).randbytes(LARGE)
    with _connect(address) as client:
        sender = threading.Thread(target=client.sendall, args=(data,))
        sender.start()
        answer = _receive_exactly(client, LARGE)
        sender.join()
    if hashlib.sha256(answer).digest() != hashlib.sha256(data).digest():
        raise ConnectionError("the digests differ")
    return f"one stream of {LARGE >> 20} MiB there and back, digest equal"


def _half_close(address: Address) -> str:
    """End our stream first; the answer must come all the same, then the end of theirs."""
    with _connect(address) as client:
        client.sendall(b"last words")
        client.shutdown(socket.SHUT_WR)
        if _receive_exactly(client, 10) != b"last words" or client.recv(1) != b"":
            raise ConnectionError("the answer to a half-closed client was wrong")
    return "a client that ended its stream first got its answer, then an orderly end"


def _reset(address: Address) -> str:
    """Break connections the hard way; the next client must not notice."""
    for _ in range(50):
        client = _connect(address)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    with _connect(address) as client:
        client.sendall(b"still there?")
        _receive_exactly(client, 12)
    return "50 clients reset their connections; the next one was served"


_SCENES: tuple[Callable[[Address], str], ...] = (
    _many_clients,
    _large_stream,
    _half_close,
    _reset,
)


def _show(backend: str) -> None:
    with DemoServer() as server:
        server.start(port=0, backend=backend)  # type: ignore[arg-type]
        host, port = server.address
        say(f"{server.backend}: echo server on {host}:{port}")
        for scene in _SCENES:
            began = time.perf_counter()
            text = scene(server.address)
            say(f"  {text} ({time.perf_counter() - began:.2f} s)")
        with server.changed:
            # No hook is called for a connection that was reset before it could be accepted.
            gone = server.changed.wait_for(
                lambda: (
                    server.connection_count == 0
                    and sum(server.reasons.values()) == server.established
                ),
                DEADLINE,
            )
        if not gone:
            raise RuntimeError(f"{server.connection_count} connections were left")
        stats = server.stats()
    say(
        f"  {stats.established} connections established, each closed once: "
        + ", ".join(f"{count} {reason.name}" for reason, count in sorted(server.reasons.items()))
    )
    say(
        f"  {stats.bytes_received:,} bytes in, {stats.bytes_sent:,} out; "
        f"{stats.hook_calls:,} hooks in {stats.hook_batches:,} batches under the GIL"
    )


def run(backend: str | None) -> int:
    """Run the scenes on one back-end, or on each that can run here."""
    available = iocp_bind.backends()
    names = [backend] if backend else [name for name in available if available[name].available]
    for name, info in available.items():
        if not info.available and not backend:
            say(f"{name}: not here: {info.reason}")
    for name in names:
        try:
            _show(name)
        except Exception as error:
            print(f"{name}: FAILED: {error}", file=sys.stderr)
            return 1
    say("all well")
    return 0
