"""Who reads whatever is sent is never refused and misses nothing, however much a hook sends."""

from __future__ import annotations

import socket
import threading
from functools import partial

import pytest
from support import (
    DEADLINE,
    Connect,
    Recorder,
    Serve,
    pattern,
    recv_exact,
    recv_to_end,
    wait_until,
)

import iocp_bind
from iocp_bind import Connection, SendBacklogFull


@pytest.mark.parametrize("reported", [True, False], ids=["reported", "not reported"])
@pytest.mark.parametrize(("count", "size"), [(200, 10_000), (20_000, 100), (3000, 20_000)])
def test_a_hook_may_send_whatever_its_client_takes(
    serve: Serve, connect: Connect, reported: bool, count: int, size: int
) -> None:
    """More than the limit in one hook, in pieces, as in one send. The client reads all the time."""
    data = pattern(count * size)
    raised: list[Exception] = []

    def feed(conn: Connection) -> None:
        try:
            for begin in range(0, len(data), size):
                conn.send(data[begin : begin + size])
        except SendBacklogFull as error:
            raised.append(error)

    class Plain(iocp_bind.Server):
        def on_read_completed(self, conn: Connection, data: bytes) -> None:
            feed(conn)

    recorder = Recorder(read=lambda conn, data: feed(conn))
    server = serve(
        recorder if reported else Plain(), send_backlog_limit=max(256 * count, len(data)) // 8
    )
    client = connect(server)
    client.sendall(b"go")
    assert recv_exact(client, len(data)) == data
    assert not raised
    if reported:
        events = recorder.wait_count("write", count)
        assert [event.value for event in events] == [size] * count


def _all_have(got: list[bytearray], size: int) -> bool:
    return all(len(one) >= size for one in got)


@pytest.mark.parametrize("workers", [1, 3])
def test_no_line_is_skipped_for_who_reads(serve: Serve, connect: Connect, workers: int) -> None:
    """One client publishes, the others only read. Less than the limit is on its way to them,
    but more than it if each line counted as much memory as a send of its own.
    """
    lines, at_once, readers = 100_000, 8000, 2
    skipped = 0

    class Feed(iocp_bind.Server):
        def on_read_completed(self, conn: Connection, data: bytes) -> None:
            nonlocal skipped
            rest = (conn.data or b"") + data
            *whole, conn.data = rest.split(b"\n")
            for line in whole:
                skipped += readers - self.broadcast(line + b"\n", exclude=conn)

    server = serve(Feed(), workers=workers)
    clients = [connect(server) for _ in range(readers)]
    publisher = connect(server)
    wait_until(lambda: server.connection_count == readers + 1, "all to be accepted")
    expected = b"".join(b"%099d\n" % number for number in range(lines))
    got = [bytearray() for _ in clients]
    changed = threading.Condition()

    def receive(client: socket.socket, into: bytearray) -> None:
        while len(into) < len(expected) and (data := client.recv(1 << 16)):
            with changed:
                into += data
                changed.notify()

    threads = [
        threading.Thread(target=receive, args=pair, daemon=True)
        for pair in zip(clients, got, strict=True)
    ]
    for thread in threads:
        thread.start()
    for begin in range(0, len(expected), 100 * at_once):
        end = min(begin + 100 * at_once, len(expected))
        publisher.sendall(expected[begin:end])
        with changed:
            here = partial(_all_have, got, end)
            assert changed.wait_for(here, DEADLINE), skipped
    for thread in threads:
        thread.join(DEADLINE)
    assert skipped == 0
    assert [bytes(one) == expected for one in got] == [True] * readers


def test_all_that_a_hook_sends_in_one_batch_is_taken(serve: Serve, connect: Connect) -> None:
    """Whether the client reads or not: nobody can be slow before the hook is over."""
    piece, count = 10_000, 150
    seen: list[bool] = []

    def read(conn: Connection, data: bytes) -> None:
        seen.extend(conn.send(bytes(piece)) for _ in range(count))
        conn.close()

    server = serve(Recorder(read=read), send_backlog_limit=200_000)
    client = connect(server, receive_buffer=4096)
    client.sendall(b"go")
    assert len(recv_to_end(client)) == piece * count
    assert seen == [True] * count
