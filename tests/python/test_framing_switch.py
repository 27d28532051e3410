"""`Connection.framing`: read and set, in hooks and on other threads."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from support import (
    KINDS,
    Connect,
    EachMessage,
    Feeder,
    Lists,
    Messages,
    Serve,
    recv_exact,
    wait_until,
)
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
)

LINES = Delimiter(b"\n")


def test_it_is_the_object_that_was_set(serve: Serve, connect: Connect) -> None:
    server = serve(EachMessage(), framing=LINES)
    connect(server)
    conn = server.wait_connection()
    assert conn.framing is LINES
    for framing in (LengthPrefix(), None, Delimiter(b"\n"), LINES):
        conn.framing = framing
        assert conn.framing is framing
        assert server.connections()[0].framing is framing


WRONG: list[Any] = [4, "line", b"\n", LengthPrefix, object()]


@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_what_is_no_framing_is_refused(serve: Serve, connect: Connect, value: Any) -> None:
    server = serve(EachMessage(), framing=LINES)
    client = connect(server)
    conn = server.wait_connection()
    with pytest.raises(TypeError, match="framing must be None or a framing, such as"):
        conn.framing = value
    assert conn.framing is LINES
    client.sendall(b"still\n")
    assert server.wait_messages(conn, 1) == [b"still"]


def test_it_cannot_be_deleted(serve: Serve, connect: Connect) -> None:
    server = serve(EachMessage(), framing=LINES)
    connect(server)
    conn = server.wait_connection()
    with pytest.raises(AttributeError, match="framing cannot be deleted: set it to None"):
        del conn.framing
    assert conn.framing is LINES


def test_a_new_connection_begins_with_that_of_the_server(serve: Serve, connect: Connect) -> None:
    """Whatever the connection had that used its memory before."""
    server = serve(EachMessage())
    for index in range(5):
        client = connect(server)
        conn = server.wait_connection(index)
        assert conn.framing is None
        client.sendall(b"raw\n")
        server.wait_count("read", index + 1)
        conn.framing = LINES
        client.sendall(b"line\nmore")
        server.wait_messages(conn, 1)
        client.close()
        assert server.wait_closed(conn) is CloseReason.FRAME_ERROR
        assert conn.framing is LINES
    assert [e.value for e in server.of("read")] == [b"raw\n"] * 5


def test_on_a_closed_connection_it_is_only_kept(serve: Serve, connect: Connect) -> None:
    server = serve(EachMessage(), framing=LINES)
    client = connect(server)
    conn = server.wait_connection()
    client.close()
    server.wait_closed(conn)
    conn.framing = FixedSize(1)
    assert conn.framing == FixedSize(1)
    server.shutdown()
    conn.framing = None
    assert conn.framing is None


# ---- In a hook.


def _upgrade(conn: Connection, messages: list[Any]) -> None:
    if messages[0] == b"BINARY":
        conn.framing = LengthPrefix(2)
        conn.send_message(b"ok")
    elif messages[-1] == b"TEXT":
        conn.framing = LINES
        conn.send_message(b"ok")
    elif messages[-1] == b"RAW":
        conn.framing = None


def test_on_message_switches_behind_its_message(serve: Serve, connect: Connect) -> None:
    stream = b"hello\nBINARY\n" + b"".join(
        encode(LengthPrefix(2), message) for message in (b"a\nb", b"", b"TEXT")
    )
    stream += b"line\n\nRAW\nwhat\nfollows"
    expected = [b"hello", b"BINARY", b"a\nb", b"", b"TEXT", b"line", b"", b"RAW"]
    server = serve(EachMessage(_upgrade), framing=LINES)
    for index, split in enumerate([*range(len(stream)), None]):
        client = connect(server)
        conn = server.wait_connection(index)
        pieces = [stream[i : i + 1] for i in range(len(stream))]
        if split is not None:
            pieces = [stream[:split], stream[split:]]
        Feeder(client, conn).feed(*pieces)
        server.wait_for(lambda: server.received(conn) == b"what\nfollows")  # noqa: B023
        assert server.messages_of(conn) == expected, split
        assert recv_exact(client, 7) == b"\0\2okok\n"
        client.close()


def test_on_messages_switches_behind_its_list(serve: Serve, connect: Connect) -> None:
    server = serve(Lists(_upgrade), framing=LINES)
    client = connect(server)
    conn = server.wait_connection()
    # The list takes the two lines, and "c" begins another one.
    Feeder(client, conn).feed(b"BINARY\nb\n\0\2c", b"\n\0\4TEXT", b"line\nRAW\nwhat", b"\n")
    server.wait_for(lambda: server.received(conn) == b"what\n")
    assert server.messages_of(conn) == [b"BINARY", b"b", b"c\n", b"TEXT", b"line", b"RAW"]


def test_on_read_completed_switches_behind_its_bytes(serve: Serve, connect: Connect) -> None:
    def read(conn: Connection, data: bytes) -> None:
        conn.framing = LINES

    def handle(conn: Connection, messages: list[bytes]) -> None:
        conn.framing = None

    server = serve(EachMessage(handle, read=read))
    client = connect(server)
    conn = server.wait_connection()
    Feeder(client, conn).feed(b"raw\nraw\n", b"line\nrest\n", b"a\n", b"b\n", b"c")
    server.wait_for(
        lambda: server.hooks_of(conn)[1:] == ["read", "message", "read", "message", "read"]
    )
    values = [event.value for event in server.of_connection(conn)][1:]
    assert values == [b"raw\nraw\n", b"line", b"rest\n", b"a", b"b\n"]
    # The "c" is the beginning of a line.
    client.sendall(b"d\n")
    assert server.wait_messages(conn, 3)[2:] == [b"cd"]


@KINDS
def test_in_the_first_hook(serve: Serve, connect: Connect, kind: type[Messages]) -> None:
    def established(conn: Connection) -> None:
        conn.framing = FixedSize(2)

    server = serve(kind(established=established), framing=LINES, established_on="first_data")
    client = connect(server)
    client.sendall(b"a\nb\n")
    conn = server.wait_connection()
    assert server.wait_messages(conn, 2) == [b"a\n", b"b\n"]


@pytest.mark.parametrize("hook", ["write", "call_soon"])
def test_in_other_hooks(serve: Serve, connect: Connect, hook: str) -> None:
    def change(conn: Connection, *_: object) -> None:
        conn.framing = FixedSize(1)

    def read(conn: Connection, messages: list[bytes]) -> None:
        if messages[0] == b"go":
            conn.call_soon(change, conn)

    on_write = change if hook == "write" else None
    server = serve(EachMessage(read if hook != "write" else None, write=on_write), framing=LINES)
    client = connect(server)
    conn = server.wait_connection()
    if hook == "write":
        Feeder(client, conn).feed(b"abc")
        conn.send(b"x")
    else:
        Feeder(client, conn).feed(b"go\n")
        wait_until(lambda: conn.framing == FixedSize(1), "the callback")
        client.sendall(b"abc")
    assert server.wait_messages(conn, 3)[-3:] == [b"a", b"b", b"c"]


def test_at_the_end_of_the_stream(serve: Serve, connect: Connect) -> None:
    """The last message switches, and the end is that of the new framing."""

    def handle(conn: Connection, messages: list[bytes]) -> None:
        if messages[0] == b"fixed":
            conn.framing = FixedSize(2)

    for rest, reason in [
        (b"abcd", CloseReason.PEER_CLOSED),
        (b"abcde", CloseReason.FRAME_ERROR),
        (b"", CloseReason.PEER_CLOSED),
    ]:
        server = serve(EachMessage(handle), framing=LINES)
        client = connect(server)
        client.sendall(b"fixed\n" + rest)
        client.close()
        conn = server.wait_connection()
        assert server.wait_closed(conn) is reason
        assert server.messages_of(conn) == [b"fixed", b"ab", b"cd"][: 1 + len(rest) // 2]


# ---- On another thread: what was received and not given to a hook is cut anew.


@KINDS
@pytest.mark.parametrize("first", [LINES, LengthPrefix(4), Netstring(), Cobs()], ids=repr)
def test_what_waits_is_cut_anew(
    serve: Serve, connect: Connect, kind: type[Messages], first: Framing
) -> None:
    server = serve(kind(), framing=first)
    client = connect(server)
    conn = server.wait_connection()
    feeder = Feeder(client, conn)
    feeder.feed(b"1", b"23")  # for none of them a message
    conn.framing = FixedSize(1)
    assert server.wait_messages(conn, 3) == [b"1", b"2", b"3"]
    conn.framing = LINES
    feeder.feed(b"4", b"5")
    conn.framing = None
    server.wait_for(lambda: server.received(conn) == b"45")
    assert server.messages_of(conn) == [b"1", b"2", b"3"]


@KINDS
@pytest.mark.parametrize("size", [2000, 60_000, 900_000])
def test_a_large_part_is_cut_anew(
    serve: Serve, connect: Connect, kind: type[Messages], size: int
) -> None:
    server = serve(kind(), framing=LengthPrefix(4, max_size=1 << 30))
    client = connect(server)
    conn = server.wait_connection()
    stream = (1 << 29).to_bytes(4, "big") + b"".join(b"%07d\n" % n for n in range(size // 8))
    Feeder(client, conn).feed(*[stream[i : i + 30_000] for i in range(0, len(stream), 30_000)])
    conn.framing = None
    server.wait_for(lambda: len(server.received(conn)) == len(stream))
    assert server.received(conn) == stream
    conn.framing = LengthPrefix(4, max_size=1 << 30)
    Feeder(client, conn).feed(*[stream[i : i + 30_000] for i in range(0, len(stream), 30_000)])
    conn.framing = LINES
    expected = stream.split(b"\n")[:-1]
    assert server.wait_messages(conn, len(expected)) == expected
    assert server.received(conn) == stream


@KINDS
def test_what_waits_for_a_pause_is_cut_anew(
    serve: Serve, connect: Connect, kind: type[Messages]
) -> None:
    server = serve(kind(), framing=LINES)
    client = connect(server)
    conn = server.wait_connection()
    feeder = Feeder(client, conn)
    feeder.feed(b"a")
    conn.pause_reading()
    feeder.feed(b"b\nc")
    client.sendall(b"d\n")
    conn.framing = FixedSize(2)
    conn.resume_reading()
    assert server.wait_messages(conn, 3) == [b"ab", b"\nc", b"d\n"]


@KINDS
def test_switching_again_and_again(serve: Serve, connect: Connect, kind: type[Messages]) -> None:
    """Framings that cut alike: nothing is lost, doubled or exchanged, whenever they are set."""
    server = serve(kind(), framing=LINES, workers=2)
    client = connect(server)
    conn = server.wait_connection()
    over = threading.Event()

    def switch() -> None:
        framings = [Delimiter(b"\n", max_size=size) for size in (1000, 65_536, 1 << 20)]
        while not over.is_set():
            for framing in framings:
                conn.framing = framing

    thread = threading.Thread(target=switch)
    thread.start()
    lines = [b"%d:" % n + b"x" * (n * 7 % 400) for n in range(5000)]
    stream = b"\n".join([*lines, b""])
    try:
        for at in range(0, len(stream), 7919):
            client.sendall(stream[at : at + 7919])
        got = server.wait_messages(conn, len(lines))
    finally:
        over.set()
        thread.join()
    assert got == lines
    client.close()
    assert server.wait_closed(conn) is CloseReason.PEER_CLOSED


def test_sends_use_the_framing_of_their_time(serve: Serve, connect: Connect) -> None:
    server = serve(EachMessage(), framing=LINES)
    client = connect(server)
    conn = server.wait_connection()
    expected = b""
    for framing in (LINES, Netstring(), FixedSize(3), Cobs(), LengthPrefix(1)):
        conn.framing = framing
        assert conn.send_message(b"abc")
        assert conn.send_messages([b"def", b"ghi"])
        expected += b"".join(encode(framing, message) for message in (b"abc", b"def", b"ghi"))
    assert recv_exact(client, len(expected)) == expected
