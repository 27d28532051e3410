"""Servers for tests, and what fixtures do with them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import iocp_bind
from iocp_bind import CloseReason, Connection
from support.waiting import DEADLINE

S = TypeVar("S", bound="iocp_bind.Server[Any]")


class Serve(Protocol):
    """The fixture `serve`: starts a server on a free port and shuts it down after the test."""

    def __call__(self, server: S, **options: Any) -> S: ...


class Logs(logging.Handler):
    """The fixture `logs`: what the logger `iocp_bind` said.

    A test during which it says something calls `expect`; any other fails then.
    """

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.expected = False

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def expect(self) -> list[logging.LogRecord]:
        self.expected = True
        return self.records


class Event(NamedTuple):
    hook: str  # established, read, write, error, closing
    conn: Connection
    value: Any
    thread: int


class Recorder(iocp_bind.Server):
    """Records every hook, in order; what a hook does besides is given as a function.

    The functions get what the hook gets: `Recorder(read=lambda conn, data: conn.send(data))`.
    """

    def __init__(
        self,
        *,
        established: Callable[[Connection], object] | None = None,
        read: Callable[[Connection, Any], object] | None = None,
        write: Callable[[Connection, int], object] | None = None,
        error: Callable[[Connection, OSError], object] | None = None,
        closing: Callable[[Connection, CloseReason], object] | None = None,
    ) -> None:
        super().__init__()
        self.events: list[Event] = []
        self.changed = threading.Condition()
        self._established = established
        self._read = read
        self._write = write
        self._error = error
        self._closing = closing

    def _record(self, hook: str, conn: Connection, value: Any) -> None:
        with self.changed:
            self.events.append(Event(hook, conn, value, threading.get_ident()))
            self.changed.notify_all()

    def on_connection_established(self, conn: Connection) -> None:
        self._record("established", conn, None)
        if self._established is not None:
            self._established(conn)

    def on_read_completed(self, conn: Connection, data: Any) -> None:
        self._record("read", conn, bytes(data))
        if self._read is not None:
            self._read(conn, data)

    def on_write_completed(self, conn: Connection, nbytes: int) -> None:
        self._record("write", conn, nbytes)
        if self._write is not None:
            self._write(conn, nbytes)

    def on_connection_error(self, conn: Connection, error: OSError) -> None:
        self._record("error", conn, error)
        if self._error is not None:
            self._error(conn, error)

    def on_connection_closing(self, conn: Connection, reason: CloseReason) -> None:
        self._record("closing", conn, reason)
        if self._closing is not None:
            self._closing(conn, reason)

    # ---- For the test.

    def wait_for(self, predicate: Callable[[], object], what: str = "the event") -> None:
        """Wait until `predicate` holds; it is tried after every hook, and now and then."""
        end = time.monotonic() + DEADLINE
        with self.changed:
            while not predicate():
                left = end - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"{what} did not come; hooks so far: {self.summary()}")
                # A predicate may look at counters that no hook announces.
                self.changed.wait(min(left, 0.02))

    def wait_count(self, hook: str, count: int = 1) -> list[Event]:
        """Wait until `hook` has been called `count` times; return those calls."""
        self.wait_for(lambda: len(self.of(hook)) >= count, f"{count} times {hook}")
        return self.of(hook)

    def wait_connection(self, index: int = 0) -> Connection:
        """Return the connection that was established as number `index`."""
        return self.wait_count("established", index + 1)[index].conn

    def wait_closed(self, conn: Connection) -> CloseReason:
        """Wait for the closing hook of `conn`; return its reason."""
        self.wait_for(lambda: any(e.hook == "closing" for e in self.of_connection(conn)), "closing")
        reason = next(e.value for e in self.of_connection(conn) if e.hook == "closing")
        assert isinstance(reason, CloseReason)
        return reason

    def of(self, hook: str) -> list[Event]:
        with self.changed:
            return [event for event in self.events if event.hook == hook]

    def of_connection(self, conn: Connection) -> list[Event]:
        with self.changed:
            return [event for event in self.events if event.conn is conn]

    def hooks_of(self, conn: Connection) -> list[str]:
        return [event.hook for event in self.of_connection(conn)]

    def received(self, conn: Connection) -> bytes:
        return b"".join(e.value for e in self.of_connection(conn) if e.hook == "read")

    def reasons(self) -> list[CloseReason]:
        return [event.value for event in self.of("closing")]

    def summary(self) -> str:
        with self.changed:
            tail = [(e.hook, e.conn.id, _short(e.value)) for e in self.events[-20:]]
            return f"{len(self.events)} in all, the last {tail}"

    def check_grammar(self) -> None:
        """established -> (read | write | writable)* -> [error] -> closing, for every connection."""
        with self.changed:
            events = list(self.events)
        by_connection: dict[Connection, list[str]] = {}
        for event in events:
            by_connection.setdefault(event.conn, []).append(event.hook)
        for hooks in by_connection.values():
            assert hooks[0] == "established"
            assert hooks.count("established") == 1
            assert hooks[-1] == "closing"
            assert hooks.count("closing") == 1
            assert hooks.count("error") <= 1
            if "error" in hooks:
                assert hooks[-2] == "error"


def _short(value: object) -> object:
    return f"{len(value)} bytes" if isinstance(value, bytes) else value


class Echo(iocp_bind.Server):
    """Only echoes: what a user would write first."""

    def on_read_completed(self, conn: Connection, data: Any) -> None:
        conn.send(data)


def echo_back(conn: Connection, data: Any) -> None:
    """As the `read` of a `Recorder`: echo."""
    conn.send(data)
