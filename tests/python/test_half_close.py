"""A client has finished sending: the hook, the answer, the end."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
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
    is_refused,
    open_client,
    pattern,
    recv_exact,
    recv_to_end,
    reset,
    saw_end,
    saw_reset,
    wait_until,
)

import iocp_bind
from iocp_bind import CloseReason, Connection


class HalfCloser(Recorder):
    """A `Recorder` that hears when a client has finished sending, and keeps it open then."""

    def __init__(
        self, *, end_of_stream: Callable[[Connection], object] | None = None, **hooks: Any
    ) -> None:
        super().__init__(**hooks)
        self._end_of_stream = end_of_stream

    def on_end_of_stream(self, conn: Connection) -> None:
        self._record("end_of_stream", conn, None)
        if self._end_of_stream is not None:
            self._end_of_stream(conn)

    def check_ends(self) -> None:
        """Behind the end come no reads and no other end."""
        self.check_grammar()
        for conn in {event.conn for event in self.events}:
            hooks = self.hooks_of(conn)
            assert hooks.count("end_of_stream") <= 1
            if "end_of_stream" in hooks:
                assert "read" not in hooks[hooks.index("end_of_stream") :]


def _half_closed(server: HalfCloser, client: socket.socket, request: bytes = b"") -> Connection:
    """Let `client` send all of `request` and end its stream; return its connection."""
    client.sendall(request)
    client.shutdown(socket.SHUT_WR)
    return server.wait_count("end_of_stream")[-1].conn


def _answer_and_close(conn: Connection) -> None:
    conn.send(b"%d bytes" % conn.bytes_received)
    conn.close()


def test_the_hook_answers_what_it_has_had_in_full(serve: Serve, connect: Connect) -> None:
    server = serve(HalfCloser(end_of_stream=_answer_and_close))
    client = connect(server)
    request = pattern(1_000_000)
    conn = _half_closed(server, client, request)
    assert recv_to_end(client) == b"1000000 bytes"
    assert server.wait_closed(conn) is CloseReason.LOCAL_CLOSE
    assert server.received(conn) == request
    assert server.hooks_of(conn)[-3:] == ["end_of_stream", "write", "closing"]
    server.check_ends()


def test_another_thread_answers_later(serve: Serve, connect: Connect) -> None:
    server = serve(HalfCloser())
    client = connect(server)
    conn = _half_closed(server, client, b"question")
    # Another client's round trip: time in which a mistake would have shown.
    other = connect(server)
    other.close()
    server.wait_count("end_of_stream", 2)
    assert conn.is_open
    for _ in range(10):
        assert conn.send(b"part ")
        assert recv_exact(client, 5) == b"part "
    conn.close()
    assert not conn.send(b"x")
    assert recv_to_end(client) == b""
    assert server.wait_closed(conn) is CloseReason.LOCAL_CLOSE


def test_a_large_answer_arrives_whole_and_then_the_end(serve: Serve, connect: Connect) -> None:
    """Several pieces are under way at any time: the backlog stays above the high mark."""
    size = 100_000
    answer = pattern(60 * size)
    pieces = [answer[at : at + size] for at in range(0, len(answer), size)]

    def send_next(conn: Connection, _: int = 0) -> None:
        if pieces:
            assert conn.send(pieces.pop(0))
            if not pieces:
                conn.close()

    def begin(conn: Connection) -> None:
        for _ in range(4):
            send_next(conn)

    server = serve(HalfCloser(end_of_stream=begin, write=send_next))
    client = connect(server)
    conn = _half_closed(server, client, pattern(300_000, 1))
    assert recv_to_end(client) == answer
    assert server.wait_closed(conn) is CloseReason.LOCAL_CLOSE
    assert server.hooks_of(conn).count("write") == 60
    server.check_ends()


def test_without_the_hook_the_connection_closes(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=lambda conn, data: conn.send(b"answer")))
    client = connect(server)
    client.sendall(b"x")
    client.shutdown(socket.SHUT_WR)
    assert recv_to_end(client) == b"answer"
    assert server.wait_closed(server.wait_connection()) is CloseReason.PEER_CLOSED


def test_abort_resets(serve: Serve, connect: Connect) -> None:
    server = serve(HalfCloser(end_of_stream=lambda conn: conn.abort()))
    client = connect(server)
    conn = _half_closed(server, client, b"x")
    assert saw_reset(client)
    assert server.wait_closed(conn) is CloseReason.LOCAL_ABORT


def test_the_hook_waits_while_reading_is_paused(serve: Serve, connect: Connect) -> None:
    first = threading.Event()

    def pause_once(conn: Connection, data: bytes) -> None:
        if not first.is_set():
            conn.pause_reading()
            first.set()

    server = serve(HalfCloser(read=pause_once), buffer_size=4096)
    client = connect(server)
    request = pattern(50_000)
    client.sendall(request)
    client.shutdown(socket.SHUT_WR)
    assert first.wait(DEADLINE)
    conn = server.wait_connection()
    other = connect(server)
    other.shutdown(socket.SHUT_WR)
    assert [event.conn for event in server.wait_count("end_of_stream")] != [conn]
    conn.resume_reading()
    assert server.wait_count("end_of_stream", 2)[-1].conn is conn
    assert server.received(conn) == request
    assert conn.is_open
    server.shutdown(0.5)
    server.check_ends()


def test_the_hook_waits_for_data_that_flow_control_has_deferred(
    serve: Serve, connect: Connect
) -> None:
    answer = pattern(30_000_000)

    def answer_once(conn: Connection, data: bytes) -> None:
        if conn.data is None:
            conn.data = "answered"
            conn.send(answer)

    server = serve(HalfCloser(read=answer_once, end_of_stream=_answer_and_close))
    client = connect(server)
    client.sendall(b"first")
    server.wait_count("read")
    client.sendall(b"second")
    client.shutdown(socket.SHUT_WR)
    assert recv_to_end(client) == answer + b"11 bytes"
    server.wait_count("closing")
    assert server.received(server.wait_connection()) == b"firstsecond"
    server.check_ends()


def test_a_connection_that_breaks_has_no_end_of_stream(serve: Serve, connect: Connect) -> None:
    server = serve(HalfCloser(read=echo_back))
    client = connect(server)
    ask(client, b"x")
    reset(client)
    assert server.wait_closed(server.wait_connection()) is CloseReason.ERROR
    assert server.of("end_of_stream") == []


def test_a_client_that_was_never_reported_has_none(serve: Serve, connect: Connect) -> None:
    server = serve(HalfCloser(), established_on="first_data")
    client = connect(server)
    client.shutdown(socket.SHUT_WR)
    assert recv_to_end(client) == b""
    wait_until(lambda: server.connection_count == 0, "the end of the connection")
    assert server.events == []


def test_a_client_that_sent_nothing_has_one(serve: Serve, connect: Connect) -> None:
    server = serve(HalfCloser(end_of_stream=_answer_and_close))
    client = connect(server)
    conn = _half_closed(server, client)
    assert recv_to_end(client) == b"0 bytes"
    assert server.wait_closed(conn) is CloseReason.LOCAL_CLOSE


def test_a_connection_that_was_closed_before_has_none(serve: Serve, connect: Connect) -> None:
    server = serve(HalfCloser(read=lambda conn, data: conn.close()))
    client = connect(server)
    client.sendall(b"x")
    assert saw_end(client)
    client.shutdown(socket.SHUT_WR)
    assert server.wait_closed(server.wait_connection()) is CloseReason.LOCAL_CLOSE
    assert server.of("end_of_stream") == []


def _fail(conn: Connection) -> None:
    conn.send(b"half an answer")
    raise ZeroDivisionError("by intention")


def test_an_exception_in_the_hook_ends_the_connection(
    serve: Serve, connect: Connect, logs: Logs
) -> None:
    server = serve(HalfCloser(end_of_stream=_fail))
    client = connect(server)
    conn = _half_closed(server, client)
    assert saw_reset(client)
    assert server.wait_closed(conn) is CloseReason.HOOK_ERROR
    (record,) = logs.expect()
    assert record.getMessage().startswith("on_end_of_stream of <")


def test_an_exception_that_is_forgiven_ends_it_in_order(serve: Serve, connect: Connect) -> None:
    class Forgiving(HalfCloser):
        def on_hook_error(self, conn: Connection | None, hook: str, exc: BaseException) -> None:
            assert conn is not None
            self._record("hook_error", conn, (hook, type(exc)))

    server = serve(Forgiving(end_of_stream=_fail))
    client = connect(server)
    conn = _half_closed(server, client)
    assert recv_to_end(client) == b"half an answer"
    assert server.wait_closed(conn) is CloseReason.PEER_CLOSED
    assert [e.value for e in server.of("hook_error")] == [("on_end_of_stream", ZeroDivisionError)]


def test_idle_timeout_goes_on(serve: Serve, connect: Connect) -> None:
    server = serve(HalfCloser(), idle_timeout=0.2)
    client = connect(server)
    conn = _half_closed(server, client)
    assert saw_end(client)
    assert server.wait_closed(conn) is CloseReason.IDLE_TIMEOUT


def test_write_timeout_goes_on(serve: Serve, connect: Connect) -> None:
    much = bytes(50_000_000)
    server = serve(HalfCloser(end_of_stream=lambda conn: conn.send(much)), write_timeout=0.2)
    client = connect(server)
    conn = _half_closed(server, client)
    assert server.wait_closed(conn) is CloseReason.WRITE_TIMEOUT


def test_first_data_timeout_is_over_with_the_end(serve: Serve, connect: Connect) -> None:
    server = serve(HalfCloser(), first_data_timeout=0.2)
    listener = connect(server)
    conn = _half_closed(server, listener)
    # This one is younger, and its time is up.
    assert saw_end(connect(server))
    server.wait_count("closing")
    assert server.reasons() == [CloseReason.FIRST_DATA_TIMEOUT]
    assert conn.send(b"news")
    conn.close()
    assert recv_to_end(listener) == b"news"


def test_a_client_that_resets_behind_its_end_is_noticed_while_sending(
    serve: Serve, connect: Connect
) -> None:
    server = serve(HalfCloser())
    client = connect(server)
    conn = _half_closed(server, client, b"x")
    reset(client)
    wait_until(lambda: not conn.send(b"y"), "the reset")
    assert server.wait_closed(conn) is CloseReason.ERROR
    assert isinstance(server.of("error")[0].value, ConnectionError)
    server.check_ends()


def test_shutdown_closes_them_in_time(serve: Serve, connect: Connect) -> None:
    much = bytes(50_000_000)
    sent = threading.Event()

    def send_much(conn: Connection) -> None:
        if conn.bytes_received:
            assert conn.send(much)
            sent.set()

    server = serve(HalfCloser(end_of_stream=send_much), workers=2)
    quiet, stuck = connect(server), connect(server)
    _half_closed(server, quiet)
    stuck.sendall(b"x")
    stuck.shutdown(socket.SHUT_WR)
    server.wait_count("end_of_stream", 2)
    assert sent.wait(DEADLINE)
    began = time.monotonic()
    server.shutdown(1)
    assert time.monotonic() - began < 3
    assert server.reasons() == [CloseReason.SHUTDOWN] * 2
    assert saw_end(quiet)


def test_they_count_as_connections(serve: Serve, connect: Connect, logs: Logs) -> None:
    server = serve(HalfCloser(), max_connections=1)
    client = connect(server)
    conn = _half_closed(server, client)
    assert server.connection_count == 1
    assert server.connections() == [conn]
    assert is_refused(server)
    logs.expect()  # that it refuses
    conn.close()
    server.wait_closed(conn)
    connect(server)
    server.wait_connection(1)


def test_a_broadcast_reaches_them(serve: Serve, connect: Connect) -> None:
    server = serve(HalfCloser())
    client = connect(server)
    conn = _half_closed(server, client)
    assert server.broadcast(b"news") == 1
    conn.close()
    assert recv_to_end(client) == b"news"


def test_many_clients_are_answered_by_another_thread(serve: Serve) -> None:
    server = serve(HalfCloser(), workers=3)
    clients = 40

    def answer() -> None:
        for number in range(clients):
            _answer_and_close(server.wait_count("end_of_stream", number + 1)[number].conn)

    def upload(index: int) -> None:
        for number in range(index, clients, 5):
            with open_client(server) as client:
                request = pattern(1 + number * 7919 % 150_000, number)
                client.sendall(request)
                client.shutdown(socket.SHUT_WR)
                assert recv_to_end(client) == b"%d bytes" % len(request)

    in_threads(6, lambda index: answer() if index == 5 else upload(index))
    server.wait_count("closing", clients)
    assert set(server.reasons()) == {CloseReason.LOCAL_CLOSE}
    server.check_ends()


@pytest.mark.parametrize("name", ["on_end", "on_eof", "on_eof_received", "on_end_of_streams"])
def test_what_others_call_it_is_refused_with_its_name(backend: str, name: str) -> None:
    server: Any = type("Mine", (iocp_bind.Server,), {name: lambda self, conn: None})()
    with pytest.raises(TypeError, match=f"{name} is not a hook: did you mean on_end_of_stream?"):
        server.start(port=0, backend=backend)
    assert not server.running
