"""`message_timeout`: from the first byte of a message to its last."""

from __future__ import annotations

import socket
import threading
import time

from support import KINDS, Connect, EachMessage, Feeder, Messages, Serve, wait_until

from iocp_bind import CloseReason, Cobs, Connection, Delimiter, FixedSize, Framing, LengthPrefix

LINES = Delimiter(b"\n")
# How long a hook keeps its worker busy: longer than message_timeout.
KEPT = 1.5


class Dripping:
    """A thread in which each client gets a byte of its own away every 0.2 seconds."""

    def __init__(self, clients: dict[socket.socket, bytes]) -> None:
        self._clients = clients
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._drip)

    def _drip(self) -> None:
        while not self._over.wait(0.2):
            for client, byte in list(self._clients.items()):
                try:
                    client.send(byte)
                except OSError:
                    del self._clients[client]

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


SLOW: list[tuple[Framing, list[bytes]]] = [
    (LINES, [b"a"]),
    # The message "a" is found late: its delimiter could have been a longer one, and what was kept
    # because of that is the beginning of the next message.
    (Delimiter(b"\r", b"\r\n\r\n"), [b"a\r\n", b"b"]),
    (LengthPrefix(), [b"\0\0\1\0"]),
    (LengthPrefix(), [b"\0\1\0\0" + bytes(40_000)]),
    (FixedSize(1000), [b"\0"]),
    (Cobs(), [b"\xff"]),
]


@KINDS
def test_one_byte_at_a_time_for_ever(serve: Serve, connect: Connect, kind: type[Messages]) -> None:
    """For receive_timeout the client is not silent."""
    server = serve(kind(), message_timeout=1.0, receive_timeout=1.0)
    dripping: dict[socket.socket, bytes] = {}
    conns = []
    began = time.monotonic()
    for index, (framing, pieces) in enumerate(SLOW):
        client = connect(server)
        conns.append(server.wait_connection(index))
        conns[index].framing = framing
        Feeder(client, conns[index]).feed(*pieces)
        dripping[client] = b"a"
    with Dripping(dripping):
        reasons = [server.wait_closed(conn) for conn in conns]
    assert reasons == [CloseReason.MESSAGE_TIMEOUT] * len(SLOW)
    assert time.monotonic() - began >= 1.0
    assert "error" not in {event.hook for event in server.events}
    assert server.stats().closed[CloseReason.MESSAGE_TIMEOUT] == len(SLOW)


@KINDS
def test_it_rests_between_messages(serve: Serve, connect: Connect, kind: type[Messages]) -> None:
    """Nor without a framing."""
    server = serve(kind(), framing=LINES, message_timeout=1.0)
    between, raw, inside = (connect(server) for _ in range(3))
    by_address = {e.conn.remote_address: e.conn for e in server.wait_count("established", 3)}
    conn = by_address[between.getsockname()]
    Feeder(between, conn).feed(b"one\n")
    without = by_address[raw.getsockname()]
    without.framing = None
    Feeder(raw, without).feed(b"ra")
    last = by_address[inside.getsockname()]
    Feeder(inside, last).feed(b"a")
    assert server.wait_closed(last) is CloseReason.MESSAGE_TIMEOUT
    assert conn.is_open
    assert without.is_open


def test_it_is_off_by_default(serve: Serve, connect: Connect) -> None:
    """A client with the same part of a message is judged where it is on."""
    patient = serve(EachMessage(), framing=LINES)
    strict = serve(EachMessage(), framing=LINES, message_timeout=1.0)
    first, second = connect(patient), connect(strict)
    conns = [patient.wait_connection(), strict.wait_connection()]
    Feeder(first, conns[0]).feed(b"a")
    Feeder(second, conns[1]).feed(b"a")
    assert strict.wait_closed(conns[1]) is CloseReason.MESSAGE_TIMEOUT
    assert conns[0].is_open


def test_it_stands_still_while_reading_is_paused(serve: Serve, connect: Connect) -> None:
    server = serve(EachMessage(), framing=LINES, message_timeout=1.0)
    client, other = connect(server), connect(server)
    by_address = {e.conn.remote_address: e.conn for e in server.wait_count("established", 2)}
    conn = by_address[client.getsockname()]
    Feeder(client, conn).feed(b"a")
    conn.pause_reading()
    judged = by_address[other.getsockname()]
    Feeder(other, judged).feed(b"a")
    assert server.wait_closed(judged) is CloseReason.MESSAGE_TIMEOUT
    assert conn.is_open
    conn.resume_reading()
    client.sendall(b"b\n")
    assert server.wait_messages(conn, 1)[-1] == b"ab"
    # It runs again for the next one.
    client.sendall(b"c")
    assert server.wait_closed(conn) is CloseReason.MESSAGE_TIMEOUT


def test_another_framing_begins_anew(serve: Serve, connect: Connect) -> None:
    """The part of a message is whole messages for it, and nothing is left."""
    server = serve(EachMessage(), framing=LINES, message_timeout=1.0)
    client, other = connect(server), connect(server)
    by_address = {e.conn.remote_address: e.conn for e in server.wait_count("established", 2)}
    conn = by_address[client.getsockname()]
    Feeder(client, conn).feed(b"ab")
    judged = by_address[other.getsockname()]
    Feeder(other, judged).feed(b"ab")
    conn.framing = FixedSize(1)
    assert server.wait_messages(conn, 2) == [b"a", b"b"]
    assert server.wait_closed(judged) is CloseReason.MESSAGE_TIMEOUT
    assert conn.is_open


def test_a_part_that_came_while_a_hook_ran_came_in_time(serve: Serve, connect: Connect) -> None:
    def handle(conn: Connection, messages: list[bytes]) -> None:
        if messages[0] == b"wait":
            threading.Event().wait(KEPT)

    server = serve(EachMessage(handle), framing=LINES, message_timeout=1.0)
    client, busy = connect(server), connect(server)
    by_address = {e.conn.remote_address: e.conn for e in server.wait_count("established", 2)}
    conn = by_address[client.getsockname()]
    Feeder(client, conn).feed(b"a")
    busy.sendall(b"wait\n")
    server.wait_messages(by_address[busy.getsockname()], 1)
    client.sendall(b"b\n")
    assert server.wait_messages(conn, 1) == [b"ab"]
    wait_until(lambda: server.stats().messages == 2, "both messages")
    assert conn.is_open
