"""Closing and aborting, as the client sees them."""

from __future__ import annotations

import errno
import socket
import time
from typing import Any

import pytest
import seccomp
from support import (
    Connect,
    Recorder,
    Serve,
    echo_back,
    in_threads,
    linux_only,
    pattern,
    recv_to_end,
    saw_reset,
)

from iocp_bind import CloseReason, Connection


def test_close_ends_the_stream_after_all_data(serve: Serve, connect: Connect) -> None:
    """D28."""
    data = pattern(4 << 20)

    def established(conn: Connection) -> None:
        conn.send(data)
        conn.close()

    server = serve(Recorder(established=established), send_backlog_limit=1 << 30)
    client = connect(server)
    assert recv_to_end(client) == data
    client.close()
    conn = server.wait_connection()
    assert server.wait_closed(conn) is CloseReason.LOCAL_CLOSE
    # The send before the close was completed, too.
    assert server.hooks_of(conn) == ["established", "write", "closing"]


def test_close_with_data_unread_still_ends_the_stream(serve: Serve, connect: Connect) -> None:
    """Data that nobody has read must not turn the end of the stream into a reset."""

    def read(conn: Connection, data: bytes) -> None:
        conn.send(b"enough")
        conn.close()

    server = serve(Recorder(read=read), buffer_size=512)
    client = connect(server)
    client.sendall(pattern(20_000))
    assert recv_to_end(client) == b"enough"
    client.close()
    assert server.wait_closed(server.wait_connection()) is CloseReason.LOCAL_CLOSE


def test_nothing_is_read_after_close(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=lambda conn, data: conn.close()), buffer_size=512)
    client = connect(server)
    client.sendall(pattern(20_000))
    assert recv_to_end(client) == b""
    client.sendall(b"more")
    client.close()
    server.wait_count("closing")
    assert len(server.of("read")) == 1


def test_close_refuses_further_sends_at_once(serve: Serve, connect: Connect) -> None:
    seen: list[bool] = []

    def established(conn: Connection) -> None:
        seen.append(conn.send(b"before"))
        conn.close()
        seen.extend([conn.send(b"after"), conn.is_open])

    server = serve(Recorder(established=established))
    client = connect(server)
    assert recv_to_end(client) == b"before"
    assert seen == [True, False, False]
    client.close()
    server.wait_count("closing")


def test_close_waits_for_the_peer_at_most_close_timeout(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(), close_timeout=0.3)
    client = connect(server)
    conn = server.wait_connection()
    began = time.monotonic()
    conn.close()
    assert client.recv(1) == b""
    assert server.wait_closed(conn) is CloseReason.LOCAL_CLOSE
    assert 0.25 <= time.monotonic() - began < 3


def test_close_of_a_peer_that_does_not_read_ends_too(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(), close_timeout=0.3, send_backlog_limit=1 << 30)
    client = connect(server, receive_buffer=4096)
    conn = server.wait_connection()
    conn.send(bytes(32 << 20))
    began = time.monotonic()
    conn.close()
    server.wait_closed(conn)
    assert time.monotonic() - began < 3
    # Not everything was sent, and the client must be able to see that.
    assert saw_reset(client)
    assert "write" not in server.hooks_of(conn)


def test_a_peer_that_closes_too_ends_the_wait(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(), close_timeout=15.0)
    client = connect(server)
    conn = server.wait_connection()
    began = time.monotonic()
    conn.close()
    assert recv_to_end(client) == b""
    client.close()
    assert server.wait_closed(conn) is CloseReason.LOCAL_CLOSE
    assert time.monotonic() - began < 10


def test_abort_resets(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder())
    client = connect(server)
    conn = server.wait_connection()
    conn.abort()
    assert server.wait_closed(conn) is CloseReason.LOCAL_ABORT
    assert saw_reset(client)
    assert conn.send(b"late") is False
    assert server.hooks_of(conn) == ["established", "closing"]


# Not on io_uring: its sends are no system calls, and nothing else makes the kernel refuse them.
@linux_only
@pytest.mark.parametrize("backend", ["epoll"])
@pytest.mark.parametrize("code", [errno.ENOBUFS, errno.ENOMEM])
def test_a_send_that_the_system_has_no_memory_for_resets_at_once(
    serve: Serve, connect: Connect, code: int
) -> None:
    def read(conn: Connection, data: bytes) -> None:
        seccomp.refuse(("sendto", "sendmsg"), code, all_threads=False)
        conn.send(b"never out")

    server = serve(Recorder(read=read), workers=1, close_timeout=300.0)
    client = connect(server)
    client.sendall(b"answer")
    conn = server.wait_connection()
    server.wait_closed(conn)
    assert saw_reset(client)
    assert [event.value.errno for event in server.of("error")] == [code]
    assert server.reasons() == [CloseReason.ERROR]


def test_abort_drops_what_is_queued(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(), send_backlog_limit=1 << 30)
    client = connect(server, receive_buffer=4096)
    conn = server.wait_connection()
    conn.send(bytes(32 << 20))
    conn.abort()
    assert server.wait_closed(conn) is CloseReason.LOCAL_ABORT
    assert saw_reset(client)
    assert "write" not in server.hooks_of(conn)
    assert conn.send_backlog == 0


def test_abort_ends_a_close_that_waits(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(), close_timeout=60.0)
    client = connect(server)
    conn = server.wait_connection()
    conn.close()
    assert client.recv(1) == b""
    conn.abort()
    assert server.wait_closed(conn) in (CloseReason.LOCAL_CLOSE, CloseReason.LOCAL_ABORT)


@pytest.mark.parametrize("how", ["close", "abort", "both"])
def test_any_number_of_times_from_any_thread(serve: Serve, connect: Connect, how: str) -> None:
    server = serve(Recorder(read=echo_back), workers=2)
    for turn in range(10):
        client = connect(server)
        conn = server.wait_connection(turn)

        def end(index: int, conn: Connection = conn) -> None:
            for _ in range(10):
                if how == "close" or (how == "both" and index % 2):
                    conn.close()
                else:
                    conn.abort()

        in_threads(4, end)
        assert conn.send(b"late") is False
        saw_reset(client)
        client.close()
        server.wait_closed(conn)
    assert len(server.of("closing")) == 10
    server.check_grammar()


def test_close_connection_and_close_all(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder())
    clients = [connect(server) for _ in range(5)]
    first = server.wait_count("established", 5)[0].conn
    server.close_connection(first)
    gone = next(c for c in clients if c.getsockname() == first.remote_address)
    assert gone.recv(1) == b""
    gone.close()
    server.wait_closed(first)
    assert server.connection_count == 4
    server.close_all_connections()
    for client in clients:
        if client is not gone:
            assert client.recv(1) == b""
            client.close()
    server.wait_count("closing", 5)
    assert set(server.reasons()) == {CloseReason.LOCAL_CLOSE}
    # It goes on accepting (D07: and nothing was forgotten).
    connect(server)
    server.wait_count("established", 6)
    server.wait_for(lambda: server.connection_count == 1)


@pytest.mark.parametrize("bad", [None, 5, "conn"])
def test_close_connection_needs_a_connection(serve: Serve, bad: Any) -> None:
    server = serve(Recorder())
    with pytest.raises(TypeError):
        server.close_connection(bad)


def test_after_a_half_close_a_send_of_another_thread_is_refused(
    backend: str, serve: Serve, connect: Connect
) -> None:
    """Sends of hooks before the end are written; README says so."""
    server = serve(Recorder(read=echo_back), backend=backend)
    client = connect(server)
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    assert recv_to_end(client) == b"question"
    conn = server.wait_connection()
    answers: list[bool] = []
    in_threads(1, lambda _: answers.append(conn.send(b"too late")))
    assert answers == [False]
