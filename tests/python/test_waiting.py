"""Nobody waits for himself: what would wait for a server to stop, called in hooks."""

from __future__ import annotations

import queue
import threading
import time
from typing import Any

import pytest
from support import DEADLINE, Connect, Echo, Recorder, Serve, ask, run_script

import iocp_bind
from iocp_bind import Connection


class Calls(iocp_bind.Server):
    """Calls a function in a hook; keeps what it returned or raised."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        self.results: queue.Queue[Any] = queue.Queue()

    def on_read_completed(self, conn: Connection, data: bytes) -> None:
        try:
            result = self.function(self)
        except Exception as error:
            result = error
        self.results.put(result)

    def result(self) -> Any:
        return self.results.get(timeout=DEADLINE)


def _stop_in_a_thread(*servers: iocp_bind.Server) -> None:
    """Shut down, and fail rather than hang."""
    threads = [threading.Thread(target=server.shutdown, args=(0,)) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert not any(thread.is_alive() for thread in threads)


def test_serve_forever_in_a_hook_is_refused(serve: Serve, connect: Connect) -> None:
    server = serve(Calls(lambda server: server.serve_forever()))
    connect(server).sendall(b"x")
    error = server.result()
    assert isinstance(error, RuntimeError)
    assert "in a hook" in str(error)
    _stop_in_a_thread(server)


def test_serve_forever_of_another_server_in_a_hook_is_refused(
    serve: Serve, connect: Connect
) -> None:
    other = serve(Echo())
    server = serve(Calls(lambda _: other.serve_forever()))
    connect(server).sendall(b"x")
    assert isinstance(server.result(), RuntimeError)
    assert ask(connect(other), b"unharmed") == b"unharmed"


def test_two_servers_may_shut_each_other_down(serve: Serve, connect: Connect) -> None:
    """Each in a hook that the other one would have to wait for."""
    both = threading.Barrier(2)
    servers: list[Calls] = []

    def stop_the_other(server: Calls) -> None:
        both.wait(DEADLINE)
        servers[servers[0] is server].shutdown(0)

    servers += [serve(Calls(stop_the_other)) for _ in range(2)]
    for server in servers:
        connect(server).sendall(b"x")
    for server in servers:
        assert server.result() is None
        server.serve_forever()
        assert not server.running


def test_shutdown_of_another_server_goes_on_behind_the_hook(serve: Serve, connect: Connect) -> None:
    other = serve(Recorder())
    connect(other)  # one that does not leave
    other.wait_connection()

    def stop(_: Calls) -> float:
        began = time.monotonic()
        other.shutdown(0.5)
        return time.monotonic() - began

    server = serve(Calls(stop))
    connect(server).sendall(b"x")
    assert server.result() < 0.4
    other.serve_forever()
    assert not other.running


def test_a_block_left_in_a_hook_does_not_wait(serve: Serve, connect: Connect) -> None:
    def leave(server: Calls) -> None:
        with server:
            pass

    server = serve(Calls(leave))
    client = connect(server)
    client.sendall(b"x")
    assert server.result() is None
    client.close()
    server.serve_forever()
    assert not server.running


def test_a_start_in_the_hook_that_shut_down_is_refused(
    serve: Serve, connect: Connect, backend: str
) -> None:
    def restart(server: Calls) -> None:
        server.shutdown(0)
        server.start(port=0, backend=backend)  # type: ignore[arg-type]

    server = serve(Calls(restart))
    connect(server).sendall(b"x")
    error = server.result()
    assert isinstance(error, RuntimeError)
    assert "already running" in str(error)
    server.serve_forever()
    assert ask(connect(serve(Echo())), b"x") == b"x"


def test_a_hook_may_start_and_restart_another_server(
    serve: Serve, connect: Connect, backend: str
) -> None:
    other = Echo()

    def run(_: Calls) -> bytes:
        other.start(port=0, backend=backend)  # type: ignore[arg-type]
        answer = ask(connect(other), b"hello")
        other.shutdown(0)
        return answer

    server = serve(Calls(run))
    client = connect(server)
    for _ in range(5):
        client.sendall(b"x")
        assert server.result() == b"hello"
        other.serve_forever()
        assert not other.running


def test_running_is_false_only_when_it_can_be_started_again(
    serve: Serve, connect: Connect, backend: str
) -> None:
    """From the moment at which another thread sees it, though nobody has waited for the workers."""
    server = serve(Calls(lambda server: server.shutdown(0)))
    for _ in range(20):
        connect(server).sendall(b"x")
        deadline = time.monotonic() + 20
        while server.running:  # at once, or the moment is missed
            assert time.monotonic() < deadline
        server.start(port=0, backend=backend)  # type: ignore[arg-type]
    assert len(iocp_bind._server._running) == 1, "the stop at the interpreter's end forgets it"


@pytest.mark.parametrize("workers", [1, 3])
def test_the_interpreter_ends_when_a_hook_has_called_serve_forever(
    backend: str, workers: int
) -> None:
    script = """
import socket, sys, iocp_bind
class Forever(iocp_bind.Server):
    def on_read_completed(self, conn, data):
        try:
            self.serve_forever()
        except RuntimeError:
            conn.send(b"refused")
server = Forever()
server.start(port=0, backend=sys.argv[1], workers=int(sys.argv[2]))
with socket.create_connection(server.address) as client:
    client.sendall(b"x")
    assert client.recv(7) == b"refused"
"""
    done = run_script(script, backend, str(workers))
    assert (done.code, done.stdout, done.stderr) == (0, "", "")


def test_a_server_that_two_threads_start_is_stopped_at_the_end(backend: str) -> None:
    """The one that is refused does not make the package forget the server."""
    script = """
import sys, threading, iocp_bind
server = iocp_bind.Server()
both = threading.Barrier(8)
def start():
    both.wait()
    try:
        server.start(port=0, backend=sys.argv[1])
    except RuntimeError:
        pass
threads = [threading.Thread(target=start) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert server.running
assert len(iocp_bind._server._running) == 1
server.shutdown()
assert not iocp_bind._server._running
try:
    server.start(host="192.0.2.1", port=0, backend=sys.argv[1])
except OSError:
    assert not iocp_bind._server._running
"""
    done = run_script(script, backend)
    assert (done.code, done.stdout, done.stderr) == (0, "", "")
