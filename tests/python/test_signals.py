"""Signals while `serve_forever` waits."""

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
