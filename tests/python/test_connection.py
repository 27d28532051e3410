"""`Connection`: what it says about itself, and what is left of it when it is over."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest
from support import (
    Connect,
    Recorder,
    Serve,
    ask,
    echo_back,
    pattern,
    recv_exact,
    reset,
    wait_until,
)

import iocp_bind
from iocp_bind import CloseReason, Connection


def test_ids_are_never_reused(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=echo_back), max_free_contexts=1)
    for index in range(100):
        client = connect(server)
        ask(client, b"x")
        client.close() if index % 2 else reset(client)
        server.wait_count("closing", index + 1)
    ids = [event.conn.id for event in server.of("established")]
    assert len(set(ids)) == 100
    assert all(isinstance(number, int) for number in ids)

    server.shutdown()
    serve(server)
    connect(server)
    assert server.wait_connection(100).id not in ids


def test_connections_are_hashable_and_equal_only_to_themselves(
    serve: Serve, connect: Connect
) -> None:
    server = serve(Recorder())
    a, b = connect(server), connect(server)
    server.wait_count("established", 2)
    first, second = (event.conn for event in server.of("established"))
    assert first == first
    assert first != second
    assert {first: 1, second: 2}[first] == 1
    a.close()
    b.close()
    server.wait_count("closing", 2)
    assert {first: 1, second: 2}[second] == 2


def test_a_connection_cannot_be_made_by_hand() -> None:
    with pytest.raises(TypeError):
        Connection()


def test_addresses(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder())
    client = connect(server)
    conn = server.wait_connection()
    assert conn.remote_address == client.getsockname()
    assert conn.local_address == client.getpeername()
    assert isinstance(conn.remote_address, tuple)
    client.close()
    server.wait_closed(conn)
    assert conn.remote_address[0] == "127.0.0.1"


def test_data_is_the_users(serve: Serve, connect: Connect) -> None:
    seen: list[Any] = []

    def established(conn: Connection) -> None:
        seen.append(conn.data)
        conn.data = {"state": 1}

    server = serve(
        Recorder(
            established=established,
            read=lambda conn, data: conn.data.update(state=data),
            closing=lambda conn, reason: seen.append(conn.data),
        )
    )
    client = connect(server)
    client.sendall(b"changed")
    server.wait_count("read")
    client.close()
    server.wait_count("closing")
    assert seen == [None, {"state": b"changed"}]
    conn = server.wait_connection()
    conn.data = 5
    assert conn.data == 5


def test_other_attributes_are_refused(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder())
    connect(server)
    conn: Any = server.wait_connection()
    with pytest.raises(AttributeError):
        conn.dta = 1
    with pytest.raises(AttributeError):
        conn.id = 1


def test_the_data_of_a_closed_connection_is_let_go(serve: Serve, connect: Connect) -> None:
    class Held:
        pass

    dead: list[weakref.ref[Held]] = []
    done = threading.Event()

    class Forgets(iocp_bind.Server):
        def on_connection_established(self, conn: Connection) -> None:
            held = Held()
            dead.append(weakref.ref(held))
            conn.data = held

        def on_connection_closing(self, conn: Connection, reason: CloseReason) -> None:
            done.set()

    server = serve(Forgets())
    connect(server).close()
    assert done.wait(20)
    wait_until(lambda: dead[0]() is None, "the data let go")


def test_a_cycle_through_data_is_collected(serve: Serve, connect: Connect) -> None:
    class Session:
        conn: Connection | None = None

    dead: list[weakref.ref[Session]] = []
    done = threading.Event()

    class Cyclic(iocp_bind.Server):
        def on_connection_established(self, conn: Connection) -> None:
            session = Session()
            session.conn = conn
            conn.data = session
            dead.append(weakref.ref(session))

        def on_connection_closing(self, conn: Connection, reason: CloseReason) -> None:
            done.set()

    server = serve(Cyclic())
    connect(server).close()
    assert done.wait(20)

    def collected() -> bool:
        gc.collect()
        return dead[0]() is None

    wait_until(collected, "the cycle collected")


def test_counts_of_bytes(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=echo_back))
    client = connect(server)
    conn = server.wait_connection()
    assert (conn.bytes_received, conn.bytes_sent, conn.send_backlog) == (0, 0, 0)
    data = pattern(300_000)
    sender = threading.Thread(target=client.sendall, args=(data,))
    sender.start()
    assert recv_exact(client, len(data)) == data
    sender.join()
    server.wait_for(lambda: sum(e.value for e in server.of("write")) == len(data))
    assert conn.bytes_received == conn.bytes_sent == len(data)
    client.close()
    server.wait_closed(conn)
    assert conn.bytes_received == conn.bytes_sent == len(data)


def test_send_backlog_is_what_the_system_has_not_taken(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(), send_backlog_limit=1 << 30)
    client = connect(server, receive_buffer=4096)
    conn = server.wait_connection()
    size = 32 << 20
    conn.send(bytes(size))
    server.wait_for(lambda: conn.bytes_sent > 0)
    assert 0 < conn.send_backlog < size
    assert server.of("write") == []
    recv_exact(client, size)
    server.wait_count("write")
    assert (conn.send_backlog, conn.bytes_sent) == (0, size)


def test_backlog_in_a_hook_counts_what_was_just_sent(serve: Serve, connect: Connect) -> None:
    seen: list[int] = []

    def established(conn: Connection) -> None:
        for _ in range(3):
            conn.send(bytes(100))
            seen.append(conn.send_backlog)

    server = serve(Recorder(established=established))
    recv_exact(connect(server), 300)
    assert seen == [100, 200, 300]


def test_repr_names_the_connection(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder())
    client = connect(server)
    conn = server.wait_connection()
    assert str(conn.id) in repr(conn)
    client.close()
    server.wait_closed(conn)
    assert repr(conn)


# ---- A dead handle.


def test_a_dead_handle_answers_and_does_nothing(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=echo_back))
    client = connect(server)
    conn = server.wait_connection()
    assert conn.is_open
    ask(client, b"x")
    client.close()
    server.wait_closed(conn)

    def use() -> None:
        assert conn.is_open is False
        assert conn.send(b"late") is False
        assert conn.send(b"") is False
        assert conn.send(bytes(1 << 20)) is False
        assert conn.writelines([b"a", b"b"]) is False
        conn.close()
        conn.abort()
        conn.pause_reading()
        conn.resume_reading()
        server.close_connection(conn)
        assert conn.send_backlog == 0
        assert (conn.bytes_received, conn.bytes_sent) == (1, 1)
        with pytest.raises(TypeError):
            conn.send("still checked")  # type: ignore[arg-type]

    use()
    server.shutdown()
    use()
    assert server.hooks_of(conn)[-1] == "closing"
    assert server.hooks_of(conn).count("closing") == 1


def test_a_handle_outlives_its_server(backend: str, connect: Connect) -> None:
    server = Recorder()
    server.start(port=0, backend=backend)  # type: ignore[arg-type]
    client = connect(server)
    conn = server.wait_connection()
    conn.data = server  # a cycle, too
    server.shutdown(0.5)
    client.close()
    del server
    gc.collect()
    assert conn.send(b"late") is False
    assert conn.is_open is False
    assert conn.remote_address[0] == "127.0.0.1"
    conn.abort()


def test_a_reference_in_a_running_hook_stays_good(serve: Serve, connect: Connect) -> None:
    """D03: the connection ends while its hook runs; the hook still uses it."""
    seen: list[Any] = []

    def read(conn: Connection, data: bytes) -> None:
        conn.abort()
        gc.collect()
        seen.extend([conn.send(b"x"), conn.is_open, conn.id])

    server = serve(Recorder(read=read), max_free_contexts=0)
    client = connect(server)
    client.sendall(b"x")
    server.wait_count("closing")
    assert seen == [False, False, server.wait_connection().id]
