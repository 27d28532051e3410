"""The hooks: when each is called, with what, and on which thread."""

from __future__ import annotations

import threading
from collections.abc import Callable

from support import (
    DEADLINE,
    Connect,
    Event,
    Recorder,
    Serve,
    ask,
    echo_back,
    in_threads,
    pattern,
    recv_to_end,
    reset,
    saw_reset,
)

from iocp_bind import CloseReason, Connection


def test_one_connection_gets_its_hooks_in_order(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=echo_back))
    client = connect(server)
    conn = server.wait_connection()
    for number, message in enumerate((b"one", b"two"), start=1):
        assert ask(client, message) == message
        server.wait_count("write", number)
    client.close()
    assert server.wait_closed(conn) is CloseReason.PEER_CLOSED
    assert server.hooks_of(conn) == ["established", "read", "write", "read", "write", "closing"]
    assert [e.value for e in server.of("read")] == [b"one", b"two"]
    assert [e.value for e in server.of("write")] == [3, 3]


def test_every_hook_gets_the_same_connection(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=echo_back))
    client = connect(server)
    ask(client, b"hello")
    reset(client)
    server.wait_count("closing")
    assert len({id(event.conn) for event in server.events}) == 1


def test_a_reset_is_an_error_then_closing(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder())
    client = connect(server)
    conn = server.wait_connection()
    client.sendall(b"last words")
    server.wait_for(lambda: server.received(conn) == b"last words")
    reset(client)
    assert server.wait_closed(conn) is CloseReason.ERROR
    assert server.hooks_of(conn)[-2:] == ["error", "closing"]
    error = server.of("error")[0].value
    assert isinstance(error, ConnectionResetError)
    assert error.errno
    assert error.strerror


def test_an_end_of_stream_is_no_error(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder())
    connect(server).close()
    assert server.wait_count("closing")[0].value is CloseReason.PEER_CLOSED
    assert server.of("error") == []


def test_the_grammar_holds_for_many_connections_that_end_in_every_way(
    serve: Serve, connect: Connect
) -> None:
    def read(conn: Connection, data: bytes) -> None:
        conn.send(data)
        if data == b"close":
            conn.close()
        elif data == b"abort":
            conn.abort()

    server = serve(Recorder(read=read), workers=3)

    def run(index: int) -> None:
        for turn in range(25):
            client = connect(server)
            kind = (index + turn) % 5
            if kind == 0:
                ask(client, b"hello")
                client.close()
            elif kind == 1:
                client.sendall(b"close")
                recv_to_end(client)
                client.close()
            elif kind == 2:
                client.sendall(b"abort")
                saw_reset(client)
                client.close()
            elif kind == 3:
                client.sendall(b"bye")
                reset(client)
            else:
                client.close()

    in_threads(4, run)
    server.wait_for(
        lambda: (
            len(server.of("closing")) == len(server.of("established"))
            and server.connection_count == 0
        )
    )
    server.check_grammar()
    # The reset of a client may overtake its being accepted; nothing else can keep it from us.
    assert 80 <= len(server.of("established")) <= 100
    assert {CloseReason.LOCAL_CLOSE, CloseReason.LOCAL_ABORT, CloseReason.PEER_CLOSED} <= set(
        server.reasons()
    )


def test_established_on_first_data_comes_with_the_first_data(
    serve: Serve, connect: Connect
) -> None:
    server = serve(Recorder(read=echo_back), established_on="first_data")
    silent = connect(server)
    client = connect(server)
    assert ask(client, b"first") == b"first"
    assert [event.hook for event in server.events[:2]] == ["established", "read"]
    conn = server.events[0].conn
    assert conn.remote_address == client.getsockname()
    client.close()
    server.wait_closed(conn)
    silent.close()
    server.wait_for(lambda: server.stats().connections == 0)
    assert len(server.of("established")) == len(server.of("closing")) == 1


def test_a_closing_connection_no_longer_counts(serve: Serve, connect: Connect) -> None:
    seen: list[tuple[int, list[Connection], bool]] = []

    class Counter(Recorder):
        def on_connection_closing(self, conn: Connection, reason: CloseReason) -> None:
            seen.append((self.connection_count, self.connections(), conn.is_open))
            super().on_connection_closing(conn, reason)

    server = serve(Counter())
    client = connect(server)
    conn = server.wait_connection()
    assert server.connection_count == 1
    assert server.connections() == [conn]
    assert server.connections()[0] is conn
    client.close()
    server.wait_closed(conn)
    assert seen == [(0, [], False)]


# ---- Threads.


def test_hooks_run_on_one_worker_thread_by_default(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=echo_back), workers=1)
    for _ in range(5):
        ask(connect(server), b"x")
    server.wait_count("write", 5)
    threads = {event.thread for event in server.events}
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_hooks_run_on_no_more_threads_than_workers(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=echo_back), workers=3)
    clients = [connect(server) for _ in range(30)]
    in_threads(3, lambda index: [ask(c, pattern(100)) for c in clients[index::3]])
    server.wait_count("write", 30)
    assert 1 <= len({event.thread for event in server.events}) <= 3


def test_hooks_of_one_connection_never_overlap(serve: Serve, connect: Connect) -> None:
    inside: dict[int, str] = {}
    overlaps: list[tuple[str, str]] = []
    pause = threading.Event()

    def enter(conn: Connection, hook: str) -> None:
        if conn.id in inside:
            overlaps.append((inside[conn.id], hook))
        inside[conn.id] = hook
        pause.wait(0.0005)  # gives the GIL away in the middle of the hook
        inside.pop(conn.id, None)

    def read(conn: Connection, data: bytes) -> None:
        enter(conn, "read")
        conn.send(data)

    server = serve(
        Recorder(
            established=lambda conn: enter(conn, "established"),
            read=read,
            write=lambda conn, _: enter(conn, "write"),
            closing=lambda conn, _: enter(conn, "closing"),
        ),
        workers=4,
        buffer_size=512,
    )
    data = pattern(20_000)

    def run(index: int) -> None:
        client = connect(server)
        for _ in range(3):
            assert ask(client, data) == data
        client.close()

    in_threads(4, run)
    server.wait_count("closing", 4)
    assert overlaps == []
    server.check_grammar()


def _wait_for_another_worker() -> tuple[Callable[[], None], list[bool]]:
    """Return a function that waits, on its first thread, until it is called on a second one."""
    threads: set[int] = set()
    two = threading.Event()
    waited: list[bool] = []

    def meet() -> None:
        threads.add(threading.get_ident())
        if len(threads) > 1:
            two.set()
        elif not waited:
            waited.append(two.wait(DEADLINE))

    return meet, waited


def test_hooks_of_different_connections_run_in_parallel(serve: Serve, connect: Connect) -> None:
    """One hook waits for another: only possible with two workers, and no lock around hooks."""
    meet, waited = _wait_for_another_worker()
    server = serve(Recorder(read=lambda conn, data: meet()), workers=4)
    # Who is dealt to which worker is the server's choice; not all go to one.
    clients = [connect(server) for _ in range(64)]
    server.wait_count("established", 64)
    for client in clients:
        client.sendall(b"x")
    server.wait_count("read", 64)
    assert waited == [True]


def test_a_closing_hook_may_wait_for_another(serve: Serve, connect: Connect) -> None:
    """D18: the original held one lock for all closing and error hooks."""
    meet, waited = _wait_for_another_worker()
    server = serve(Recorder(closing=lambda conn, reason: meet()), workers=4)
    clients = [connect(server) for _ in range(64)]
    server.wait_count("established", 64)
    for client in clients:
        client.close()
    server.wait_count("closing", 64)
    server.wait_for(lambda: waited)
    assert waited == [True]


def test_a_hook_may_call_everything(serve: Serve, connect: Connect) -> None:
    seen: dict[str, object] = {}

    class Curious(Recorder):
        def on_read_completed(self, conn: Connection, data: bytes) -> None:
            seen["stats"] = self.stats().reads
            seen["connections"] = conn in self.connections()
            seen["count"] = self.connection_count
            seen["address"] = self.address
            seen["backend"] = self.backend
            seen["running"] = self.running
            seen["broadcast"] = self.broadcast(b"to all")
            seen["hash"] = hash(conn)
            try:
                self.start(port=0)
            except RuntimeError as error:
                seen["start"] = str(error)
            self.close_connection(conn)
            self.close_all_connections()
            super().on_read_completed(conn, data)

    server = serve(Curious())
    client = connect(server)
    client.sendall(b"x")
    assert recv_to_end(client) == b"to all"
    client.close()
    server.wait_count("closing")
    assert seen.pop("start")
    assert isinstance(seen.pop("hash"), int)
    assert seen == {
        "stats": 1,
        "connections": True,
        "count": 1,
        "address": server.address,
        "backend": server.backend,
        "running": True,
        "broadcast": 1,
    }


def test_events_are_recorded_as_events(serve: Serve, connect: Connect) -> None:
    """The recorder itself: a test that waits for nothing would prove nothing."""
    server = serve(Recorder())
    client = connect(server)
    event = server.wait_count("established")[0]
    assert isinstance(event, Event)
    assert client.getsockname() == event.conn.remote_address
    assert client.getpeername() == event.conn.local_address == server.address
