"""The end of the interpreter, while threads use servers; and interpreters within one process."""

from __future__ import annotations

import contextlib
import select
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support import DEADLINE, Child, Finished, ask, clients_of, linux_only, pythons, run_script

# ---- The end of the interpreter.

LEFT_RUNNING = """
import sys, socket, threading, iocp_bind
class Echo(iocp_bind.Server):
    def on_connection_established(self, conn):
        conn.data = self
    def on_read_completed(self, conn, data):
        conn.send(data)
    def on_write_completed(self, conn, nbytes):
        pass
    def on_connection_closing(self, conn, reason):
        pass
def main():
    server = Echo()
    server.start(port=0, backend=sys.argv[1], workers=2)
    print("listening on {}:{}".format(*server.address), flush=True)
    sys.stdin.readline()
    return server
how = sys.argv[2]
if how == "global":
    kept = main()
elif how == "dropped":
    main()
elif how == "cycle":
    kept = main()
    kept.itself = kept
elif how == "exit":
    kept = main()
    sys.exit(0)
elif how == "thread":
    kept = main()
    threading.Thread(target=kept.serve_forever, daemon=True).start()
elif how == "error":
    kept = main()
    raise SystemExit(7)
"""
HOWS = ["global", "dropped", "cycle", "exit", "thread", "error"]


@pytest.mark.parametrize("how", HOWS)
def test_the_interpreter_may_exit_while_a_server_runs(backend: str, how: str) -> None:
    """Under full traffic from clients that stay."""
    for python in pythons():
        with Child.of_script(LEFT_RUNNING, backend, how, python=python) as child:
            address = child.listening()
            with clients_of(address, 10) as clients:
                for client in clients:
                    ask(client, b"x")
                busy = threading.Thread(target=_keep_busy, args=(clients,))
                busy.start()
                child.send_line("now")
                done = child.finish()
                busy.join(DEADLINE)
        assert done.code == (7 if how == "error" else 0), (python, done)
        assert done.stderr == "", python
        assert done.seconds < 2, python


def _keep_busy(clients: list[Any]) -> None:
    """Send without pause until the server is gone."""
    for client in clients:
        client.setblocking(False)
    left = list(clients)
    end = time.monotonic() + DEADLINE
    while left and time.monotonic() < end:
        readable, writable, _ = select.select(left, left, [], 1.0)
        for client in {*readable, *writable}:
            try:
                with contextlib.suppress(BlockingIOError):
                    if client in readable and not client.recv(65536):
                        left.remove(client)
                        continue
                with contextlib.suppress(BlockingIOError):
                    if client in writable:
                        client.send(b"busy" * 1000)
            except OSError:
                left.remove(client)


def test_the_interpreter_may_exit_during_many_starts_and_stops(backend: str) -> None:
    script = """
import sys, iocp_bind
servers = []
for turn in range(20):
    server = iocp_bind.Server()
    server.start(port=0, backend=sys.argv[1])
    if turn % 2:
        server.shutdown()
    servers.append(server)
"""
    done = run_script(script, backend)
    assert (done.code, done.stdout, done.stderr) == (0, "", "")


# ---- The end, with threads in every call.

DAEMONS = """
import itertools, sys, threading, socket, iocp_bind
backend, calls = sys.argv[1:]

class Echo(iocp_bind.Server):
    def on_connection_established(self, conn):
        found.append(conn)
    def on_read_completed(self, conn, data):
        conn.send(data)
    def on_connection_closing(self, conn, reason):
        pass

found = []
server = Echo()
server.start(port=0, backend=backend)
clients = [socket.create_connection(server.address) for _ in range(5)]
while len(found) < 5:
    pass
other = Echo()
data = b"x" * 100
big = b"x" * 20_000
CALLS = {
    "Server": lambda: Echo(),
    "start": lambda: other.start(port=0, backend=backend),
    "restart": lambda: (other.start(port=0, backend=backend), other.shutdown(0)),
    "serve_forever": lambda: other.serve_forever(),
    "shutdown": lambda: other.shutdown(0),
    "close_connection": lambda: server.close_connection(found[0]),
    "close_all_connections": lambda: other.close_all_connections(),
    "broadcast": lambda: server.broadcast(data),
    "connections": lambda: server.connections(),
    "address": lambda: server.address,
    "backend": lambda: server.backend,
    "running": lambda: server.running,
    "connection_count": lambda: server.connection_count,
    "stats": lambda: server.stats(),
    "backends": lambda: iocp_bind.backends(),
    "send": lambda: found[1].send(big),
    "writelines": lambda: found[2].writelines([data, big]),
    "close": lambda: found[3].close(),
    "abort": lambda: found[4].abort(),
    "pause_reading": lambda: (found[1].pause_reading(), found[1].resume_reading()),
    "others": lambda: (found[2].is_open, found[2].send_backlog, repr(found[2])),
}
chosen = list(CALLS) if calls == "all" else [calls]
begun = threading.Barrier(5)

def loop(start):
    calls = itertools.cycle([CALLS[chosen[(start + i) % len(chosen)]] for i in range(len(chosen))])
    begun.wait()
    for call in calls:
        try:
            call()
        except RuntimeError:
            pass  # running, not running, ending, or a full backlog

for index in range(4):
    threading.Thread(target=loop, args=(index * 5,), daemon=True).start()
begun.wait()
"""
# Those that give the GIL back, each by itself as well.
CALLS = [
    *("all", "broadcast", "close_all_connections", "shutdown", "start", "restart", "Server"),
    "serve_forever",
]


@pytest.mark.skipif(
    sys.version_info < (3, 11),
    reason="CPython 3.10 crashes now and then at its end, while daemon threads run any program",
)
@pytest.mark.parametrize("calls", CALLS)
def test_the_interpreter_may_end_while_daemon_threads_call(backend: str, calls: str) -> None:
    def run(turn: int) -> tuple[str, Finished]:
        python = pythons()[turn % len(pythons())]
        with Child.of_script(DAEMONS, backend, calls, python=python) as child:
            return python, child.finish()

    times = 12 if calls == "all" else 4
    with ThreadPoolExecutor(2) as pool:
        for python, done in pool.map(run, range(times * len(pythons()))):
            assert (done.code, done.stdout, done.stderr) == (0, "", ""), (python, done)


STARTS_LATE = """
import atexit, sys
if sys.argv[2] == "before":
    atexit.register(lambda: start())
import iocp_bind
if sys.argv[2] == "after":
    atexit.register(lambda: start())
def start():
    try:
        iocp_bind.Server().start(port=0, backend=sys.argv[1])
        print("started")
    except RuntimeError as error:
        print(error)
"""


@pytest.mark.parametrize("registered", ["before", "after"])
def test_a_start_after_the_servers_were_stopped_is_refused(backend: str, registered: str) -> None:
    """Handlers run last registered first; the package registers its own at the import."""
    for python in pythons():
        with Child.of_script(STARTS_LATE, backend, registered, python=python) as child:
            done = child.finish()
        assert (done.code, done.stderr) == (0, ""), python
        if registered == "after":
            assert done.stdout == "started"
        else:
            assert done.stdout == "the interpreter is ending: no server can be started"


# ---- Sub-interpreters.

SUB_INTERPRETER = """
import sys
kind, use = sys.argv[1:]
try:
    import _interpreters as interpreters  # since 3.13
    made = interpreters.create(kind)
except ImportError:
    import _xxsubinterpreters as interpreters
    made = interpreters.create(isolated=kind == "isolated")
script = '''
try:
    import iocp_bind
except ImportError as error:
    print(error, flush=True)
'''
if use == "used":
    import iocp_bind
interpreters.run_string(made, script)
print("over", flush=True)
"""


@linux_only
@pytest.mark.parametrize("kind", ["legacy", "isolated"])
@pytest.mark.parametrize("use", ["used", "unused"])
def test_an_import_in_a_sub_interpreter_is_refused(kind: str, use: str) -> None:
    """Whether or not the main interpreter has it."""
    if sys.implementation.name != "cpython":
        pytest.skip("only CPython has sub-interpreters")
    for python in pythons():
        with Child.of_script(SUB_INTERPRETER, kind, use, python=python) as child:
            assert "iocp_bind works in the main interpreter only" in child.line()
            assert child.line() == "over"
            child.finish()
