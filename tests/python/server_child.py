"""A server in a process of its own, driven by lines of JSON on its standard input.

Its memory, descriptors and threads are its own: the clients are elsewhere.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from support import Echo, descriptor_count, resident_bytes, thread_count

import iocp_bind
from iocp_bind import CloseReason, Connection


class Counting(iocp_bind.Server):
    """Echoes, and checks the grammar of hooks of every connection as it goes."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.open: set[int] = set()
        self.established = 0
        self.closed: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.is_over = False

    def _check(self, hook: str, conn: Connection) -> None:
        if self.is_over:
            self.wrong.append(f"{hook} after shutdown() returned")
        if conn.id not in self.open:
            self.wrong.append(f"{hook} of {conn.id}, which is not established")

    def on_connection_established(self, conn: Connection) -> None:
        with self.lock:
            if conn.id in self.open:
                self.wrong.append(f"{conn.id} established twice")
            self.open.add(conn.id)
            self.established += 1

    def on_read_completed(self, conn: Connection, data: bytes) -> None:
        with self.lock:
            self._check("read", conn)
        conn.send(data)

    def on_write_completed(self, conn: Connection, nbytes: int) -> None:
        with self.lock:
            self._check("write", conn)

    def on_connection_error(self, conn: Connection, error: OSError) -> None:
        with self.lock:
            self._check("error", conn)

    def on_connection_closing(self, conn: Connection, reason: CloseReason) -> None:
        with self.lock:
            self._check("closing", conn)
            self.open.discard(conn.id)
            self.closed[reason.name] += 1


class Lines(iocp_bind.Server):
    """Sends each line that it gets, without its end, to all others."""

    def on_read_completed(self, conn: Connection, data: bytes) -> None:
        for line in data.split(b"\n")[:-1]:
            self.broadcast(line, exclude=conn)


class NotifiedLines(Lines):
    """The same, and it wants to know when each is out."""

    def on_write_completed(self, conn: Connection, nbytes: int) -> None:
        pass


class LengthFrames(iocp_bind.Server):
    """Sends back each message of up to 64 KiB."""

    framing: iocp_bind.Framing = iocp_bind.LengthPrefix(max_size=65_536)

    def on_messages(self, conn: Connection, messages: list[bytes]) -> None:
        conn.send_messages(messages)


class LineFrames(LengthFrames):
    """The same with lines."""

    framing = iocp_bind.Delimiter(b"\n", max_size=65_536)


class CobsFrames(LengthFrames):
    """The same with messages that are encoded."""

    framing = iocp_bind.Cobs(65_536)


MODES: dict[str, type[iocp_bind.Server]] = {
    "echo": Echo,
    "counting": Counting,
    "lines": Lines,
    "notified lines": NotifiedLines,
    "length frames": LengthFrames,
    "line frames": LineFrames,
    "cobs frames": CobsFrames,
}


def counters(server: iocp_bind.Server) -> dict[str, Any]:
    """The counters that can be read without a descriptor to spare."""
    stats = server.stats()
    return {
        "cpu": time.process_time(),
        "time": time.monotonic(),
        "connection_count": server.connection_count,
        "buffers_in_use": stats.buffers_in_use,
        "accepted": stats.accepted,
        "accept_errors": stats.accept_errors,
        "established": stats.established,
        "closed": {reason.name: count for reason, count in stats.closed.items()},
        "tls_failures": {failure.name: count for failure, count in stats.tls_failures.items()},
        "bytes_received": stats.bytes_received,
    }


def report(server: iocp_bind.Server) -> dict[str, Any]:
    gc.collect()
    return counters(server) | {
        "memory": resident_bytes(),
        "descriptors": descriptor_count(),
        "threads": thread_count(),
    }


def shut_down(server: iocp_bind.Server, timeout: float) -> dict[str, Any]:
    began = time.monotonic()
    server.shutdown(timeout)
    seconds = time.monotonic() - began
    answer: dict[str, Any] = {"seconds": seconds}
    if isinstance(server, Counting):
        server.is_over = True
        answer |= {
            "established": server.established,
            "closed": dict(server.closed),
            "open": len(server.open),
            "wrong": server.wrong[:5],
        }
    return answer


def limit_descriptors(more: int | None) -> None:
    """Allow `more` descriptors than are open now; as many as the system lets us by default."""
    if sys.platform == "win32":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = hard if more is None else descriptor_count() + more
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def restart(server: iocp_bind.Server, times: int, options: dict[str, Any]) -> dict[str, Any]:
    """Start and shut down, each time with one client that is served."""
    import socket

    for _ in range(times):
        server.start(port=0, **options)
        with socket.create_connection(server.address, timeout=10) as client:
            client.sendall(b"x")
            if client.recv(1) != b"x":
                raise AssertionError("not served")
        server.shutdown(5.0)
    return report(server)


def main() -> None:
    mode = sys.argv[1]
    options: dict[str, Any] = json.loads(sys.argv[2])
    # Before the start: io_uring looks at the limit when an accept is posted.
    limit_descriptors(options.pop("descriptors", None))
    if "tls" in options:
        options["tls"] = iocp_bind.TLS(**options["tls"])
    server = MODES[mode]()
    if "restart" not in options:
        server.start(port=0, **options)
        print(json.dumps(server.address), flush=True)
    else:
        del options["restart"]
        print(json.dumps(["", 0]), flush=True)
    for line in sys.stdin:
        command: dict[str, Any] = json.loads(line)
        do = command["do"]
        if do == "report":
            answer = report(server)
        elif do == "shutdown":
            answer = shut_down(server, command["timeout"])
        elif do == "counters":
            answer = counters(server)
        elif do == "open":
            with Path(__file__).open(encoding="utf-8") as file:
                answer = {"descriptor": file.fileno()}
        elif do == "restart":
            answer = restart(server, command["times"], options)
        else:
            raise ValueError(do)
        print(json.dumps(answer), flush=True)
    server.shutdown(0.0)


if __name__ == "__main__":
    main()
