"""Subclasses of Server: none of their attributes and special methods breaks it unnoticed."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import socket
from collections import UserDict
from typing import Any, NoReturn

import pytest
from support import Connect, Echo, Serve, ask, run_script

import iocp_bind
from iocp_bind import Connection

# ---- Attributes and special methods.


class PrivateNames(Echo):
    """Names that the package used, or might use, for its own purposes."""

    def __init__(self) -> None:
        self._running = True
        super().__init__()
        for name in ("start", "shutdown", "connections", "stats", "address", "backend", "core"):
            setattr(self, f"_{name}", {})
        self._on_stopped = self._stopped = self._check_usable = None
        self._broadcast = self._close_connection = self._connection_count = 7


class EqualToAll(Echo):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


class NeverCompared(Echo):
    def __eq__(self, other: object) -> NoReturn:
        raise AssertionError("compared")

    def __hash__(self) -> NoReturn:
        raise AssertionError("hashed")


class Empty(Echo):
    def __len__(self) -> int:
        return 0

    def __bool__(self) -> bool:
        return False

    def __iter__(self) -> NoReturn:
        raise AssertionError("iterated")


class Magic(Echo):
    def __getattr__(self, name: str) -> Any:
        return 5

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)

    def __delattr__(self, name: str) -> None:
        raise AttributeError(name)


class Slots(Echo):
    __slots__ = ("mine",)


@dataclasses.dataclass
class Data(Echo):
    name: str = "x"
    seen: list[bytes] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()


@dataclasses.dataclass(frozen=True)
class Frozen(Echo):
    name: str = "x"

    def __post_init__(self) -> None:
        super().__init__()


@dataclasses.dataclass(slots=True)
class SlotsOfADataclass(Echo):
    name: str = "x"

    def __post_init__(self) -> None:
        iocp_bind.Server.__init__(self)  # the decorator makes another class: super() fails


class Mixed(UserDict[str, int], Echo):
    def __init__(self) -> None:
        UserDict.__init__(self)
        iocp_bind.Server.__init__(self)


class Named:
    class Server(Echo):
        """Has the same name as the base, so Python makes the private names of both the same."""

        def __init__(self) -> None:
            super().__init__()
            self.__core = self.__running = self.__stopped = None


SUBCLASSES = [
    PrivateNames,
    EqualToAll,
    NeverCompared,
    Empty,
    Magic,
    Slots,
    Data,
    Frozen,
    SlotsOfADataclass,
    Mixed,
    Named.Server,
]


@pytest.mark.parametrize("kind", SUBCLASSES, ids=lambda kind: kind.__qualname__)
def test_a_subclass_may_be_whatever_it_likes(
    serve: Serve, connect: Connect, kind: type[iocp_bind.Server]
) -> None:
    first, second = serve(kind()), serve(kind())
    for server in (first, second):
        with socket.create_connection(server.address) as client:
            assert ask(client, b"hello") == b"hello"
            assert len(server.connections()) == server.connection_count == 1
            assert server.broadcast(b"x") == 1
            assert server.stats().connections == 1
            assert server.running
    first.shutdown(0.2)
    assert not first.running
    assert second.running
    serve(first)
    with first:
        pass
    assert not first.running


@pytest.mark.parametrize("kind", SUBCLASSES, ids=lambda kind: kind.__qualname__)
def test_the_interpreter_stops_whatever_still_runs(
    backend: str, kind: type[iocp_bind.Server]
) -> None:
    script = """
import sys, test_subclasses
server = eval("test_subclasses." + sys.argv[2])()
server.start(port=0, backend=sys.argv[1])
"""
    done = run_script(script, backend, kind.__qualname__)
    assert (done.code, done.stdout, done.stderr) == (0, "", "")


METHODS = [
    "shutdown",
    "connections",
    "stats",
    "broadcast",
    "close_connection",
    "run",
    "serve_forever",
]
PROPERTIES = ["address", "backend", "running", "tls", "connection_count"]


@pytest.mark.parametrize("name", METHODS)
def test_an_attribute_that_hides_a_method_is_refused(backend: str, name: str) -> None:
    server = Echo()
    setattr(server, name, {})
    with pytest.raises(TypeError, match=rf"Echo\.{name} hides a method of Server.*another name"):
        server.start(port=0, backend=backend)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="hides a method"), server:
        pass
    delattr(server, name)
    with server:
        server.start(port=0, backend=backend)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", METHODS + PROPERTIES)
def test_a_class_attribute_that_hides_something_public_is_refused(backend: str, name: str) -> None:
    kind = type("Hides", (Echo,), {name: "value"})
    why = "cannot be set in the class" if name == "tls" else "hides a (method|property) of Server"
    with pytest.raises(TypeError, match=rf"Hides\.{name} {why}"):
        kind().start(port=0, backend=backend)


def test_methods_and_properties_may_be_overridden(serve: Serve) -> None:
    stops: list[float] = []

    class Extended(Echo):
        def shutdown(self, timeout: float = 5.0) -> None:
            stops.append(timeout)
            super().shutdown(timeout)

        @property
        def backend(self) -> str:
            return super().backend.upper()

    with serve(Extended()) as server:
        assert server.backend in ("EPOLL", "IO_URING", "IOCP")
    assert stops == [5.0]


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_server_cannot_be_copied(serve: Serve, connect: Connect, how: Any) -> None:
    server = serve(Echo())
    with pytest.raises(TypeError, match="cannot be copied or pickled"):
        how(server)
    assert ask(connect(server), b"unharmed") == b"unharmed"


# ---- __init__.

USES: dict[str, Any] = {
    "start": lambda server: server.start(port=0),
    "run": lambda server: server.run(port=0),
    "serve_forever": lambda server: server.serve_forever(),
    "shutdown": lambda server: server.shutdown(),
    "with": lambda server: server.__exit__(None, None, None),
    "close_connection": lambda server: server.close_connection(None),
    "close_all_connections": lambda server: server.close_all_connections(),
    "broadcast": lambda server: server.broadcast(b"x"),
    "broadcast_message": lambda server: server.broadcast_message(b"x"),
    "call_soon": lambda server: server.call_soon(print),
    "call_later": lambda server: server.call_later(1, print),
    "call_every": lambda server: server.call_every(1, print),
    "connections": lambda server: server.connections(),
    "address": lambda server: server.address,
    "backend": lambda server: server.backend,
    "running": lambda server: server.running,
    "tls": lambda server: server.tls,
    "connection_count": lambda server: server.connection_count,
    "stats": lambda server: server.stats(),
}


def test_every_use_is_tested() -> None:
    public = {name for name in vars(iocp_bind.Server) if not name.startswith(("_", "on_"))}
    # The framing is an attribute, which a class may have before there is any server.
    assert public - {"framing"} == set(USES) - {"with"}


# In a process of its own: a crash is one of the ways to fail.
UNINITIALISED = """
import dataclasses, sys
from test_subclasses import USES, Echo
use = USES[sys.argv[1]]
class Early(Echo):
    def __init__(self):
        use(self)
        super().__init__()
@dataclasses.dataclass
class Data(Echo):
    name: str = "x"
for case in (Early, lambda: use(Early.__new__(Early)), lambda: use(Data())):
    try:
        case()
    except RuntimeError as error:
        print(error)
"""


@pytest.mark.parametrize("use", USES)
def test_a_use_before_init_says_what_to_call(use: str) -> None:
    done = run_script(UNINITIALISED, use)
    assert (done.code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for line, name in zip(lines, ["Early", "Early", "Data"], strict=True):
        assert f"call super().__init__() first in {name}.__init__()" in line
    assert "__post_init__() of a dataclass" in lines[2]


def test_a_second_init_of_a_running_server_is_refused(serve: Serve, connect: Connect) -> None:
    server = serve(Echo())
    client = connect(server)
    with pytest.raises(RuntimeError, match="running"):
        server.__init__()  # type: ignore[misc]
    assert ask(client, b"unharmed") == b"unharmed"


def test_a_second_init_of_a_stopped_server_is_harmless(serve: Serve, connect: Connect) -> None:
    server = Echo()
    server.__init__()  # type: ignore[misc]
    serve(server)
    address = server.address
    server.shutdown()
    server.__init__()  # type: ignore[misc]
    assert server.address == address
    assert ask(connect(serve(server)), b"x") == b"x"


# ---- Misspelt hooks.

MISSPELT = {
    "OnReadCompleted": "did you mean on_read_completed?",
    "OnEndOfStream": "did you mean on_end_of_stream?",
    "on_read_complete": "did you mean on_read_completed?",
    "on_write_complete": "did you mean on_write_completed?",
    "OnConnectionWritable": "did you mean on_writable?",
    "on_writeable": "did you mean on_writable?",
    "on_drain": "did you mean on_writable?",
    "on_connection_closed": "did you mean on_connection_closing?",
    "on_connection_establish": "did you mean on_connection_established?",
    "on_hook_errors": "did you mean on_hook_error?",
    "on_data": "did you mean on_read_completed?",
    "on_close": "did you mean on_connection_closing?",
    "on_eof": "did you mean on_end_of_stream?",
    "on_line": "did you mean on_message?",
    "on_lines": "did you mean on_messages?",
    "on_mesage": "did you mean on_message?",
    "OnMessages": "did you mean on_messages?",
    "on_frob": "hooks are on_connection_established, on_read_completed,",
}


def _hook(*arguments: object) -> None: ...


@pytest.mark.parametrize("name", MISSPELT)
@pytest.mark.parametrize("where", ["class", "base", "mixin", "instance", "classmethod"])
def test_a_misspelt_hook_is_refused(backend: str, name: str, where: str) -> None:
    mine: dict[str, Any] = {name: classmethod(_hook) if where == "classmethod" else _hook}
    if where == "instance":
        server = type("Mine", (Echo,), {})()
        setattr(server, name, _hook)
    elif where == "base":
        server = type("Mine", (type("Base", (Echo,), mine),), {})()
    elif where == "mixin":
        server = type("Mine", (type("Mixin", (), mine), Echo), {})()
    else:
        server = type("Mine", (Echo,), mine)()
    with pytest.raises(TypeError) as caught:
        server.start(port=0, backend=backend)
    assert f"Mine.{name} is not a hook: {MISSPELT[name]}" in str(caught.value)
    assert not server.running


def test_what_is_no_public_function_may_begin_with_on(serve: Serve, connect: Connect) -> None:
    class Mine(Echo):
        on_time = 5
        on_close = None

        def _on_line(self, conn: Connection, line: bytes) -> None: ...

        @property
        def on_duty(self) -> bool:
            return True

    assert ask(connect(serve(Mine())), b"x") == b"x"
