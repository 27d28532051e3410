"""Signals while `serve_forever` waits. test_run.py has those that end `run`."""

from __future__ import annotations

import signal
import sys
import time

import pytest
from support import (
    Child,
    ask,
    linux_only,
    open_client,
    run_script,
)

FOREVER = """
import signal, sys, iocp_bind
class Echo(iocp_bind.Server):
    def on_read_completed(self, conn, data):
        conn.send(data)
def terminate(number, frame):
    raise SystemExit(0)
def tell(number, frame):
    print("handler ran", flush=True)
signal.signal(signal.SIGTERM, terminate)
signal.signal(signal.SIGUSR1, tell)
try:
    with Echo() as server:
        server.start(port=0, backend=sys.argv[1])
        print("listening on {}:{}".format(*server.address), flush=True)
        server.serve_forever()
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@linux_only
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_serve_forever(backend: str, name: str) -> None:
    with (
        Child.of_script(FOREVER, backend) as child,
        open_client(child.listening()) as client,
    ):
        ask(client, b"x")
        child.process.send_signal(getattr(signal, name))
        done = child.finish()
        assert (done.code, done.stderr) == (0, "")
        assert done.seconds < 1.5
        assert done.stdout == ("interrupted" if name == "SIGINT" else "")


@linux_only
def test_other_signals_get_through_at_once(backend: str) -> None:
    if sys.platform != "linux":
        return
    with Child.of_script(FOREVER, backend) as child:
        address = child.listening()
        for _ in range(3):
            began = time.monotonic()
            child.process.send_signal(signal.SIGUSR1)
            child.line_with("handler ran")
            assert time.monotonic() - began < 1
        with open_client(address) as client:
            assert ask(client, b"serving") == b"serving"
        child.process.send_signal(signal.SIGINT)
        assert child.finish().code == 0


# A wait that a signal does not interrupt: it comes to another thread, or just before the wait.
TO_ANOTHER_THREAD = """
import signal, sys, threading, time, iocp_bind
server = iocp_bind.Server()
def stop(number, frame):
    server.shutdown(0)
signal.signal(signal.SIGUSR1, stop)
server.start(port=0, backend=sys.argv[1])
def send_signal():
    def place():
        frame = sys._current_frames()[threading.main_thread().ident]
        return frame.f_code.co_filename, frame.f_lasti
    same = 0
    while same < 20:  # until the main thread stands still in serve_forever
        before = place()
        time.sleep(0.005)
        same = same + 1 if place() == before and before[0] != "<string>" else 0
    signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
threading.Thread(target=send_signal).start()
server.serve_forever()
print(server.running)
"""


@linux_only
def test_a_signal_that_does_not_interrupt_the_wait_is_handled(backend: str) -> None:
    done = run_script(TO_ANOTHER_THREAD, backend)
    assert (done.code, done.stdout, done.stderr) == (0, "False\n", "")


WITH_A_WAKEUP = """
import os, signal, socket, sys, iocp_bind
ours, theirs = socket.socketpair()
theirs.setblocking(False)
signal.set_wakeup_fd(theirs.fileno())
signal.signal(signal.SIGUSR1, lambda number, frame: server.shutdown(0))
server = iocp_bind.Server()
if sys.argv[2] == "run":
    ended_by = signal.SIGTERM
    class Terminated(iocp_bind.Server):
        def start(self, *args, **options):
            super().start(*args, **options)
            os.kill(os.getpid(), ended_by)
    server = Terminated()
    server.run(port=0, backend=sys.argv[1])
else:
    ended_by = signal.SIGUSR1
    server.start(port=0, backend=sys.argv[1])
    signal.signal(signal.SIGALRM, lambda number, frame: os.kill(os.getpid(), ended_by))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    server.serve_forever()
    assert ours.recv(1) == bytes([signal.SIGALRM])
assert not server.running
assert ours.recv(1) == bytes([ended_by])
signal.signal(signal.SIGUSR1, lambda number, frame: None)
os.kill(os.getpid(), signal.SIGUSR1)
assert ours.recv(1) == bytes([signal.SIGUSR1]), "it is set again"
assert signal.set_wakeup_fd(-1) == theirs.fileno()
ours.close(), theirs.close()
"""


@linux_only
@pytest.mark.parametrize("how", ["run", "serve_forever"])
def test_a_wakeup_descriptor_that_is_set_gets_the_signals(backend: str, how: str) -> None:
    done = run_script(WITH_A_WAKEUP, backend, how)
    assert (done.code, done.stdout, done.stderr) == (0, "", "")


WITHOUT_DESCRIPTORS = """
import os, resource, signal, sys, iocp_bind
server = iocp_bind.Server()
server.start(port=0, backend=sys.argv[1])
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
signal.signal(signal.SIGALRM, lambda number, frame: server.shutdown(0))
signal.setitimer(signal.ITIMER_REAL, 0.2)
server.serve_forever()
print(server.running)
try:
    server.run(port=0, backend=sys.argv[1])
except OSError as error:
    print(error.strerror)
resource.setrlimit(resource.RLIMIT_NOFILE, limits)  # a leak check at the end opens files
"""


@linux_only
def test_without_descriptors_serve_forever_waits_and_run_says_so(backend: str) -> None:
    done = run_script(WITHOUT_DESCRIPTORS, backend)
    assert (done.code, done.stdout, done.stderr) == (0, "False\nToo many open files\n", "")
