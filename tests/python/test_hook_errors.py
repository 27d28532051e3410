"""Exceptions that leave a hook: each costs its connection, and nothing else."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Any

import pytest
from support import (
    Child,
    Connect,
    Logs,
    Recorder,
    Serve,
    ask,
    echo_back,
    is_refused,
    linux_only,
    pattern,
    reset,
    saw_reset,
    wait_until,
)

import iocp_bind
from iocp_bind import CloseReason, Connection

# The hooks, by what a `Recorder` calls them.
NAMES = {
    "established": "on_connection_established",
    "read": "on_read_completed",
    "write": "on_write_completed",
    "error": "on_connection_error",
    "closing": "on_connection_closing",
}

FAILURES: list[BaseException] = [
    ValueError("a plain error"),
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
    OSError(5, "an OSError"),
]


def _error_records(logs: Logs, count: int) -> list[logging.LogRecord]:
    records = logs.expect()
    assert len(records) == count, [record.getMessage() for record in records]
    for record in records:
        assert record.levelno == logging.ERROR
        assert record.name == "iocp_bind"
        assert record.exc_info is not None
    return records


@pytest.mark.parametrize("failure", FAILURES, ids=lambda f: type(f).__name__)
@pytest.mark.parametrize("hook", ["established", "read", "write"])
def test_a_failing_hook_costs_only_its_connection(
    serve: Serve, connect: Connect, logs: Logs, hook: str, failure: BaseException
) -> None:
    logs.expect()
    bad: list[Connection] = []

    def fail(conn: Connection) -> None:
        if not bad:
            bad.append(conn)
        if conn is bad[0]:
            raise failure

    def read(conn: Connection, data: bytes) -> None:
        conn.send(data)
        if hook == "read":
            fail(conn)

    server = serve(
        Recorder(
            established=fail if hook == "established" else None,
            read=read,
            write=(lambda conn, _: fail(conn)) if hook == "write" else None,
        )
    )
    if hook == "established":
        assert is_refused(server)
    else:
        client = connect(server)
        client.sendall(b"x")
        assert saw_reset(client)
    conn = server.wait_connection()
    assert server.wait_closed(conn) is CloseReason.HOOK_ERROR
    assert server.hooks_of(conn)[-1] == "closing"
    assert "error" not in server.hooks_of(conn)

    other = connect(server)
    assert ask(other, b"still there?") == b"still there?"
    assert server.running
    (record,) = _error_records(logs, 1)
    exc_info = record.exc_info
    assert exc_info is not None
    assert exc_info[1] is failure
    assert exc_info[2] is not None, "the traceback is missing"
    assert server.stats().hook_errors == 1
    assert NAMES[hook] in record.getMessage()


def test_a_failing_closing_hook_is_reported_too(serve: Serve, connect: Connect, logs: Logs) -> None:
    logs.expect()

    def fail(conn: Connection, reason: CloseReason) -> None:
        raise RuntimeError("in closing")

    server = serve(Recorder(closing=fail))
    client = connect(server)
    server.wait_connection()
    client.close()
    server.wait_for(lambda: logs.records)
    server.wait_for(lambda: server.connection_count == 0)
    assert server.reasons() == [CloseReason.PEER_CLOSED]
    _error_records(logs, 1)
    server.shutdown()
    server.check_grammar()


def test_a_failing_error_hook_still_gets_its_closing(
    serve: Serve, connect: Connect, logs: Logs
) -> None:
    logs.expect()

    def fail(conn: Connection, error: OSError) -> None:
        raise RuntimeError("in error")

    server = serve(Recorder(error=fail))
    client = connect(server)
    conn = server.wait_connection()
    reset(client)
    server.wait_closed(conn)
    server.check_grammar()
    _error_records(logs, 1)


def test_what_was_queued_for_a_failed_connection_is_not_delivered(
    serve: Serve, connect: Connect, logs: Logs
) -> None:
    logs.expect()

    def read(conn: Connection, data: bytes) -> None:
        raise ValueError("no")

    server = serve(Recorder(read=read), buffer_size=512)
    client = connect(server)
    with contextlib.suppress(OSError):
        client.sendall(pattern(50_000))
    server.wait_count("closing")
    assert len(server.of("read")) == 1
    _error_records(logs, 1)


def test_on_hook_error_may_decide_otherwise(serve: Serve, connect: Connect) -> None:
    seen: list[tuple[Connection | None, str, BaseException]] = []

    class Forgiving(Recorder):
        def on_hook_error(self, conn: Connection | None, hook: str, exc: BaseException) -> None:
            seen.append((conn, hook, exc))

    def read(conn: Connection, data: bytes) -> None:
        if data == b"bad":
            raise ValueError("bad data")
        conn.send(data)

    server = serve(Forgiving(read=read))
    client = connect(server)
    client.sendall(b"bad")
    server.wait_for(lambda: seen)
    assert ask(client, b"good") == b"good"
    (conn, hook, exc) = seen[0]
    assert conn is server.wait_connection()
    assert hook == "on_read_completed"
    assert isinstance(exc, ValueError)
    assert exc.__traceback__ is not None
    assert server.stats().hook_errors == 1


@pytest.mark.parametrize(("hook", "name"), NAMES.items())
def test_on_hook_error_gets_the_name_of_the_hook(
    serve: Serve, connect: Connect, hook: str, name: str
) -> None:
    seen: list[str] = []

    class Told(Recorder):
        def _record(self, event: str, conn: Connection, value: Any) -> None:
            super()._record(event, conn, value)
            if event == hook:
                raise ValueError(hook)

        def on_hook_error(self, conn: Connection | None, hook: str, exc: BaseException) -> None:
            seen.append(hook)

    server = serve(Told(read=echo_back))
    client = connect(server)
    if hook != "read":
        if hook == "established":
            server.wait_for(lambda: seen)
        else:
            assert ask(client, b"x") == b"x"
            server.wait_count("write")
        reset(client)
    else:
        client.sendall(b"x")
    server.wait_for(lambda: seen)
    assert seen[0] == name


def test_a_failing_on_hook_error_ends_nothing_but_the_connection(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: unraisable.append(args.exc_type))

    class Worse(Recorder):
        def on_hook_error(self, conn: Connection | None, hook: str, exc: BaseException) -> None:
            raise LookupError("worse")

    def read(conn: Connection, data: bytes) -> None:
        if data == b"bad":
            raise ValueError("bad data")
        conn.send(data)

    server = serve(Worse(read=read))
    client = connect(server)
    client.sendall(b"bad")
    conn = server.wait_connection()
    assert server.wait_closed(conn) is CloseReason.HOOK_ERROR
    assert unraisable == [LookupError]
    assert ask(connect(server), b"good") == b"good"


def test_a_failing_hook_does_not_kill_a_server_without_other_hooks(
    serve: Serve, connect: Connect, logs: Logs
) -> None:
    """Fails on every connection, many times: no worker ends, nothing piles up."""
    logs.expect()

    class Broken(iocp_bind.Server):
        def on_read_completed(self, conn: Connection, data: bytes) -> None:
            raise ValueError("always")

    server = serve(Broken())
    for _ in range(100):
        client = connect(server)
        client.sendall(b"x")
        assert saw_reset(client)
        client.close()
    wait_until(lambda: server.connection_count == 0, "every connection gone")
    stats = server.stats()
    assert stats.hook_errors == 100
    assert stats.closed[CloseReason.HOOK_ERROR] == 100
    _error_records(logs, 100)


def test_an_exception_does_not_outlive_its_hook(serve: Serve, connect: Connect, logs: Logs) -> None:
    """The traceback is freed: frames of hooks hold connections and data."""
    import gc
    import weakref

    logs.setLevel(logging.CRITICAL)  # the record would keep the traceback itself
    logs.expect()

    class Held:
        pass

    dead: list[weakref.ref[Held]] = []

    def read(conn: Connection, data: bytes) -> None:
        held = Held()
        dead.append(weakref.ref(held))
        raise ValueError(held)

    logging.getLogger("iocp_bind").propagate = False
    try:
        server = serve(Recorder(read=read))
        connect(server).sendall(b"x")
        server.wait_count("closing")
        server.shutdown()
        gc.collect()
        assert dead[0]() is None
    finally:
        logging.getLogger("iocp_bind").propagate = True


@linux_only
def test_nothing_is_printed_when_nobody_configured_logging(backend: str) -> None:
    """The message of a failed hook goes to stderr through logging's last resort, once."""
    script = """
import socket, sys, iocp_bind
class Broken(iocp_bind.Server):
    def on_read_completed(self, conn, data):
        raise ValueError("the reason")
server = Broken()
server.start(port=0, backend=sys.argv[1])
client = socket.create_connection(server.address, timeout=10)
client.sendall(b"x")
try:
    print(client.recv(1))
except ConnectionResetError:
    print("reset")
client.close()
server.shutdown()
"""
    with Child([sys.executable, "-c", script, backend]) as child:
        done = child.finish()
    assert (done.code, done.stdout) == (0, "reset")
    assert done.stderr.count("ValueError: the reason") == 1
    assert done.stderr.count("Traceback") == 1
