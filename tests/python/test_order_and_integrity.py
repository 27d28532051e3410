"""Every byte arrives once, unchanged and in its place, whatever the sizes and the timing."""

from __future__ import annotations

import hashlib
import random
import socket
import struct
import threading
from collections import defaultdict
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import (
    DEADLINE,
    Connect,
    Echo,
    Recorder,
    Serve,
    ask,
    echo_back,
    in_threads,
    open_client,
    pattern,
    recv_exact,
    recv_to_end,
    reset,
    wait_until,
)

import iocp_bind
from iocp_bind import CloseReason, Connection

SIZES = st.lists(
    st.one_of(
        st.integers(1, 100),
        st.integers(1, 200_000),
        st.sampled_from([511, 512, 513, 4095, 4096, 4097, 65535, 65536, 65537]),
    ),
    min_size=1,
    max_size=12,
)


def _has_writes(server: Recorder, conn: Connection, count: int) -> bool:
    return server.hooks_of(conn).count("write") >= count


def _has_met(server: iocp_bind.Server, count: int) -> bool:
    """As many clients were accepted, or were gone before they could be."""
    stats = server.stats()
    return stats.accepted + stats.accept_errors >= count


def _exchange(client: socket.socket, pieces: list[bytes]) -> bytes:
    """Send the pieces while reading as many bytes back."""
    sender = threading.Thread(target=client.sendall, args=(b"".join(pieces),))
    sender.start()
    try:
        return recv_exact(client, sum(map(len, pieces)))
    finally:
        sender.join(DEADLINE)


@pytest.mark.parametrize("buffer_size", [512, 5000, 65536])
def test_an_echo_of_any_sizes(serve: Serve, buffer_size: int) -> None:
    server = serve(Echo(), buffer_size=buffer_size)

    @settings(max_examples=15, deadline=None)
    @given(sizes=SIZES, seed=st.integers(0, 1000))
    def check(sizes: list[int], seed: int) -> None:
        pieces = [pattern(size, seed + index) for index, size in enumerate(sizes)]
        with open_client(server) as client:
            assert _exchange(client, pieces) == b"".join(pieces)

    check()


def test_answers_of_any_sizes(serve: Serve) -> None:
    """The client names sizes; each is one send, completed once, in order."""
    server = Recorder()

    def read(conn: Connection, data: bytes) -> None:
        conn.data = (conn.data or b"") + data
        while len(conn.data) >= 4:
            (size,) = struct.unpack("!I", conn.data[:4])
            conn.data = conn.data[4:]
            assert conn.send(pattern(size, size))

    server._read = read
    serve(server, send_backlog_limit=1 << 30)

    @settings(max_examples=15, deadline=None)
    @given(sizes=SIZES)
    def check(sizes: list[int]) -> None:
        index = len(server.of("established"))
        with open_client(server) as client:
            client.sendall(b"".join(struct.pack("!I", size) for size in sizes))
            expected = b"".join(pattern(size, size) for size in sizes)
            assert recv_exact(client, len(expected)) == expected
        conn = server.wait_connection(index)
        server.wait_closed(conn)
        completed = [e.value for e in server.of_connection(conn) if e.hook == "write"]
        assert completed == sizes

    check()


@pytest.mark.parametrize("buffer_size", [4096, 65536])
def test_bytes_that_a_hook_keeps_do_not_change(
    serve: Serve, connect: Connect, buffer_size: int
) -> None:
    """Much data is received into the bytes object that the hook gets; nobody writes to it again."""
    total = 8 << 20
    kept: list[bytes] = []
    complete = threading.Event()

    class Keeper(iocp_bind.Server):
        def on_read_completed(self, conn: Connection, data: bytes) -> None:
            kept.append(data)
            if conn.bytes_received == total:
                complete.set()

    server = serve(Keeper(), buffer_size=buffer_size)
    sent = pattern(total)
    connect(server).sendall(sent)
    assert complete.wait(DEADLINE)
    assert all(type(data) is bytes for data in kept)
    assert b"".join(kept) == sent
    assert any(len(data) == buffer_size for data in kept), "none filled a buffer"


@pytest.mark.parametrize("workers", [1, 4])
def test_many_clients_with_random_sizes_at_once(
    serve: Serve, connect: Connect, workers: int
) -> None:
    server = serve(Echo(), workers=workers)

    def run(index: int) -> None:
        pick = random.Random(index)
        client = connect(server)
        for turn in range(30):
            sizes = [pick.randint(1, 30_000) for _ in range(pick.randint(1, 5))]
            pieces = [pattern(size, turn) for size in sizes]
            assert _exchange(client, pieces) == b"".join(pieces)

    in_threads(8, run)


def test_byte_by_byte(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=echo_back))
    client = connect(server)
    data = pattern(2000)
    for index in range(len(data)):
        client.sendall(data[index : index + 1])
    assert recv_exact(client, len(data)) == data
    conn = server.wait_connection()
    assert server.received(conn) == data


HEADER = struct.Struct("!BII")


@pytest.mark.parametrize("share", ["small", "large"])
def test_threads_sending_at_once(serve: Serve, connect: Connect, share: str) -> None:
    """Each send is contiguous, the order of each thread is kept, each send is completed once.

    The completions come in the very order of the wire (D26).
    """
    threads, sends = 8, 150 if share == "small" else 25
    largest = 3000 if share == "small" else 100_000
    server = serve(Recorder(), send_backlog_limit=1 << 30)
    clients = [connect(server) for _ in range(2)]
    conns = {e.conn.remote_address: e.conn for e in server.wait_count("established", 2)}
    frames: dict[int, list[tuple[int, int, int]]] = defaultdict(list)

    def receive(number: int) -> None:
        for _ in range(threads * sends):
            thread, order, size = HEADER.unpack(recv_exact(clients[number], HEADER.size))
            body = recv_exact(clients[number], size)
            assert body == bytes([thread]) * size, "a send is not contiguous"
            frames[number].append((thread, order, size))

    def send(thread: int) -> None:
        pick = random.Random(thread)
        for order in range(sends):
            size = pick.randint(0, largest)
            frame = HEADER.pack(thread, order, size) + bytes([thread]) * size
            for client in clients:
                conn = conns[client.getsockname()]
                if order % 3:
                    assert conn.send(frame)
                else:
                    cut = pick.randint(0, len(frame))
                    assert conn.writelines([frame[:cut], frame[cut:]])

    in_threads(threads + 2, lambda i: receive(i) if i < 2 else send(i - 2))
    for number, client in enumerate(clients):
        by_thread: dict[int, list[int]] = defaultdict(list)
        for thread, order, _ in frames[number]:
            by_thread[thread].append(order)
        assert by_thread == {thread: list(range(sends)) for thread in range(threads)}
        conn = conns[client.getsockname()]
        on_the_wire = [HEADER.size + size for _, _, size in frames[number]]
        total = len(on_the_wire)
        server.wait_for(partial(_has_writes, server, conn, total))
        assert [e.value for e in server.of_connection(conn) if e.hook == "write"] == on_the_wire


def test_threads_and_hooks_sending_at_once(serve: Serve, connect: Connect) -> None:
    """Sends from hooks are gathered, those of threads are not: still one order for all."""
    server = serve(Recorder(read=echo_back), send_backlog_limit=1 << 30)
    client = connect(server)
    conn = server.wait_connection()
    word = b"<from-a-client!>"

    def run(index: int) -> None:
        if index == 0:
            for _ in range(300):
                client.sendall(word)
        else:
            for order in range(300):
                conn.send(b"<thread%d-%06d>" % (index, order))

    # A read may cut a word of the client in two, so only what is between is checked for order.
    receiver: list[bytes] = []
    reading = threading.Thread(target=lambda: receiver.append(recv_exact(client, 16 * 300 * 4)))
    reading.start()
    in_threads(4, run)
    reading.join(DEADLINE)
    for index in (1, 2, 3):
        positions = [receiver[0].find(b"<thread%d-%06d>" % (index, order)) for order in range(300)]
        assert -1 not in positions
        assert positions == sorted(positions)


def test_the_end_of_stream_comes_after_the_data(serve: Serve, connect: Connect) -> None:
    """D01: with tiny buffers there is much to deliver when the end of stream is known."""
    server = serve(Recorder(), buffer_size=512, workers=4)
    data = pattern(300_000)

    def run(index: int) -> None:
        for _ in range(5):
            client = connect(server)
            client.sendall(data)
            client.close()

    in_threads(4, run)
    server.wait_count("closing", 20)
    for event in server.of("established"):
        assert server.received(event.conn) == data
    assert set(server.reasons()) == {CloseReason.PEER_CLOSED}
    server.check_grammar()


@pytest.mark.parametrize("size", [0, 10, 300_000, 4 << 20])
def test_a_half_closed_client_gets_its_answer(serve: Serve, connect: Connect, size: int) -> None:
    """The client ends its stream first; the answer is sent in full, then our end of stream."""

    class Digest(iocp_bind.Server):
        def on_connection_established(self, conn: Connection) -> None:
            conn.send(b"hello")

        def on_read_completed(self, conn: Connection, data: bytes) -> None:
            conn.send(data)

    server = serve(Digest(), send_backlog_limit=1 << 30)
    client = connect(server)
    data = pattern(size)

    def send() -> None:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    answer = recv_to_end(client)
    sender.join(DEADLINE)
    assert hashlib.sha256(answer).digest() == hashlib.sha256(b"hello" + data).digest()


def test_data_that_comes_with_the_connection_is_not_lost(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder())
    for index in range(50):
        client = connect(server)
        client.sendall(b"early")
        client.close()
        conn = server.wait_connection(index)
        server.wait_closed(conn)
        assert server.received(conn) == b"early"


@pytest.mark.parametrize("attempt", range(12))
def test_a_reset_after_data_is_noticed_and_loses_nothing(
    serve: Serve, connect: Connect, attempt: int
) -> None:
    """Data the server has counted as received was delivered before error and closing."""
    server = serve(Recorder(), buffer_size=512)
    for index in range(20):
        client = connect(server)
        client.sendall(pattern(20_000))
        reset(client)
        wait_until(partial(_has_met, server, index + 1), "it was met")
    server.wait_for(lambda: server.connection_count == 0, "the end of every connection")
    server.wait_for(lambda: len(server.of("closing")) == len(server.of("established")))
    for event in server.of("established"):
        received = server.received(event.conn)
        assert received == pattern(20_000)[: len(received)]
        assert len(received) == event.conn.bytes_received
    server.check_grammar()


def test_echo_is_an_echo(serve: Serve, connect: Connect) -> None:
    server = serve(Echo())
    client = connect(server)
    for size in (1, 100, 50_000):
        data = pattern(size)
        assert ask(client, data) == data
