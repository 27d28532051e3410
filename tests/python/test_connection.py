"""`Connection`: what can be sent, what it tells about itself, and how it ends."""

from __future__ import annotations

import array
import ctypes
import errno
import gc
import mmap
import socket
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import seccomp
from support import (
    Connect,
    Echo,
    Recorder,
    Serve,
    ask,
    echo_back,
    in_threads,
    linux_only,
    pattern,
    recv_exact,
    recv_to_end,
    reset,
    saw_reset,
)

import iocp_bind
from iocp_bind import CloseReason, Connection

# ---- What can be sent.


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


# ---- What it tells about itself.


def test_ids_are_never_reused(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=echo_back), max_free_contexts=1)
    for index in range(100):
        client = connect(server)
        ask(client, b"x")
        client.close() if index % 2 else reset(client)
        server.wait_count("closing", index + 1)
    ids = [event.conn.id for event in server.of("established")]
    assert len(set(ids)) == 100
    assert all(isinstance(number, int) for number in ids)

    server.shutdown()
    serve(server)
    connect(server)
    assert server.wait_connection(100).id not in ids


def test_connections_are_hashable_and_equal_only_to_themselves(
    serve: Serve, connect: Connect
) -> None:
    server = serve(Recorder())
    a, b = connect(server), connect(server)
    server.wait_count("established", 2)
    first, second = (event.conn for event in server.of("established"))
    assert first == first
    assert first != second
    assert {first: 1, second: 2}[first] == 1
    a.close()
    b.close()
    server.wait_count("closing", 2)
    assert {first: 1, second: 2}[second] == 2


def test_a_connection_cannot_be_made_by_hand() -> None:
    with pytest.raises(TypeError):
        Connection()


def test_addresses(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder())
    client = connect(server)
    conn = server.wait_connection()
    assert conn.remote_address == client.getsockname()
    assert conn.local_address == client.getpeername()
    assert isinstance(conn.remote_address, tuple)
    client.close()
    server.wait_closed(conn)
    assert conn.remote_address[0] == "127.0.0.1"


def test_data_is_the_users(serve: Serve, connect: Connect) -> None:
    seen: list[Any] = []

    def established(conn: Connection) -> None:
        seen.append(conn.data)
        conn.data = {"state": 1}

    server = serve(
        Recorder(
            established=established,
            read=lambda conn, data: conn.data.update(state=data),
            closing=lambda conn, reason: seen.append(conn.data),
        )
    )
    client = connect(server)
    client.sendall(b"changed")
    server.wait_count("read")
    client.close()
    server.wait_count("closing")
    assert seen == [None, {"state": b"changed"}]
    conn = server.wait_connection()
    conn.data = 5
    assert conn.data == 5


def test_other_attributes_are_refused(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder())
    connect(server)
    conn: Any = server.wait_connection()
    with pytest.raises(AttributeError):
        conn.dta = 1
    with pytest.raises(AttributeError):
        conn.id = 1


def test_the_data_of_a_closed_connection_is_let_go(serve: Serve, connect: Connect) -> None:
    class Held:
        pass

    dead: list[weakref.ref[Held]] = []
    done = threading.Event()

    class Forgets(iocp_bind.Server):
        def on_connection_established(self, conn: Connection) -> None:
            held = Held()
            dead.append(weakref.ref(held))
            conn.data = held

        def on_connection_closing(self, conn: Connection, reason: CloseReason) -> None:
            done.set()

    server = serve(Forgets())
    connect(server).close()
    assert done.wait(20)
    Recorder().wait_for(lambda: dead[0]() is None, "the data let go")


def test_a_cycle_through_data_is_collected(serve: Serve, connect: Connect) -> None:
    class Session:
        conn: Connection | None = None

    dead: list[weakref.ref[Session]] = []
    done = threading.Event()

    class Cyclic(iocp_bind.Server):
        def on_connection_established(self, conn: Connection) -> None:
            session = Session()
            session.conn = conn
            conn.data = session
            dead.append(weakref.ref(session))

        def on_connection_closing(self, conn: Connection, reason: CloseReason) -> None:
            done.set()

    server = serve(Cyclic())
    connect(server).close()
    assert done.wait(20)

    def collected() -> bool:
        gc.collect()
        return dead[0]() is None

    Recorder().wait_for(collected, "the cycle collected")


def test_counts_of_bytes(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=echo_back))
    client = connect(server)
    conn = server.wait_connection()
    assert (conn.bytes_received, conn.bytes_sent, conn.send_backlog) == (0, 0, 0)
    data = pattern(300_000)
    sender = threading.Thread(target=client.sendall, args=(data,))
    sender.start()
    assert recv_exact(client, len(data)) == data
    sender.join()
    server.wait_for(lambda: sum(e.value for e in server.of("write")) == len(data))
    assert conn.bytes_received == conn.bytes_sent == len(data)
    client.close()
    server.wait_closed(conn)
    assert conn.bytes_received == conn.bytes_sent == len(data)


def test_send_backlog_is_what_the_system_has_not_taken(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(), send_backlog_limit=1 << 30)
    client = connect(server, receive_buffer=4096)
    conn = server.wait_connection()
    size = 32 << 20
    conn.send(bytes(size))
    server.wait_for(lambda: conn.bytes_sent > 0)
    assert 0 < conn.send_backlog < size
    assert server.of("write") == []
    recv_exact(client, size)
    server.wait_count("write")
    assert (conn.send_backlog, conn.bytes_sent) == (0, size)


def test_backlog_in_a_hook_counts_what_was_just_sent(serve: Serve, connect: Connect) -> None:
    seen: list[int] = []

    def established(conn: Connection) -> None:
        for _ in range(3):
            conn.send(bytes(100))
            seen.append(conn.send_backlog)

    server = serve(Recorder(established=established))
    recv_exact(connect(server), 300)
    assert seen == [100, 200, 300]


def test_repr_tells_who_it_is(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder())
    client = connect(server)
    conn = server.wait_connection()
    assert str(conn.id) in repr(conn)
    client.close()
    server.wait_closed(conn)
    assert repr(conn)


# ---- A dead handle.


def test_a_dead_handle_answers_and_does_nothing(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=echo_back))
    client = connect(server)
    conn = server.wait_connection()
    assert conn.is_open
    ask(client, b"x")
    client.close()
    server.wait_closed(conn)

    def use() -> None:
        assert conn.is_open is False
        assert conn.send(b"late") is False
        assert conn.send(b"") is False
        assert conn.send(bytes(1 << 20)) is False
        assert conn.writelines([b"a", b"b"]) is False
        conn.close()
        conn.abort()
        conn.pause_reading()
        conn.resume_reading()
        server.close_connection(conn)
        assert conn.send_backlog == 0
        assert (conn.bytes_received, conn.bytes_sent) == (1, 1)
        with pytest.raises(TypeError):
            conn.send("still checked")  # type: ignore[arg-type]

    use()
    server.shutdown()
    use()
    assert server.hooks_of(conn)[-1] == "closing"
    assert server.hooks_of(conn).count("closing") == 1


def test_a_handle_outlives_its_server(backend: str, connect: Connect) -> None:
    server = Recorder()
    server.start(port=0, backend=backend)  # type: ignore[arg-type]
    client = connect(server)
    conn = server.wait_connection()
    conn.data = server  # a cycle, too
    server.shutdown(0.5)
    client.close()
    del server
    gc.collect()
    assert conn.send(b"late") is False
    assert conn.is_open is False
    assert conn.remote_address[0] == "127.0.0.1"
    conn.abort()


def test_a_reference_in_a_running_hook_stays_good(serve: Serve, connect: Connect) -> None:
    """D03: the connection ends while its hook runs; the hook still uses it."""
    seen: list[Any] = []

    def read(conn: Connection, data: bytes) -> None:
        conn.abort()
        gc.collect()
        seen.extend([conn.send(b"x"), conn.is_open, conn.id])

    server = serve(Recorder(read=read), max_free_contexts=0)
    client = connect(server)
    client.sendall(b"x")
    server.wait_count("closing")
    assert seen == [False, False, server.wait_connection().id]


# ---- Close and abort, as the client sees them.


def test_close_ends_the_stream_after_all_data(serve: Serve, connect: Connect) -> None:
    """D28."""
    data = pattern(4 << 20)

    def established(conn: Connection) -> None:
        conn.send(data)
        conn.close()

    server = serve(Recorder(established=established), send_backlog_limit=1 << 30)
    client = connect(server)
    assert recv_to_end(client) == data
    client.close()
    conn = server.wait_connection()
    assert server.wait_closed(conn) is CloseReason.LOCAL_CLOSE
    # The send before the close was completed, too.
    assert server.hooks_of(conn) == ["established", "write", "closing"]


def test_close_with_data_unread_still_ends_the_stream(serve: Serve, connect: Connect) -> None:
    """What the client sent and nobody read must not turn the end of stream into a reset."""

    def read(conn: Connection, data: bytes) -> None:
        conn.send(b"enough")
        conn.close()

    server = serve(Recorder(read=read), buffer_size=512)
    client = connect(server)
    client.sendall(pattern(20_000))
    assert recv_to_end(client) == b"enough"
    client.close()
    assert server.wait_closed(server.wait_connection()) is CloseReason.LOCAL_CLOSE


def test_nothing_is_read_after_close(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=lambda conn, data: conn.close()), buffer_size=512)
    client = connect(server)
    client.sendall(pattern(20_000))
    assert recv_to_end(client) == b""
    client.sendall(b"more")
    client.close()
    server.wait_count("closing")
    assert len(server.of("read")) == 1


def test_close_refuses_further_sends_at_once(serve: Serve, connect: Connect) -> None:
    seen: list[bool] = []

    def established(conn: Connection) -> None:
        seen.append(conn.send(b"before"))
        conn.close()
        seen.extend([conn.send(b"after"), conn.is_open])

    server = serve(Recorder(established=established))
    client = connect(server)
    assert recv_to_end(client) == b"before"
    assert seen == [True, False, False]
    client.close()
    server.wait_count("closing")


def test_close_waits_for_the_peer_at_most_close_timeout(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(), close_timeout=0.3)
    client = connect(server)
    conn = server.wait_connection()
    began = time.monotonic()
    conn.close()
    assert client.recv(1) == b""
    assert server.wait_closed(conn) is CloseReason.LOCAL_CLOSE
    assert 0.25 <= time.monotonic() - began < 3


def test_close_of_a_peer_that_does_not_read_ends_too(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(), close_timeout=0.3, send_backlog_limit=1 << 30)
    client = connect(server, receive_buffer=4096)
    conn = server.wait_connection()
    conn.send(bytes(32 << 20))
    began = time.monotonic()
    conn.close()
    server.wait_closed(conn)
    assert time.monotonic() - began < 3
    # Not everything was sent, and the client must be able to tell.
    assert saw_reset(client)
    assert "write" not in server.hooks_of(conn)


def test_a_peer_that_closes_too_ends_the_wait(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(), close_timeout=15.0)
    client = connect(server)
    conn = server.wait_connection()
    began = time.monotonic()
    conn.close()
    assert recv_to_end(client) == b""
    client.close()
    assert server.wait_closed(conn) is CloseReason.LOCAL_CLOSE
    assert time.monotonic() - began < 10


def test_abort_resets(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder())
    client = connect(server)
    conn = server.wait_connection()
    conn.abort()
    assert server.wait_closed(conn) is CloseReason.LOCAL_ABORT
    assert saw_reset(client)
    assert conn.send(b"late") is False
    assert server.hooks_of(conn) == ["established", "closing"]


# Not on io_uring: its sends are no system calls, and nothing else makes the kernel refuse them.
@linux_only
@pytest.mark.parametrize("backend", ["epoll"])
@pytest.mark.parametrize("code", [errno.ENOBUFS, errno.ENOMEM])
def test_a_send_that_the_system_has_no_memory_for_resets_at_once(
    serve: Serve, connect: Connect, code: int
) -> None:
    def read(conn: Connection, data: bytes) -> None:
        seccomp.refuse(("sendto", "sendmsg"), code, all_threads=False)
        conn.send(b"never out")

    server = serve(Recorder(read=read), workers=1, close_timeout=300.0)
    client = connect(server)
    client.sendall(b"answer")
    conn = server.wait_connection()
    server.wait_closed(conn)
    assert saw_reset(client)
    assert [event.value.errno for event in server.of("error")] == [code]
    assert server.reasons() == [CloseReason.ERROR]


def test_abort_drops_what_is_queued(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(), send_backlog_limit=1 << 30)
    client = connect(server, receive_buffer=4096)
    conn = server.wait_connection()
    conn.send(bytes(32 << 20))
    conn.abort()
    assert server.wait_closed(conn) is CloseReason.LOCAL_ABORT
    assert saw_reset(client)
    assert "write" not in server.hooks_of(conn)
    assert conn.send_backlog == 0


def test_abort_ends_a_close_that_waits(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(), close_timeout=60.0)
    client = connect(server)
    conn = server.wait_connection()
    conn.close()
    assert client.recv(1) == b""
    conn.abort()
    assert server.wait_closed(conn) in (CloseReason.LOCAL_CLOSE, CloseReason.LOCAL_ABORT)


@pytest.mark.parametrize("how", ["close", "abort", "both"])
def test_any_number_of_times_from_any_thread(serve: Serve, connect: Connect, how: str) -> None:
    server = serve(Recorder(read=echo_back), workers=2)
    for turn in range(10):
        client = connect(server)
        conn = server.wait_connection(turn)

        def end(index: int, conn: Connection = conn) -> None:
            for _ in range(10):
                if how == "close" or (how == "both" and index % 2):
                    conn.close()
                else:
                    conn.abort()

        in_threads(4, end)
        assert conn.send(b"late") is False
        saw_reset(client)
        client.close()
        server.wait_closed(conn)
    assert len(server.of("closing")) == 10
    server.check_grammar()


def test_close_connection_and_close_all(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder())
    clients = [connect(server) for _ in range(5)]
    first = server.wait_count("established", 5)[0].conn
    server.close_connection(first)
    gone = next(c for c in clients if c.getsockname() == first.remote_address)
    assert gone.recv(1) == b""
    gone.close()
    server.wait_closed(first)
    assert server.connection_count == 4
    server.close_all_connections()
    for client in clients:
        if client is not gone:
            assert client.recv(1) == b""
            client.close()
    server.wait_count("closing", 5)
    assert set(server.reasons()) == {CloseReason.LOCAL_CLOSE}
    # It goes on accepting (D07: and nothing was forgotten).
    connect(server)
    server.wait_count("established", 6)
    server.wait_for(lambda: server.connection_count == 1)


@pytest.mark.parametrize("bad", [None, 5, "conn"])
def test_close_connection_needs_a_connection(serve: Serve, bad: Any) -> None:
    server = serve(Recorder())
    with pytest.raises(TypeError):
        server.close_connection(bad)


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


# ---- Pause and resume.


def _fence(server: iocp_bind.Server, connect: Connect, turns: int = 20) -> None:
    """Let the server go round many times; what it was going to do, it has done."""
    client = connect(server)
    for _ in range(turns):
        ask(client, b"fence")
    client.close()


def _has_events(server: Recorder, conn: Connection, count: int) -> bool:
    return len(server.of_connection(conn)) >= count


def _echo_unless_paused(conn: Connection, data: bytes) -> None:
    if data == b"fence":
        conn.send(data)


def test_a_paused_connection_is_not_read_from(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=_echo_unless_paused))
    client = connect(server)
    conn = server.wait_connection()
    client.sendall(b"one")
    server.wait_for(lambda: server.received(conn) == b"one")
    conn.pause_reading()
    _fence(server, connect)
    before = server.received(conn)
    client.sendall(b"two")
    _fence(server, connect)
    # One read may have been under way when it was paused from outside; not more than that.
    assert server.received(conn) in (before, before + b"two")
    conn.resume_reading()
    server.wait_for(lambda: server.received(conn) == b"onetwo")


def test_paused_in_a_hook_nothing_comes_until_resumed(serve: Serve, connect: Connect) -> None:
    def read(conn: Connection, data: bytes) -> None:
        if data == b"fence":
            conn.send(data)
        else:
            conn.pause_reading()

    server = serve(Recorder(read=read), buffer_size=512)
    client = connect(server)
    data = pattern(20_000)
    client.sendall(data)
    client.close()
    conn = server.wait_connection()
    server.wait_for(lambda: server.received(conn))
    while len(server.received(conn)) < len(data):
        reads = len(server.of_connection(conn))
        _fence(server, connect, 3)
        assert len(server.of_connection(conn)) == reads, "read although paused"
        conn.resume_reading()
        server.wait_for(partial(_has_events, server, conn, reads + 1))
    assert server.received(conn) == data
    # The end of the stream waits with the data before it.
    _fence(server, connect)
    assert "closing" not in server.hooks_of(conn)
    conn.resume_reading()
    assert server.wait_closed(conn) is CloseReason.PEER_CLOSED


def test_pause_in_established(serve: Serve, connect: Connect) -> None:
    first: list[Connection] = []

    def established(conn: Connection) -> None:
        if not first:
            first.append(conn)
            conn.pause_reading()

    server = serve(Recorder(established=established, read=_echo_unless_paused))
    client = connect(server)
    client.sendall(b"early")
    conn = server.wait_connection()
    _fence(server, connect)
    assert server.received(conn) == b""
    conn.resume_reading()
    server.wait_for(lambda: server.received(conn) == b"early")


def test_a_paused_connection_can_be_sent_to_and_closed(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(established=Connection.pause_reading), close_timeout=0.5)
    client = connect(server)
    client.sendall(b"unread")
    conn = server.wait_connection()
    assert conn.send(b"one way")
    assert recv_exact(client, 7) == b"one way"
    conn.close()
    assert client.recv(1) == b""
    client.close()
    server.wait_closed(conn)
    assert "read" not in server.hooks_of(conn)


def test_a_paused_connection_slows_its_peer_down(serve: Serve, connect: Connect) -> None:
    from support import fill

    server = serve(Recorder(established=Connection.pause_reading))
    client = connect(server)
    conn = server.wait_connection()
    assert fill(client, 256 << 20, patience=0.3) < 64 << 20
    assert server.received(conn) == b""
    assert conn.bytes_received < 1 << 20


def test_resume_and_pause_any_number_of_times(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=echo_back))
    client = connect(server)
    conn = server.wait_connection()

    def toggle(index: int) -> None:
        for _ in range(200):
            conn.pause_reading()
            conn.resume_reading()

    in_threads(4, toggle)
    conn.resume_reading()
    assert ask(client, b"alive") == b"alive"


def test_abort_of_a_paused_connection(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(established=Connection.pause_reading))
    client = connect(server)
    conn = server.wait_connection()
    conn.abort()
    assert server.wait_closed(conn) is CloseReason.LOCAL_ABORT
    assert saw_reset(client)


def test_echo_is_an_echo(serve: Serve, connect: Connect) -> None:
    server = serve(Echo())
    client = connect(server)
    for size in (1, 100, 50_000):
        data = pattern(size)
        assert ask(client, data) == data


def test_after_a_half_close_a_send_of_another_thread_is_refused(
    backend: str, serve: Serve, connect: Connect
) -> None:
    """What the hooks sent before is written; README says so."""
    server = serve(Recorder(read=echo_back), backend=backend)
    client = connect(server)
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    assert recv_to_end(client) == b"question"
    conn = server.wait_connection()
    answers: list[bool] = []
    in_threads(1, lambda _: answers.append(conn.send(b"too late")))
    assert answers == [False]
