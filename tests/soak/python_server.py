"""The server of the soak as a user of Python writes it; talks as soak_server.cpp does."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections import Counter
from typing import Any

import iocp_bind
from iocp_bind import CloseReason, Connection


class Account:
    """The books of one connection: what its hooks have seen."""

    def __init__(self) -> None:
        self.received = 0
        self.queued = 0
        self.written = 0
        self.broken = False


class SoakServer(iocp_bind.Server):
    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._totals: Counter[str] = Counter(established=0, closing=0, received=0, sent=0)
        self._wrong: list[str] = []
        self._warnings = WarningCounter()
        logging.getLogger("iocp_bind").addHandler(self._warnings)

    def on_connection_established(self, conn: Connection) -> None:
        if conn.data is not None:
            self._tell(conn, "established twice")
        conn.data = Account()
        with self._lock:
            self._totals["established"] += 1

    def on_read_completed(self, conn: Connection, data: bytes) -> None:
        conn.data.received += len(data)
        if conn.send(data):
            conn.data.queued += len(data)

    def on_write_completed(self, conn: Connection, nbytes: int) -> None:
        conn.data.written += nbytes

    def on_connection_error(self, conn: Connection, error: OSError) -> None:
        conn.data.broken = True

    def on_connection_closing(self, conn: Connection, reason: CloseReason) -> None:
        account: Account = conn.data
        received, sent = conn.bytes_received, conn.bytes_sent
        if account.received > received:
            self._tell(conn, "more delivered than received")
        if not account.written <= sent <= account.queued:
            self._tell(conn, "sends do not add up")
        if reason is CloseReason.PEER_CLOSED and not account.received == account.queued == received:
            self._tell(conn, "data is missing before the end of the stream")
        if account.broken != (reason is CloseReason.ERROR):
            self._tell(conn, "the error hook and the reason for closing differ")
        with self._lock:
            self._totals += Counter(closing=1, received=received, sent=sent)

    def _tell(self, conn: Connection, what: str) -> None:
        with self._lock:
            if len(self._wrong) < 10:
                self._wrong.append(f"connection {conn.id}: {what}")

    def books(self) -> dict[str, Any]:
        stats = self.stats()
        with self._lock:
            return {
                "accepted": stats.accepted,
                "refused": stats.refused,
                "accept_errors": stats.accept_errors,
                "established": stats.established,
                "closed": sum(stats.closed.values()),
                "closed_by_reason": list(stats.closed.values()),
                "connections": stats.connections,
                "bytes_received": stats.bytes_received,
                "bytes_sent": stats.bytes_sent,
                "buffers_in_use": stats.buffers_in_use,
                "hook_errors": stats.hook_errors,
                "hooks_established": self._totals["established"],
                "hooks_closing": self._totals["closing"],
                "closed_received": self._totals["received"],
                "closed_sent": self._totals["sent"],
                "warnings": self._warnings.count,
                "wrong": self._wrong,
            }


class WarningCounter(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  a generator would be one more of them


def main() -> None:
    options: dict[str, Any] = {
        name: value if name == "backend" else json.loads(value)
        for name, value in zip(sys.argv[1::2], sys.argv[2::2], strict=True)
    }
    before = descriptors()
    with SoakServer() as server:
        server.start(port=0, **options)
        print("listening", server.address[1], flush=True)
        for _ in sys.stdin:
            print(json.dumps(server.books()), flush=True)
        server.shutdown()
        last = {"descriptors_before": before, "descriptors_after": descriptors()}
        print(json.dumps(server.books() | last), flush=True)


if __name__ == "__main__":
    main()
