"""A server in a process from which the system takes away the calls its workers wait with.

The filter is set after the start, for all threads, as a program that sandboxes itself late does.
Prints JSON: what was reported.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import logging
import platform
import socket
import struct
import sys
import threading
import time
from typing import Any

import iocp_bind
from iocp_bind import CloseReason, Connection

_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _FOR_ALL_THREADS = 1, 1

# seccomp, and what ports wait with: io_uring_enter, epoll_wait, epoll_pwait.
_NUMBERS = {"x86_64": (317, (426, 232, 281)), "aarch64": (277, (426, 22))}


def refuse_to_wait() -> None:
    """Let every call with which a port waits fail with EPERM, in all threads of this process."""
    seccomp, refused = _NUMBERS[platform.machine()]
    program = [(_LOAD, 0, 0, 0)]
    for number in refused:
        program += [(_JUMP_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    program.append((_RETURN, 0, 0, _ALLOW))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    header = ctypes.create_string_buffer(
        struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code))
    )
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if libc.syscall(seccomp, _SET_MODE_FILTER, _FOR_ALL_THREADS, header) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


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
    refuse_to_wait()
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
