"""Deadlines: who has shown himself in time is kept, however busy or stopped the server was."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from support import (
    Connect,
    Recorder,
    Serve,
    ServerChild,
    ask,
    full_load,
    linux_only,
    open_client,
    recv_exact,
    reset,
    saw_end,
    saw_reset,
    wait_until,
)

from iocp_bind import CloseReason, Connection

# How long a hook keeps the worker, or nobody runs the process, where a second is the deadline.
KEPT = 1.5
# More clients than one turn looks at, and the full load.
FEW, MANY = 300, 1000


class Talkers:
    """A thread in which clients send something every 0.2 seconds."""

    def __init__(self, clients: list[socket.socket]) -> None:
        self._clients = clients
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._talk)

    def _talk(self) -> None:
        while not self._over.wait(0.2):
            for client in self._clients:
                client.send(b".")

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def keep_worker(conn: Connection, data: bytes, seconds: float = KEPT) -> None:
    """As the `read` of a `Recorder`: the client that says "wait" keeps the worker."""
    if data == b"wait":
        threading.Event().wait(seconds)
        conn.send(b"done")


@pytest.mark.parametrize("timeout", ["idle_timeout", "receive_timeout"])
@pytest.mark.parametrize(("count", "hooks"), [(FEW, 1), full_load(MANY, 2)])
def test_who_speaks_while_a_hook_runs_is_not_idle(
    serve: Serve, connect: Connect, count: int, hooks: int, timeout: str
) -> None:
    server = serve(Recorder(read=keep_worker), **{timeout: 1.0})
    busy = connect(server)
    talkers = [connect(server) for _ in range(count)]
    silent = connect(server)
    conns = server.wait_count("established", count + 2)
    # It waits for its answer without a word.
    waits = next(e.conn for e in conns if e.conn.remote_address == busy.getsockname())
    waits.receive_timeout = None
    with Talkers(talkers):
        for _ in range(hooks):
            busy.sendall(b"wait")
            assert recv_exact(busy, 4) == b"done"
            quiet = next(e.conn for e in conns if e.conn.remote_address == silent.getsockname())
            assert server.wait_closed(quiet) is CloseReason[timeout.upper()]
            assert len(server.of("closing")) == 1


@pytest.mark.parametrize("count", [FEW, full_load(MANY)])
def test_whose_first_data_comes_while_a_hook_runs_is_served(
    serve: Serve, connect: Connect, count: int
) -> None:
    server = serve(Recorder(read=keep_worker), first_data_timeout=1.0)
    busy = connect(server)
    late = [connect(server) for _ in range(count)]
    server.wait_count("established", count + 1)
    busy.sendall(b"wait")
    server.wait_count("read")
    for client in late:
        client.sendall(b"here")
    assert recv_exact(busy, 4) == b"done"
    server.wait_count("read", count + 1)
    assert server.of("closing") == []


@pytest.mark.parametrize(("timeout", "kept"), [(0.6, 0.9), full_load(1.0, KEPT)])
def test_who_takes_bytes_while_a_hook_runs_is_not_cut_by_the_write_timeout(
    serve: Serve, connect: Connect, timeout: float, kept: float
) -> None:
    server = serve(
        Recorder(read=partial(keep_worker, seconds=kept)),
        write_timeout=timeout,
        send_backlog_limit=1 << 30,
    )
    # Each reader has to get what one send holds within the timeout. A busy machine with Wine moves
    # less in a second than Linux does.
    count = 4 if sys.platform == "win32" else 20
    readers = [connect(server, receive_buffer=65536) for _ in range(count)]
    size = 12 << 20
    for event in server.wait_count("established", count):
        event.conn.send(bytes(size))
    busy = [connect(server) for _ in range(2)]
    server.wait_count("established", count + 2)
    busy[0].sendall(b"wait")
    server.wait_count("read")
    busy[1].sendall(b"wait")  # its hook runs in the turn in which others are seen to take bytes
    threads = [
        threading.Thread(target=recv_exact, args=(client, size), daemon=True) for client in readers
    ]
    for thread in threads:
        thread.start()
    assert [recv_exact(client, 4) for client in busy] == [b"done"] * 2
    server.wait_count("write", count + 2)
    for thread in threads:
        thread.join()
    assert server.of("closing") == []


@linux_only
@pytest.mark.parametrize("timeout", ["idle_timeout", "write_timeout", "first_data_timeout"])
def test_who_takes_a_large_send_little_by_little_gets_all_of_it(
    serve: Serve, connect: Connect, timeout: str
) -> None:
    """The system may take it at once, or have no room for long: the client counts."""
    options: dict[str, float] = {timeout: 0.6}
    server = serve(Recorder(), send_backlog_limit=1 << 30, **options)
    client = connect(server, receive_buffer=65536)
    size = (1 if timeout == "first_data_timeout" else 3) << 20
    server.wait_connection().send(bytes(size))
    left = size
    pause = threading.Event()
    while left:
        data = client.recv(min(left, 60_000))
        assert data, "the stream ended"
        left -= len(data)
        pause.wait(0.03)
    if timeout != "first_data_timeout":
        assert server.of("closing") == []


@linux_only
@pytest.mark.parametrize("timeout", ["idle_timeout", "receive_timeout"])
@pytest.mark.parametrize("count", [FEW, full_load(MANY)])
def test_who_speaks_while_the_process_is_stopped_is_not_idle(
    backend: str, count: int, timeout: str
) -> None:
    with (
        ServerChild(backend, "counting", **{timeout: 1.0}) as child,
        contextlib.ExitStack() as opened,
    ):
        clients = [opened.enter_context(open_client(child.address)) for _ in range(count)]
        assert [ask(client, b"x") for client in clients] == [b"x"] * count
        with Talkers(clients):
            os.kill(child.pid, signal.SIGSTOP)
            threading.Event().wait(KEPT)
            os.kill(child.pid, signal.SIGCONT)
            received = child.ask("counters")["bytes_received"]
            wait_until(
                lambda: child.ask("counters")["bytes_received"] > received + 8 * count,
                "some more rounds of talk",
            )
            assert child.ask("counters")["connection_count"] == count


def test_a_talker_that_is_not_read_is_idle(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=lambda conn, _: conn.pause_reading()), idle_timeout=0.5)
    client = connect(server)
    client.settimeout(0.05)
    conn = server.wait_connection()
    end = time.monotonic() + 5
    while conn.is_open and time.monotonic() < end:
        try:
            client.send(bytes(10_000))
        except OSError:
            threading.Event().wait(0.05)
    assert server.wait_closed(conn) is CloseReason.IDLE_TIMEOUT


# ---- The end of a connection whose peer does not take what was sent.


def unacknowledged(port: int) -> int:
    """Bytes that the kernel holds for the server's ends of connections on `port`."""
    held = 0
    with Path("/proc/net/tcp").open(encoding="ascii") as table:
        for line in list(table)[1:]:
            fields = line.split()
            listening = fields[3] == "0A"
            if int(fields[1].split(":")[1], 16) == port and not listening:
                held += int(fields[4].split(":")[0], 16)
    return held


def stuck_clients(
    server: Recorder, connect: Connect, half_closed: bool = False
) -> list[socket.socket]:
    """Clients with a shut window, and a stream that the system has taken whole."""
    clients = [connect(server, receive_buffer=4096) for _ in range(10)]
    for event in server.wait_count("established", 10):
        assert event.conn.send(bytes(1 << 20))
    server.wait_count("write", 10)
    if half_closed:
        for client in clients:
            client.shutdown(socket.SHUT_WR)
    return clients


@linux_only
def test_who_does_not_take_what_was_sent_is_reset_by_close_timeout(
    serve: Serve, connect: Connect
) -> None:
    server = serve(Recorder(), close_timeout=0.5)
    clients = stuck_clients(server, connect)
    assert unacknowledged(server.address[1]) > 1 << 20
    for event in server.of("established"):
        event.conn.close()
    server.wait_count("closing", 10)
    assert unacknowledged(server.address[1]) == 0
    assert all(saw_reset(client) for client in clients)


@linux_only
def test_who_does_not_take_what_was_sent_is_reset_by_shutdown(
    serve: Serve, connect: Connect
) -> None:
    server = serve(Recorder(), close_timeout=60)
    clients = stuck_clients(server, connect)
    port = server.address[1]
    server.shutdown(0.5)
    assert unacknowledged(port) == 0
    assert all(saw_reset(client) for client in clients)


@linux_only
def test_who_ended_its_stream_and_takes_nothing_is_not_kept_by_the_kernel(
    serve: Serve, connect: Connect
) -> None:
    """The connection has closed by then; its bytes go with `close_timeout`."""
    server = serve(Recorder(), close_timeout=0.5)
    clients = stuck_clients(server, connect, half_closed=True)
    assert set(server.reasons()) <= {CloseReason.PEER_CLOSED}
    server.wait_count("closing", 10)
    wait_until(lambda: unacknowledged(server.address[1]) == 0, "the kernel letting go")
    assert len(clients) == 10


def test_who_has_taken_all_and_stays_is_not_reset(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(established=lambda conn: conn.send(b"all")), close_timeout=0.3)
    client = connect(server)
    assert recv_exact(client, 3) == b"all"
    conn = server.wait_connection()
    conn.close()
    assert server.wait_closed(conn) is CloseReason.LOCAL_CLOSE
    assert saw_end(client)


# ---- A connection that breaks while it is paused.


@linux_only
@pytest.mark.parametrize("undelivered", [False, True])
def test_a_reset_is_reported_while_the_connection_is_paused(
    serve: Serve, connect: Connect, undelivered: bool
) -> None:
    server = serve(Recorder(read=lambda conn, _: conn.pause_reading()))
    client = connect(server)
    client.sendall(b"x")
    conn = server.wait_count("read")[0].conn
    if undelivered:
        client.sendall(bytes(100_000))
        threading.Event().wait(0.05)
    reset(client)
    assert server.wait_closed(conn) is CloseReason.ERROR
    assert server.hooks_of(conn) == ["established", "read", "error", "closing"]
    assert isinstance(server.of("error")[0].value, ConnectionResetError)


@linux_only
def test_a_reset_behind_the_end_is_reported_while_the_connection_is_paused(
    serve: Serve, connect: Connect
) -> None:
    """A client that ends its stream, and goes while a big answer is under way."""

    def answer(conn: Connection, _: bytes) -> None:
        conn.pause_reading()
        conn.send(bytes(32 << 20))

    server = serve(Recorder(read=answer), send_backlog_limit=1 << 30, close_timeout=60)
    client = connect(server, receive_buffer=4096)
    client.sendall(b"x")
    conn = server.wait_count("read")[0].conn
    client.sendall(b"more")
    client.shutdown(socket.SHUT_WR)
    threading.Event().wait(0.05)
    assert conn.is_open
    client.close()  # with unread data, which is a reset
    assert server.wait_closed(conn) is CloseReason.ERROR
    assert isinstance(server.of("error")[0].value, (ConnectionResetError, BrokenPipeError))


def test_an_orderly_end_waits_while_the_connection_is_paused(
    serve: Serve, connect: Connect
) -> None:
    server = serve(Recorder(read=lambda conn, _: conn.pause_reading()))
    client = connect(server)
    client.sendall(b"x")
    conn = server.wait_count("read")[0].conn
    client.sendall(b"y")
    client.shutdown(socket.SHUT_WR)
    threading.Event().wait(0.1)
    assert conn.is_open
    conn.resume_reading()  # the next read pauses again
    server.wait_count("read", 2)
    assert conn.is_open
    conn.resume_reading()
    assert server.wait_closed(conn) is CloseReason.PEER_CLOSED
    assert b"".join(event.value for event in server.of("read")) == b"xy"
