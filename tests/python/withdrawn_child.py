"""A server in a process from which the system takes away the calls its workers wait with.

The filter is set after the start, for all threads, as a program that sandboxes itself late does.
Prints JSON: what was reported.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import socket
import sys
import threading
import time
from typing import Any

import seccomp

import iocp_bind
from iocp_bind import CloseReason, Connection

_WAITS = ("io_uring_enter", "epoll_wait", "epoll_pwait")  # what ports wait with


class Reporting(iocp_bind.Server):
    def __init__(self) -> None:
        super().__init__()
        self.errors: list[int | None] = []
        self.reasons: list[str] = []
        self.established = threading.Semaphore(0)
        self.closed = threading.Semaphore(0)

    def on_connection_established(self, conn: Connection) -> None:
        self.established.release()

    def on_connection_error(self, conn: Connection, error: OSError) -> None:
        self.errors.append(error.errno)

    def on_connection_closing(self, conn: Connection, reason: CloseReason) -> None:
        self.reasons.append(reason.name)
        self.closed.release()


class Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def main() -> None:
    options: dict[str, Any] = {"port": 0, "backend": sys.argv[1], "workers": 2}
    count = 6
    warnings = Warnings()
    logging.getLogger("iocp_bind").addHandler(warnings)
    server = Reporting()
    server.start(**options)
    clients = [socket.create_connection(server.address, timeout=10) for _ in range(count)]
    for _ in clients:
        server.established.acquire(timeout=10)
    seccomp.refuse(_WAITS, errno.EPERM, all_threads=True)
    for client in clients:  # whatever makes a worker look
        with contextlib.suppress(ConnectionError):
            client.sendall(b"x")
    for _ in clients:
        server.closed.acquire(timeout=10)
    began = time.process_time()
    time.sleep(0.2)  # for a busy loop to show
    busy = time.process_time() - began
    began = time.monotonic()
    server.shutdown(1.0)
    report = {
        "errors": server.errors,
        "reasons": server.reasons,
        "warnings": warnings.messages,
        "shutdown": time.monotonic() - began,
        "busy": busy,
    }
    for client in clients:
        client.close()
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
