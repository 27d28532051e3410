"""A client that sends and does not read cannot make the server hold much."""

from __future__ import annotations

import threading

import pytest
from support import (
    DEADLINE,
    Connect,
    Echo,
    Recorder,
    Serve,
    ask,
    echo_back,
    fill,
    pattern,
    recv_exact,
    reset,
)

from iocp_bind import Connection

KIB = 1024
# More than the high mark by this much may come: a bounded batch that was under way when it was
# passed.
BATCH = 256 * KIB


@pytest.mark.parametrize("high", [0, 64 * KIB, 512 * KIB])
def test_a_backlog_above_the_high_mark_stops_reading(
    serve: Serve, connect: Connect, high: int
) -> None:
    highest = 0

    def read(conn: Connection, data: bytes) -> None:
        nonlocal highest
        conn.send(data)
        highest = max(highest, conn.send_backlog)

    server = serve(
        Recorder(read=read), write_high_water=high, write_low_water=high // 4, buffer_size=16 * KIB
    )
    client = connect(server, receive_buffer=4096)
    sent = fill(client, 128 << 20)
    assert sent < 128 << 20, "it went on reading"
    conn = server.wait_connection()
    # A send counts for a little more than its bytes: 256 with 16 KiB of them. Reading goes on below
    # the low mark, and meanwhile the system may have taken some more.
    backlog = conn.send_backlog
    assert high // 4 < backlog + backlog // 16
    assert high < highest + highest // 16
    assert highest <= high + BATCH
    # Reads go on when the client reads: everything comes back.
    assert recv_exact(client, sent) == bytes(sent)
    client.sendall(b"and on")
    assert recv_exact(client, 6) == b"and on"


def test_without_flow_control_reading_goes_on(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=echo_back), flow_control=False, send_backlog_limit=1 << 30)
    client = connect(server, receive_buffer=4096)
    size = 48 << 20
    client.sendall(bytes(size))
    conn = server.wait_connection()
    server.wait_for(lambda: conn.bytes_received == size)
    assert conn.send_backlog > 16 << 20


def test_others_are_served_while_one_is_stopped(serve: Serve, connect: Connect) -> None:
    server = serve(Echo())
    stuck = [connect(server, receive_buffer=4096) for _ in range(3)]
    sent = [fill(client, 64 << 20) for client in stuck]
    other = connect(server)
    for turn in range(300):
        message = pattern(500, turn)
        assert ask(other, message) == message
    for client, size in zip(stuck, sent, strict=True):
        assert recv_exact(client, size) == bytes(size)


def test_sends_of_others_stop_reading_too(serve: Serve, connect: Connect) -> None:
    """The mark is about the backlog, whoever queued it; and it ends when the backlog is gone."""
    server = serve(Recorder())
    client = connect(server, receive_buffer=4096)
    conn = server.wait_connection()
    size = 12 << 20  # more than the systems between hold
    conn.send(bytes(size))
    assert fill(client, 64 << 20) < 64 << 20
    got = len(server.received(conn))
    assert got < 64 << 20
    reader = threading.Thread(target=recv_exact, args=(client, size))
    reader.start()
    client.sendall(b"the end")
    server.wait_for(lambda: server.received(conn).endswith(b"the end"))
    reader.join(DEADLINE)


def test_the_end_of_a_stopped_client_is_noticed(serve: Serve, connect: Connect) -> None:
    """Not reading must not mean not noticing that the peer is gone."""
    server = serve(Recorder(read=echo_back), close_timeout=1.0)
    client = connect(server, receive_buffer=4096)
    fill(client, 64 << 20)
    conn = server.wait_connection()
    reset(client)
    server.wait_closed(conn)
    server.wait_for(lambda: server.stats().buffers_in_use == 0)


def test_a_pause_by_the_user_and_one_by_the_mark_do_not_mix(serve: Serve, connect: Connect) -> None:
    """resume_reading() does not lift the mark, and falling below it does not lift the pause."""
    server = serve(Recorder(read=echo_back))
    client = connect(server, receive_buffer=4096)
    sent = fill(client, 64 << 20)
    conn = server.wait_connection()
    conn.pause_reading()
    conn.resume_reading()
    assert conn.send_backlog <= 64 * KIB + BATCH
    conn.pause_reading()
    other = connect(server)
    for _ in range(20):
        ask(other, b"fence")
    received = len(server.received(conn))
    assert received < sent
    assert recv_exact(client, received) == bytes(received)
    server.wait_for(lambda: conn.send_backlog == 0)
    for _ in range(20):
        ask(other, b"fence")
    assert len(server.received(conn)) == received
    conn.resume_reading()
    assert recv_exact(client, sent - received) == bytes(sent - received)
