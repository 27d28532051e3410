"""The promises of README over TLS, where memory counts: the server is a process of its own.

The bounds are those of `test_promises.py`, and 64 KiB more for each connection.
"""

from __future__ import annotations

import hashlib
import select
import ssl
import threading
import time
from typing import Any

import pytest
from support import (
    ServerChild,
    ask,
    clients_of,
    full_load,
    linux_only,
    open_client,
    pattern,
    reset,
    saw_end,
)
from support.tls import Certificates

pytestmark = pytest.mark.timeout(180)

MIB = 1 << 20
OF_A_CONNECTION = 64 << 10


def _serve(backend: str, certificates: Certificates, **tls: Any) -> ServerChild:
    certfile, keyfile = certificates.server
    return ServerChild(backend, tls={"certfile": certfile, "keyfile": keyfile, **tls})


def _connect(server: ServerChild, certificates: Certificates) -> ssl.SSLSocket:
    return certificates.context().wrap_socket(
        open_client(server.address), server_hostname="localhost"
    )


def _warm_up(server: ServerChild, certificates: Certificates) -> int:
    """Let it touch what it keeps, its buffers above all; return the memory that it has then."""
    data = pattern(MIB)
    clients = [_connect(server, certificates) for _ in range(20)]
    for client in clients:
        for at in range(0, len(data), 65_536):
            ask(client, data[at : at + 65_536])
        client.close()
    memory: int = server.wait_idle()["memory"]
    return memory


class _Flow:
    """A client that does not block: what it has sent and got, as a count and a digest."""

    def __init__(self, client: ssl.SSLSocket, total: int) -> None:
        self.client, self.total = client, total
        client.setblocking(False)
        self.sent = self.got = 0
        self.sent_digest, self.got_digest = hashlib.sha256(), hashlib.sha256()
        self._block = pattern(MIB + 7)  # shifts against every power of two
        self._rest = memoryview(self._block)
        self._room = memoryview(bytearray(MIB))

    def send(self, patience: float) -> None:
        """Until all is sent, or nothing more goes in for so many seconds."""
        while self.sent < self.total:
            try:
                size = self.client.send(self._rest[: self.total - self.sent])
            except ssl.SSLWantWriteError:
                if not select.select([], [self.client], [], patience)[1]:
                    return
                continue
            self.sent_digest.update(self._rest[:size])
            self.sent += size
            self._rest = self._rest[size:] or memoryview(self._block)

    def read(self, goal: int, patience: float) -> None:
        """Until it has got so many bytes, or none comes for so many seconds."""
        while self.got < goal:
            try:
                size = self.client.recv_into(self._room)
            except ssl.SSLWantReadError:
                if not select.select([self.client], [], [], patience)[0]:
                    return
                continue
            assert size, "the stream ended"
            self.got_digest.update(self._room[:size])
            self.got += size


@linux_only
@pytest.mark.parametrize("total", [64 * MIB, full_load(1024 * MIB)])
def test_a_long_stream_to_a_slow_reader(
    backend: str, certificates: Certificates, total: int
) -> None:
    with _serve(backend, certificates) as server:
        before = _warm_up(server, certificates)
        highest = before
        with _connect(server, certificates) as client:
            flow = _Flow(client, total)
            next_report = total // 8
            while flow.got < total:
                # Only when nothing more goes in it reads a little: no reader without time in it
                # could be slower.
                flow.send(0.002)
                flow.read(min(flow.got + 6 * MIB, total), 0 if flow.sent < total else 20)
                if flow.got >= next_report:
                    highest = max(highest, server.ask("report")["memory"])
                    next_report += total // 8
        assert (flow.sent, flow.got) == (total, total)
        assert flow.got_digest.digest() == flow.sent_digest.digest()
        highest = max(highest, server.wait_idle()["memory"])
        assert highest - before < 16 * MIB + OF_A_CONNECTION


@linux_only
def test_a_client_that_sends_and_never_reads(backend: str, certificates: Certificates) -> None:
    with _serve(backend, certificates) as server:
        before = _warm_up(server, certificates)
        with _connect(server, certificates) as client, _connect(server, certificates) as other:
            greedy = _Flow(client, 256 * MIB)
            pusher = threading.Thread(target=greedy.send, args=(1.0,))
            pusher.start()
            turns = 0
            while pusher.is_alive() or turns < 500:
                message = pattern(300, turns)
                assert ask(other, message) == message
                turns += 1
            pusher.join()
            assert server.ask("report")["memory"] - before < 8 * MIB + 2 * OF_A_CONNECTION
            assert greedy.sent < greedy.total
            reset(client)
        server.wait_idle()


def _half_a_hello(certificates: Certificates) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = certificates.context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    hello = outgoing.read()
    return hello[: len(hello) // 2]


@linux_only
def test_a_thousand_clients_are_silent_in_the_handshake(
    backend: str, certificates: Certificates
) -> None:
    count, timeout = 1000, 3.0
    hello = _half_a_hello(certificates)
    with _serve(backend, certificates, handshake_timeout=timeout) as server:
        before = _warm_up(server, certificates)
        with clients_of(server.address, count) as silent:
            began = time.monotonic()
            for client in silent:
                client.sendall(hello)
            with _connect(server, certificates) as other:
                for turn in range(100):
                    message = pattern(300, turn)
                    assert ask(other, message) == message
                report = server.ask("report")
                assert report["connection_count"] == count + 1
                assert report["memory"] - before < 8 * MIB + (count + 1) * OF_A_CONNECTION
                for client in silent:
                    assert saw_end(client)
                assert time.monotonic() - began < 2 * timeout
                assert ask(other, b"still served") == b"still served"
        report = server.wait_idle()
        failures = report["tls_failures"]
        assert failures["TIMEOUT"] == count
        assert sum(failures.values()) == count
