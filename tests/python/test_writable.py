"""`on_writable`: a producer stops when the backlog is high, and goes on when it has fallen."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import (
    DEADLINE,
    REPOSITORY,
    Connect,
    Logs,
    Recorder,
    Serve,
    pattern,
    recv_exact,
    recv_to_end,
    wait_until,
)

import iocp_bind
from iocp_bind import CloseReason, Connection

KIB = 1 << 10
HIGH = 64 * KIB
# More than the systems between a server and a client that does not read hold.
MUCH = 24 << 20


class Producer(Recorder):
    """Records `on_writable` too. `writable` is what it does besides."""

    def __init__(
        self, *, writable: Callable[[Connection], object] | None = None, **hooks: Any
    ) -> None:
        super().__init__(**hooks)
        self._writable = writable

    def on_writable(self, conn: Connection) -> None:
        self._record("writable", conn, conn.send_backlog)
        if self._writable is not None:
            self._writable(conn)


class Producing(Producer):
    """Sends `data` piece by piece, and stops where the backlog is above the high mark."""

    def __init__(self, data: bytes, piece: int, **hooks: Any) -> None:
        super().__init__(writable=self.feed, **hooks)
        self.pieces = [data[start : start + piece] for start in range(0, len(data), piece)]
        self.highest = 0

    def feed(self, conn: Connection) -> None:
        if conn.data is None:
            conn.data = iter(self.pieces)
        while conn.send_backlog <= HIGH:
            piece = next(conn.data, None)
            if piece is None:
                conn.close()
                return
            assert conn.send(piece)
            self.highest = max(self.highest, conn.send_backlog)


class Feeding(Producing):
    """Begins when a client has connected."""

    def on_connection_established(self, conn: Connection) -> None:
        super().on_connection_established(conn)
        self.feed(conn)


def _wait_for(server: Recorder, conn: Connection, count: int) -> None:
    """Wait until the backlog is gone and `on_writable` has been called `count` times."""
    server.wait_for(lambda: conn.send_backlog == 0)
    server.wait_for(lambda: len(server.of("writable")) >= count)


@pytest.mark.parametrize("piece", [1000, 20_000, 1 << 20])
def test_a_producer_sends_all_of_it_with_a_bounded_backlog(
    serve: Serve, connect: Connect, piece: int
) -> None:
    data = pattern(8 << 20)
    server = serve(Feeding(data, piece), write_high_water=HIGH, write_low_water=HIGH // 4)
    clients = [connect(server) for _ in range(3)]
    for client in clients:
        assert recv_to_end(client) == data
        client.close()
    server.wait_count("closing", 3)
    assert server.reasons() == [CloseReason.LOCAL_CLOSE] * 3
    assert server.highest <= HIGH + piece
    assert server.stats().sends_refused == 0
    assert {event.conn for event in server.of("writable")} == {
        server.wait_connection(index) for index in range(3)
    }
    # Nobody but the hook sends: the backlog is what it has fallen to.
    assert all(event.value <= HIGH // 4 for event in server.of("writable"))


@pytest.mark.parametrize("flow_control", [True, False])
@pytest.mark.parametrize("size", [1000, MUCH])
def test_it_comes_once_for_each_time_that_the_backlog_was_high(
    serve: Serve, connect: Connect, size: int, flow_control: bool
) -> None:
    """Sends from another thread: one large one, and many small ones."""
    server = serve(Producer(), flow_control=flow_control, send_backlog_limit=1 << 30)
    client = connect(server)
    conn = server.wait_connection()
    for turn in range(1, 4):
        for _ in range(MUCH // size):
            conn.send(bytes(size))
        if size == MUCH:  # else some of it may have fallen before all were sent
            assert conn.send_backlog > HIGH
            assert len(server.of("writable")) == turn - 1
        recv_exact(client, MUCH // size * size)
        _wait_for(server, conn, turn)
        if size == MUCH:
            assert len(server.of("writable")) == turn
    server.shutdown(0.5)
    server.check_grammar()


def test_it_does_not_come_below_the_high_mark(serve: Serve, connect: Connect) -> None:
    server = serve(Producer(), write_high_water=HIGH)
    client = connect(server)
    conn = server.wait_connection()
    for _ in range(100):
        assert conn.send(bytes(20_000))  # counts as a little more, and far less than the mark
        assert recv_exact(client, 20_000) == bytes(20_000)
        _wait_for(server, conn, 0)
    assert server.of("writable") == []


def test_it_does_not_come_after_close_or_abort(serve: Serve, connect: Connect) -> None:
    server = serve(Producer())
    closed = connect(server)
    connect(server)
    server.wait_count("established", 2)
    for conn in server.connections():
        assert conn.send(bytes(MUCH))
        if conn.remote_address == closed.getsockname():
            conn.close()
        else:
            conn.abort()
    assert recv_to_end(closed) == bytes(MUCH)
    closed.close()
    server.wait_count("closing", 2)
    assert server.of("writable") == []


def test_it_comes_for_a_client_that_has_finished_sending(serve: Serve, connect: Connect) -> None:
    class Answer(Producing):
        def on_end_of_stream(self, conn: Connection) -> None:
            self.feed(conn)

    data = pattern(4 << 20)
    server = serve(Answer(data, 50_000))
    client = connect(server)
    client.shutdown(socket.SHUT_WR)
    assert recv_to_end(client) == data
    conn = server.wait_connection()
    assert server.wait_closed(conn) is CloseReason.LOCAL_CLOSE
    assert len(server.of("writable")) > 1


def test_an_endless_feed_hears_its_client(serve: Serve, connect: Connect) -> None:
    """A hook that fills the backlog each time does not keep reading stopped."""
    stopped = threading.Event()

    def feed(conn: Connection) -> None:
        while not stopped.is_set() and conn.send_backlog <= HIGH:
            conn.send(bytes(8 * KIB))

    def read(conn: Connection, data: bytes) -> None:
        if b"stop" in data:
            stopped.set()
            conn.close()

    server = serve(Producer(established=feed, writable=feed, read=read))
    client = connect(server)
    for _ in range(50):
        recv_exact(client, 100_000)
        client.sendall(b"go on")
    client.sendall(b"stop")
    recv_to_end(client)
    assert stopped.is_set()
    assert server.received(server.wait_connection()) == b"go on" * 50 + b"stop"
    assert len(server.of("writable")) > 10


def test_the_example_of_the_guide(serve: Serve, connect: Connect, tmp_path: Path) -> None:
    guide = (REPOSITORY / "docs" / "using" / "guide.md").read_text("utf-8")
    (program,) = re.findall(r"```python\n([^`]*class Files[^`]*)```", guide)
    namespace: dict[str, Any] = {}
    exec(program, namespace)
    server = namespace["Files"]()
    server.path = tmp_path / "large.iso"
    server.path.write_bytes(pattern(10 << 20))
    assert recv_to_end(connect(serve(server))) == pattern(10 << 20)


def test_a_reader_that_stops_and_goes_on(serve: Serve, connect: Connect) -> None:
    """Others are served meanwhile; it gets what is left when it reads again."""
    data = pattern(MUCH)
    server = serve(Feeding(data, 30_000))
    stuck = connect(server, receive_buffer=4096)
    for _ in range(3):
        other = connect(server)
        assert recv_to_end(other) == data
        other.close()
    conn = server.wait_connection(0)
    assert conn.is_open
    assert 0 < conn.send_backlog <= HIGH + 30_000
    assert recv_to_end(stuck) == data


def test_a_producer_in_a_thread_of_its_own(serve: Serve, connect: Connect) -> None:
    """The hook only says go; the thread never sees a full backlog."""
    go = threading.Event()
    data = pattern(16 << 20)
    server = serve(Producer(writable=lambda conn: go.set()))
    client = connect(server)
    conn = server.wait_connection()
    errors: list[BaseException] = []

    def produce() -> None:
        try:
            for start in range(0, len(data), 40_000):
                go.clear()
                if conn.send_backlog > HIGH:
                    assert go.wait(DEADLINE), "nobody says go"
                conn.send(data[start : start + 40_000])
            conn.close()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=produce)
    thread.start()
    assert recv_to_end(client) == data
    thread.join(DEADLINE)
    assert errors == []


def test_an_exception_goes_to_on_hook_error(serve: Serve, connect: Connect, logs: Logs) -> None:
    class Failing(Producer):
        def on_hook_error(self, conn: Connection | None, hook: str, exc: BaseException) -> None:
            assert conn is not None
            self._record("hook_error", conn, (hook, type(exc)))
            super().on_hook_error(conn, hook, exc)

    def writable(conn: Connection) -> None:
        raise ZeroDivisionError

    server = serve(Failing(writable=writable))
    client = connect(server)
    conn = server.wait_connection()
    conn.send(bytes(MUCH))
    reader = threading.Thread(target=_read_all, args=(client,))
    reader.start()
    assert server.wait_closed(conn) is CloseReason.HOOK_ERROR
    reader.join(DEADLINE)
    assert [e.value for e in server.of("hook_error")] == [("on_writable", ZeroDivisionError)]
    (record,) = logs.expect()
    assert record.getMessage().startswith("on_writable of <")


def _read_all(client: socket.socket) -> None:
    with contextlib.suppress(OSError):
        recv_to_end(client)


def test_without_the_hook_nothing_is_called(serve: Serve, connect: Connect) -> None:
    class Silent(iocp_bind.Server):
        pass

    server = serve(Silent(), send_backlog_limit=1 << 30)
    client = connect(server)
    wait_until(server.connections, "the connection")
    (conn,) = server.connections()
    conn.send(bytearray(MUCH))  # copied: no object has to be given back under the GIL
    recv_exact(client, MUCH)
    wait_until(lambda: conn.send_backlog == 0, "the end of the send")
    assert server.stats().hook_calls == 0
    assert server.stats().hook_batches == 0
