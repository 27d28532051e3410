"""Clients that keep the server waiting, and for how long."""

from __future__ import annotations

import select
import socket
import threading
import time

import pytest
from support import (
    Connect,
    Recorder,
    Serve,
    ask,
    echo_back,
    full_load,
    in_threads,
    recv_exact,
    recv_to_end,
    saw_end,
    saw_reset,
)

import iocp_bind
from iocp_bind import CloseReason, Connection

# A stalled machine must not fail a test: what comes too late is late by seconds here.
LATE = 5.0


def test_a_silent_client_is_closed(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=echo_back), first_data_timeout=0.3)
    began = time.monotonic()
    silent = connect(server)
    speaking = connect(server)
    assert ask(speaking, b"here") == b"here"
    assert saw_end(silent), "an end of stream is due, not a reset"
    conn = next(
        e.conn
        for e in server.wait_count("established", 2)
        if e.conn.remote_address == silent.getsockname()
    )
    assert server.wait_closed(conn) is CloseReason.FIRST_DATA_TIMEOUT
    assert 0.25 <= time.monotonic() - began < LATE
    assert server.hooks_of(conn) == ["established", "closing"]
    # Who has spoken once may be silent.
    assert not select.select([speaking], [], [], 0.6)[0]
    assert ask(speaking, b"still") == b"still"


def test_a_client_is_silent_even_if_it_was_sent_something(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(established=lambda conn: conn.send(b"hello")), first_data_timeout=0.2)
    client = connect(server)
    assert client.recv(5) == b"hello"
    assert server.wait_closed(server.wait_connection()) is CloseReason.FIRST_DATA_TIMEOUT
    assert client.recv(1) == b""


def test_no_first_data_timeout(serve: Serve, connect: Connect) -> None:
    """The client of the one server goes while that of the other, which came first, stays."""
    patient = serve(Recorder(), first_data_timeout=None)
    hasty = serve(Recorder(), first_data_timeout=0.3)
    client = connect(patient)
    patient.wait_connection()
    connect(hasty)
    hasty.wait_count("closing")
    assert patient.connection_count == 1
    assert not select.select([client], [], [], 0.1)[0]


def test_with_established_on_first_data_a_silent_client_calls_no_hook(
    serve: Serve, connect: Connect
) -> None:
    """D27, D12: it is closed all the same, and occupies nothing meanwhile."""
    server = serve(Recorder(read=echo_back), established_on="first_data", first_data_timeout=0.3)
    silent = [connect(server) for _ in range(150)]  # more than max_accepts
    speaking = connect(server)
    assert ask(speaking, b"served") == b"served"
    for client in silent:
        assert saw_end(client)
    server.wait_for(lambda: server.stats().connections == 1)
    assert [event.hook for event in server.events] == ["established", "read", "write"]
    stats = server.stats()
    assert stats.accepted == 151
    assert stats.established == 1
    assert sum(stats.closed.values()) == 0


def test_an_idle_client_is_closed(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=echo_back), idle_timeout=0.4)
    client = connect(server)
    assert ask(client, b"x") == b"x"
    began = time.monotonic()
    assert saw_end(client)
    assert 0.3 <= time.monotonic() - began < LATE
    assert server.wait_closed(server.wait_connection()) is CloseReason.IDLE_TIMEOUT


def test_traffic_keeps_a_client(serve: Serve, connect: Connect) -> None:
    """In either direction: one client speaks, one is spoken to, a third does neither."""
    server = serve(Recorder(), idle_timeout=1.0, first_data_timeout=None)
    speaking, listening, idle = (connect(server) for _ in range(3))
    conns = {e.conn.remote_address: e.conn for e in server.wait_count("established", 3)}
    listener = conns[listening.getsockname()]
    pause = threading.Event()
    end = time.monotonic() + 2.2
    while time.monotonic() < end:
        speaking.sendall(b"x")
        assert listener.send(b"y")
        pause.wait(0.05)
    assert server.wait_closed(conns[idle.getsockname()]) is CloseReason.IDLE_TIMEOUT
    assert listener.is_open
    assert conns[speaking.getsockname()].is_open
    assert len(server.of("closing")) == 1


def test_a_client_that_takes_nothing_is_closed(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(), write_timeout=0.4, send_backlog_limit=1 << 30)
    client = connect(server, receive_buffer=4096)
    conn = server.wait_connection()
    conn.send(bytes(32 << 20))
    began = time.monotonic()
    assert server.wait_closed(conn) is CloseReason.WRITE_TIMEOUT
    assert 0.3 <= time.monotonic() - began < LATE
    assert saw_reset(client), "it must be able to see that there was more"


@pytest.mark.parametrize("timeout", [0.7, full_load(1.5)])
def test_a_slow_reader_is_kept(serve: Serve, connect: Connect, timeout: float) -> None:
    """Time counts from the last byte that the client took."""
    server = serve(Recorder(), write_timeout=timeout, send_backlog_limit=1 << 30)
    client = connect(server, receive_buffer=65536)
    conn = server.wait_connection()
    size = 24 << 20
    conn.send(bytes(size))
    pause = threading.Event()
    left = size
    began = time.monotonic()
    while left:
        left -= len(client.recv(min(left, 1 << 20)))
        if time.monotonic() - began < 2 * timeout:
            pause.wait(0.05)
    server.wait_count("write")
    assert conn.is_open


def test_nothing_to_write_is_no_write_timeout(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=echo_back), write_timeout=0.2)
    client = connect(server)
    assert ask(client, b"x") == b"x"
    assert not select.select([client], [], [], 0.6)[0]
    assert ask(client, b"y") == b"y"


def test_a_half_closed_client_that_does_not_read_is_not_kept(
    serve: Serve, connect: Connect
) -> None:
    """Data queued at the end of the stream is flushed, for close_timeout at most."""
    server = serve(
        Recorder(read=lambda conn, data: conn.send(bytes(32 << 20))),
        close_timeout=0.4,
        flow_control=False,  # with it, the end of the stream is not even read
        send_backlog_limit=1 << 30,
    )
    client = connect(server, receive_buffer=4096)
    client.sendall(b"much, please")
    client.shutdown(socket.SHUT_WR)
    conn = server.wait_connection()
    began = time.monotonic()
    server.wait_closed(conn)
    assert time.monotonic() - began < LATE
    assert saw_reset(client)


@pytest.mark.parametrize("option", ["first_data_timeout", "idle_timeout"])
def test_many_at_once(serve: Serve, connect: Connect, option: str) -> None:
    server = serve(Recorder(), **{option: 0.5})
    clients = [connect(server) for _ in range(300)]
    server.wait_count("established", 300)
    began = time.monotonic()
    for client in clients:
        assert saw_end(client)
    server.wait_count("closing", 300)
    assert time.monotonic() - began < LATE
    expected = CloseReason[option.upper()]
    assert server.reasons() == [expected] * 300
    server.check_grammar()


def test_a_busy_server_still_times_out(serve: Serve, connect: Connect) -> None:
    """D12: the original looked for silent clients only when nobody came for a minute."""
    server = serve(Recorder(read=echo_back), first_data_timeout=0.5)
    stop = threading.Event()

    def run(index: int) -> None:
        if index == 0:
            silent = [connect(server) for _ in range(20)]
            began = time.monotonic()
            for client in silent:
                assert saw_end(client)
            stop.set()
            assert time.monotonic() - began < LATE
            return
        while not stop.is_set():
            client = connect(server)
            assert ask(client, b"busy") == b"busy"
            client.close()

    in_threads(3, run)
    # The hooks come after the clients have seen the end.
    server.wait_for(lambda: server.reasons().count(CloseReason.FIRST_DATA_TIMEOUT) == 20)


def test_a_pause_does_not_stop_the_clock_of_a_silent_client(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(established=Connection.pause_reading), idle_timeout=0.3)
    connect(server)
    assert server.wait_closed(server.wait_connection()) is CloseReason.IDLE_TIMEOUT


# ---- receive_timeout.


def test_a_client_that_only_listens_is_silent(serve: Serve, connect: Connect) -> None:
    """One client speaks, one is only spoken to.

    The second is closed first, before a third one that connected before the last byte was sent
    to the second.
    """
    server = serve(Recorder(), receive_timeout=1.0, workers=1)
    speaking, listening = connect(server), connect(server)
    conns = {e.conn.remote_address: e.conn for e in server.wait_count("established", 2)}
    listener, speaker = conns[listening.getsockname()], conns[speaking.getsockname()]
    began = time.monotonic()
    pause = threading.Event()
    while time.monotonic() - began < 0.5:
        assert listener.send(b"y")
        speaking.sendall(b"x")
        pause.wait(0.05)
    connect(server)
    witness = server.wait_count("established", 3)[-1].conn
    listener.send(b"y")
    speaking.sendall(b"x")
    closings = server.wait_count("closing", 3)
    assert [e.value for e in closings] == [CloseReason.RECEIVE_TIMEOUT] * 3
    assert closings[0].conn is listener
    assert {e.conn for e in closings[1:]} == {speaker, witness}
    assert time.monotonic() - began > 1.4
    assert server.hooks_of(listener)[-1] == "closing"
    assert set(recv_to_end(listening)) == {ord("y")}, "all that was sent, and the end of the stream"


@pytest.mark.parametrize("by", ["pause", "backlog"])
def test_a_client_that_is_not_read_from_is_not_silent(
    serve: Serve, connect: Connect, by: str
) -> None:
    server = serve(
        Recorder(), receive_timeout=0.5, write_high_water=100_000, send_backlog_limit=1 << 30
    )
    witness = connect(server)
    client = connect(server, receive_buffer=4096)
    conns = {e.conn.remote_address: e.conn for e in server.wait_count("established", 2)}
    conn = conns[client.getsockname()]
    size = 16 << 20
    if by == "pause":
        conn.pause_reading()
    else:
        conn.send(bytes(size))
    # The other one had as much time.
    assert server.wait_closed(conns[witness.getsockname()]) is CloseReason.RECEIVE_TIMEOUT
    threading.Event().wait(0.3)
    assert conn.is_open
    if by == "pause":
        conn.resume_reading()
    else:
        assert len(recv_exact(client, size)) == size
    assert server.wait_closed(conn) is CloseReason.RECEIVE_TIMEOUT


def test_a_client_that_has_ended_its_stream_is_not_silent(serve: Serve, connect: Connect) -> None:
    ended = threading.Event()
    server = serve(HalfCloser(ended), receive_timeout=0.4)
    client, witness = connect(server), connect(server)
    client.shutdown(socket.SHUT_WR)
    assert ended.wait(LATE)
    assert saw_end(witness)
    assert not select.select([client], [], [], 0.5)[0]
    (conn,) = server.connections()
    conn.send(b"late")
    conn.close()
    assert recv_to_end(client) == b"late"


class HalfCloser(iocp_bind.Server):
    """Keeps a connection open after the end of the client's stream."""

    def __init__(self, ended: threading.Event) -> None:
        super().__init__()
        self.ended = ended

    def on_end_of_stream(self, conn: Connection) -> None:
        self.ended.set()


# ---- Timeouts of a connection's own.

OWN = {
    "idle_timeout": CloseReason.IDLE_TIMEOUT,
    "receive_timeout": CloseReason.RECEIVE_TIMEOUT,
}


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("server_has", [None, 60.0])
def test_a_connection_sets_its_own_timeout_in_a_hook(
    serve: Serve, connect: Connect, name: str, server_has: float | None
) -> None:
    def read(conn: Connection, data: bytes) -> None:
        setattr(conn, name, float(data))
        conn.send(str(getattr(conn, name)).encode())

    server = serve(Recorder(read=read), **{name: server_has})
    own, other = connect(server), connect(server)
    began = time.monotonic()
    assert ask(own, b"0.3") == b"0.3"
    assert saw_end(own)
    assert 0.25 <= time.monotonic() - began < LATE
    conn = server.wait_count("read")[0].conn
    assert server.wait_closed(conn) is OWN[name]
    assert ask(other, b"0.29") == b"0.29"


@pytest.mark.parametrize("name", OWN)
def test_a_timeout_that_is_set_from_outside_holds_at_once(
    serve: Serve, connect: Connect, name: str
) -> None:
    """Nothing happens on the connection that would wake its worker."""
    server = serve(Recorder())
    clients = [connect(server) for _ in range(2)]
    conns = {e.conn.remote_address: e.conn for e in server.wait_count("established", 2)}
    first, second = (conns[client.getsockname()] for client in clients)
    threading.Event().wait(0.3)
    assert getattr(first, name) is None
    began = time.monotonic()
    setattr(first, name, 0.2)  # more time has passed
    assert server.wait_closed(first) is OWN[name]
    assert time.monotonic() - began < LATE
    setattr(second, name, 3600)
    assert getattr(second, name) == 3600.0
    setattr(second, name, 0.4)
    assert server.wait_closed(second) is OWN[name]


@pytest.mark.parametrize("name", OWN)
def test_a_connection_goes_back_to_the_timeout_of_the_server(
    serve: Serve, connect: Connect, name: str
) -> None:
    def established(conn: Connection) -> None:
        setattr(conn, name, None)

    server = serve(Recorder(established=established), **{name: 0.5})
    client = connect(server)
    conn = server.wait_connection()
    assert getattr(conn, name) is None
    assert not select.select([client], [], [], 1.0)[0], "it has no timeout"
    delattr(conn, name)
    assert getattr(conn, name) == 0.5
    assert server.wait_closed(conn) is OWN[name]
    # A dead handle answers, and does nothing.
    setattr(conn, name, 7)
    delattr(conn, name)
    assert getattr(conn, name) == 0.5


@pytest.mark.parametrize("name", OWN)
def test_a_bad_timeout_of_a_connection_is_refused(
    serve: Serve, connect: Connect, name: str
) -> None:
    server = serve(Recorder(read=echo_back))
    client = connect(server)
    conn = server.wait_connection()
    setattr(conn, name, 60)
    for wrong in ("1", True, b"1", [], object()):
        with pytest.raises(TypeError, match=f"{name} must be a number of seconds"):
            setattr(conn, name, wrong)
    for bad in (0, -1, 0.0001, 1e9, 1e30, 10**400, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"{name} (must be|is out of range)"):
            setattr(conn, name, bad)
    assert getattr(conn, name) == 60.0
    assert ask(client, b"x") == b"x"
    conn.abort()
    server.wait_closed(conn)
    with pytest.raises(ValueError, match=name):
        setattr(conn, name, 0)


def test_timeouts_are_set_from_many_threads_while_clients_talk(
    serve: Serve, connect: Connect
) -> None:
    server = serve(Recorder(read=echo_back), receive_timeout=30.0)
    clients = [connect(server) for _ in range(4)]
    conns = [event.conn for event in server.wait_count("established", 4)]

    def run(index: int) -> None:
        for _ in range(100):
            if index < 4:
                assert ask(clients[index], b"x") == b"x"
                continue
            for conn in conns:
                conn.idle_timeout = 10.0 + index
                conn.receive_timeout = None if index % 2 else 20.0
                del conn.receive_timeout

    in_threads(7, run)
    assert all(conn.is_open for conn in conns)
    for conn in conns:
        del conn.idle_timeout
        conn.receive_timeout = 0.2
    server.wait_count("closing", 4)
    assert server.reasons() == [CloseReason.RECEIVE_TIMEOUT] * 4
