"""zero_copy=True: a view of the receive buffer, good while the hook runs, never recycled then."""

from __future__ import annotations

import gc
import hashlib
import threading
from typing import Any

import pytest
from support import Connect, Recorder, Serve, ask, in_threads, pattern, recv_exact

from iocp_bind import Connection


def test_a_hook_gets_a_read_only_view(serve: Serve, connect: Connect) -> None:
    seen: list[Any] = []

    def read(conn: Connection, view: memoryview) -> None:
        seen.append((type(view), view.readonly, view.format, view.ndim, view.contiguous))
        seen.append(bytes(view))
        try:
            view[0] = 0
        except TypeError:
            seen.append("refused")

    server = serve(Recorder(read=read), zero_copy=True)
    connect(server).sendall(b"hello")
    server.wait_for(lambda: len(seen) >= 3)
    assert seen == [(memoryview, True, "B", 1, True), b"hello", "refused"]


def test_without_zero_copy_it_is_bytes(serve: Serve, connect: Connect) -> None:
    seen: list[type] = []
    server = serve(Recorder(read=lambda conn, data: seen.append(type(data))))
    connect(server).sendall(b"hello")
    server.wait_count("read")
    server.wait_for(lambda: seen)
    assert seen == [bytes]


def test_the_view_is_released_when_the_hook_returns(serve: Serve, connect: Connect) -> None:
    kept: list[memoryview] = []
    server = serve(Recorder(read=lambda conn, view: kept.append(view)), zero_copy=True)
    connect(server).sendall(b"hello")
    server.wait_for(lambda: kept and server.stats().buffers_in_use == 0)
    (view,) = kept
    for use in (lambda: view[0], lambda: bytes(view), lambda: memoryview(view), view.tobytes):
        with pytest.raises(ValueError, match="released"):
            use()


def test_the_view_is_released_when_the_hook_fails(serve: Serve, connect: Connect) -> None:
    kept: list[memoryview] = []

    class Forgiving(Recorder):
        def on_hook_error(self, conn: Connection | None, hook: str, exc: BaseException) -> None:
            pass

    def read(conn: Connection, view: memoryview) -> None:
        kept.append(view)
        raise LookupError

    server = serve(Forgiving(read=read), zero_copy=True)
    connect(server).sendall(b"hello")
    server.wait_for(lambda: kept and server.stats().buffers_in_use == 0)
    with pytest.raises(ValueError, match="released"):
        bytes(kept[0])


def test_the_hook_may_release_it_itself(serve: Serve, connect: Connect) -> None:
    def read(conn: Connection, view: memoryview) -> None:
        with view:
            conn.send(view)

    server = serve(Recorder(read=read), zero_copy=True)
    client = connect(server)
    for _ in range(3):
        assert ask(client, b"hello") == b"hello"
    server.wait_for(lambda: server.stats().buffers_in_use == 0)


def _slice(view: memoryview) -> Any:
    return view[2:]


def _nested(view: memoryview) -> Any:
    return memoryview(view)


def _cast(view: memoryview) -> Any:
    return view.cast("c")


def _numpy(view: memoryview) -> Any:
    return pytest.importorskip("numpy").frombuffer(view, dtype="uint8")


@pytest.mark.parametrize("keep", [_slice, _nested, _cast, _numpy])
def test_what_still_exports_the_view_keeps_its_bytes(
    serve: Serve, connect: Connect, keep: Any
) -> None:
    kept: list[tuple[Any, bytes]] = []

    def read(conn: Connection, view: memoryview) -> None:
        if len(kept) < 5:
            kept.append((keep(view), bytes(view)))
        conn.send(view)

    if keep is _numpy:
        pytest.importorskip("numpy")
    server = serve(Recorder(read=read), zero_copy=True, max_free_buffers=4, buffer_size=4096)
    client = connect(server)
    messages = [pattern(1000, seed) for seed in range(5)]
    for message in messages:
        assert ask(client, message) == message
    # Much traffic goes through the other buffers; these must not be among them.
    data = pattern(200_000, 99)
    for _ in range(10):
        sender = threading.Thread(target=client.sendall, args=(data,))
        sender.start()
        assert recv_exact(client, len(data)) == data
        sender.join()
    for item, original in kept:
        assert bytes(item) == (original[2:] if keep is _slice else original)
    # A back-end may put several receives into one buffer.
    assert 1 <= server.stats().buffers_in_use <= 5
    del item
    kept.clear()
    gc.collect()
    server.wait_for(lambda: server.stats().buffers_in_use == 0)


def test_a_kept_buffer_may_be_let_go_on_any_thread_and_after_shutdown(
    serve: Serve, connect: Connect
) -> None:
    kept: list[Any] = []
    server = serve(
        Recorder(read=lambda conn, view: kept.append(view[:])), zero_copy=True, buffer_size=512
    )
    client = connect(server)
    data = pattern(20_000)
    client.sendall(data)
    server.wait_for(lambda: sum(map(len, kept)) == len(data))
    half = len(kept) // 2
    in_threads(4, lambda index: [kept[i].release() for i in range(index, half, 4)])
    client.close()
    server.wait_count("closing")
    server.shutdown()
    assert b"".join(map(bytes, kept[half:])) == data[-sum(map(len, kept[half:])) :]
    kept.clear()
    gc.collect()


def test_kept_buffers_outlive_the_server(backend: str, connect: Connect) -> None:
    kept: list[Any] = []
    server = Recorder(read=lambda conn, view: kept.append(view[:]))
    server.start(port=0, backend=backend, zero_copy=True)  # type: ignore[arg-type]
    client = connect(server)
    client.sendall(b"hello")
    server.wait_for(lambda: kept)
    server.shutdown(0.1)
    server.events.clear()
    del server
    gc.collect()
    assert bytes(kept[0]) == b"hello"
    kept.clear()
    gc.collect()


def test_many_kept_buffers_do_not_stop_the_server(serve: Serve, connect: Connect) -> None:
    """More than the pool keeps: the pool is a cache, no limit."""
    kept: list[Any] = []

    def read(conn: Connection, view: memoryview) -> None:
        kept.append(view[:])
        conn.send(view)

    server = serve(Recorder(read=read), zero_copy=True, max_free_buffers=2, buffer_size=512)
    client = connect(server)
    for number in range(300):
        message = b"%06d" % number
        assert ask(client, message) == message
    assert b"".join(map(bytes, kept)) == b"".join(b"%06d" % number for number in range(300))
    kept.clear()
    gc.collect()
    server.wait_for(lambda: server.stats().buffers_in_use == 0)


@pytest.mark.parametrize("workers", [1, 3])
def test_an_echo_of_views(serve: Serve, connect: Connect, workers: int) -> None:
    server = serve(
        Recorder(read=lambda conn, view: conn.send(view)), zero_copy=True, workers=workers
    )

    def run(index: int) -> None:
        client = connect(server)
        data = pattern(2 << 20, index)
        sender = threading.Thread(target=client.sendall, args=(data,))
        sender.start()
        answer = recv_exact(client, len(data))
        sender.join()
        assert hashlib.sha256(answer).digest() == hashlib.sha256(data).digest()

    in_threads(3, run)
    server.wait_for(lambda: server.stats().buffers_in_use == 0)
