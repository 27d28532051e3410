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
import time
from typing import Any

import seccomp
from support import Logs, Recorder

_WAITS = ("io_uring_enter", "epoll_wait", "epoll_pwait")  # what ports wait with


def main() -> None:
    options: dict[str, Any] = {"port": 0, "backend": sys.argv[1], "workers": 2}
    count = 6
    logs = Logs()
    logging.getLogger("iocp_bind").addHandler(logs)
    server = Recorder()
    server.start(**options)
    clients = [socket.create_connection(server.address, timeout=10) for _ in range(count)]
    server.wait_count("established", count)
    seccomp.refuse(_WAITS, errno.EPERM, all_threads=True)
    for client in clients:  # whatever makes a worker look
        with contextlib.suppress(ConnectionError):
            client.sendall(b"x")
    server.wait_count("closing", count)
    began = time.process_time()
    time.sleep(0.2)  # for a busy loop to show
    busy = time.process_time() - began
    began = time.monotonic()
    server.shutdown(1.0)
    report = {
        "errors": [event.value.errno for event in server.of("error")],
        "reasons": [reason.name for reason in server.reasons()],
        "warnings": [record.getMessage() for record in logs.records],
        "shutdown": time.monotonic() - began,
        "busy": busy,
    }
    for client in clients:
        client.close()
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
