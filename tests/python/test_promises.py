"""The promises of README under load: a small one in `make test`, the full one in `make test-all`.

Where memory counts, the server is a process of its own and the clients are here.
bench/ measures the speed.
"""

from __future__ import annotations

import contextlib
import hashlib
import select
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support import (
    Address,
    Connect,
    Logs,
    Recorder,
    Serve,
    ServerChild,
    ask,
    clients_of,
    fill,
    full_load,
    in_threads,
    linux_only,
    need_descriptors,
    open_client,
    pattern,
    recv_exact,
    reset,
    saw_reset,
    wait_until,
)

from iocp_bind import CloseReason, Connection

pytestmark = pytest.mark.timeout(180)

MIB = 1 << 20


def _warm_up(server: ServerChild) -> dict[str, Any]:
    """Let it touch what it keeps, its buffers above all; return what it has then."""
    data = pattern(4 * MIB)
    with clients_of(server.address, 50) as clients:
        for client in clients:
            ask(client, b"x" * 1000)
        for client in clients[:3]:
            sender = threading.Thread(target=client.sendall, args=(data,))
            sender.start()
            assert recv_exact(client, len(data)) == data
            sender.join()
    return server.wait_idle()


@linux_only
@pytest.mark.parametrize("count", [1_000, full_load(10_000)])
def test_many_connections_at_once(backend: str, count: int) -> None:
    need_descriptors(count + 500)
    with (
        ServerChild(backend, "counting", max_connections=count, listen_backlog=4096) as server,
        clients_of(server.address, count) as clients,
    ):
        for turn in range(3):
            sizes = [1 + (index * 37 + turn * 101) % 2000 for index in range(count)]
            for index, client in enumerate(clients):
                client.sendall(pattern(sizes[index], index))
            for index, client in enumerate(clients):
                assert recv_exact(client, sizes[index]) == pattern(sizes[index], index)
        assert server.ask("report")["connection_count"] == count
        for client in clients:
            client.close()
        server.wait_idle()
        answer = server.ask("shutdown", timeout=1)
        assert answer["wrong"] == []
        assert answer["established"] == count
        assert answer["closed"] == {"PEER_CLOSED": count}


@linux_only
@pytest.mark.parametrize("total", [128 * MIB, full_load(1024 * MIB)])
def test_a_long_stream_to_a_slow_reader(backend: str, total: int) -> None:
    block = pattern(MIB + 7)  # shifts against every power of two
    with ServerChild(backend) as server:
        before = _warm_up(server)["memory"]
        sent_digest, got_digest = hashlib.sha256(), hashlib.sha256()
        highest = before
        with open_client(server.address) as client:
            client.setblocking(False)
            sent = got = 0
            poller = select.poll()
            room = memoryview(bytearray(MIB))
            rest = memoryview(block)
            next_report = total // 8
            while got < total:
                # Send until nothing more goes in; only then read a little: the slowest that a
                # reader can be without time in it.
                poller.register(client, select.POLLOUT if sent < total else 0)
                while sent < total and poller.poll(2):
                    try:
                        size = client.send(rest[: total - sent])
                    except BlockingIOError:
                        break
                    sent_digest.update(rest[:size])
                    sent += size
                    rest = rest[size:] or memoryview(block)
                goal = min(got + 6 * MIB, total)
                poller.modify(client, select.POLLIN)
                while got < goal and poller.poll(0 if sent < total else 20_000):
                    size = client.recv_into(room)
                    assert size, "the stream ended"
                    got_digest.update(room[:size])
                    got += size
                if got >= next_report:
                    highest = max(highest, server.ask("report")["memory"])
                    next_report += total // 8
        assert (sent, got) == (total, total)
        assert got_digest.digest() == sent_digest.digest()
        after = server.wait_idle()["memory"]
        assert max(highest, after) - before < 16 * MIB


@linux_only
def test_a_client_that_sends_and_never_reads(backend: str) -> None:
    with ServerChild(backend) as server:
        before = _warm_up(server)["memory"]
        with open_client(server.address) as greedy, open_client(server.address) as other:
            attempt: list[int] = []
            pusher = threading.Thread(
                target=lambda: attempt.append(fill(greedy, 256 * MIB, patience=1.0))
            )
            pusher.start()
            turns = 0
            while pusher.is_alive() or turns < 500:
                message = pattern(300, turns)
                assert ask(other, message) == message
                turns += 1
            pusher.join()
            assert server.ask("report")["memory"] - before < 8 * MIB
            assert attempt[0] < 256 * MIB
            reset(greedy)
        server.wait_idle()


@linux_only
@pytest.mark.parametrize("mode", ["lines", "notified lines"])
@pytest.mark.parametrize("line", [b"\n", b"x\n"], ids=["empty", "one byte"])
def test_many_small_lines_for_clients_that_do_not_read(
    backend: str, mode: str, line: bytes
) -> None:
    """The memory around the bytes counts too; else a thousand times the limit is taken."""
    count, readers, limit = 200_000, 4, 256 * 1024
    with (
        ServerChild(backend, mode, send_backlog_limit=limit) as server,
        open_client(server.address) as sender,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(readers):
            stack.enter_context(open_client(server.address, receive_buffer=4096))
        wait_until(lambda: server.ask("report")["connection_count"] == 1 + readers, "all there")
        before = server.ask("report")["memory"]
        sender.sendall(line * count)
        wait_until(
            lambda: server.ask("report")["bytes_received"] == len(line) * count,
            "everything received",
        )
        # As much as one turn may send to each, and as the worker and the heap keep for reuse.
        assert server.ask("report")["memory"] - before < readers * 16 * limit + 3 * MIB


@linux_only
@pytest.mark.parametrize("count", [5_000, full_load(100_000)])
def test_short_connections(backend: str, count: int) -> None:
    """Connect, one message, disconnect; a third of them with a reset."""
    with ServerChild(backend, max_connections=5000) as server:
        before = _warm_up(server)
        number = 0
        while number < count:
            batch = [open_client(server.address) for _ in range(50)]
            for client in batch:
                client.sendall(b"one message")
            for client in batch:
                number += 1
                # Some leave at once, the others when they have their answer.
                if number % 10:
                    assert recv_exact(client, 11) == b"one message"
                reset(client) if number % 3 == 0 else client.close()
        after = server.wait_idle()
        assert after["accepted"] >= count
        assert sum(after["closed"].values()) == after["established"]
        assert after["descriptors"] <= before["descriptors"]
        assert after["threads"] <= before["threads"]
        assert after["memory"] - before["memory"] < 8 * MIB
        with open_client(server.address) as client:
            assert ask(client, b"still well") == b"still well"


@contextlib.contextmanager
def _traffic(address: Address, connections: int = 16) -> Iterator[list[float]]:
    """Echo on many connections without pause; yields how long each round took."""
    rounds: list[float] = []
    errors: list[BaseException] = []
    stop = threading.Event()

    def run() -> None:
        try:
            with clients_of(address, connections) as clients:
                message = pattern(200)
                while not stop.is_set():
                    began = time.monotonic()
                    for client in clients:
                        client.sendall(message)
                    for client in clients:
                        assert recv_exact(client, 200) == message
                    rounds.append(time.monotonic() - began)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield rounds
    finally:
        stop.set()
        thread.join()
    assert not errors, errors
    assert rounds


@linux_only
def test_silent_clients_under_traffic(backend: str) -> None:
    with (
        ServerChild(backend, first_data_timeout=1.0) as server,
        _traffic(server.address) as rounds,
        clients_of(server.address, 200) as silent,
    ):
        began = time.monotonic()
        poller = select.poll()
        left = {client.fileno(): client for client in silent}
        for descriptor in left:
            poller.register(descriptor, select.POLLIN)
        while left and time.monotonic() - began < 5:
            for descriptor, _ in poller.poll(100):
                poller.unregister(descriptor)
                assert left.pop(descriptor).recv(1) == b""
        took = time.monotonic() - began
        assert not left
        assert took < 2.0
        # The first of them connected a little before the clock was started.
        assert took > 0.5
        # Their ends reach the client before the server has counted them.
        wait_until(
            lambda: server.ask("report")["closed"]["FIRST_DATA_TIMEOUT"] == 200, "200 counted"
        )
        assert max(rounds) < 0.5, "the traffic stalled"


@linux_only
@pytest.mark.parametrize("seconds", [0.4, full_load(1.5)])
def test_descriptors_exhausted_by_clients(backend: str, seconds: float) -> None:
    with (
        ServerChild(backend, max_connections=5000, descriptors=80) as server,
        clients_of(server.address, 200) as clients,
    ):
        for client in clients:
            client.sendall(b"served?")
        # Those who were accepted are served while the others wait.
        served = _answered(clients, 40)
        assert 40 <= len(served) < 100
        wait_until(lambda: server.ask("counters")["accept_errors"] > 0, "accepts failing")
        first = server.ask("counters")
        threading.Event().wait(seconds)  # the measure, not a wait for something
        second = server.ask("counters")
        used = second["cpu"] - first["cpu"]
        assert used / (second["time"] - first["time"]) < 0.2
        assert ask(served[0], b"still here") == b"still here"
        # Accepts are tried again with a pause between, not as fast as it goes.
        assert second["accept_errors"] - first["accept_errors"] < 50
        # It was logged, and once only for as long as it lasts.
        assert server.errors_so_far().count("out of descriptors") == 1
        for client in served:
            client.close()
        began = time.monotonic()
        waiting = [client for client in clients if client not in served]
        assert len(_answered(waiting, 30)) >= 30
        assert time.monotonic() - began < 2.0
        for client in clients:
            client.close()
        with open_client(server.address) as client:
            assert ask(client, b"all is well") == b"all is well"


def _answered(clients: list[socket.socket], count: int) -> list[socket.socket]:
    """Wait until `count` of the clients have an answer; return those that have one."""
    poller = select.poll()
    by_descriptor = {client.fileno(): client for client in clients}
    for descriptor in by_descriptor:
        poller.register(descriptor, select.POLLIN)
    got: list[socket.socket] = []
    end = time.monotonic() + 10
    while time.monotonic() < end:
        ready = poller.poll(300)
        for descriptor, _ in ready:
            poller.unregister(descriptor)
            client = by_descriptor[descriptor]
            assert recv_exact(client, 7) == b"served?"
            got.append(client)
        if len(got) >= count and not ready:
            break
    return got


@linux_only
@pytest.mark.parametrize(("count", "timeout"), [(100, 0.5), full_load(1000, 2.0)])
def test_shutdown_under_load(backend: str, count: int, timeout: float) -> None:
    need_descriptors(count + 1000)
    with (
        ServerChild(backend, "counting", workers=2) as server,
        clients_of(server.address, count) as clients,
    ):
        for client in clients:
            client.setblocking(False)
        stop = threading.Event()
        thread = threading.Thread(target=_hammer, args=(clients, stop))
        thread.start()
        try:
            wait_until(lambda: server.ask("report")["bytes_received"] > 5 * MIB, "the load")
            assert server.ask("report")["connection_count"] == count
            answer = server.ask("shutdown", timeout=timeout)
        finally:
            stop.set()
            thread.join()
        assert answer["seconds"] < timeout + 1.0
        assert answer["established"] == count
        assert answer["open"] == 0
        assert sum(answer["closed"].values()) == count
        # Nothing comes after shutdown() returned either.
        assert server.ask("shutdown", timeout=0)["wrong"] == []
        assert server.ask("report")["connection_count"] == 0


def _hammer(clients: list[socket.socket], stop: threading.Event) -> None:
    poller = select.epoll()
    by_descriptor = {client.fileno(): client for client in clients}
    message = pattern(500)
    for descriptor, client in by_descriptor.items():
        poller.register(descriptor, select.EPOLLIN)
        with contextlib.suppress(OSError):
            client.send(message)
    while not stop.is_set() and by_descriptor:
        for descriptor, _ in poller.poll(0.1):
            try:
                if by_descriptor[descriptor].recv(65536):
                    by_descriptor[descriptor].send(message)
                    continue
            except BlockingIOError:
                continue
            except OSError:
                pass
            # Gone; the socket stays open, so that the server has to end it by itself.
            poller.unregister(descriptor)
            del by_descriptor[descriptor]
    poller.close()


@linux_only
def test_starts_and_shutdowns(backend: str) -> None:
    with ServerChild(backend, restart=True) as server:
        before = server.ask("restart", times=20)
        after = server.ask("restart", times=200, deadline=100)
        assert after["threads"] <= before["threads"]
        assert after["descriptors"] <= before["descriptors"]
        assert after["memory"] - before["memory"] < 8 * MIB


# The end of the interpreter is in test_interpreter.py, and Ctrl-C in test_signals.py.


def test_a_hook_that_raises_on_one_of_many_connections(
    serve: Serve, connect: Connect, logs: Logs
) -> None:
    records = logs.expect()

    def read(conn: Connection, data: bytes) -> None:
        if data == b"poison":
            raise ValueError("poisoned")
        conn.send(data)

    server = serve(Recorder(read=read))
    clients = [connect(server) for _ in range(100)]
    for client in clients:
        assert ask(client, b"hello") == b"hello"
    clients[42].sendall(b"poison")
    assert saw_reset(clients[42])
    (closing,) = server.wait_count("closing")
    assert closing.value is CloseReason.HOOK_ERROR
    assert closing.conn.remote_address == clients[42].getsockname()
    for index, client in enumerate(clients):
        if index != 42:
            assert ask(client, b"untouched") == b"untouched"
    assert server.connection_count == 99
    assert len(server.of("closing")) == 1
    (record,) = records
    assert record.exc_info is not None
    assert "poisoned" in str(record.exc_info[1])


def test_threads_sending_on_the_same_connections(serve: Serve, connect: Connect) -> None:
    """More of it in test_order_and_integrity.py."""
    server = serve(Recorder(), send_backlog_limit=1 << 30)
    clients = [connect(server) for _ in range(4)]
    server.wait_count("established", 4)
    conns = server.connections()
    sends, size = 250, 400

    def run(index: int) -> None:
        if index < 8:
            for order in range(sends):
                frame = b"%02d%06d" % (index, order) + bytes([index]) * (size - 8)
                for conn in conns:
                    assert conn.send(frame)
            return
        last = [-1] * 8
        for _ in range(8 * sends):
            frame = recv_exact(clients[index - 8], size)
            sender, order = int(frame[:2]), int(frame[2:8])
            assert frame[8:] == bytes([sender]) * (size - 8)
            assert order == last[sender] + 1
            last[sender] = order

    in_threads(12, run)
    writes = server.wait_count("write", 4 * 8 * sends)
    assert len(writes) == 4 * 8 * sends
    assert {event.value for event in writes} == {size}


@linux_only
def test_memory_of_an_idle_connection_that_has_spoken_once(backend: str) -> None:
    count = 5000
    need_descriptors(count + 500)
    with ServerChild(backend, max_connections=count + 100, listen_backlog=4096) as server:
        before = _warm_up(server)["memory"]
        with clients_of(server.address, count) as clients:
            for client in clients:
                assert ask(client, b"spoken once") == b"spoken once"
            report = server.ask("report")
            assert report["connection_count"] == count
            assert report["buffers_in_use"] == 0
            each = (report["memory"] - before) / count
            assert each <= 1500, f"{each:.0f} bytes"


@linux_only
def test_the_system_allows_the_descriptors_of_the_full_load() -> None:
    """Says so by being skipped, where the full load is left out."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 10_500:
        pytest.skip(f"RLIMIT_NOFILE allows {hard}: 10,000 connections at once were not tested")
