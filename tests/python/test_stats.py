"""`stats()`: every counter, against what was done."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import threading
from typing import Any

import pytest
from support import (
    DEADLINE,
    Connect,
    Recorder,
    Serve,
    ask,
    echo_back,
    in_threads,
    recv_exact,
    reset,
    saw_end,
    saw_reset,
)

import iocp_bind
from iocp_bind import CloseReason, Connection, Stats, TLSFailure

COUNTERS = {
    "accepted": int,
    "refused": int,
    "accept_errors": int,
    "established": int,
    "closed": dict,
    "tls_handshakes": int,
    "tls_resumed": int,
    "tls_failures": dict,
    "connections": int,
    "reads": int,
    "messages": int,
    "writes": int,
    "bytes_received": int,
    "bytes_sent": int,
    "hook_calls": int,
    "hook_errors": int,
    "hook_batches": int,
    "gil_wait_seconds": float,
    "hook_seconds": float,
    "buffers_in_use": int,
    "free_buffers": int,
    "free_contexts": int,
    "pending_accepts": int,
    "sends_refused": int,
    "broadcasts_skipped": int,
    "send_backlog": int,
}


def test_every_counter_says_what_it_is() -> None:
    """A unit, and whether it is a counter or a gauge."""
    (definition,) = ast.parse(inspect.getsource(Stats)).body
    assert isinstance(definition, ast.ClassDef)
    body = definition.body[1:]
    documented = []
    for field, doc in zip(body[::2], body[1::2], strict=True):
        assert isinstance(field, ast.AnnAssign)
        assert isinstance(field.target, ast.Name)
        assert isinstance(doc, ast.Expr)
        assert isinstance(doc.value, ast.Constant)
        text = str(doc.value.value)
        assert text.endswith((" Counter.", " Counters.", " Gauge.")), field.target.id
        if field.target.id.endswith("_seconds"):
            assert text.startswith("Seconds"), field.target.id
        documented.append(field.target.id)
    assert set(documented) == set(COUNTERS)


def test_the_counters_are_those_of_the_design(serve: Serve) -> None:
    server = serve(Recorder())
    stats = server.stats()
    assert isinstance(stats, Stats)
    assert {field.name for field in dataclasses.fields(Stats)} == set(COUNTERS)
    for name, kind in COUNTERS.items():
        assert isinstance(getattr(stats, name), kind), name
    assert stats.closed == dict.fromkeys(CloseReason, 0)
    assert stats.tls_failures == dict.fromkeys(TLSFailure, 0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.accepted = 1  # type: ignore[misc]


def test_a_fresh_server_has_counted_nothing(serve: Serve) -> None:
    stats = serve(Recorder()).stats()
    for name in COUNTERS:
        if COUNTERS[name] is not dict and name not in (
            "pending_accepts",
            "free_buffers",
            "free_contexts",
        ):
            assert getattr(stats, name) == 0, name


def test_traffic_is_counted(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=echo_back))
    clients = [connect(server) for _ in range(3)]
    for client in clients:
        for _ in range(10):
            ask(client, bytes(100))
    server.wait_count("write", 30)
    stats = server.stats()
    assert (stats.accepted, stats.established, stats.connections) == (3, 3, 3)
    assert (stats.refused, stats.accept_errors, stats.hook_errors) == (0, 0, 0)
    assert (stats.bytes_received, stats.bytes_sent) == (3000, 3000)
    assert (stats.reads, stats.writes) == (30, 30)
    assert stats.hook_calls == len(server.events) == 63
    assert 1 <= stats.hook_batches <= stats.hook_calls
    assert stats.hook_seconds > 0
    assert stats.gil_wait_seconds >= 0
    assert stats.buffers_in_use == 0


def test_ends_are_counted_by_reason(serve: Serve, connect: Connect) -> None:
    def read(conn: Connection, data: bytes) -> None:
        if data == b"close":
            conn.close()
        elif data == b"abort":
            conn.abort()
        elif data == b"raise":
            raise LookupError
        else:
            conn.send(data)

    class Quiet(Recorder):
        def on_hook_error(self, conn: Connection | None, hook: str, exc: BaseException) -> None:
            assert conn is not None
            conn._abort_for_hook_error()

    server = serve(Quiet(read=read), first_data_timeout=0.5)
    for message, count in ((b"close", 1), (b"abort", 2), (b"raise", 3)):
        for _ in range(count):
            client = connect(server)
            client.sendall(message)
            saw_reset(client)
            client.close()
    for _ in range(4):
        client = connect(server)
        ask(client, b"x")
        client.close()
    for _ in range(5):
        client = connect(server)
        ask(client, b"x")
        reset(client)
    silent = connect(server)
    assert saw_end(silent)
    server.wait_count("closing", 16)
    expected = dict.fromkeys(CloseReason, 0)
    expected |= {
        CloseReason.LOCAL_CLOSE: 1,
        CloseReason.LOCAL_ABORT: 2,
        CloseReason.HOOK_ERROR: 3,
        CloseReason.PEER_CLOSED: 4,
        CloseReason.ERROR: 5,
        CloseReason.FIRST_DATA_TIMEOUT: 1,
    }
    stats = server.stats()
    assert stats.closed == expected
    assert stats.hook_errors == 3
    assert stats.connections == 0
    assert stats.established == 16


def test_shutdown_is_counted(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder())
    for _ in range(3):
        connect(server)
    server.wait_count("established", 3)
    server.shutdown(0.2)
    stats = server.stats()
    assert stats.closed[CloseReason.SHUTDOWN] == 3
    assert stats.connections == 0


def test_start_counts_anew(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=echo_back))
    ask(connect(server), b"x")
    server.shutdown(0.2)
    assert server.stats().accepted == 1
    serve(server)
    stats = server.stats()
    assert stats.accepted == stats.bytes_received == stats.hook_calls == 0
    assert sum(stats.closed.values()) == 0


def test_time_in_hooks_is_counted(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=lambda conn, data: threading.Event().wait(0.2)))
    connect(server).sendall(b"x")
    server.wait_count("read")
    server.wait_for(lambda: server.stats().hook_seconds > 0.15)


def test_waiting_for_the_gil_is_counted(serve: Serve, connect: Connect) -> None:
    """While other threads compute, a worker waits its turn."""
    server = serve(Recorder(read=echo_back))
    client = connect(server)
    stop = threading.Event()

    def run(index: int) -> None:
        if index:
            while not stop.is_set():
                sum(range(1000))
            return
        try:
            for _ in range(20):
                ask(client, b"x")
        finally:
            stop.set()

    in_threads(3, run)
    assert server.stats().gil_wait_seconds > 0


def test_stats_may_be_asked_for_at_any_time_from_any_thread(serve: Serve, connect: Connect) -> None:
    before = iocp_bind.Server()
    assert before.stats().accepted == 0
    server = serve(Recorder(read=echo_back), workers=2)

    def run(index: int) -> None:
        last = 0
        for _ in range(100):
            if index < 2:
                client = connect(server)
                ask(client, b"x")
                client.close()
            stats = server.stats()
            assert stats.bytes_received >= last
            assert stats.connections >= 0
            last = stats.bytes_received

    in_threads(4, run)
    server.wait_count("closing", 200)
    server.shutdown()
    assert server.stats().bytes_received == 200


def test_free_buffers_and_contexts_are_kept(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=echo_back), max_free_contexts=10)
    for _ in range(20):
        client = connect(server)
        ask(client, b"x")
        client.close()
    server.wait_count("closing", 20)
    server.events.clear()  # its connections hold their contexts
    server.wait_for(lambda: 1 <= server.stats().free_contexts <= 10)
    assert server.stats().free_buffers >= 0


def test_backlog_of_hooks_is_one_batch(serve: Serve, connect: Connect) -> None:
    """Data that came while a hook ran is delivered in few batches: one GIL for many hooks."""
    go = threading.Event()
    first: list[Any] = []

    def read(conn: Connection, data: bytes) -> None:
        if not first:
            first.append(conn)
            go.wait(DEADLINE)
        conn.send(data)

    server = serve(Recorder(read=read), workers=1)
    clients = [connect(server) for _ in range(50)]
    server.wait_count("established", 50)
    clients[0].sendall(b"x")
    server.wait_for(lambda: first)
    for client in clients[1:]:
        client.sendall(b"x")
    before = server.stats().hook_batches
    go.set()
    for client in clients:
        assert recv_exact(client, 1) == b"x"
    server.wait_count("write", 50)
    stats = server.stats()
    assert stats.hook_calls == 150
    assert stats.hook_batches - before <= 30
