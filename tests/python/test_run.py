"""`Server.run`: until a signal comes, then an orderly end; and what the log says meanwhile."""

from __future__ import annotations

import logging
import signal
import socket
import sys
import threading
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support import (
    DEADLINE,
    Child,
    Connect,
    Echo,
    Logs,
    Recorder,
    Serve,
    ask,
    linux_only,
    open_client,
    recv_to_end,
    run_script,
    saw_end,
    wait_until,
)

import iocp_bind
from iocp_bind import CloseReason, Connection
from iocp_bind._start_options import StartOptions

ANSWER = 3_000_000

# It says on its output what it does. Real signals come from the test, or on Windows, as from the
# console, from a thread that reads their names from its input.
PROGRAM = """
import logging, signal, sys, threading
import iocp_bind

class Says(logging.Handler):
    def emit(self, record):
        print(record.levelname, record.getMessage(), flush=True)

log = logging.getLogger("iocp_bind")
log.addHandler(Says())
log.setLevel(logging.INFO)

class Answering(iocp_bind.Server):
    def on_read_completed(self, conn, data):
        conn.send(bytes(data) * int(sys.argv[3]))
        print("answered", flush=True)
    def on_connection_closing(self, conn, reason):
        print("closed", reason.name, flush=True)
    def shutdown(self, timeout=5.0):
        print("shutting down", self, flush=True)
        super().shutdown(timeout)

def console():
    for line in sys.stdin:
        signal.raise_signal(getattr(signal, line.strip()))

if sys.platform == "win32":
    threading.Thread(target=console, daemon=True).start()
def handlers():
    names = "SIGINT", "SIGTERM", "SIGBREAK"
    return [signal.getsignal(getattr(signal, name)) for name in names if hasattr(signal, name)]
before = handlers()
server = Answering()
server.run(port=0, backend=sys.argv[1], shutdown_timeout=float(sys.argv[2]))
assert handlers() == before
assert signal.set_wakeup_fd(-1) == -1
assert not server.running
print("returned", flush=True)
"""

SIGNALS = ["SIGINT", "SIGBREAK"] if sys.platform == "win32" else ["SIGINT", "SIGTERM"]


class Program(Child):
    """PROGRAM in a process of its own."""

    def __init__(self, backend: str, *, timeout: float = 5.0, answer: int = 1) -> None:
        super().__init__([sys.executable, "-c", PROGRAM, backend, str(timeout), str(answer)])

    def signal(self, name: str) -> None:
        if sys.platform == "win32":
            self.send_line(name)
        else:
            self.process.send_signal(getattr(signal, name))


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_ends_run_in_order(backend: str, name: str) -> None:
    """Clients get all that was sent to them, and an orderly end; hooks run; the code is 0."""
    with Program(backend, answer=ANSWER) as child:
        address = child.listening()
        with (
            open_client(address, receive_buffer=4096) as client,
            open_client(address) as ended,
        ):
            client.sendall(b"x")
            child.line_with("answered")
            ended.shutdown(socket.SHUT_WR)
            assert child.line() == "closed PEER_CLOSED"
            child.signal(name)
            host, port = address
            assert child.line() == (
                f"shutting down <Answering running address={host}:{port} backend={backend} "
                "connections=1>"
            )
            assert len(recv_to_end(client)) == ANSWER
        done = child.finish()
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "closed SHUTDOWN",
        f"INFO Answering has stopped on {host}:{port} with {backend}",
        "returned",
    ]


@pytest.mark.parametrize("second", SIGNALS)
def test_a_second_signal_aborts_what_is_left_at_once(backend: str, second: str) -> None:
    with Program(backend, timeout=600) as child:
        address = child.listening()
        with open_client(address) as client:
            assert ask(client, b"x") == b"x"
            child.signal(SIGNALS[0])
            child.line_with("shutting down")
            assert saw_end(client)  # the client keeps its side open
            child.signal(second)
            done = child.finish()
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "returned"


def test_shutdown_timeout_bounds_it(backend: str) -> None:
    with Program(backend, timeout=0.1) as child:
        address = child.listening()
        with open_client(address) as client:
            assert ask(client, b"x") == b"x"
            child.signal(SIGNALS[0])
            done = child.finish()
            assert (done.code, done.stderr) == (0, "")
            assert done.seconds < 3


@contextmanager
def _running(server: iocp_bind.Server, **options: Any) -> Iterator[None]:
    """Run it on a thread, where no signal ends it; the block shuts it down."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            server.run(port=0, **options)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait_until(lambda: server.running or errors, "the server running")
        yield
    finally:
        server.shutdown(0.5)
        thread.join(DEADLINE)
    assert not thread.is_alive()
    assert errors == []


def test_on_another_thread_it_serves_until_shutdown(backend: str) -> None:
    server = Recorder(read=lambda conn, data: conn.send(data))
    handlers = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    for _ in range(2):
        with _running(server, backend=backend), open_client(server) as client:
            assert ask(client, b"hello") == b"hello"
            assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == handlers
        assert not server.running
    assert len(server.reasons()) == 2


class StopsItself(iocp_bind.Server):
    """Has a client from its start, and is stopped by what this says."""

    def start(self, *args: Any, **options: Any) -> None:
        super().start(*args, **options)
        self.client = open_client(self)
        self.client.sendall(b"x")

    def on_read_completed(self, conn: Connection, data: bytes) -> None:
        self.shutdown(0)

    def on_connection_closing(self, conn: Connection, reason: CloseReason) -> None:
        self.reason = reason


def test_a_shutdown_in_a_hook_ends_it(backend: str) -> None:
    server = StopsItself()
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    for _ in range(2):
        server.run(port=0, backend=backend)  # type: ignore[arg-type]
        assert server.reason is CloseReason.SHUTDOWN
        assert saw_end(server.client)
        server.client.close()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_it_is_refused_in_a_hook(serve: Serve, connect: Connect) -> None:
    errors: list[BaseException] = []
    other = Echo()

    def run(conn: Connection, data: bytes) -> None:
        for each in (other, server):
            try:
                each.run(port=0)
            except RuntimeError as error:
                errors.append(error)
        conn.send(data)

    server = serve(Recorder(read=run))
    assert ask(connect(server), b"x") == b"x"
    assert ["run() was called in a hook" in str(error) for error in errors] == [True, True]
    assert not other.running


def test_a_start_that_fails_leaves_the_signals_alone(serve: Serve) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    taken = serve(Echo())
    with pytest.raises(OSError, match=str(taken.address[1])):
        Echo().run(*taken.address)
    with pytest.raises(RuntimeError, match="already running"):
        taken.run(port=0)
    assert taken.running, "the run that goes on is not this one's to stop"
    with pytest.raises(TypeError, match="max_conections"):
        Echo().run(port=0, max_conections=5)  # type: ignore[call-arg]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize("bad", [-1, float("nan"), "5", None])
def test_a_bad_shutdown_timeout_is_found_before_the_start(bad: Any) -> None:
    server = Echo()
    with pytest.raises((ValueError, TypeError), match="timeout"):
        server.run(port=0, shutdown_timeout=bad)
    assert "new" in repr(server)


# ---- Signals of Linux.

CHOSEN = """
import os, signal, sys, iocp_bind
case = sys.argv[2]
class Starting(iocp_bind.Server):
    def start(self, *args, **options):
        if case == "before":
            os.kill(os.getpid(), signal.SIGTERM)
        super().start(*args, **options)
        if case == "ignored":
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
        if case == "other":
            os.kill(os.getpid(), signal.SIGUSR1)
def tell(number, frame):
    print("told", server.running)
    raise LookupError
signal.signal(signal.SIGUSR1, tell)
if case == "ignored":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
before = signal.getsignal(signal.SIGINT)
server = Starting()
try:
    server.run(port=0, backend=sys.argv[1])
except LookupError:
    print("raised")
assert signal.getsignal(signal.SIGINT) == before
assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
print(server.running)
"""


@linux_only
@pytest.mark.parametrize(
    ("case", "output"),
    [
        ("before", "False\n"),
        ("ignored", "False\n"),
        ("other", "told True\nraised\nFalse\n"),
    ],
)
def test_signals_that_come_early_or_are_for_somebody_else(
    backend: str, case: str, output: str
) -> None:
    done = run_script(CHOSEN, backend, case)
    assert (done.code, done.stdout, done.stderr) == (0, output, "")


# Python's own handler must not run between `run` and its caller.
AGAIN = """
import os, signal, sys, iocp_bind
class Ended(iocp_bind.Server):
    def start(self, *args, **options):
        super().start(*args, **options)
        signal.raise_signal(signal.SIGINT)
    def shutdown(self, timeout=5.0):
        super().shutdown(timeout)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
server = Ended()
for _ in range(50):
    server.run(port=0, backend=sys.argv[1])
print("no exception")
"""


@linux_only
def test_signals_that_come_late_raise_nothing(backend: str) -> None:
    done = run_script(AGAIN, backend)
    assert (done.code, done.stdout, done.stderr) == (0, "no exception\n", "")


# ---- The log, and what a server says of itself.


@pytest.fixture
def at_info() -> Iterator[None]:
    logger = logging.getLogger("iocp_bind")
    logger.setLevel(logging.INFO)
    yield
    logger.setLevel(logging.NOTSET)


@pytest.mark.usefixtures("at_info")
def test_the_log_says_where_the_server_listens_and_that_it_has_stopped(
    backend: str, logs: Logs
) -> None:
    records = logs.expect()
    server = Echo()
    for host, shown in (("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")):
        server.start(host, 0, backend=backend)  # type: ignore[arg-type]
        where = f"{shown}:{server.address[1]} with {backend}"
        assert [record.getMessage() for record in records] == [f"Echo is listening on {where}"]
        server.shutdown(0)
        assert records.pop().getMessage() == f"Echo has stopped on {where}"
        assert records.pop().levelno == logging.INFO
    with pytest.raises(OSError, match="192"):
        server.start("192.0.2.1", 0, backend=backend)  # type: ignore[arg-type]
    assert records == []


def test_the_log_is_silent_by_default(serve: Serve, logs: Logs) -> None:
    serve(Echo()).shutdown()
    assert logs.records == []


def test_repr_says_class_state_address_backend_and_connections(
    serve: Serve, connect: Connect, backend: str
) -> None:
    server = Recorder()
    assert repr(server) == "<Recorder new>"
    serve(server)
    host, port = server.address
    rest = f"address={host}:{port} backend={backend} connections="
    assert repr(server) == f"<Recorder running {rest}0>"
    client = connect(server)
    server.wait_connection()
    assert repr(server) == f"<Recorder running {rest}1>"
    stopping = threading.Thread(target=server.shutdown)
    stopping.start()
    assert saw_end(client)
    assert repr(server) == f"<Recorder stopping {rest}1>"
    client.close()
    stopping.join(DEADLINE)
    assert repr(server) == f"<Recorder stopped {rest}0>"


def test_repr_of_a_server_that_was_not_initialised() -> None:
    class Forgot(iocp_bind.Server):
        def __init__(self) -> None: ...

    assert repr(Forgot()) == "<Forgot not initialised>"


def test_run_takes_the_options_of_start() -> None:
    """A type checker sees them too."""
    names = vars(typing) | vars(iocp_bind) | vars(sys.modules["types"])
    hints = typing.get_type_hints(StartOptions, names, names)
    start = typing.get_type_hints(iocp_bind.Server.start, names)
    del start["host"], start["port"], start["return"]
    assert hints == start
