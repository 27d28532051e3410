"""Messages with zero_copy=True: views that are good while the hook runs."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from support import (
    KINDS,
    Connect,
    EachMessage,
    Feeder,
    Lists,
    Messages,
    Quiet,
    QuietLists,
    Serve,
    recv_exact,
    wait_until,
)
from support.framings import encode

from iocp_bind import Cobs, Connection, Delimiter, Framing, LengthPrefix, Netstring, Slip

LINES = Delimiter(b"\n")


@KINDS
def test_a_hook_gets_read_only_views(serve: Serve, connect: Connect, kind: type[Messages]) -> None:
    seen: list[Any] = []

    def handle(conn: Connection, messages: list[memoryview]) -> None:
        for view in messages:
            seen.append((type(view), view.readonly, view.format, view.ndim, view.contiguous))
            with pytest.raises(TypeError):
                view[:] = b"x" * len(view)

    server = serve(kind(handle), framing=LINES, zero_copy=True)
    client = connect(server)
    conn = server.wait_connection()
    # In the receive buffer, from two of them, and empty.
    Feeder(client, conn).feed(b"one\ntwo\nthr", b"ee\n", b"\n")
    assert server.wait_messages(conn, 4) == [b"one", b"two", b"three", b""]
    assert seen == [(memoryview, True, "B", 1, True)] * 4


@KINDS
def test_they_are_bytes_otherwise(serve: Serve, connect: Connect, kind: type[Messages]) -> None:
    seen: list[type] = []
    server = serve(kind(lambda conn, messages: seen.extend(map(type, messages))), framing=LINES)
    client = connect(server)
    conn = server.wait_connection()
    Feeder(client, conn).feed(b"one\ntwo\nthr", b"ee\n", b"\n")
    server.wait_messages(conn, 4)
    assert seen == [bytes] * 4


FRAMINGS: dict[str, Framing] = {
    "length": LengthPrefix(max_size=1 << 22),
    "line": Delimiter(b"\n", max_size=1 << 22),
    "cobs": Cobs(1 << 22),
    "slip": Slip(1 << 22),
}
TEXTS = [b"one", b"x" * 700, b"y" * 50_000, b"z" * 2_000_000]


@KINDS
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("name", FRAMINGS)
def test_they_are_released_when_the_hook_is_over(
    serve: Serve, connect: Connect, kind: type[Messages], name: str, fails: bool
) -> None:
    kept: list[memoryview] = []

    class Forgiving(kind):  # type: ignore[misc, valid-type]
        def on_hook_error(self, conn: Connection | None, hook: str, exc: BaseException) -> None:
            assert isinstance(exc, LookupError)

    def handle(conn: Connection, messages: list[memoryview]) -> None:
        kept.extend(messages)
        if fails:
            raise LookupError

    framing = FRAMINGS[name]
    server = serve(Forgiving(handle), framing=framing, zero_copy=True)
    client = connect(server)
    conn = server.wait_connection()
    client.sendall(b"".join(encode(framing, text) for text in TEXTS))
    assert server.wait_messages(conn, len(TEXTS)) == TEXTS
    wait_until(lambda: server.stats().buffers_in_use == 0, "the buffers coming back")
    assert len(kept) == len(TEXTS)
    for view in kept:
        with pytest.raises(ValueError, match="released"):
            bytes(view)


@KINDS
@pytest.mark.parametrize("name", FRAMINGS)
def test_kept_slices_stay_good(
    serve: Serve, connect: Connect, kind: type[Messages], name: str
) -> None:
    """Also when a list of the hook is changed: a slice is a view of its own."""
    kept: list[memoryview] = []

    def handle(conn: Connection, messages: list[memoryview]) -> None:
        kept.extend(view[1:] for view in messages)
        messages.clear()

    framing = FRAMINGS[name]
    server = serve(kind(handle), framing=framing, zero_copy=True, max_free_buffers=4)
    client = connect(server)
    conn = server.wait_connection()
    texts = [bytes([65 + n % 26]) * (n * 37 % 1500 + 1) for n in range(200)] + TEXTS
    for at in range(0, len(texts), 20):
        client.sendall(b"".join(encode(framing, text) for text in texts[at : at + 20]))
    server.wait_messages(conn, len(texts))
    # Others use the buffers meanwhile, where those are free.
    client.sendall(encode(framing, b"!" * 60_000) * 10)
    server.wait_messages(conn, len(texts) + 10)
    assert [bytes(view) for view in kept[: len(texts)]] == [text[1:] for text in texts]
    client.close()
    server.wait_closed(conn)
    kept.clear()
    gc.collect()
    wait_until(lambda: server.stats().buffers_in_use == 0, "the buffers coming back")


@pytest.mark.parametrize("kind", [EachMessage, Lists, Quiet, QuietLists])
def test_views_may_be_sent(serve: Serve, connect: Connect, kind: type[Messages]) -> None:
    framing = Netstring(1 << 22)
    server = kind(lambda conn, messages: conn.send_messages(messages))
    serve(server, framing=framing, zero_copy=True, send_backlog_limit=1 << 30)
    client = connect(server)
    stream = b"".join(encode(framing, text) for text in [b"", *TEXTS])
    for _ in range(3):
        client.sendall(stream)
        assert recv_exact(client, len(stream)) == stream
