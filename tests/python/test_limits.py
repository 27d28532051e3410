"""The limits: exactly where each is, and what happens there."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from functools import partial

import pytest
from support import (
    DEADLINE,
    Connect,
    Echo,
    Logs,
    Recorder,
    Serve,
    ServerChild,
    ask,
    clients_of,
    echo_back,
    is_refused,
    linux_only,
    need_descriptors,
    open_client,
    pattern,
    recv_exact,
    recv_to_end,
    wait_until,
)

import iocp_bind
from iocp_bind import Connection, SendBacklogFull

# ---- Connections.


def _has_refused(server: iocp_bind.Server, count: int) -> bool:
    return server.stats().refused == count


def test_refuse_resets_the_newcomer_and_counts(serve: Serve, connect: Connect, logs: Logs) -> None:
    logs.expect()
    server = serve(Recorder(read=echo_back), max_connections=3)
    clients = [connect(server) for _ in range(3)]
    server.wait_count("established", 3)
    for turn in range(1, 6):
        assert is_refused(server)
        wait_until(partial(_has_refused, server, turn), "the refusal counted")
    assert server.connection_count == 3
    assert [ask(client, b"still here") for client in clients] == [b"still here"] * 3
    # One leaves, one may come.
    clients[0].close()
    server.wait_count("closing")
    newcomer = connect(server)
    assert ask(newcomer, b"room") == b"room"
    assert is_refused(server)
    wait_until(partial(_has_refused, server, 6), "the refusal counted")
    stats = server.stats()
    assert stats.established == len(server.of("established")) == 4
    assert stats.refused == 6
    assert stats.accepted == 10


def test_wait_leaves_the_newcomer_in_the_backlog(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=echo_back), max_connections=3, at_capacity="wait")
    clients = [connect(server) for _ in range(3)]
    server.wait_count("established", 3)
    waiting = [connect(server) for _ in range(3)]
    for index, client in enumerate(waiting):
        client.sendall(b"turn %d" % index)
    for client in clients:
        assert ask(client, b"still here") == b"still here"
    assert len(server.of("established")) == 3
    assert server.connection_count == 3
    for index, client in enumerate(waiting):
        clients[index].close()
        assert recv_exact(client, 6) == b"turn %d" % index
    stats = server.stats()
    assert stats.refused == 0
    assert stats.established == 6


@linux_only
def test_clients_that_wait_cost_the_server_no_descriptors(backend: str) -> None:
    """The descriptors of the process are the program's own, however many clients wait."""
    waiting = 3000
    need_descriptors(waiting + 100)
    with ServerChild(
        backend,
        max_connections=5,
        at_capacity="wait",
        listen_backlog=4096,
        descriptors=300,
    ) as server:
        before = server.ask("report")["descriptors"]
        with clients_of(server.address, waiting) as clients:
            for client in clients:
                client.sendall(b"patience")
            for client in clients[:5]:
                assert recv_exact(client, 8) == b"patience"
            report = server.ask("report")
            assert report["descriptors"] <= before + 5
            assert server.ask("open")["descriptor"] > 0
            for client in clients:
                client.close()
        # It is idle for a moment after any five of them.
        wait_until(lambda: server.ask("report")["accepted"] == waiting, "all to be accepted")
        server.wait_idle()


@pytest.mark.parametrize("workers", [1, 3])
def test_wait_never_has_more_than_allowed_and_serves_all(
    serve: Serve, connect: Connect, workers: int
) -> None:
    most = 0

    def established(conn: Connection) -> None:
        nonlocal most
        most = max(most, server.connection_count)

    server = serve(
        Recorder(established=established, read=echo_back),
        max_connections=7,
        at_capacity="wait",
        workers=workers,
    )
    with clients_of(server, 100) as clients:
        for client in clients:
            client.sendall(b"one of many")
        for client in clients:
            # They are taken in the order in which they came: nobody waits for a later one.
            assert recv_exact(client, 11) == b"one of many"
            client.close()
    server.wait_count("closing", 100)
    assert most <= 7
    assert server.stats().refused == 0


def test_refused_newcomers_are_reported(serve: Serve, connect: Connect, logs: Logs) -> None:
    """In one warning for all of them within a minute, with the option to change."""
    records = logs.expect()
    server = serve(Recorder(), max_connections=1)
    connect(server)
    server.wait_count("established")
    for turn in range(1, 4):
        assert is_refused(server)
        wait_until(partial(_has_refused, server, turn), "the refusal counted")
    wait_until(lambda: bool(records), "the warning")
    (record,) = records
    assert record.levelname == "WARNING"
    assert "refused, 1: max_connections" in record.getMessage()
    assert "max_connections (1)" in record.getMessage()


def test_refuse_in_a_rush_never_has_more_than_allowed(
    serve: Serve, connect: Connect, logs: Logs
) -> None:
    logs.expect()
    most = 0

    def established(conn: Connection) -> None:
        nonlocal most
        most = max(most, server.connection_count)

    server = serve(Recorder(established=established, read=echo_back), max_connections=5, workers=3)
    with contextlib.ExitStack() as clients:
        for _ in range(60):
            with contextlib.suppress(ConnectionResetError):
                clients.enter_context(open_client(server))
        server.wait_for(lambda: server.stats().accepted == 60)
        # An accepted client counts as a connection once its worker has taken it.
        server.wait_for(lambda: server.connection_count == 5)
    server.wait_for(lambda: server.connection_count == 0)
    stats = server.stats()
    assert (stats.refused, stats.established, most) == (55, 5, 5)
    # And the server is not deaf after it (D10).
    assert ask(connect(server), b"well?") == b"well?"


# ---- Sends.


class Hold:
    """A read hook that keeps its worker for as long as the test wants.

    Nothing is offered to the system meanwhile, so the limit counts sixteen times.
    """

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.over = threading.Event()
        self.conn: Connection | None = None

    def __call__(self, conn: Connection, data: object) -> None:
        if not self.over.is_set():
            self.conn = conn
            self.entered.set()
            assert self.over.wait(DEADLINE)

    @contextlib.contextmanager
    def hold(self, client: socket.socket) -> Iterator[Connection]:
        client.sendall(b"hold")
        assert self.entered.wait(DEADLINE)
        assert self.conn is not None
        try:
            yield self.conn
        finally:
            self.over.set()


def test_below_the_limit_any_size_is_taken_at_it_nothing_is(serve: Serve, connect: Connect) -> None:
    """D23: exact.

    A send of 999 bytes is in a block of 2048, one of up to 208 in a block of 256.
    """
    hold = Hold()
    server = serve(Recorder(read=hold), send_backlog_limit=(2048 + 256) // 16)
    client = connect(server)
    with hold.hold(client) as conn:
        assert conn.send(b"a" * 999)
        assert conn.send(b"b")  # reaches the limit
        for attempt in (b"c", b"", bytes(100_000)):
            with pytest.raises(SendBacklogFull):
                conn.send(attempt)
            with pytest.raises(SendBacklogFull):
                conn.writelines([attempt])
        assert conn.send_backlog == 1000
        assert conn.is_open
    assert recv_exact(client, 1000) == b"a" * 999 + b"b"
    assert [e.value for e in server.wait_count("write", 2)] == [999, 1]
    assert conn.send(b"room again")
    assert recv_exact(client, 10) == b"room again"
    # A refused send never comes, neither as bytes nor as a completion.
    conn.close()
    assert recv_to_end(client) == b""
    assert [e.value for e in server.of("write")] == [999, 1, 10]


def test_one_byte_below_the_limit_a_large_send_is_taken(serve: Serve, connect: Connect) -> None:
    size = 8 << 20
    data = pattern(size)
    hold = Hold()
    server = serve(Recorder(read=hold), send_backlog_limit=2048 // 16 + 1)
    client = connect(server)
    with hold.hold(client) as conn:
        assert conn.send(b"a" * 999)
        assert conn.send(data)
        with pytest.raises(SendBacklogFull):
            conn.send(b"c")
        assert conn.send_backlog == 999 + size
    assert recv_exact(client, 999 + size) == b"a" * 999 + data


def test_a_client_that_does_not_read_fills_the_backlog(serve: Serve, connect: Connect) -> None:
    """From a thread, against a real socket: what was accepted comes, all of it, in order."""
    server = serve(Recorder(), send_backlog_limit=1 << 20)
    client = connect(server, receive_buffer=4096)
    conn = server.wait_connection()
    accepted = []
    with pytest.raises(SendBacklogFull):
        for number in range(100_000):
            conn.send(number.to_bytes(4, "big") * 2500)
            accepted.append(number)
    assert conn.is_open
    expected = b"".join(number.to_bytes(4, "big") * 2500 for number in accepted)
    assert recv_exact(client, len(expected)) == expected
    server.wait_count("write", len(accepted))
    assert conn.send(b"done")
    assert recv_exact(client, 4) == b"done"


@pytest.mark.parametrize("told", [True, False])
def test_small_sends_count_with_the_memory_they_take(
    serve: Serve, connect: Connect, told: bool
) -> None:
    """256 bytes each. Where nobody wants their completions they share blocks of 4096, after the
    first, and an empty one takes nothing.
    """
    hold = Hold()

    class Plain(iocp_bind.Server):
        def on_read_completed(self, conn: Connection, data: bytes) -> None:
            hold(conn, data)

    accepted: list[int] = []
    recorder = Recorder(read=hold)
    server = serve(recorder if told else Plain(), send_backlog_limit=256 * 100 // 16)
    client = connect(server)
    with hold.hold(client) as conn:
        for data in (b"", b"x"):
            count = 0
            with contextlib.suppress(SendBacklogFull):
                while count < 30_000:
                    conn.send(data)
                    count += 1
            accepted.append(count)
            assert conn.send_backlog == (0 if told or not data else count)
    if told:
        recorder.wait_count("write", 100)
        assert accepted == [100, 0]
    else:
        most = (256 - 48) + 6 * (4096 - 48) + 1
        assert accepted == [30_000, most]
        assert recv_exact(client, most) == b"x" * most


def test_max_pending_sends_is_exact(serve: Serve, connect: Connect) -> None:
    hold = Hold()
    server = serve(Recorder(read=hold), max_pending_sends=3)
    client = connect(server)
    with hold.hold(client) as conn:
        assert conn.send(b"1")
        assert conn.writelines([b"2", b"2"])
        assert conn.send(b"")
        for _ in range(3):
            with pytest.raises(SendBacklogFull):
                conn.send(b"4")
        assert conn.send_backlog == 3
    assert recv_exact(client, 3) == b"122"
    assert [e.value for e in server.wait_count("write", 3)] == [1, 2, 0]
    assert conn.send(b"5")
    assert recv_exact(client, 1) == b"5"


def test_broadcast_leaves_out_a_full_backlog(serve: Serve, connect: Connect) -> None:
    hold = Hold()
    server = serve(Recorder(read=hold), send_backlog_limit=16)
    full, other = connect(server), connect(server)
    server.wait_count("established", 2)
    with hold.hold(full) as conn:
        assert conn.send(b"x" * 10)
        assert server.broadcast(b"to all") == 1
    assert recv_exact(other, 6) == b"to all"
    assert recv_exact(full, 10) == b"x" * 10


def test_the_exception_says_what_to_do() -> None:
    assert issubclass(SendBacklogFull, Exception)
    assert iocp_bind.SendBacklogFull.__module__ == "iocp_bind"
    assert SendBacklogFull.__doc__


# ---- Buffers and contexts kept for reuse.


@pytest.mark.parametrize("most", [0, 3, 100])
def test_free_contexts_are_capped(serve: Serve, connect: Connect, most: int) -> None:
    server = serve(Echo(), max_free_contexts=most)
    with clients_of(server, 50) as clients:
        for client in clients:
            ask(client, b"x")
    wait_until(lambda: server.connection_count == 0, "every connection gone")
    wait_until(lambda: server.stats().free_contexts <= min(most, 50), "few contexts kept")
    assert ask(connect(server), b"x") == b"x"


@pytest.mark.parametrize("size", [512, 5000, 1 << 20])
def test_no_read_is_larger_than_the_buffer(serve: Serve, connect: Connect, size: int) -> None:
    server = serve(Recorder(), buffer_size=size)
    client = connect(server)
    data = pattern(3 << 20)
    client.sendall(data)
    conn = server.wait_connection()
    server.wait_for(lambda: conn.bytes_received == len(data))
    server.wait_for(lambda: server.received(conn) == data)
    assert max(len(event.value) for event in server.of("read")) <= size
    assert min(len(event.value) for event in server.of("read")) > 0


@pytest.mark.parametrize("most", [0, 1, 2])
def test_few_free_buffers_lose_nothing(serve: Serve, connect: Connect, most: int) -> None:
    server = serve(Echo(), max_free_buffers=most, buffer_size=512)
    data = pattern(20_000)
    with clients_of(server, 20) as clients:
        for client in clients:
            client.sendall(data)
        for client in clients:
            assert recv_exact(client, len(data)) == data
    wait_until(lambda: server.stats().buffers_in_use == 0, "every buffer given back")
