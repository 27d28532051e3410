"""Processes that are forked while a server runs."""

from __future__ import annotations

import subprocess
import sys

from support import (
    DEADLINE,
    Connect,
    Echo,
    Serve,
    ask,
    linux_only,
    run_script,
)

FORK = """
import os, sys, warnings, iocp_bind, socket
warnings.simplefilter("ignore")
class Echo(iocp_bind.Server):
    def on_read_completed(self, conn, data):
        conn.send(data)
seen = []
class Keeps(Echo):
    def on_connection_established(self, conn):
        seen.append(conn)
server = Keeps()
server.start(port=0, backend=sys.argv[1])
client = socket.create_connection(server.address, timeout=10)
client.sendall(b"x"); assert client.recv(1) == b"x"
conn = seen[0]
child = os.fork()
if child == 0:
    uses = {
        "start": lambda: server.start(port=0),
        "shutdown": lambda: server.shutdown(),
        "stats": lambda: server.stats(),
        "broadcast": lambda: server.broadcast(b"x"),
        "connections": lambda: server.connections(),
        "close_all": lambda: server.close_all_connections(),
        "send": lambda: conn.send(b"x"),
        "writelines": lambda: conn.writelines([b"x"]),
        "close": lambda: conn.close(),
        "abort": lambda: conn.abort(),
        "new": lambda: Echo(),
        "serve_forever": lambda: server.serve_forever(),
    }
    for name, use in uses.items():
        try:
            use()
            print(name, "returned", flush=True)
        except RuntimeError as error:
            print(name, "refused" if "fork" in str(error) else str(error), flush=True)
    print("running", server.running, flush=True)
    sys.exit(0)          # with everything that happens at exit
_, status = os.waitpid(child, 0)
print("child", os.waitstatus_to_exitcode(status), flush=True)
client.sendall(b"y"); assert client.recv(1) == b"y"    # the parent's server is unharmed
client.close()
server.shutdown()
print("parent ok", flush=True)
"""


@linux_only
def test_a_forked_child_is_refused_and_exits_cleanly(backend: str) -> None:
    done = run_script(FORK, backend)
    assert done.code == 0, done
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[-2:] == ["child 0", "parent ok"]
    answers = dict(line.split(maxsplit=1) for line in lines[:-2])
    assert answers.pop("running") == "False"
    assert answers == dict.fromkeys(answers, "refused")
    assert len(answers) == 12


MULTIPROCESSING = """
import multiprocessing, sys, warnings, iocp_bind
warnings.simplefilter("ignore")
def work(number):
    return number * 2
def serve(queue):
    import socket
    class Echo(iocp_bind.Server):
        def on_read_completed(self, conn, data):
            conn.send(data)
    try:
        with Echo() as server:
            server.start(port=0, backend=sys.argv[1])
            client = socket.create_connection(server.address, timeout=10)
            client.sendall(b"x")
            queue.put(client.recv(1))
            client.close()
    except RuntimeError as error:
        queue.put("fork" in str(error))
if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    first = context.Process(target=serve, args=(queue,))    # before any server: it can serve
    first.start(); print(queue.get()); first.join(); print(first.exitcode)
    server = iocp_bind.Server()
    server.start(port=0, backend=sys.argv[1])
    with context.Pool(2) as pool:                           # children that do not use it
        print(pool.map(work, range(5)))
    second = context.Process(target=serve, args=(queue,))   # and one that would
    second.start(); print(queue.get()); second.join(); print(second.exitcode)
    server.shutdown()
"""


@linux_only
def test_multiprocessing_by_fork(backend: str) -> None:
    done = run_script(MULTIPROCESSING, backend)
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["b'x'", "0", "[0, 2, 4, 6, 8]", "True", "0"]


@linux_only
def test_a_subprocess_is_no_fork_that_matters(serve: Serve, connect: Connect) -> None:
    server = serve(Echo())
    client = connect(server)
    subprocess.run([sys.executable, "-c", "pass"], check=True, timeout=DEADLINE)
    assert ask(client, b"x") == b"x"
    assert server.running
