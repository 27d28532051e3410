"""`pause_reading` and `resume_reading`."""

from __future__ import annotations

from functools import partial

from support import (
    Connect,
    Recorder,
    Serve,
    ask,
    echo_back,
    fill,
    in_threads,
    pattern,
    recv_exact,
    saw_reset,
)

import iocp_bind
from iocp_bind import CloseReason, Connection


def _fence(server: iocp_bind.Server, connect: Connect, turns: int = 20) -> None:
    """Let the server go round many times; what it was going to do, it has done."""
    client = connect(server)
    for _ in range(turns):
        ask(client, b"fence")
    client.close()


def _has_events(server: Recorder, conn: Connection, count: int) -> bool:
    return len(server.of_connection(conn)) >= count


def _echo_unless_paused(conn: Connection, data: bytes) -> None:
    if data == b"fence":
        conn.send(data)


def test_a_paused_connection_is_not_read_from(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=_echo_unless_paused))
    client = connect(server)
    conn = server.wait_connection()
    client.sendall(b"one")
    server.wait_for(lambda: server.received(conn) == b"one")
    conn.pause_reading()
    _fence(server, connect)
    before = server.received(conn)
    client.sendall(b"two")
    _fence(server, connect)
    # One read may have been under way when it was paused from outside; not more than that.
    assert server.received(conn) in (before, before + b"two")
    conn.resume_reading()
    server.wait_for(lambda: server.received(conn) == b"onetwo")


def test_paused_in_a_hook_nothing_comes_until_resumed(serve: Serve, connect: Connect) -> None:
    def read(conn: Connection, data: bytes) -> None:
        if data == b"fence":
            conn.send(data)
        else:
            conn.pause_reading()

    server = serve(Recorder(read=read), buffer_size=512)
    client = connect(server)
    data = pattern(20_000)
    client.sendall(data)
    client.close()
    conn = server.wait_connection()
    server.wait_for(lambda: server.received(conn))
    while len(server.received(conn)) < len(data):
        reads = len(server.of_connection(conn))
        _fence(server, connect, 3)
        assert len(server.of_connection(conn)) == reads, "read although paused"
        conn.resume_reading()
        server.wait_for(partial(_has_events, server, conn, reads + 1))
    assert server.received(conn) == data
    # The end of the stream waits with the data before it.
    _fence(server, connect)
    assert "closing" not in server.hooks_of(conn)
    conn.resume_reading()
    assert server.wait_closed(conn) is CloseReason.PEER_CLOSED


def test_pause_in_established(serve: Serve, connect: Connect) -> None:
    first: list[Connection] = []

    def established(conn: Connection) -> None:
        if not first:
            first.append(conn)
            conn.pause_reading()

    server = serve(Recorder(established=established, read=_echo_unless_paused))
    client = connect(server)
    client.sendall(b"early")
    conn = server.wait_connection()
    _fence(server, connect)
    assert server.received(conn) == b""
    conn.resume_reading()
    server.wait_for(lambda: server.received(conn) == b"early")


def test_a_paused_connection_can_be_sent_to_and_closed(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(established=Connection.pause_reading), close_timeout=0.5)
    client = connect(server)
    client.sendall(b"unread")
    conn = server.wait_connection()
    assert conn.send(b"one way")
    assert recv_exact(client, 7) == b"one way"
    conn.close()
    assert client.recv(1) == b""
    client.close()
    server.wait_closed(conn)
    assert "read" not in server.hooks_of(conn)


def test_a_paused_connection_slows_its_peer_down(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(established=Connection.pause_reading))
    client = connect(server)
    conn = server.wait_connection()
    assert fill(client, 256 << 20, patience=0.3) < 64 << 20
    assert server.received(conn) == b""
    assert conn.bytes_received < 1 << 20


def test_resume_and_pause_any_number_of_times(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=echo_back))
    client = connect(server)
    conn = server.wait_connection()

    def toggle(index: int) -> None:
        for _ in range(200):
            conn.pause_reading()
            conn.resume_reading()

    in_threads(4, toggle)
    conn.resume_reading()
    assert ask(client, b"alive") == b"alive"


def test_abort_of_a_paused_connection(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(established=Connection.pause_reading))
    client = connect(server)
    conn = server.wait_connection()
    conn.abort()
    assert server.wait_closed(conn) is CloseReason.LOCAL_ABORT
    assert saw_reset(client)
