"""Which hooks a server has: what may be one, what is not called, what `start` refuses."""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from support import (
    DEADLINE,
    Connect,
    Serve,
    linux_only,
    pattern,
    recv_exact,
    reset,
    wait_until,
)

import iocp_bind
from iocp_bind import Connection


def test_what_is_not_overridden_is_not_called(serve: Serve, connect: Connect) -> None:
    server = serve(iocp_bind.Server())
    client = connect(server)
    client.sendall(pattern(100_000))
    client.close()
    other = connect(server)
    other.sendall(b"x")
    reset(other)
    wait_until(
        lambda: server.connection_count == 0 and server.stats().bytes_received >= 100_000,
        "everything received",
    )
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
    wait_until(lambda: server.connection_count == 0, "every connection gone")
    assert server.stats().hook_calls == 3


@linux_only
def test_a_server_without_hooks_never_asks_for_the_gil(serve: Serve) -> None:
    """This thread keeps the GIL in a C call until a client in another process was served."""
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
    wait_until(lambda: seen, "the read hook")


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
    "on_writable": 1,
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
