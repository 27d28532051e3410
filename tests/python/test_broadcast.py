"""`broadcast`: who gets it, what follows for those that cannot take it, and how it is counted."""

from __future__ import annotations

import re
import socket
import textwrap
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import (
    DEADLINE,
    Connect,
    Logs,
    Recorder,
    Serve,
    ask,
    echo_back,
    in_threads,
    recv_exact,
    run_script,
    saw_reset,
)

import iocp_bind
from iocp_bind import CloseReason, Connection, SendBacklogFull

# More than the systems between a server and a client that does not read hold.
MUCH = bytes(24 << 20)


class Clients:
    """A server, its clients, and the connection of each."""

    def __init__(self, server: Recorder, connect: Connect, count: int) -> None:
        self.server = server
        self.sockets: list[socket.socket] = []
        self.conns: list[Connection] = []
        for index in range(count):
            self.sockets.append(connect(server, receive_buffer=4096))
            self.conns.append(server.wait_connection(index))

    def heard(self, index: int) -> bytes:
        """All that client `index` gets, of a connection that is closed behind it."""
        self.conns[index].close()
        data = bytearray()
        while part := self.sockets[index].recv(1 << 16):
            data += part
        return bytes(data)

    def stop_reading(self, *indices: int) -> list[Connection]:
        """Fill the backlogs of these, which stay full."""
        for index in indices:
            assert self.conns[index].send(MUCH)
            with pytest.raises(SendBacklogFull):
                self.conns[index].send(b"x")
        return [self.conns[index] for index in indices]


AS: dict[str, Callable[[list[Connection]], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "keys of a dict": lambda conns: dict.fromkeys(conns).keys(),
    "generator": lambda conns: (conn for conn in conns),
    "sequence by index": lambda conns: type(
        "Old", (), {"__getitem__": lambda self, index: conns[index], "__len__": lambda self: 2}
    )(),
}


@pytest.mark.parametrize("kind", AS)
def test_to_may_be_any_iterable(serve: Serve, connect: Connect, kind: str) -> None:
    clients = Clients(serve(Recorder()), connect, 4)
    chosen = AS[kind]([clients.conns[1], clients.conns[3]])
    assert clients.server.broadcast(b"some", to=chosen) == 2
    assert [clients.heard(index) for index in range(4)] == [b"", b"some", b"", b"some"]


def test_to_none_is_all_and_to_nobody_is_nobody(serve: Serve, connect: Connect) -> None:
    clients = Clients(serve(Recorder()), connect, 2)
    assert clients.server.broadcast(b"all", to=None) == 2
    assert clients.server.broadcast(b"none", to=[]) == 0
    assert clients.server.broadcast(b"one", exclude=clients.conns[0], to=clients.conns) == 1
    assert [clients.heard(index) for index in range(2)] == [b"all", b"allone"]


def test_each_gets_it_once(serve: Serve, connect: Connect) -> None:
    clients = Clients(serve(Recorder()), connect, 3)
    assert clients.server.broadcast(b"once", to=clients.conns + clients.conns[:2]) == 3
    assert [clients.heard(index) for index in range(3)] == [b"once"] * 3


def test_connections_of_another_server_get_it_too(serve: Serve, connect: Connect) -> None:
    here = Clients(serve(Recorder()), connect, 2)
    there = Clients(serve(Recorder()), connect, 2)
    full = there.stop_reading(1)
    left: list[Connection] = []
    sent = here.server.broadcast(b"x", to=here.conns + there.conns, on_full=left.append)
    assert sent == 3
    assert left == full
    assert here.server.stats().broadcasts_skipped == 0
    assert there.server.stats().broadcasts_skipped == 1
    assert there.heard(0) == b"x"


def test_one_that_is_closing_is_left_out_without_a_word(serve: Serve, connect: Connect) -> None:
    clients = Clients(serve(Recorder()), connect, 3)
    clients.sockets[0].close()
    clients.server.wait_closed(clients.conns[0])
    clients.conns[1].close()
    left: list[Connection] = []
    assert clients.server.broadcast(b"x", to=clients.conns, on_full=left.append) == 1
    assert left == []
    assert clients.server.stats().broadcasts_skipped == 0


def test_skip_leaves_out_full_backlogs_and_counts_them(serve: Serve, connect: Connect) -> None:
    clients = Clients(serve(Recorder()), connect, 4)
    server = clients.server
    stuck = clients.stop_reading(0, 2)
    for _ in range(5):
        assert server.broadcast(b"x" * 500, on_full="skip") == 2
    assert all(conn.is_open for conn in stuck)
    stats = server.stats()
    assert stats.broadcasts_skipped == 10
    assert stats.sends_refused == 2, "a broadcast is no send"
    assert clients.heard(1) == clients.heard(3) == bytes(b"x" * 2500)


def test_close_aborts_those_with_a_full_backlog(serve: Serve, connect: Connect) -> None:
    clients = Clients(serve(Recorder()), connect, 4)
    stuck = clients.stop_reading(0, 2)
    assert clients.server.broadcast(b"x", on_full="close") == 2
    for conn in stuck:
        assert clients.server.wait_closed(conn) is CloseReason.LOCAL_ABORT
        assert saw_reset(clients.sockets[clients.conns.index(conn)])
    assert clients.server.broadcast(b"y", on_full="close") == 2
    assert clients.heard(1) == clients.heard(3) == b"xy"
    assert clients.server.stats().broadcasts_skipped == 2


@pytest.mark.parametrize("where", ["thread", "hook"])
def test_a_function_gets_each_of_them(serve: Serve, connect: Connect, where: str) -> None:
    """In the calling thread, when all others have it; it may use the server."""
    seen: list[tuple[Connection, int, int]] = []
    threads: list[int] = []
    done = threading.Event()

    def on_full(conn: Connection) -> None:
        seen.append((conn, threading.get_ident(), server.broadcast(b"; again")))
        conn.abort()

    def broadcast() -> None:
        threads.append(threading.get_ident())
        assert server.broadcast(b"first", on_full=on_full) == 2
        done.set()

    server = serve(Recorder(read=lambda conn, data: broadcast()))
    clients = Clients(server, connect, 4)
    stuck = clients.stop_reading(0, 2)
    if where == "thread":
        broadcast()
    else:
        clients.sockets[1].sendall(b"go")
    assert done.wait(DEADLINE)
    assert {conn for conn, _, _ in seen} == set(stuck)
    assert {thread for _, thread, _ in seen} == set(threads)
    assert [count for _, _, count in seen] == [2, 2]
    for conn in stuck:
        server.wait_closed(conn)
    assert clients.heard(1) == clients.heard(3) == b"first; again; again"


def test_an_exception_leaves_when_all_are_served(
    serve: Serve, connect: Connect, logs: Logs
) -> None:
    clients = Clients(serve(Recorder()), connect, 5)
    stuck = clients.stop_reading(0, 1, 2)
    served: list[Connection] = []

    def on_full(conn: Connection) -> None:
        served.append(conn)
        if len(served) != 2:
            raise LookupError(len(served))

    with pytest.raises(LookupError, match="1"):
        clients.server.broadcast(b"x", on_full=on_full)
    assert set(served) == set(stuck)
    assert clients.heard(3) == clients.heard(4) == b"x"
    (record,) = logs.expect()
    assert record.exc_info is not None
    assert repr(record.exc_info[1]) == "LookupError(3)"
    assert repr(served[2]) in record.getMessage()


def test_an_interrupt_ends_it_at_once(serve: Serve, connect: Connect) -> None:
    clients = Clients(serve(Recorder()), connect, 3)
    clients.stop_reading(0, 1)
    served: list[Connection] = []

    def on_full(conn: Connection) -> None:
        served.append(conn)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        clients.server.broadcast(b"x", on_full=on_full)
    assert len(served) == 1
    assert clients.heard(2) == b"x"


def _raises(conn: Connection) -> Iterator[Connection]:
    yield conn
    raise LookupError("mine")


async def _later(conn: Connection) -> None: ...


WRONG: list[tuple[Callable[[Connection], dict[str, Any]], type[Exception], str]] = [
    (lambda c: {"to": c}, TypeError, "to must be an iterable of .* list or a set, .* not .*Conn"),
    (lambda c: {"to": 5}, TypeError, "to must be an iterable of .*, not int"),
    (lambda c: {"to": [c, 5]}, TypeError, "every item of to must be .*Connection, not int"),
    (lambda c: {"to": [c, None]}, TypeError, "every item of to must be .*, not NoneType"),
    (lambda c: {"to": "all"}, TypeError, "every item of to must be .*Connection, not str"),
    (lambda c: {"to": _raises(c)}, LookupError, "mine"),
    (lambda c: {"on_full": "drop"}, ValueError, "on_full must be .*'skip', 'close' .*not 'drop'"),
    (lambda c: {"on_full": None}, TypeError, "on_full must be .*, not NoneType"),
    (lambda c: {"on_full": 5}, TypeError, "on_full must be .*, not int"),
    (lambda c: {"on_full": _later}, TypeError, "on_full must be a plain function.*'async'"),
]


def test_wrong_arguments_are_refused_before_anything_is_sent(
    serve: Serve, connect: Connect
) -> None:
    clients = Clients(serve(Recorder()), connect, 1)
    for arguments, kind, words in WRONG:
        with pytest.raises(kind, match=words) as caught:
            clients.server.broadcast(b"x", **arguments(clients.conns[0]))
        assert not re.search("incompatible function|_core", str(caught.value))
    with pytest.raises(TypeError):
        clients.server.broadcast(b"x", None, clients.conns)  # type: ignore[call-arg]
    assert clients.heard(0) == b""


@pytest.mark.parametrize("size", [0, 1, 208, 209, 100_000])
def test_any_length_arrives_whole(serve: Serve, connect: Connect, size: int) -> None:
    clients = Clients(serve(Recorder()), connect, 3)
    data = bytearray(range(256)) * (size // 256 + 1)
    del data[size:]
    sent = bytes(data)
    assert clients.server.broadcast(data) == 3
    data[:] = bytes(size)  # it was copied
    results: dict[int, bytes] = {}
    in_threads(3, lambda index: results.__setitem__(index, clients.heard(index)))
    assert results == dict.fromkeys(range(3), sent)


def test_refused_sends_and_the_backlog_of_all_are_counted(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=echo_back), workers=2)
    clients = Clients(server, connect, 3)
    ask(clients.sockets[0], b"x")
    server.wait_for(lambda: server.stats().send_backlog == 0)
    assert server.stats().sends_refused == 0
    clients.stop_reading(1, 2)
    for _ in range(3):
        with pytest.raises(SendBacklogFull):
            clients.conns[1].writelines([b"x"])
    stats = server.stats()
    assert stats.sends_refused == 5
    assert stats.broadcasts_skipped == 0
    # The system takes some more meanwhile, and nobody adds to it.
    assert 2 * len(MUCH) >= stats.send_backlog
    assert stats.send_backlog >= sum(conn.send_backlog for conn in clients.conns) > len(MUCH)
    clients.conns[1].abort()
    reader = threading.Thread(target=recv_exact, args=(clients.sockets[2], len(MUCH)))
    reader.start()
    server.wait_for(lambda: server.stats().send_backlog == 0)
    reader.join(DEADLINE)
    assert server.stats().sends_refused == 5
    server.shutdown(0.5)
    assert server.stats().sends_refused == 5
    assert server.stats().send_backlog == 0
    serve(server)
    assert server.stats().sends_refused == 0


def test_a_server_that_does_not_run_reaches_others_only(serve: Serve, connect: Connect) -> None:
    clients = Clients(serve(Recorder()), connect, 1)
    idle = iocp_bind.Server()
    assert idle.broadcast(b"x") == 0
    assert idle.broadcast(b"x", to=clients.conns) == 1
    assert clients.heard(0) == b"x"
    clients.server.shutdown(0.5)
    assert clients.server.broadcast(b"x", to=clients.conns, on_full="close") == 0


LETTING_GO = textwrap.dedent(
    """
    import socket
    import sys

    import iocp_bind

    class Server(iocp_bind.Server):
        def on_read_completed(self, conn, data):
            for _ in range(40):
                conn.send(bytes(65536))
            self.broadcast(b"the end")

    with Server() as server:
        server.start(port=0, backend=sys.argv[1], send_backlog_limit=1 << 18)
        with socket.create_connection(server.address) as client:
            client.sendall(b"go")
            left = 40 * 65536 + 7
            while left and (data := client.recv(1 << 16)):
                left -= len(data)
    print("left", left)
    """
)


def test_a_broadcast_in_a_hook_lets_go_of_bytes_with_the_gil(backend: str) -> None:
    """It writes what waits for a client at its limit, and frees what is out. Python checks it."""
    finished = run_script(LETTING_GO, backend)
    assert (finished.stdout, finished.code) == ("left 0\n", 0), finished.stderr
