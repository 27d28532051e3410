"""`send_message` and `send_messages`: what they take, refuse, count and keep."""

from __future__ import annotations

import array
import gc
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import (
    Connect,
    EachMessage,
    Lists,
    Messages,
    Quiet,
    Serve,
    in_threads,
    recv_exact,
    recv_to_end,
    wait_until,
)
from support.framings import cut, encode

from iocp_bind import (
    Cobs,
    Connection,
    Delimiter,
    FixedSize,
    Framing,
    LengthPrefix,
    Netstring,
    SendBacklogFull,
    Slip,
)

# Without on_write_completed large messages are sent from where they are.
SENDERS = pytest.mark.parametrize("kind", [EachMessage, Quiet])


def start(
    serve: Serve, connect: Connect, framing: Framing | None, kind: type[Messages] = EachMessage
) -> tuple[Messages, socket.socket, Connection]:
    server = serve(kind(), framing=framing, send_backlog_limit=1 << 30)
    client = connect(server)
    return server, client, server.wait_connection()


# ---- Messages that a framing cannot carry.

CANNOT: dict[str, tuple[Framing, bytes, bytes, str]] = {
    # name: (framing, a message it cannot carry, one that it can, a part of the sentence)
    "length-1": (LengthPrefix(1), bytes(256), bytes(255), "1 bytes cannot carry a message of 256"),
    "length-2": (LengthPrefix(2), bytes(65536), bytes(65535), "2 bytes cannot carry a message of"),
    "below-adjust": (
        LengthPrefix(1, adjust=3),
        b"ab",
        b"abc",
        "with adjust=3 a message has at least",
    ),
    "adjusted": (LengthPrefix(1, adjust=-2), bytes(254), bytes(253), "cannot carry a message"),
    "kept-and-wrong": (LengthPrefix(2, strip=0), b"\0\4abc", b"\0\3abc", "nothing is stripped"),
    "kept-and-more": (LengthPrefix(1, strip=0), b"\1a\1b", b"\1a", "nothing is stripped from"),
    "kept-and-empty": (LengthPrefix(1, strip=0), b"", b"\0", "nothing is stripped from"),
    "contains": (Delimiter(b"\n"), b"one\ntwo", b"one", "must not contain a delimiter"),
    "contains-another": (Delimiter(b"\n", b";"), b"one;two", b"one", "must not contain a delim"),
    "makes-one": (Delimiter(b"\n", b"\r\n"), b"one\r", b"one\r ", "makes another delimiter with"),
    "lacks-its-end": (Delimiter(b";", keep=True), b"one", b"one;", "with keep=True a message"),
    "two-ends": (Delimiter(b";", keep=True), b"a;b;", b"a;", "with keep=True a message must"),
    "fixed-short": (FixedSize(3), b"12", b"123", "a message has 3 bytes, not 2"),
    "fixed-long": (FixedSize(3), b"1234", b"123", "a message has 3 bytes, not 4"),
    "slip-empty": (Slip(), b"", b"x", "SLIP has no empty message"),
}


@pytest.mark.parametrize("name", CANNOT)
def test_what_a_framing_cannot_carry(serve: Serve, connect: Connect, name: str) -> None:
    framing, bad, good, sentence = CANNOT[name]
    _, client, conn = start(serve, connect, framing)
    sends: list[Callable[[], object]] = [
        lambda: conn.send_message(bad),
        lambda: conn.send_messages([good, bad, good]),
        lambda: conn.send_message(bytearray(bad)),
    ]
    for send in sends:
        with pytest.raises(ValueError, match=" ") as caught:
            send()
        assert sentence in str(caught.value)
    assert conn.send_backlog == 0
    assert conn.send_message(good)
    conn.close()
    assert recv_to_end(client) == encode(framing, good)


def test_a_header_that_cannot_be_made_again(serve: Serve, connect: Connect) -> None:
    for framing in (LengthPrefix(1, offset=1, strip=2), LengthPrefix(2, strip=1)):
        server, _, conn = start(serve, connect, framing)
        with pytest.raises(ValueError, match=r"send\s+the whole frame with send\(\)"):
            conn.send_message(b"x")
        server.shutdown(0.0)


def test_without_a_framing(serve: Serve, connect: Connect) -> None:
    _, client, conn = start(serve, connect, None)
    sends: list[Callable[[], object]] = [
        lambda: conn.send_message(b"x"),
        lambda: conn.send_messages([b"x"]),
    ]
    for _ in range(2):
        for send in sends:
            with pytest.raises(RuntimeError, match=r"has no framing: set conn\.framing, or"):
                send()
        conn.framing = Delimiter(b"\n")
        assert conn.send_message(b"now")
        assert recv_exact(client, 4) == b"now\n"
        conn.framing = None


@pytest.mark.parametrize("how", ["close", "abort"])
def test_a_dead_connection_takes_nothing(serve: Serve, connect: Connect, how: str) -> None:
    server, client, conn = start(serve, connect, LengthPrefix())
    getattr(conn, how)()
    assert conn.send_message(b"x") is False
    assert conn.send_messages([b"x", bytes(100_000)]) is False
    client.close()
    server.wait_closed(conn)
    assert conn.send_message(b"x") is False
    assert conn.send_messages(iter([b"x"])) is False


# ---- Arguments.

BYTES_LIKE: dict[str, Any] = {
    "bytearray": bytearray(b"abc"),
    "memoryview": memoryview(b"xabcx")[1:4],
    "array": array.array("B", b"abc"),
    "a subclass": type("Mine", (bytes,), {})(b"abc"),
}


@pytest.mark.parametrize("name", BYTES_LIKE)
def test_bytes_like_objects(serve: Serve, connect: Connect, name: str) -> None:
    message = BYTES_LIKE[name]
    _, client, conn = start(serve, connect, Netstring())
    assert conn.send_message(message)
    assert conn.send_messages([message, b"d", message])
    assert recv_exact(client, 22) == b"3:abc,3:abc,1:d,3:abc,"


def test_a_message_may_change_after_it_was_sent(serve: Serve, connect: Connect) -> None:
    _, client, conn = start(serve, connect, LengthPrefix(3), Quiet)
    message = bytearray(b"x" * 100_000)
    assert conn.send_message(message)
    message[:] = b"changed"
    assert recv_exact(client, 100_003) == b"\x01\x86\xa0" + b"x" * 100_000


def _raising() -> Iterator[bytes]:
    yield b"good"
    raise LookupError("in the generator")


WRONG: dict[str, tuple[Callable[[Connection], object], type[Exception], str]] = {
    "text": (lambda conn: conn.send_message("x"), TypeError, "encode it first"),  # type: ignore[arg-type]
    "number": (lambda conn: conn.send_message(5), TypeError, "send_message() needs a bytes-like"),  # type: ignore[arg-type]
    "none": (lambda conn: conn.send_message(None), TypeError, "not 'NoneType'"),  # type: ignore[arg-type]
    "a list": (lambda conn: conn.send_message([b"x"]), TypeError, "not 'list'"),  # type: ignore[arg-type]
    "strided": (
        lambda conn: conn.send_message(memoryview(b"abcd")[::2]),
        BufferError,
        "send_message() needs contiguous bytes",
    ),
    "no iterable": (lambda conn: conn.send_messages(5), TypeError, "not iterable"),  # type: ignore[arg-type]
    "bytes": (lambda conn: conn.send_messages(b"ab"), TypeError, "not 'int'"),  # type: ignore[arg-type]
    "a text among them": (
        lambda conn: conn.send_messages([b"x" * 20_000, "y"]),  # type: ignore[list-item]
        TypeError,
        "send_messages() needs a bytes-like",
    ),
    "strided among them": (
        lambda conn: conn.send_messages([b"x", memoryview(b"abcd")[::2]]),
        BufferError,
        "send_messages() needs contiguous bytes",
    ),
    "a generator": (lambda conn: conn.send_messages(_raising()), LookupError, "in the generator"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_sends_nothing(serve: Serve, connect: Connect, name: str) -> None:
    call, error, sentence = WRONG[name]
    _, client, conn = start(serve, connect, Delimiter(b"\n"))
    with pytest.raises(error) as caught:
        call(conn)
    assert sentence in str(caught.value)
    conn.close()
    assert recv_to_end(client) == b""


def test_any_iterable(serve: Serve, connect: Connect) -> None:
    _, client, conn = start(serve, connect, Delimiter(b";"))

    def those_before() -> Iterator[bytes]:
        yield b"2"
        conn.send_message(b"1")  # is sent first: the list is not complete yet
        yield b"3"

    assert conn.send_messages(those_before())
    assert conn.send_messages({b"4": None})
    assert conn.send_messages((b"5",))
    assert conn.send_messages([])
    conn.close()
    assert recv_to_end(client) == b"1;2;3;4;5;"


# ---- on_write_completed, backlogs, other threads.

SIZES = [0, 1, 900, 5000, 15_000, 16_384, 20_000, 1_000_000]


@pytest.mark.parametrize("framing", [LengthPrefix(), Cobs(1 << 20)], ids=["length", "cobs"])
def test_each_call_is_one_send(serve: Serve, connect: Connect, framing: Framing) -> None:
    server, client, conn = start(serve, connect, framing)
    calls = [[b"m" * size] for size in SIZES] + [[b"a" * size for size in SIZES], [b"b"] * 1000]
    for messages in calls:
        if len(messages) == 1:
            assert conn.send_message(messages[0])
        else:
            assert conn.send_messages(messages)
    expected = [sum(len(encode(framing, message)) for message in call) for call in calls]
    stream = recv_exact(client, sum(expected))
    assert cut(framing, stream) == ([message for call in calls for message in call], None)
    assert [event.value for event in server.wait_count("write", len(calls))] == expected
    assert conn.bytes_sent == sum(expected)


def test_no_messages_are_an_empty_send(serve: Serve, connect: Connect) -> None:
    server, _, conn = start(serve, connect, LengthPrefix())
    assert conn.writelines([])
    assert conn.send_messages([])
    assert conn.send_message(b"x")
    assert [event.value for event in server.wait_count("write", 3)] == [0, 0, 5]


@SENDERS
def test_a_full_backlog_takes_no_part_of_a_list(
    serve: Serve, connect: Connect, kind: type[Messages]
) -> None:
    framing = LengthPrefix(max_size=1 << 26)
    server = serve(kind(), framing=framing, send_backlog_limit=100_000)
    client = connect(server)
    conn = server.wait_connection()
    much = bytes(24 << 20)  # more than the system takes from us and for the client
    assert conn.send_message(much)
    taken = 0
    with pytest.raises(SendBacklogFull):
        while conn.send_messages([b"x", b"y" * 20_000]):
            taken += 1
    backlog = conn.send_backlog
    with pytest.raises(SendBacklogFull, match="Nothing was queued"):
        conn.send_messages([b"x", b"y" * 20_000])
    assert conn.send_backlog <= backlog
    assert server.stats().sends_refused == 2
    # Read before it closes: a close waits for close_timeout and no longer.
    size = 4 + len(much) + taken * (4 + 1 + 4 + 20_000)
    stream = recv_exact(client, size)
    assert cut(framing, stream) == ([much, *[b"x", b"y" * 20_000] * taken], None)
    conn.close()
    assert recv_to_end(client) == b""


def test_messages_of_several_threads_are_whole(serve: Serve, connect: Connect) -> None:
    _, client, conn = start(serve, connect, Netstring(), Quiet)

    def send(index: int) -> None:
        for number in range(100):
            size = (0, 10, 3000, 40_000)[number % 4]
            text = b"%d %d " % (index, number)
            assert conn.send_messages([text + bytes(size), text])

    in_threads(4, send)
    conn.close()
    messages, fault = cut(Netstring(), recv_to_end(client))
    assert fault is None
    for index in range(4):
        own = [m for m in messages if m.startswith(b"%d " % index)]
        assert [int(m.split(b" ")[1]) for m in own] == [n for n in range(100) for _ in range(2)]


# ---- Shared bytes: their references come back.

CASES: dict[str, Framing] = {
    "length": LengthPrefix(max_size=1 << 26),
    "kept": LengthPrefix(4, strip=0, max_size=1 << 26),
    "line": Delimiter(b"\n", max_size=1 << 26),
}


@SENDERS
@pytest.mark.parametrize("name", CASES)
def test_references_come_back(
    serve: Serve, connect: Connect, kind: type[Messages], name: str
) -> None:
    framing = CASES[name]
    server, client, conn = start(serve, connect, framing, kind)
    message = (100_000).to_bytes(4, "big") + b"x" * 100_000
    before = sys.getrefcount(message)
    small = LengthPrefix(1)

    def back() -> bool:
        return sys.getrefcount(message) == before

    for _ in range(3):
        assert conn.send_message(message)
        assert conn.send_messages([message, message])
    recv_exact(client, 9 * len(encode(framing, message)))
    wait_until(back, "the references to what was sent")
    # Refused messages, for each reason.
    conn.framing = small
    with pytest.raises(ValueError, match="cannot carry"):
        conn.send_messages([message])
    with pytest.raises(TypeError):
        conn.send_messages([message, 5])  # type: ignore[list-item]
    conn.framing = None
    with pytest.raises(RuntimeError):
        conn.send_message(message)
    assert back()
    # Messages that are dropped with their connection.
    conn.framing = framing
    for _ in range(300):
        assert conn.send_messages([message, message])
    conn.abort()
    assert conn.send_messages([message]) is False
    client.close()
    server.wait_closed(conn)
    wait_until(back, "the references to what was dropped")


@SENDERS
def test_a_refused_list_gives_references_back(
    serve: Serve, connect: Connect, kind: type[Messages]
) -> None:
    server = serve(kind(), framing=LengthPrefix(max_size=1 << 26), send_backlog_limit=1000)
    connect(server, receive_buffer=4096)
    conn = server.wait_connection()
    assert conn.send_message(bytes(24 << 20))
    message = b"x" * 100_000
    before = sys.getrefcount(message)
    with pytest.raises(SendBacklogFull):
        while True:
            conn.send_messages([message, message])
    taken = sys.getrefcount(message)
    for _ in range(10):
        with pytest.raises(SendBacklogFull):
            conn.send_messages([message, message])
    assert sys.getrefcount(message) == taken
    conn.abort()
    server.wait_closed(conn)
    wait_until(lambda: sys.getrefcount(message) == before, "the references")


def test_messages_cost_no_memory_in_the_end(serve: Serve, connect: Connect) -> None:
    """Objects: those that a round of messages made are gone after it."""
    framing = LengthPrefix()
    server = serve(Lists(lambda conn, messages: conn.send_messages(messages)), framing=framing)
    client = connect(server)
    stream = encode(framing, b"x" * 40) * 500

    def rounds(count: int) -> int:
        for _ in range(count):
            client.sendall(stream)
            assert recv_exact(client, len(stream)) == stream
        server.events.clear()
        gc.collect()
        return sys.getallocatedblocks()

    before = rounds(5)
    assert rounds(20) - before < 1000


def test_a_peer_with_the_same_framing(serve: Serve, connect: Connect) -> None:
    """Two servers cannot connect to each other yet: the bytes of one are given to the other."""
    framing = Delimiter(b"\r\n", b"\n")
    _, client_of_one, conn_of_one = start(serve, connect, framing)
    other, client_of_other, conn_of_other = start(serve, connect, framing)
    messages = [b"%d" % n * (n % 50) for n in range(500)]
    assert conn_of_one.send_messages(messages)
    conn_of_one.close()
    client_of_other.sendall(recv_to_end(client_of_one))
    assert other.wait_messages(conn_of_other, 500) == messages
