"""Sending: what `send`, `writelines` and `broadcast` take, and how much of it."""

from __future__ import annotations

import array
import ctypes
import mmap
from collections.abc import Callable
from typing import Any

import pytest
from support import (
    Connect,
    Recorder,
    Serve,
    pattern,
    recv_exact,
)

from iocp_bind import Connection


def _mmap(data: bytes) -> mmap.mmap:
    area = mmap.mmap(-1, len(data))
    area[:] = data
    return area


KINDS: dict[str, Callable[[bytes], Any]] = {
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "part of a memoryview": lambda data: memoryview(b"<" + data + b">")[1:-1],
    "array of bytes": lambda data: array.array("B", data),
    "array of doubles": lambda data: array.array("d", data),
    "ctypes array": lambda data: (ctypes.c_char * len(data)).from_buffer_copy(data),
    "mmap": _mmap,
    "two dimensions": lambda data: memoryview(data).cast("B", (8, len(data) // 8)),
    "subclass of bytes": lambda data: type("Sub", (bytes,), {})(data),
}


@pytest.mark.parametrize("size", [800, 40_000])
@pytest.mark.parametrize("kind", KINDS)
def test_send_takes_any_contiguous_bytes_like_object(
    serve: Serve, connect: Connect, kind: str, size: int
) -> None:
    server = serve(Recorder())
    client = connect(server)
    conn = server.wait_connection()
    data = pattern(size)
    assert conn.send(KINDS[kind](data)) is True
    assert recv_exact(client, size) == data
    assert server.wait_count("write")[0].value == size


def test_send_takes_a_numpy_array(serve: Serve, connect: Connect) -> None:
    np = pytest.importorskip("numpy")
    server = serve(Recorder())
    client = connect(server)
    conn = server.wait_connection()
    values = np.arange(10_000, dtype=np.float64).reshape(100, 100)
    assert conn.send(values)
    assert recv_exact(client, values.nbytes) == values.tobytes()
    # NumPy itself answers ValueError where others answer BufferError.
    with pytest.raises((BufferError, ValueError), match="contiguous"):
        conn.send(values[:, ::2])


@pytest.mark.parametrize("size", [800, 40_000])
def test_what_was_sent_may_be_changed_at_once(serve: Serve, connect: Connect, size: int) -> None:
    server = serve(Recorder())
    client = connect(server)
    conn = server.wait_connection()
    data = pattern(size)
    changing = bytearray(data)
    assert conn.send(changing)
    changing[:] = bytes(size)
    changing.extend(b"may grow")  # BufferError while something exports it
    assert recv_exact(client, size) == data


SIZES = [0, 1, 2, 4095, 4096, 4097, 16383, 16384, 16385, 65535, 65536, 65537, 1 << 20, 8 << 20]


@pytest.mark.parametrize("where", ["thread", "hook"])
def test_send_takes_any_length(serve: Serve, connect: Connect, where: str) -> None:
    """D24, D25: the original refused more than 4096 bytes, and lost the rest of a short send."""
    to_send = [pattern(size, size) for size in SIZES]
    accepted: list[bool] = []

    def established(conn: Connection) -> None:
        if where == "hook":
            accepted.extend(conn.send(data) for data in to_send)

    server = serve(Recorder(established=established), send_backlog_limit=1 << 30)
    client = connect(server)
    conn = server.wait_connection()
    if where == "thread":
        accepted.extend(conn.send(data) for data in to_send)
    assert recv_exact(client, sum(SIZES)) == b"".join(to_send)
    assert accepted == [True] * len(SIZES)
    assert [e.value for e in server.wait_count("write", len(SIZES))] == SIZES
    assert conn.bytes_sent == sum(SIZES)
    assert conn.send_backlog == 0


def test_an_empty_send_is_a_send(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder())
    client = connect(server)
    conn = server.wait_connection()
    assert conn.send(b"") is True
    assert server.wait_count("write")[0].value == 0
    assert conn.send(b"x")
    assert recv_exact(client, 1) == b"x"
    assert [e.value for e in server.wait_count("write", 2)] == [0, 1]


@pytest.mark.parametrize("bad", ["text", None, 5, 1.5, [1, 2], object()])
def test_send_refuses_what_is_not_bytes_like(serve: Serve, connect: Connect, bad: Any) -> None:
    server = serve(Recorder())
    client = connect(server)
    conn = server.wait_connection()
    with pytest.raises(TypeError, match=type(bad).__name__):
        conn.send(bad)
    with pytest.raises(TypeError, match=type(bad).__name__):
        conn.writelines([b"fine", bad])
    assert conn.send_backlog == 0
    assert conn.send(b"x")
    assert recv_exact(client, 1) == b"x"


def test_send_of_text_says_what_to_do(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder())
    connect(server)
    conn = server.wait_connection()
    with pytest.raises(TypeError, match="encode"):
        conn.send("text")  # type: ignore[arg-type]


def test_send_needs_one_argument(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder())
    connect(server)
    conn: Any = server.wait_connection()
    for arguments in ((), (b"a", b"b")):
        with pytest.raises(TypeError):
            conn.send(*arguments)


def test_send_refuses_what_is_not_contiguous(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder())
    client = connect(server)
    conn = server.wait_connection()
    view = memoryview(bytearray(100))[::2]
    with pytest.raises(BufferError, match="contiguous"):
        conn.send(view)
    with pytest.raises(BufferError, match="contiguous"):
        conn.writelines([b"fine", view])
    view.release()
    assert conn.send(b"x")
    assert recv_exact(client, 1) == b"x"


def test_a_released_memoryview_is_refused(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder())
    connect(server)
    conn = server.wait_connection()
    view = memoryview(b"abc")
    view.release()
    with pytest.raises(ValueError):
        conn.send(view)


def test_writelines_is_one_send(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder())
    client = connect(server)
    conn = server.wait_connection()
    pieces: list[Any] = [
        b"one",
        bytearray(b"two"),
        memoryview(b"three"),
        b"",
        array.array("B", b"four"),
    ]
    assert conn.writelines(pieces) is True
    assert recv_exact(client, 15) == b"onetwothreefour"
    assert [e.value for e in server.wait_count("write")] == [15]
    assert conn.writelines(piece for piece in (b"a", b"b")) is True
    assert recv_exact(client, 2) == b"ab"
    assert [e.value for e in server.wait_count("write", 2)] == [15, 2]


@pytest.mark.parametrize("pieces", [[], [b""], [b"", b""]])
def test_writelines_of_nothing_is_an_empty_send(
    serve: Serve, connect: Connect, pieces: list[bytes]
) -> None:
    server = serve(Recorder())
    connect(server)
    conn = server.wait_connection()
    assert conn.writelines(pieces) is True
    assert [e.value for e in server.wait_count("write")] == [0]


def test_writelines_of_many_and_large_pieces(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(), send_backlog_limit=1 << 30)
    client = connect(server)
    conn = server.wait_connection()
    pieces = [pattern(size, size) for size in range(3000)]
    pieces.append(pattern(2 << 20))
    assert conn.writelines(pieces)
    whole = b"".join(pieces)
    assert recv_exact(client, len(whole)) == whole
    assert [e.value for e in server.wait_count("write")] == [len(whole)]


@pytest.mark.parametrize("bad", [None, 5])
def test_writelines_needs_an_iterable(serve: Serve, connect: Connect, bad: Any) -> None:
    server = serve(Recorder())
    connect(server)
    conn = server.wait_connection()
    with pytest.raises(TypeError):
        conn.writelines(bad)


def test_writelines_passes_on_what_its_iterable_raises(serve: Serve, connect: Connect) -> None:
    def pieces() -> Any:
        yield b"one"
        raise LookupError("mine")

    server = serve(Recorder())
    connect(server)
    conn = server.wait_connection()
    with pytest.raises(LookupError, match="mine"):
        conn.writelines(pieces())
    assert conn.send_backlog == 0


def test_the_bytes_that_were_sent_are_let_go(serve: Serve, connect: Connect) -> None:
    class Held(bytes):
        pass

    server = serve(Recorder(), send_backlog_limit=1 << 30)
    client = connect(server)
    conn = server.wait_connection()
    data = bytearray(pattern(1 << 20))
    conn.send(data)
    recv_exact(client, 1 << 20)
    server.wait_count("write")
    data.clear()  # BufferError while it is exported


# ---- Broadcast.


def test_broadcast_reaches_all_but_one(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder())
    assert server.broadcast(b"nobody") == 0
    clients = [connect(server) for _ in range(5)]
    conns = {e.conn.remote_address: e.conn for e in server.wait_count("established", 5)}
    assert server.broadcast(b"to all;") == 5
    assert server.broadcast(bytearray(b"not to one;"), exclude=conns[clients[0].getsockname()]) == 4
    for client in clients[1:]:
        assert recv_exact(client, 18) == b"to all;not to one;"
    clients[0].settimeout(0.05)
    assert clients[0].recv(100) == b"to all;"
    with pytest.raises(TimeoutError):
        clients[0].recv(1)
    conns[clients[1].getsockname()].close()
    assert server.broadcast(b"a closing one takes none") == 4


@pytest.mark.parametrize("bad", ["text", None, 5])
def test_broadcast_needs_bytes(serve: Serve, bad: Any) -> None:
    server = serve(Recorder())
    with pytest.raises(TypeError):
        server.broadcast(bad)
    with pytest.raises(TypeError):
        server.broadcast(b"x", exclude="conn")  # type: ignore[arg-type]
