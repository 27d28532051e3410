"""Start, stop, start again; the `with` block; how long a server lives."""

from __future__ import annotations

import errno
import gc
import json
import threading
import time
import weakref
from typing import Any

import pytest
from support import (
    DEADLINE,
    ON_LINUX,
    Connect,
    Echo,
    Recorder,
    Serve,
    ask,
    clients_of,
    descriptor_count,
    echo_back,
    fill,
    in_threads,
    linux_only,
    open_client,
    pattern,
    recv_to_end,
    run_child,
    saw_reset,
    thread_count,
)

import iocp_bind
from iocp_bind import CloseReason, Connection


def test_start_stop_start(serve: Serve, connect: Connect) -> None:
    """D21: nothing is inherited from the run before."""
    server = Recorder(read=echo_back)
    assert not server.running
    for turn in range(5):
        serve(server)
        assert server.running
        assert server.connection_count == 0
        assert ask(connect(server), b"hello") == b"hello"
        conn = server.wait_connection(turn)
        server.shutdown(0.2)
        assert not server.running
        assert server.connection_count == 0
        assert server.connections() == []
        assert server.wait_closed(conn) is CloseReason.SHUTDOWN
        with pytest.raises(ConnectionRefusedError):
            open_client(server)
    server.check_grammar()


def test_clients_can_connect_when_start_returns(serve: Serve, connect: Connect) -> None:
    for _ in range(20):
        server = serve(Echo())
        assert ask(connect(server), b"x") == b"x"
        server.shutdown(0)


def test_start_twice(serve: Serve, connect: Connect) -> None:
    server = serve(Echo())
    address = server.address
    client = connect(server)
    with pytest.raises(RuntimeError, match="running"):
        server.start(port=0)
    assert server.running
    assert server.address == address
    assert ask(client, b"unharmed") == b"unharmed"


def test_start_from_many_threads_starts_once(backend: str) -> None:
    server = Echo()
    outcomes: list[str] = []

    def run(index: int) -> None:
        try:
            server.start(port=0, backend=backend)  # type: ignore[arg-type]
            outcomes.append("started")
        except RuntimeError:
            outcomes.append("refused")

    in_threads(8, run)
    assert sorted(outcomes) == ["refused"] * 7 + ["started"]
    with open_client(server) as client:
        assert ask(client, b"x") == b"x"
    server.shutdown()


def test_before_start() -> None:
    server = Echo()
    assert server.running is False
    assert server.connection_count == 0
    assert server.connections() == []
    assert server.broadcast(b"x") == 0
    server.close_all_connections()
    server.shutdown()
    with pytest.raises(RuntimeError, match="start"):
        server.serve_forever()
    with pytest.raises(RuntimeError, match="start"):
        _ = server.address


def test_shutdown_twice(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder())
    connect(server)
    server.wait_connection()
    for _ in range(3):
        server.shutdown(0.2)
    assert server.reasons() == [CloseReason.SHUTDOWN]


@pytest.mark.parametrize("bad", [-1, -0.001, float("nan")])
def test_shutdown_with_a_bad_time(serve: Serve, bad: float) -> None:
    server = serve(Echo())
    with pytest.raises(ValueError):
        server.shutdown(bad)
    with pytest.raises(TypeError):
        server.shutdown("5")  # type: ignore[arg-type]
    assert server.running


def test_shutdown_closes_gracefully(serve: Serve, connect: Connect) -> None:
    """Queued data is sent, the stream ends in order, and a client that has left costs no time."""
    data = pattern(4 << 20)
    server = serve(Recorder(established=lambda conn: conn.send(data)), send_backlog_limit=1 << 30)
    client = connect(server)
    server.wait_connection()
    answers: list[bytes] = []

    def read() -> None:
        answers.append(recv_to_end(client))
        client.close()

    reader = threading.Thread(target=read)
    reader.start()
    began = time.monotonic()
    server.shutdown(15)
    assert time.monotonic() - began < 10
    reader.join(DEADLINE)
    assert answers == [data]
    assert server.reasons() == [CloseReason.SHUTDOWN]


@pytest.mark.parametrize("timeout", [0, 0.5])
def test_shutdown_is_bounded_by_its_timeout(serve: Serve, connect: Connect, timeout: float) -> None:
    """A client that neither reads nor leaves is reset when the time is over."""
    server = serve(Recorder(), send_backlog_limit=1 << 30, close_timeout=60.0)
    client = connect(server, receive_buffer=4096)
    conn = server.wait_connection()
    conn.send(bytes(32 << 20))
    began = time.monotonic()
    server.shutdown(timeout)
    assert timeout - 0.1 <= time.monotonic() - began < timeout + 1
    assert saw_reset(client)
    assert server.hooks_of(conn) == ["established", "closing"]
    assert server.reasons() == [CloseReason.SHUTDOWN]


def test_no_hook_runs_after_shutdown(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=echo_back), workers=2)
    with clients_of(server, 20) as clients:
        for client in clients:
            client.sendall(pattern(10_000))
        server.shutdown(0.2)
        count = len(server.events)
        server.check_grammar()
    assert len(server.events) == count
    if ON_LINUX:
        assert server.stats().connections == 0


def test_shutdown_from_two_threads(serve: Serve, connect: Connect) -> None:
    for _ in range(5):
        server = serve(Recorder(read=echo_back), workers=2)
        client = connect(server)
        ask(client, b"x")
        client.close()

        def stop(index: int, server: Recorder = server) -> None:
            server.shutdown(0.3)
            # Whoever returns, finds it stopped.
            assert not server.running

        in_threads(4, stop)
        server.check_grammar()


def test_a_shorter_shutdown_hurries_a_longer_one(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(), close_timeout=60.0)
    connect(server)
    server.wait_connection()
    began = time.monotonic()
    long = threading.Thread(target=server.shutdown, args=(60.0,))
    long.start()
    server.shutdown(0.2)
    long.join(DEADLINE)
    assert not long.is_alive()
    assert time.monotonic() - began < 10
    assert not server.running


HOOKS = ["established", "read", "write", "closing"]


@pytest.mark.parametrize("hook", HOOKS)
def test_shutdown_from_a_hook(serve: Serve, connect: Connect, hook: str) -> None:
    """It returns at once, and the shutdown goes on behind it."""
    took: list[float] = []

    class Suicidal(Recorder):
        def _record(self, event: str, conn: Connection, value: Any) -> None:
            super()._record(event, conn, value)
            if event == hook:
                began = time.monotonic()
                self.shutdown(0.3)
                took.append(time.monotonic() - began)

    server = serve(Suicidal(read=echo_back))
    client = connect(server)
    if hook != "established":
        other = connect(server)
        server.wait_count("established", 2)
        client.sendall(b"x")
    if hook == "closing":
        client.close()
    server.serve_forever()
    assert not server.running
    server.shutdown()
    server.check_grammar()
    assert took
    assert max(took) < 0.25
    if hook != "established":
        assert recv_to_end(other) == b""
    # And it can be started again.
    serve(server)
    server.shutdown(0.1)


def test_shutdown_under_load(serve: Serve, connect: Connect) -> None:
    for _ in range(3):
        server = serve(Recorder(read=echo_back), workers=2)
        stop = threading.Event()

        def run(index: int, server: Recorder = server, stop: threading.Event = stop) -> None:
            if index == 0:
                server.wait_count("read", 200)
                began = time.monotonic()
                server.shutdown(1.0)
                assert time.monotonic() - began < 2.0
                stop.set()
                return
            while not stop.is_set():
                try:
                    client = connect(server)
                    for _ in range(5):
                        ask(client, pattern(3000))
                    client.close()
                except (OSError, AssertionError):
                    client.close()

        in_threads(5, run)
        server.check_grammar()
        assert server.connection_count == 0


def test_a_stopped_server_ends_the_connections_in_its_backlog(
    serve: Serve, connect: Connect
) -> None:
    server = serve(Recorder(), max_connections=1, at_capacity="wait")
    connect(server)
    server.wait_connection()
    waiting = connect(server)
    server.shutdown(0.2)
    assert saw_reset(waiting)
    assert len(server.of("established")) == 1


# ---- The with block.


def test_leaving_the_block_shuts_down(backend: str, connect: Connect) -> None:
    with Recorder() as server:
        server.start(port=0, backend=backend)  # type: ignore[arg-type]
        client = connect(server)
        server.wait_connection()
        client.close()
    assert not server.running
    with server:  # never started in here
        pass


def test_leaving_the_block_by_an_error_passes_it_on(backend: str) -> None:
    server = Recorder()
    with pytest.raises(LookupError, match="mine"), server:
        server.start(port=0, backend=backend)  # type: ignore[arg-type]
        raise LookupError("mine")
    assert not server.running


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_leaving_the_block_by_an_interrupt_is_fast(
    backend: str, connect: Connect, error: type[BaseException]
) -> None:
    """Clients that do not leave get half a second."""
    server = Recorder()
    with pytest.raises(error), server:
        server.start(port=0, backend=backend, close_timeout=60)  # type: ignore[arg-type]
        connect(server)
        server.wait_connection()
        began = time.monotonic()
        raise error
    assert time.monotonic() - began < 2


def test_serve_forever_returns_when_another_thread_stops_it(serve: Serve) -> None:
    server = serve(Echo())
    returned = threading.Event()

    def run() -> None:
        server.serve_forever()
        returned.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert not returned.wait(0.05)
    server.shutdown()
    assert returned.wait(DEADLINE)
    thread.join()
    server.serve_forever()  # of a stopped server: there is nothing to wait for


# ---- Subclasses and lifetimes.


def test_a_subclass_that_forgot_super_init(backend: str) -> None:
    class Forgetful(iocp_bind.Server):
        def __init__(self) -> None:
            self.mine = 1

    with pytest.raises((TypeError, RuntimeError), match="__init__"):
        Forgetful().start(port=0, backend=backend)  # type: ignore[arg-type]


def test_a_subclass_with_its_own_init(serve: Serve, connect: Connect) -> None:
    class Named(Echo):
        def __init__(self, name: str, *, greeting: bytes) -> None:
            super().__init__()
            self.name = name
            self.greeting = greeting

        def on_connection_established(self, conn: Connection) -> None:
            conn.send(self.greeting)

    server = serve(Named("n", greeting=b"hi"))
    assert connect(server).recv(2) == b"hi"
    assert server.name == "n"


def test_a_running_server_keeps_itself_alive(backend: str) -> None:
    gone: list[int] = []

    class Mine(Echo):
        def stop(self) -> None: ...

    def start() -> tuple[tuple[str, int], weakref.ref[Mine]]:
        server = Mine()
        server.start(port=0, backend=backend)  # type: ignore[arg-type]
        weakref.finalize(server, gone.append, 1)
        return server.address, weakref.ref(server)

    address, reference = start()
    gc.collect()
    with open_client(address) as client:
        assert ask(client, b"alive") == b"alive"
    assert not gone
    server = reference()
    assert server is not None
    server.shutdown()
    del server
    end = time.monotonic() + DEADLINE
    while not gone and time.monotonic() < end:
        gc.collect()
    assert gone == [1]


def test_a_server_that_stops_itself_from_a_hook_and_is_forgotten_goes(backend: str) -> None:
    gone = threading.Event()

    class OneShot(iocp_bind.Server):
        def on_read_completed(self, conn: Connection, data: bytes) -> None:
            conn.send(b"bye")
            self.shutdown(0.1)

    server = OneShot()
    server.start(port=0, backend=backend)  # type: ignore[arg-type]
    weakref.finalize(server, gone.set)
    address = server.address
    del server
    with open_client(address) as client:
        client.sendall(b"x")
        assert recv_to_end(client) == b"bye"
    end = time.monotonic() + DEADLINE
    while not gone.is_set() and time.monotonic() < end:
        gc.collect()
    assert gone.is_set()


def test_a_server_that_was_never_started_goes() -> None:
    gone: list[int] = []
    server = Recorder()
    weakref.finalize(server, gone.append, 1)
    del server
    gc.collect()
    assert gone == [1]


@linux_only
def test_many_servers_at_once(serve: Serve, connect: Connect) -> None:
    gc.collect()
    threads, descriptors = thread_count(), descriptor_count()
    servers = [serve(Echo()) for _ in range(10)]
    for server in servers:
        client = connect(server)
        assert ask(client, b"x") == b"x"
        client.close()
    for server in servers:
        server.shutdown(0.5)
    assert thread_count() <= threads
    assert descriptor_count() <= descriptors


def test_a_large_backlog_is_no_obstacle_to_shutdown(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=echo_back))
    for _ in range(5):
        fill(connect(server, receive_buffer=4096), 64 << 20, patience=0.1)
    began = time.monotonic()
    server.shutdown(0.3)
    assert time.monotonic() - began < 1.3
    server.check_grammar()


# ---- A system that changes its mind.


@linux_only
def test_a_backend_that_the_system_takes_away_ends_in_words(backend: str) -> None:
    """A seccomp filter that is set after the start: nobody hangs, and the log says why."""
    child = run_child("withdrawn_child.py", backend)
    assert child.code == 0, child.stderr
    report = json.loads(child.stdout)
    assert report["errors"] == [errno.EPERM] * 6
    assert report["reasons"] == ["ERROR"] * 6
    (warning,) = report["warnings"]
    assert f"'{backend}' has stopped working" in warning
    assert "seccomp" in warning
    assert report["shutdown"] < 5
    assert report["busy"] < 0.1
