"""`broadcast_message`: each connection gets the message in its own framing."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from support import Connect, EachMessage, Messages, Quiet, Serve, recv_exact, saw_reset
from support.framings import encode

from iocp_bind import (
    CloseReason,
    Cobs,
    Connection,
    Delimiter,
    FixedSize,
    Framing,
    LengthPrefix,
    Netstring,
    SendBacklogFull,
)

LINES = Delimiter(b"\n")
# More than the systems between a server and a client that does not read hold.
MUCH = bytes(24 << 20)


class Clients:
    """A server, its clients, and the connection of each, whose framings are given."""

    def __init__(
        self,
        serve: Serve,
        connect: Connect,
        framings: list[Framing | None],
        kind: type[Messages] = EachMessage,
        **options: Any,
    ) -> None:
        self.server = serve(kind(), framing=LINES, **options)
        self.sockets: list[socket.socket] = []
        self.conns: list[Connection] = []
        for index, framing in enumerate(framings):
            self.sockets.append(connect(self.server, receive_buffer=4096))
            self.conns.append(self.server.wait_connection(index))
            self.conns[index].framing = framing

    def heard(self, index: int) -> bytes:
        """All that client `index` gets, of a connection that is closed behind it."""
        self.conns[index].close()
        data = bytearray()
        while part := self.sockets[index].recv(1 << 16):
            data += part
        return bytes(data)

    def all_heard(self) -> list[bytes]:
        return [self.heard(index) for index in range(len(self.conns))]

    def stop_reading(self, index: int) -> None:
        """Fill the backlog of this one, which stays full."""
        assert self.conns[index].send(MUCH)
        with pytest.raises(SendBacklogFull):
            self.conns[index].send(b"x")


MIXED: list[Framing | None] = [
    LINES,
    Netstring(),
    LINES,
    None,
    LengthPrefix(3),
    Cobs(),
    Netstring(),
]


@pytest.mark.parametrize("kind", [EachMessage, Quiet])
@pytest.mark.parametrize("size", [0, 5, 5000, 60_000])
def test_each_in_its_own_framing(
    serve: Serve, connect: Connect, kind: type[Messages], size: int
) -> None:
    clients = Clients(serve, connect, MIXED, kind)
    message = b"m" * size
    assert clients.server.broadcast_message(message) == 6
    assert clients.server.broadcast_message(bytearray(message)) == 6
    expected = [encode(framing, message) * 2 if framing else b"" for framing in MIXED]
    assert clients.all_heard() == expected
    if kind is EachMessage:
        writes = clients.server.wait_count("write", 12)
        for conn, stream in zip(clients.conns, expected, strict=True):
            assert [e.value for e in writes if e.conn is conn] == [len(stream) // 2] * 2 * bool(
                stream
            )


def test_equal_framings_are_two_objects(serve: Serve, connect: Connect) -> None:
    framings: list[Framing | None] = [Delimiter(b"\n"), Delimiter(b"\n")]
    clients = Clients(serve, connect, framings)
    assert clients.server.broadcast_message(b"one") == 2
    assert clients.all_heard() == [b"one\n"] * 2


def test_to_and_exclude(serve: Serve, connect: Connect) -> None:
    clients = Clients(serve, connect, [LINES] * 5)
    conns = clients.conns
    send = clients.server.broadcast_message
    assert send(b"1", exclude=conns[0]) == 4
    assert send(b"2", conns[1]) == 4
    assert send(b"3", to=[conns[2], conns[3], conns[2]]) == 2
    assert send(b"4", to=(conn for conn in conns[2:4]), exclude=conns[3]) == 1
    assert send(b"5", to=[]) == 0
    other = Clients(serve, connect, [Netstring()])
    assert send(b"6", to=[conns[4], other.conns[0]]) == 2
    assert clients.all_heard() == [b"2\n", b"1\n", b"1\n2\n3\n4\n", b"1\n2\n3\n", b"1\n2\n6\n"]
    assert other.all_heard() == [b"1:6,"]


def test_a_closing_connection_is_left_out(serve: Serve, connect: Connect) -> None:
    clients = Clients(serve, connect, [LINES, LINES])
    clients.conns[0].close()
    assert clients.server.broadcast_message(b"x") == 1
    assert clients.all_heard() == [b"", b"x\n"]


def test_a_full_one_is_skipped(serve: Serve, connect: Connect) -> None:
    clients = Clients(serve, connect, [LINES] * 3, send_backlog_limit=1000)
    clients.stop_reading(1)
    assert clients.server.broadcast_message(b"x") == 2
    assert clients.server.stats().broadcasts_skipped == 1
    assert [clients.heard(0), clients.heard(2)] == [b"x\n"] * 2
    assert clients.heard(1) == MUCH


def test_a_full_one_is_closed(serve: Serve, connect: Connect) -> None:
    clients = Clients(serve, connect, [LINES] * 3, send_backlog_limit=1000)
    clients.stop_reading(1)
    assert clients.server.broadcast_message(b"x", on_full="close") == 2
    assert clients.server.wait_closed(clients.conns[1]) is CloseReason.LOCAL_ABORT
    assert saw_reset(clients.sockets[1])
    assert [clients.heard(0), clients.heard(2)] == [b"x\n"] * 2


def test_a_function_gets_the_full_ones(serve: Serve, connect: Connect) -> None:
    clients = Clients(serve, connect, [LINES, LINES, None], send_backlog_limit=1000)
    clients.stop_reading(0)
    full: list[Connection] = []
    assert clients.server.broadcast_message(b"x", on_full=full.append) == 1
    assert full == [clients.conns[0]]


def test_a_message_that_cannot_be_carried(serve: Serve, connect: Connect) -> None:
    clients = Clients(serve, connect, [FixedSize(2)])
    with pytest.raises(ValueError, match="a message has 2 bytes, not 3"):
        clients.server.broadcast_message(b"abc")
    assert clients.server.broadcast_message(b"ab") == 1
    assert clients.all_heard() == [b"ab"]


def test_some_may_have_accepted_what_another_cannot_carry(serve: Serve, connect: Connect) -> None:
    """Nobody knows who comes first, but it is the same connection each time."""
    clients = Clients(serve, connect, [LINES, FixedSize(2)])
    server, conns = clients.server, clients.conns
    with pytest.raises(ValueError, match="a message has 2 bytes, not 3"):
        server.broadcast_message(b"abc")
    conns[0].framing, conns[1].framing = FixedSize(2), LINES
    with pytest.raises(ValueError, match="a message has 2 bytes, not 3"):
        server.broadcast_message(b"abc")
    conns[0].framing = conns[1].framing = LINES
    assert server.broadcast_message(b"end") == 2
    assert sorted(clients.all_heard()) == [b"abc\nend\n", b"end\n"]


WRONG: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "text": ({"message": "x"}, TypeError),
    "strided": ({"message": memoryview(b"abcd")[::2]}, BufferError),
    "to": ({"to": [1]}, TypeError),
    "exclude": ({"exclude": 5}, TypeError),
    "on_full": ({"on_full": "drop"}, ValueError),
    "on_full of another kind": ({"on_full": 5}, TypeError),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_sends_nothing(serve: Serve, connect: Connect, name: str) -> None:
    arguments, error = WRONG[name]
    clients = Clients(serve, connect, [LINES])
    with pytest.raises(error) as caught:
        clients.server.broadcast_message(**{"message": b"x", **arguments})
    if name in ("text", "strided"):
        assert "broadcast_message() needs" in str(caught.value)
    assert clients.all_heard() == [b""]


def test_in_a_hook_it_is_in_order_with_sends(serve: Serve, connect: Connect) -> None:
    def handle(conn: Connection, messages: list[bytes]) -> None:
        conn.send_message(b"before")
        server.broadcast_message(messages[0])
        conn.send_message(b"after")

    server = EachMessage(handle)
    serve(server, framing=LINES)
    one, other = connect(server), connect(server)
    server.wait_count("established", 2)
    one.sendall(b"news\n")
    assert recv_exact(one, 18) == b"before\nnews\nafter\n"
    assert recv_exact(other, 5) == b"news\n"
