"""`on_message` and `on_messages`: which is called, when, and how a hook stops them."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
from support import (
    KINDS,
    Connect,
    EachMessage,
    Echo,
    Feeder,
    Lists,
    Logs,
    Messages,
    Quiet,
    Recorder,
    Serve,
    ask,
    recv_exact,
    saw_end,
    saw_reset,
    wait_until,
)

import iocp_bind
from iocp_bind import CloseReason, Connection, Delimiter, FixedSize, Framing, LengthPrefix

LINES = Delimiter(b"\n")


# ---- Where a framing comes from, and what `start` refuses.


class OnClass(EachMessage):
    framing: Framing | None = LINES


def test_the_framing_of_the_class(serve: Serve, connect: Connect) -> None:
    server = serve(OnClass(lambda conn, messages: conn.send_message(messages[0])))
    assert ask(connect(server), b"one\n") == b"one\n"
    assert server.wait_connection().framing is LINES


def test_the_framing_of_the_object(serve: Serve, connect: Connect) -> None:
    server = OnClass(lambda conn, messages: conn.send_message(messages[0]))
    server.framing = FixedSize(3)
    serve(server)
    assert ask(connect(server), b"one") == b"one"
    assert server.wait_connection().framing is server.framing
    assert OnClass.framing is LINES


def test_the_framing_of_start_wins(serve: Serve, connect: Connect) -> None:
    server = OnClass(lambda conn, messages: conn.send_message(messages[0]))
    for framing, text in [
        (FixedSize(2), b"ab"),
        (None, b""),
        (LengthPrefix(1), b"\2ab"),
        (..., b"a\n"),
    ]:
        server.events.clear()
        serve(server, framing=framing)
        client = connect(server)
        conn = server.wait_connection()
        if framing is None:
            client.sendall(b"plain")
            assert server.wait_count("read")[0].value == b"plain"
            assert conn.framing is None
        else:
            assert ask(client, text) == text
            assert conn.framing is (LINES if framing is ... else framing)
        server.shutdown(0.0)


def test_a_property_may_be_the_framing(serve: Serve, connect: Connect) -> None:
    class Computed(EachMessage):
        @property
        def framing(self) -> Framing | None:  # type: ignore[override]
            return LINES

    server = serve(Computed())
    connect(server).sendall(b"one\n")
    assert server.wait_messages(server.wait_connection(), 1) == [b"one"]


class Neither(iocp_bind.Server):
    def on_read_completed(self, conn: Connection, data: bytes) -> None: ...


class Both(iocp_bind.Server):
    def on_message(self, conn: Connection, message: bytes) -> None: ...
    def on_messages(self, conn: Connection, messages: list[bytes]) -> None: ...


class NeitherAndFramed(Neither):
    framing = LINES


class _OnlyMessages(Quiet):
    on_read_completed = iocp_bind.Server.on_read_completed


NOBODY = "Neither has a framing and overrides neither on_message nor on_messages, so nobody would"
WHICH = "Both overrides on_message and on_messages: which of them should be called?"
NO_FRAMING = "framing must be None or a framing, such as iocp_bind.LengthPrefix(4), not"
REFUSED: dict[str, tuple[type[iocp_bind.Server], dict[str, Any], str]] = {
    "neither": (Neither, {"framing": LINES}, NOBODY),
    "neither, class": (NeitherAndFramed, {}, "NeitherAndFramed has a framing and overrides neith"),
    "both": (Both, {"framing": LINES}, WHICH),
    "both, no framing": (Both, {}, WHICH),
    "no framing": (_OnlyMessages, {}, "_OnlyMessages overrides on_message and has no framing"),
    "a number": (EachMessage, {"framing": 4}, f"{NO_FRAMING} int"),
    "a number, no hook": (Neither, {"framing": 4}, f"{NO_FRAMING} int"),
    "a class": (EachMessage, {"framing": LengthPrefix}, f"{NO_FRAMING} type"),
    "a delimiter": (Lists, {"framing": b"\n"}, f"{NO_FRAMING} bytes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_start_refuses(backend: Any, name: str) -> None:
    make, options, sentence = REFUSED[name]
    server = make()
    with pytest.raises(TypeError) as caught:
        server.start(port=0, backend=backend, **options)
    assert sentence in str(caught.value)
    assert not server.running


def test_none_is_allowed_without_a_hook(serve: Serve, connect: Connect) -> None:
    class Framed(Echo):
        framing = LINES

    assert ask(connect(serve(Framed(), framing=None)), b"plain") == b"plain"


BAD_HOOKS: dict[str, Any] = {
    "on_message()": lambda self: None,
    "on_message(conn)": lambda self, conn: None,
    "on_messages(conn, a, b)": lambda self, conn, a, b: None,
}


@pytest.mark.parametrize("name", BAD_HOOKS)
def test_a_hook_with_other_arguments_is_refused(backend: str, name: str) -> None:
    hook = name.partition("(")[0]
    kind = type("Mine", (iocp_bind.Server,), {hook: BAD_HOOKS[name], "framing": LINES})
    one = "message" if hook == "on_message" else "messages"
    with pytest.raises(TypeError, match=rf"{hook} must be callable as {hook}\(conn, {one}\)"):
        kind().start(port=0, backend=backend)


def test_what_nobody_would_get_is_refused(serve: Serve, connect: Connect) -> None:
    """A connection needs a hook for its framing, or for having none."""
    for server, framing, sentence in [
        (serve(Recorder()), LINES, "overrides neither on_message nor on_messages"),
        (serve(_OnlyMessages(), framing=LINES), None, "does not override on_read_completed"),
    ]:
        connect(server)
        conn = server.wait_connection()
        before = conn.framing
        with pytest.raises(TypeError, match=sentence):
            conn.framing = framing
        assert conn.framing is before
        assert conn.is_open


@KINDS
def test_established_on_first_data(serve: Serve, connect: Connect, kind: type[Messages]) -> None:
    server = serve(kind(), framing=LINES, established_on="first_data")
    client = connect(server)
    client.sendall(b"o")  # a part of a message is data
    conn = server.wait_connection()
    client.sendall(b"ne\n")
    server.wait_messages(conn, 1)
    assert server.hooks_of(conn)[0] == "established"
    assert server.messages_of(conn) == [b"one"]


# ---- Counting.


def test_what_is_counted(serve: Serve, connect: Connect) -> None:
    server = serve(Quiet(), framing=LINES)
    client = connect(server)
    conn = server.wait_connection()
    Feeder(client, conn).feed(b"a\nb", b"b\n", b"\n\n", b"rest")
    server.wait_messages(conn, 4)
    stats = server.stats()
    assert (stats.reads, stats.messages, stats.bytes_received) == (4, 4, 11)
    assert stats.hook_calls == len(server.events) == 5
    assert conn.bytes_received == 11


# ---- A hook stops what follows.


def test_pausing_in_on_message(serve: Serve, connect: Connect) -> None:
    """The messages behind wait, of the same receive and of later ones."""
    paused: list[bytes] = []

    def pause(conn: Connection, messages: list[bytes]) -> None:
        conn.pause_reading()
        paused.extend(messages)

    server = serve(EachMessage(pause), framing=LINES)
    client = connect(server)
    conn = server.wait_connection()
    Feeder(client, conn).feed(b"1\n2\n3\n4")
    client.sendall(b"4\n5\n")
    for count in range(1, 6):
        server.wait_for(lambda: len(paused) >= count)  # noqa: B023
        assert len(server.messages_of(conn)) == count
        conn.resume_reading()
    assert server.messages_of(conn) == [b"1", b"2", b"3", b"44", b"5"]


def test_pausing_in_on_messages(serve: Serve, connect: Connect) -> None:
    """It holds behind the list."""
    server = serve(Lists(lambda conn, messages: conn.pause_reading()), framing=LINES)
    client = connect(server)
    conn = server.wait_connection()
    Feeder(client, conn).feed(b"1\n2\n3\n4")
    client.sendall(b"4\n5\n6\n")
    assert server.wait_messages(conn, 3) == [b"1", b"2", b"3"]

    def all_came() -> bool:
        conn.resume_reading()
        return len(server.messages_of(conn)) == 6

    wait_until(all_came, "the other three")
    assert server.messages_of(conn) == [b"1", b"2", b"3", b"44", b"5", b"6"]


@pytest.mark.parametrize("how", ["close", "abort"])
def test_closing_in_on_message(serve: Serve, connect: Connect, how: str) -> None:
    def handle(conn: Connection, messages: list[bytes]) -> None:
        if messages[-1] == b"end":
            getattr(conn, how)()

    server = serve(EachMessage(handle), framing=LINES)
    client = connect(server)
    conn = server.wait_connection()
    client.sendall(b"1\nend\n3\nend\n")
    assert saw_end(client) if how == "close" else saw_reset(client)
    client.close()
    reason = CloseReason.LOCAL_CLOSE if how == "close" else CloseReason.LOCAL_ABORT
    assert server.wait_closed(conn) is reason
    assert server.messages_of(conn) == [b"1", b"end"]


def test_closing_in_on_messages(serve: Serve, connect: Connect) -> None:
    """The list is complete; nothing follows it."""
    server = serve(Lists(lambda conn, messages: conn.close()), framing=LINES)
    client = connect(server)
    conn = server.wait_connection()
    Feeder(client, conn).feed(b"1\n2\n3\n4", b"4\n5\n")
    assert saw_end(client)
    client.close()
    assert server.wait_closed(conn) is CloseReason.LOCAL_CLOSE
    assert server.messages_of(conn) == [b"1", b"2", b"3"]


@KINDS
def test_a_close_with_a_part_of_a_message_is_no_error(
    serve: Serve, connect: Connect, kind: type[Messages]
) -> None:
    server = serve(kind(), framing=LINES)
    client = connect(server)
    conn = server.wait_connection()
    Feeder(client, conn).feed(b"1\nrest")
    conn.close()
    assert saw_end(client)
    client.close()
    assert server.wait_closed(conn) is CloseReason.LOCAL_CLOSE
    assert "error" not in server.hooks_of(conn)


def test_flow_control_counts_messages_that_wait(serve: Serve, connect: Connect) -> None:
    """A client that does not read its answers gets no more of them than the high mark allows."""
    answer = bytes(10_000)
    server = serve(
        EachMessage(lambda conn, messages: conn.send(answer)),
        framing=FixedSize(1),
        write_high_water=50_000,
        write_low_water=10_000,
        send_backlog_limit=1 << 30,
    )
    client = connect(server, receive_buffer=4096)
    conn = server.wait_connection()
    client.sendall(b"x" * 5000)
    received = 0
    highest = 0
    while received < 5000 * len(answer):
        highest = max(highest, conn.send_backlog)
        received += len(client.recv(1 << 20))
    assert highest <= 50_000 + len(answer)
    assert len(server.messages_of(conn)) == 5000


# ---- Exceptions.


class Failing(Recorder):
    """Fails for the message "bad"; records what `on_hook_error` gets."""

    framing = LINES
    forgives = True

    def check(self, messages: list[bytes]) -> None:
        if b"bad" in messages:
            raise LookupError("bad message")

    def on_hook_error(self, conn: Connection | None, hook: str, exc: BaseException) -> None:
        assert conn is not None
        self._record("hook error", conn, (hook, type(exc), str(exc)))
        if not self.forgives:
            super().on_hook_error(conn, hook, exc)


class FailingEach(Failing):
    def on_message(self, conn: Connection, message: bytes) -> None:
        self._record("message", conn, message)
        self.check([message])


class FailingLists(Failing):
    def on_messages(self, conn: Connection, messages: list[bytes]) -> None:
        for message in messages:
            self._record("message", conn, message)
        self.check(messages)


@pytest.mark.parametrize("kind", [FailingEach, FailingLists])
@pytest.mark.parametrize("zero_copy", [False, True])
def test_an_exception_goes_to_on_hook_error(
    serve: Serve, connect: Connect, kind: type[Failing], zero_copy: bool
) -> None:
    server = serve(kind(), zero_copy=zero_copy)
    client = connect(server)
    conn = server.wait_connection()
    feeder = Feeder(client, conn)
    feeder.feed(b"1\nbad\n3\n", b"4\n")
    server.wait_for(lambda: server.hooks_of(conn).count("message") == 4)
    (error,) = server.of("hook error")
    name = "on_message" if kind is FailingEach else "on_messages"
    assert error.value == (name, LookupError, "bad message")
    assert conn.is_open
    assert server.stats().hook_errors == 1


@pytest.mark.parametrize("kind", [FailingEach, FailingLists])
def test_an_exception_ends_the_connection_by_default(
    serve: Serve, connect: Connect, logs: Logs, kind: type[Failing]
) -> None:
    server = kind()
    server.forgives = False
    serve(server)
    client = connect(server)
    conn = server.wait_connection()
    Feeder(client, conn).feed(b"1\nbad\n3\n")
    assert server.wait_closed(conn) is CloseReason.HOOK_ERROR
    assert saw_reset(client)
    got = [event.value for event in server.of("message")]
    assert got == [b"1", b"bad"] if kind is FailingEach else [b"1", b"bad", b"3"]
    (record,) = logs.expect()
    assert record.levelno == logging.ERROR
    assert "on_message" in record.getMessage()


# ---- Callbacks and other threads.


@KINDS
def test_callbacks_run_between_messages_in_their_order(
    serve: Serve, connect: Connect, kind: type[Messages]
) -> None:
    order: list[object] = []

    def handle(conn: Connection, messages: list[bytes]) -> None:
        order.extend(messages)
        conn.call_soon(order.append, "soon")

    server = serve(kind(handle), framing=LINES)
    client = connect(server)
    conn = server.wait_connection()
    Feeder(client, conn).feed(b"1\n2\n", b"3\n")
    each = kind is EachMessage
    server.wait_for(lambda: len(order) == (6 if each else 5))
    assert order == (
        [b"1", "soon", b"2", "soon", b"3", "soon"] if each else [b"1", b"2", "soon", b"3", "soon"]
    )


def test_hooks_of_one_connection_never_overlap(serve: Serve, connect: Connect) -> None:
    inside: list[Connection] = []
    wrong: list[Connection] = []

    def handle(conn: Connection, messages: list[bytes]) -> None:
        if conn in inside:
            wrong.append(conn)
        inside.append(conn)
        threading.Event().wait(0.0005)  # gives the GIL away
        inside.remove(conn)
        conn.send_messages(messages)

    server = serve(Lists(handle), framing=LINES, workers=4)
    clients = [connect(server) for _ in range(6)]
    stream = b"x\n" * 50
    for _ in range(20):
        for client in clients:
            client.sendall(stream)
    for client in clients:
        assert recv_exact(client, len(stream) * 20) == stream * 20
    assert wrong == []
