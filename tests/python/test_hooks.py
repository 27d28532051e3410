"""The hooks: when each is called, with what, on which thread, and what a failing one does."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from support import (
    DEADLINE,
    Child,
    Connect,
    Event,
    Logs,
    Recorder,
    Serve,
    ask,
    echo_back,
    in_threads,
    is_refused,
    linux_only,
    pattern,
    recv_exact,
    recv_to_end,
    reset,
    saw_reset,
)

import iocp_bind
from iocp_bind import CloseReason, Connection

# ---- The grammar.


def test_one_connection_gets_its_hooks_in_order(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=echo_back))
    client = connect(server)
    conn = server.wait_connection()
    for number, message in enumerate((b"one", b"two"), start=1):
        assert ask(client, message) == message
        server.wait_count("write", number)
    client.close()
    assert server.wait_closed(conn) is CloseReason.PEER_CLOSED
    assert server.hooks_of(conn) == ["established", "read", "write", "read", "write", "closing"]
    assert [e.value for e in server.of("read")] == [b"one", b"two"]
    assert [e.value for e in server.of("write")] == [3, 3]


def test_every_hook_gets_the_same_connection(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=echo_back))
    client = connect(server)
    ask(client, b"hello")
    reset(client)
    server.wait_count("closing")
    assert len({id(event.conn) for event in server.events}) == 1


def test_a_reset_is_an_error_then_closing(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder())
    client = connect(server)
    conn = server.wait_connection()
    client.sendall(b"last words")
    server.wait_for(lambda: server.received(conn) == b"last words")
    reset(client)
    assert server.wait_closed(conn) is CloseReason.ERROR
    assert server.hooks_of(conn)[-2:] == ["error", "closing"]
    error = server.of("error")[0].value
    assert isinstance(error, ConnectionResetError)
    assert error.errno
    assert error.strerror


def test_an_end_of_stream_is_no_error(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder())
    connect(server).close()
    assert server.wait_count("closing")[0].value is CloseReason.PEER_CLOSED
    assert server.of("error") == []


def test_the_grammar_holds_for_many_connections_that_end_in_every_way(
    serve: Serve, connect: Connect
) -> None:
    def read(conn: Connection, data: bytes) -> None:
        conn.send(data)
        if data == b"close":
            conn.close()
        elif data == b"abort":
            conn.abort()

    server = serve(Recorder(read=read), workers=3)

    def run(index: int) -> None:
        for turn in range(25):
            client = connect(server)
            kind = (index + turn) % 5
            if kind == 0:
                ask(client, b"hello")
                client.close()
            elif kind == 1:
                client.sendall(b"close")
                recv_to_end(client)
                client.close()
            elif kind == 2:
                client.sendall(b"abort")
                saw_reset(client)
                client.close()
            elif kind == 3:
                client.sendall(b"bye")
                reset(client)
            else:
                client.close()

    in_threads(4, run)
    server.wait_for(
        lambda: (
            len(server.of("closing")) == len(server.of("established"))
            and server.connection_count == 0
        )
    )
    server.check_grammar()
    # The reset of a client may overtake its being accepted; nothing else can keep it from us.
    assert 80 <= len(server.of("established")) <= 100
    assert {CloseReason.LOCAL_CLOSE, CloseReason.LOCAL_ABORT, CloseReason.PEER_CLOSED} <= set(
        server.reasons()
    )


def test_established_on_first_data_comes_with_the_first_data(
    serve: Serve, connect: Connect
) -> None:
    server = serve(Recorder(read=echo_back), established_on="first_data")
    silent = connect(server)
    client = connect(server)
    assert ask(client, b"first") == b"first"
    assert [event.hook for event in server.events[:2]] == ["established", "read"]
    conn = server.events[0].conn
    assert conn.remote_address == client.getsockname()
    client.close()
    server.wait_closed(conn)
    silent.close()
    server.wait_for(lambda: server.stats().connections == 0)
    assert len(server.of("established")) == len(server.of("closing")) == 1


def test_a_closing_connection_no_longer_counts(serve: Serve, connect: Connect) -> None:
    seen: list[tuple[int, list[Connection], bool]] = []

    class Counter(Recorder):
        def on_connection_closing(self, conn: Connection, reason: CloseReason) -> None:
            seen.append((self.connection_count, self.connections(), conn.is_open))
            super().on_connection_closing(conn, reason)

    server = serve(Counter())
    client = connect(server)
    conn = server.wait_connection()
    assert server.connection_count == 1
    assert server.connections() == [conn]
    assert server.connections()[0] is conn
    client.close()
    server.wait_closed(conn)
    assert seen == [(0, [], False)]


# ---- Threads.


def test_hooks_run_on_one_worker_thread_by_default(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=echo_back), workers=1)
    for _ in range(5):
        ask(connect(server), b"x")
    server.wait_count("write", 5)
    threads = {event.thread for event in server.events}
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_hooks_run_on_no_more_threads_than_workers(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=echo_back), workers=3)
    clients = [connect(server) for _ in range(30)]
    in_threads(3, lambda index: [ask(c, pattern(100)) for c in clients[index::3]])
    server.wait_count("write", 30)
    assert 1 <= len({event.thread for event in server.events}) <= 3


def test_hooks_of_one_connection_never_overlap(serve: Serve, connect: Connect) -> None:
    inside: dict[int, str] = {}
    overlaps: list[tuple[str, str]] = []
    pause = threading.Event()

    def enter(conn: Connection, hook: str) -> None:
        if conn.id in inside:
            overlaps.append((inside[conn.id], hook))
        inside[conn.id] = hook
        pause.wait(0.0005)  # gives the GIL away in the middle of the hook
        inside.pop(conn.id, None)

    def read(conn: Connection, data: bytes) -> None:
        enter(conn, "read")
        conn.send(data)

    server = serve(
        Recorder(
            established=lambda conn: enter(conn, "established"),
            read=read,
            write=lambda conn, _: enter(conn, "write"),
            closing=lambda conn, _: enter(conn, "closing"),
        ),
        workers=4,
        buffer_size=512,
    )
    data = pattern(20_000)

    def run(index: int) -> None:
        client = connect(server)
        for _ in range(3):
            assert ask(client, data) == data
        client.close()

    in_threads(4, run)
    server.wait_count("closing", 4)
    assert overlaps == []
    server.check_grammar()


def _wait_for_another_worker() -> tuple[Callable[[], None], list[bool]]:
    """Return a function that waits, on its first thread, until it is called on a second one."""
    threads: set[int] = set()
    two = threading.Event()
    waited: list[bool] = []

    def meet() -> None:
        threads.add(threading.get_ident())
        if len(threads) > 1:
            two.set()
        elif not waited:
            waited.append(two.wait(DEADLINE))

    return meet, waited


def test_hooks_of_different_connections_run_in_parallel(serve: Serve, connect: Connect) -> None:
    """One hook waits for another: only possible with two workers, and no lock around hooks."""
    meet, waited = _wait_for_another_worker()
    server = serve(Recorder(read=lambda conn, data: meet()), workers=4)
    # Who is dealt to which worker is the server's choice; not all go to one.
    clients = [connect(server) for _ in range(64)]
    server.wait_count("established", 64)
    for client in clients:
        client.sendall(b"x")
    server.wait_count("read", 64)
    assert waited == [True]


def test_a_closing_hook_may_wait_for_another(serve: Serve, connect: Connect) -> None:
    """D18: the original held one lock for all closing and error hooks."""
    meet, waited = _wait_for_another_worker()
    server = serve(Recorder(closing=lambda conn, reason: meet()), workers=4)
    clients = [connect(server) for _ in range(64)]
    server.wait_count("established", 64)
    for client in clients:
        client.close()
    server.wait_count("closing", 64)
    server.wait_for(lambda: waited)
    assert waited == [True]


def test_a_hook_may_call_everything(serve: Serve, connect: Connect) -> None:
    seen: dict[str, object] = {}

    class Curious(Recorder):
        def on_read_completed(self, conn: Connection, data: bytes) -> None:
            seen["stats"] = self.stats().reads
            seen["connections"] = conn in self.connections()
            seen["count"] = self.connection_count
            seen["address"] = self.address
            seen["backend"] = self.backend
            seen["running"] = self.running
            seen["broadcast"] = self.broadcast(b"to all")
            seen["hash"] = hash(conn)
            try:
                self.start(port=0)
            except RuntimeError as error:
                seen["start"] = str(error)
            self.close_connection(conn)
            self.close_all_connections()
            super().on_read_completed(conn, data)

    server = serve(Curious())
    client = connect(server)
    client.sendall(b"x")
    assert recv_to_end(client) == b"to all"
    client.close()
    server.wait_count("closing")
    assert seen.pop("start")
    assert isinstance(seen.pop("hash"), int)
    assert seen == {
        "stats": 1,
        "connections": True,
        "count": 1,
        "address": server.address,
        "backend": server.backend,
        "running": True,
        "broadcast": 1,
    }


# ---- Overriding.


def test_what_is_not_overridden_is_not_called(serve: Serve, connect: Connect) -> None:
    server = serve(iocp_bind.Server())
    client = connect(server)
    client.sendall(pattern(100_000))
    client.close()
    other = connect(server)
    other.sendall(b"x")
    reset(other)
    wait = Recorder()  # only for its wait_for
    wait.wait_for(lambda: server.connection_count == 0 and server.stats().bytes_received >= 100_000)
    stats = server.stats()
    assert stats.hook_calls == 0
    assert stats.hook_batches == 0
    assert stats.hook_seconds == 0.0
    assert stats.gil_wait_seconds == 0.0


def test_only_what_is_overridden_is_called(serve: Serve, connect: Connect) -> None:
    count = threading.Semaphore(0)

    class Greeter(iocp_bind.Server):
        def on_connection_established(self, conn: Connection) -> None:
            conn.send(b"hello")
            count.release()

    server = serve(Greeter())
    for _ in range(3):
        client = connect(server)
        client.sendall(b"ignored")
        assert recv_exact(client, 5) == b"hello"
        client.close()
        assert count.acquire(timeout=DEADLINE)
    Recorder().wait_for(lambda: server.connection_count == 0)
    assert server.stats().hook_calls == 3


@linux_only
def test_a_server_without_hooks_never_asks_for_the_gil(serve: Serve) -> None:
    """This thread keeps the GIL in a C call until a client in another process was served."""
    import ctypes
    import os

    server = serve(iocp_bind.Server())
    script = """
import socket, sys
sys.stdin.readline()
client = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10)
try:
    client.sendall(bytes(64 << 20))      # more than the kernel's buffers hold
    client.shutdown(socket.SHUT_WR)
    answer = "served" if client.recv(1) == b"" else "garbage"
except OSError as error:
    answer = repr(error)
sys.stderr.close()
import os
os.write(int(sys.argv[3]), answer.encode())
"""
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    import subprocess

    host, port = server.address
    child = subprocess.Popen(
        [sys.executable, "-c", script, host, str(port), str(writing)],
        stdin=subprocess.PIPE,
        pass_fds=[writing],
    )
    try:
        os.close(writing)
        assert child.stdin is not None
        child.stdin.write(b"go\n")
        child.stdin.flush()
        buffer = ctypes.create_string_buffer(100)
        holding_the_gil = ctypes.PyDLL(None)
        size = holding_the_gil.read(reading, buffer, 100)
        assert buffer.raw[:size] == b"served"
    finally:
        os.close(reading)
        child.stdin and child.stdin.close()
        child.wait(DEADLINE)


def _calls_of(server: iocp_bind.Server, serve: Serve, connect: Connect, seen: list[Any]) -> None:
    """Start `server`, whose read hook fills `seen`, and send it one message."""
    serve(server)
    client = connect(server)
    client.sendall(b"data")
    Recorder().wait_for(lambda: seen, "the read hook")


class _Callable:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __call__(self, conn: Connection, data: bytes) -> None:
        self.seen.append((conn, data))


def _with_instance_function(seen: list[Any]) -> iocp_bind.Server:
    server = iocp_bind.Server()
    server.on_read_completed = lambda conn, data: seen.append((conn, data))  # type: ignore[method-assign]
    return server


def _with_bound_method_of_another(seen: list[Any]) -> iocp_bind.Server:
    class Other:
        def take(self, conn: Connection, data: bytes) -> None:
            seen.append((conn, data))

    server = iocp_bind.Server()
    server.on_read_completed = Other().take  # type: ignore[method-assign]
    return server


def _with_static_method(seen: list[Any]) -> iocp_bind.Server:
    class Static(iocp_bind.Server):
        @staticmethod
        def on_read_completed(conn: Connection, data: bytes) -> None:
            seen.append((conn, data))

    return Static()


def _with_class_method(seen: list[Any]) -> iocp_bind.Server:
    class Klass(iocp_bind.Server):
        @classmethod
        def on_read_completed(cls, conn: Connection, data: bytes) -> None:
            assert cls is Klass
            seen.append((conn, data))

    return Klass()


def _with_partial(seen: list[Any]) -> iocp_bind.Server:
    def take(first: int, conn: Connection, data: bytes) -> None:
        assert first == 1
        seen.append((conn, data))

    server = iocp_bind.Server()
    server.on_read_completed = functools.partial(take, 1)  # type: ignore[method-assign]
    return server


def _with_callable_object(seen: list[Any]) -> iocp_bind.Server:
    target = _Callable()
    target.seen = seen

    class Attribute(iocp_bind.Server):
        on_read_completed = target

    return Attribute()


def _with_variable_arguments(seen: list[Any]) -> iocp_bind.Server:
    class Variable(iocp_bind.Server):
        def on_read_completed(self, *args: Any, **kwargs: Any) -> None:
            seen.append(args)

    return Variable()


def _with_default_argument(seen: list[Any]) -> iocp_bind.Server:
    class Default(iocp_bind.Server):
        def on_read_completed(self, conn: Connection, data: bytes, more: int = 1) -> None:
            seen.append((conn, data))

    return Default()


def _with_inherited_hook(seen: list[Any]) -> iocp_bind.Server:
    class Base(iocp_bind.Server):
        def on_read_completed(self, conn: Connection, data: bytes) -> None:
            super().on_read_completed(conn, data)
            seen.append((conn, data))

    class Derived(Base):
        pass

    return Derived()


def _with_mixin(seen: list[Any]) -> iocp_bind.Server:
    class Mixin:
        def on_read_completed(self, conn: Connection, data: bytes) -> None:
            seen.append((conn, data))

    class Mixed(Mixin, iocp_bind.Server):
        pass

    return Mixed()


@pytest.mark.parametrize(
    "make",
    [
        _with_instance_function,
        _with_bound_method_of_another,
        _with_static_method,
        _with_class_method,
        _with_partial,
        _with_callable_object,
        _with_variable_arguments,
        _with_default_argument,
        _with_inherited_hook,
        _with_mixin,
    ],
)
def test_a_hook_may_be_any_callable(
    serve: Serve, connect: Connect, make: Callable[[list[Any]], iocp_bind.Server]
) -> None:
    seen: list[Any] = []
    server = make(seen)
    _calls_of(server, serve, connect, seen)
    (conn, data) = seen[0]
    assert isinstance(conn, Connection)
    assert data == b"data"


# ---- Hooks that start refuses.

HOOKS = {
    "on_connection_established": 1,
    "on_read_completed": 2,
    "on_write_completed": 2,
    "on_connection_error": 2,
    "on_connection_closing": 2,
    "on_hook_error": 3,
}


def _refused(backend: str, name: str, hook: object) -> str:
    """Start a server with `hook`; return what the TypeError says. It can be started after that."""
    server = type("Refused", (iocp_bind.Server,), {name: hook})()
    with pytest.raises(TypeError) as caught:
        server.start(port=0, backend=backend)
    assert not server.running
    message = str(caught.value)
    assert name in message
    setattr(server, name, lambda *args: None)
    server.start(port=0, backend=backend)
    server.shutdown()
    return message


@pytest.mark.parametrize("name", HOOKS)
def test_an_async_hook_is_refused(backend: str, name: str) -> None:
    async def hook(*args: Any) -> None: ...

    assert "async" in _refused(backend, name, hook)


@pytest.mark.parametrize("name", HOOKS)
def test_a_generator_hook_is_refused(backend: str, name: str) -> None:
    def hook(*args: Any) -> Any:
        yield

    _refused(backend, name, hook)


def test_an_async_generator_hook_is_refused(backend: str) -> None:
    async def hook(*args: Any) -> Any:
        yield

    _refused(backend, "on_read_completed", hook)


def test_an_object_with_an_async_call_is_refused(backend: str) -> None:
    class Later:
        async def __call__(self, conn: Connection, data: bytes) -> None: ...

    _refused(backend, "on_read_completed", Later())


def test_a_partial_of_an_async_hook_is_refused(backend: str) -> None:
    async def hook(*args: Any) -> None: ...

    _refused(backend, "on_read_completed", functools.partial(hook, 1))


@pytest.mark.parametrize("name", HOOKS)
@pytest.mark.parametrize("change", [-1, 1])
def test_a_hook_with_the_wrong_number_of_parameters_is_refused(
    backend: str, name: str, change: int
) -> None:
    parameters = ", ".join(f"p{index}" for index in range(HOOKS[name] + change))
    hook = eval(f"lambda self, {parameters}: None" if parameters else "lambda self: None")
    _refused(backend, name, hook)


def test_a_hook_that_forgot_self_is_refused(backend: str) -> None:
    namespace: dict[str, Any] = {}
    exec("def hook(conn, data): ...", namespace)
    _refused(backend, "on_read_completed", namespace["hook"])


def test_a_hook_that_needs_a_keyword_is_refused(backend: str) -> None:
    def hook(self: object, conn: Connection, data: bytes, *, flag: bool) -> None: ...

    _refused(backend, "on_read_completed", hook)


def test_a_hook_that_is_no_function_is_refused(backend: str) -> None:
    _refused(backend, "on_read_completed", 5)


# ---- Hooks that fail.

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
    # The message tells which hook it was.
    assert any(name in record.getMessage() for name in HOOKS if hook in name)


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
    seen: list[tuple[Connection, str, BaseException]] = []

    class Forgiving(Recorder):
        def on_hook_error(self, conn: Connection, hook: str, exc: BaseException) -> None:
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


@pytest.mark.parametrize(
    ("hook", "name"),
    [
        ("established", "on_connection_established"),
        ("read", "on_read_completed"),
        ("write", "on_write_completed"),
        ("error", "on_connection_error"),
        ("closing", "on_connection_closing"),
    ],
)
def test_on_hook_error_is_told_which_hook(
    serve: Serve, connect: Connect, hook: str, name: str
) -> None:
    seen: list[str] = []

    class Told(Recorder):
        def _record(self, event: str, conn: Connection, value: Any) -> None:
            super()._record(event, conn, value)
            if event == hook:
                raise ValueError(hook)

        def on_hook_error(self, conn: Connection, hook: str, exc: BaseException) -> None:
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
        def on_hook_error(self, conn: Connection, hook: str, exc: BaseException) -> None:
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
    Recorder().wait_for(lambda: server.connection_count == 0)
    stats = server.stats()
    assert stats.hook_errors == 100
    assert stats.closed[CloseReason.HOOK_ERROR] == 100
    _error_records(logs, 100)


def test_an_exception_does_not_outlive_its_hook(serve: Serve, connect: Connect, logs: Logs) -> None:
    """What a traceback holds is let go: frames of hooks hold connections and data."""
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


def test_events_are_recorded_as_events(serve: Serve, connect: Connect) -> None:
    """The recorder itself: a test that waits for nothing would prove nothing."""
    server = serve(Recorder())
    client = connect(server)
    event = server.wait_count("established")[0]
    assert isinstance(event, Event)
    assert client.getsockname() == event.conn.remote_address
    assert client.getpeername() == event.conn.local_address == server.address
