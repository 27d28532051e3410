"""Frames that are wrong or too long: what comes before, what is reported, and attackers."""

from __future__ import annotations

import contextlib
import socket
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
    ServerChild,
    full_load,
    linux_only,
    need_descriptors,
    open_client,
    recv_to_end,
    resident_bytes,
    wait_until,
)
from support.framings import encode

from iocp_bind import (
    CloseReason,
    Cobs,
    Connection,
    Delimiter,
    FixedSize,
    FrameError,
    Framing,
    LengthPrefix,
    Netstring,
    Slip,
    VarintPrefix,
)

NO_MESSAGE = "the bytes received are no message of this framing: "
SHORT = f"{NO_MESSAGE}the length is less than what belongs to the header"
VARINT = f"{NO_MESSAGE}the length has more than 64 bits"
NETSTRING = f"{NO_MESSAGE}a netstring is a length, a colon, the message and a comma"
BLOCK = f"{NO_MESSAGE}a block ends before its zero byte is due"
ESCAPE = f"{NO_MESSAGE}the escape byte 0xDB is followed by neither 0xDC nor 0xDD"
LONGER = "a message is longer than the {} bytes that the framing allows (max_size)"
ANNOUNCED = "a message of {} bytes was announced; the framing allows {} (max_size)"
ALL = (1 << 64) - 1

# name: (framing, the bytes that are wrong, the sentence, announced, limit)
FAULTS: dict[str, tuple[Framing, bytes, str, int | None, int | None]] = {
    "4 GiB": (
        LengthPrefix(4),
        b"\xff\xff\xff\xff",
        ANNOUNCED.format(0xFFFFFFFF, 1 << 20),
        0xFFFFFFFF,
        1 << 20,
    ),
    "one too many": (LengthPrefix(2, max_size=9), b"\0\x0a", ANNOUNCED.format(10, 9), 10, 9),
    "the header counts": (
        LengthPrefix(1, strip=0, max_size=3),
        b"\3",
        ANNOUNCED.format(4, 3),
        4,
        3,
    ),
    "all of 8 bytes": (
        LengthPrefix(8),
        b"\xff" * 8,
        ANNOUNCED.format(ALL, 1 << 20),
        ALL,
        1 << 20,
    ),
    "overflow after adjust": (
        LengthPrefix(8, adjust=1 << 40),
        b"\xff" * 8,
        ANNOUNCED.format(ALL, 1 << 20),
        ALL,
        1 << 20,
    ),
    "overflow with the header": (
        LengthPrefix(8, offset=1024, max_size=1 << 40),
        bytes(1024) + b"\xff" * 8,
        ANNOUNCED.format(ALL, 1 << 40),
        ALL,
        1 << 40,
    ),
    "below its header": (LengthPrefix(2, adjust=-2), b"\0\1", SHORT, None, None),
    "below what is stripped": (LengthPrefix(1, strip=4), b"\2", SHORT, None, None),
    "varint": (VarintPrefix(300), b"\xad\x02", ANNOUNCED.format(301, 300), 301, 300),
    "varint of 64 bits": (
        VarintPrefix(),
        b"\xff" * 9 + b"\x01",
        ANNOUNCED.format(ALL, 1 << 20),
        ALL,
        1 << 20,
    ),
    "varint of 65 bits": (VarintPrefix(), b"\xff" * 9 + b"\x02", VARINT, None, None),
    "varint without an end": (VarintPrefix(), b"\x80" * 10, VARINT, None, None),
    "no digit": (Netstring(), b"x", NETSTRING, None, None),
    "no length": (Netstring(), b":", NETSTRING, None, None),
    "leading zero": (Netstring(), b"01", NETSTRING, None, None),
    "no comma": (Netstring(), b"3:abc;", NETSTRING, None, None),
    "netstring": (Netstring(99), b"100", LONGER.format(99), None, 99),
    "digits for ever": (Netstring(1 << 40), b"9" * 14, LONGER.format(1 << 40), None, 1 << 40),
    "line": (Delimiter(b"\n", max_size=5), b"123456", LONGER.format(5), None, 5),
    "line with its end": (Delimiter(b"\n", max_size=5), b"123456\n", LONGER.format(5), None, 5),
    "zero in a run": (Cobs(), b"\x05ab\0", BLOCK, None, None),
    "cobs": (Cobs(4), b"\x06abcde", LONGER.format(4), None, 4),
    "escape": (Slip(), b"a\xdbb", ESCAPE, None, None),
    "slip": (Slip(4), b"abcde", LONGER.format(4), None, 4),
}


def error_of(server: Messages, conn: Connection) -> FrameError:
    """The one that was reported, once and just before the closing."""
    assert server.hooks_of(conn)[-2:] == ["error", "closing"]
    (error,) = [event.value for event in server.of_connection(conn) if event.hook == "error"]
    assert isinstance(error, FrameError)
    return error


@KINDS
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault(
    serve: Serve, connect: Connect, kind: type[Messages], name: str, at_once: bool
) -> None:
    framing, wrong, sentence, announced, limit = FAULTS[name]
    good = [b"\0" * 1024 + b"\0" * 8] if name == "overflow with the header" else [b"abc", b"de"]
    if isinstance(framing, LengthPrefix) and framing.strip is not None:
        good = [b"\2ab"] if framing.strip == 0 else []
    if isinstance(framing, LengthPrefix) and framing.adjust > 0:
        good = []
    stream = b"".join(encode(framing, message) for message in good) + wrong
    server = serve(kind(lambda conn, messages: conn.send(b"!" * len(messages))), framing=framing)
    client = connect(server)
    conn = server.wait_connection()
    # Bytes behind the fault are never looked at.
    pieces = [stream + b"more"] if at_once else [stream[i : i + 1] for i in range(len(stream))]
    Feeder(client, conn).feed(*pieces)
    assert recv_to_end(client) == b"!" * len(good), "the answers, and the end of the stream"
    client.close()
    assert server.wait_closed(conn) is CloseReason.FRAME_ERROR
    assert server.messages_of(conn) == good
    error = error_of(server, conn)
    assert str(error) == sentence
    assert (error.announced, error.limit) == (announced, limit)
    assert isinstance(error, ConnectionError)
    assert server.stats().closed[CloseReason.FRAME_ERROR] == 1


def test_a_frame_error_of_ones_own() -> None:
    error = FrameError("as in a test of hooks")
    assert (error.announced, error.limit) == (None, None)
    assert isinstance(error, OSError)


@KINDS
def test_a_message_of_just_max_size(serve: Serve, connect: Connect, kind: type[Messages]) -> None:
    framings: list[Framing] = [
        LengthPrefix(2, max_size=300),
        Delimiter(b"\r\n", max_size=300),
        VarintPrefix(300),
        Netstring(300),
        Cobs(300),
        Slip(300),
    ]
    message = b"\xc0" * 299 + b"\xdb"
    for framing in framings:
        server = serve(kind(), framing=framing)
        client = connect(server)
        conn = server.wait_connection()
        stream = encode(framing, message)
        Feeder(client, conn).feed(stream, *[stream[i : i + 50] for i in range(0, len(stream), 50)])
        assert server.wait_messages(conn, 2) == [message] * 2
        server.shutdown(0.0)


def test_a_fault_that_waits_for_a_pause(serve: Serve, connect: Connect) -> None:
    """It is found when the messages before it have been given to the hook."""
    paused: list[bytes] = []

    def pause(conn: Connection, messages: list[bytes]) -> None:
        conn.pause_reading()
        paused.extend(messages)

    server = serve(EachMessage(pause), framing=Netstring())
    client = connect(server)
    conn = server.wait_connection()
    Feeder(client, conn).feed(b"1:a,1:b,x")
    for count in (1, 2):
        server.wait_for(lambda: len(paused) >= count)  # noqa: B023
        assert "error" not in server.hooks_of(conn)
        conn.resume_reading()
    assert recv_to_end(client) == b""
    client.close()
    assert server.wait_closed(conn) is CloseReason.FRAME_ERROR
    assert server.messages_of(conn) == [b"a", b"b"]


def test_a_hook_may_close_before_a_fault(serve: Serve, connect: Connect) -> None:
    server = serve(EachMessage(lambda conn, messages: conn.close()), framing=Netstring())
    client = connect(server)
    conn = server.wait_connection()
    client.sendall(b"1:a,x")
    client.close()
    assert server.wait_closed(conn) is CloseReason.LOCAL_CLOSE
    assert "error" not in server.hooks_of(conn)


def test_nothing_can_be_sent_after_a_fault(serve: Serve, connect: Connect) -> None:
    answers: list[bool] = []

    def error(conn: Connection, error: OSError) -> None:
        answers.append(conn.is_open)
        answers.append(conn.send_message(b"x"))
        conn.framing = Delimiter(b"\n")

    server = serve(EachMessage(error=error), framing=Netstring())
    client = connect(server)
    conn = server.wait_connection()
    client.sendall(b"x")
    assert recv_to_end(client) == b""
    client.close()
    assert server.wait_closed(conn) is CloseReason.FRAME_ERROR
    assert answers == [False, False]
    assert str(error_of(server, conn)) == NETSTRING


# ---- Attackers: memory grows with the bytes that came.


@linux_only
@pytest.mark.parametrize(
    ("framing", "header"),
    [
        (LengthPrefix(8, max_size=1 << 40), (1 << 40).to_bytes(8, "big")),
        (VarintPrefix(1 << 40), b"\x80\x80\x80\x80\x80\x20"),
        (Netstring(1 << 40), b"%d:" % (1 << 40)),
        (FixedSize(1 << 30), b""),
    ],
    ids=["length", "varint", "netstring", "fixed"],
)
def test_what_is_announced_costs_nothing(
    serve: Serve, connect: Connect, framing: Framing, header: bytes
) -> None:
    server = serve(EachMessage(), framing=framing)
    clients = [connect(server) for _ in range(20)]
    conns = [event.conn for event in server.wait_count("established", 20)]
    before = resident_bytes()
    for client in clients:
        client.sendall(header + bytes(1000))
    wait_until(
        lambda: all(conn.bytes_received == len(header) + 1000 for conn in conns), "the bytes"
    )
    assert all(conn.is_open for conn in conns)
    assert resident_bytes() - before < 20 * 64 * 1024 + (4 << 20)


@pytest.mark.parametrize("name", ["delimiter", "cobs", "slip"])
def test_an_end_that_never_comes(serve: Serve, connect: Connect, name: str) -> None:
    """The peer is closed at the limit, however the bytes come."""
    framing, byte = {
        "delimiter": (Delimiter(b"\n", b"xxxxx\n", max_size=10_000), b"x"),
        "cobs": (Cobs(10_000), b"\xff"),
        "slip": (Slip(10_000), b"x"),
    }[name]
    server = serve(Lists(), framing=framing)
    for index, size in enumerate([1, 999, 100_000]):
        client = connect(server)
        conn = server.wait_connection(index)
        feeder = Feeder(client, conn)
        if size == 1:
            feeder.feed(byte * 9990)
            assert conn.is_open
        while conn.is_open:
            feeder.feed(byte * size)
            # What comes behind the fault is dropped.
            assert conn.bytes_received <= 10_100 + 2 * size
        client.close()
        assert server.wait_closed(conn) is CloseReason.FRAME_ERROR
        error = error_of(server, conn)
        assert (error.announced, error.limit) == (None, 10_000)
        assert server.messages_of(conn) == []


LIMIT = 65_536
JUST_BELOW: dict[str, bytes] = {
    "length frames": (LIMIT).to_bytes(4, "big") + bytes(LIMIT - 1),
    "line frames": b"x" * (LIMIT - 1),
    "cobs frames": (b"\xff" + b"x" * 254) * ((LIMIT - 1) // 254),
}


@linux_only
@pytest.mark.parametrize("piece", [1400, LIMIT * 2])
@pytest.mark.parametrize("mode", JUST_BELOW)
@pytest.mark.parametrize("count", [100, full_load(2000)])
def test_many_just_below_the_limit(backend: str, mode: str, count: int, piece: int) -> None:
    """They keep what they have sent, and at most 64 KiB more each."""
    need_descriptors(count + 100)
    stream = JUST_BELOW[mode]
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(
            ServerChild(backend, mode, max_connections=count, max_free_buffers=0)
        )
        clients: list[socket.socket] = []
        for _ in range(count):
            clients.append(stack.enter_context(open_client(server.address)))
            clients[-1].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wait_until(lambda: server.ask("counters")["established"] == count, "the connections")
        before: dict[str, Any] = server.ask("report")
        for at in range(0, len(stream), piece):
            for client in clients:
                client.sendall(stream[at : at + piece])
        received = count * len(stream)
        wait_until(lambda: server.ask("counters")["bytes_received"] == received, "the bytes")
        after = server.ask("report")
        assert after["connection_count"] == count
        assert after["memory"] - before["memory"] < received + count * 64 * 1024 + (8 << 20)
        for client in clients:
            client.close()
        clients.clear()
        report = server.wait_idle()
        assert report["closed"]["FRAME_ERROR"] == count


def test_the_modes_of_the_child_have_that_limit() -> None:
    import server_child

    for mode in JUST_BELOW:
        framing = server_child.MODES[mode].framing
        assert getattr(framing, "max_size") == LIMIT  # noqa: B009
