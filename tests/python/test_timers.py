"""call_soon, call_later, call_every: of a connection, and of the server."""

from __future__ import annotations

import logging
import socket
import threading
import time
from typing import Any

import pytest
from support import (
    Connect,
    Logs,
    Recorder,
    Serve,
    ask,
    in_threads,
    recv_to_end,
    saw_reset,
    wait_until,
)

from iocp_bind import CloseReason, Connection, TimerHandle

# A stalled machine must not fail a test: what comes too late is late by seconds here.
LATE = 5.0


# ---- When.


def test_a_timer_is_never_early(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder())
    connect(server)
    conn = server.wait_connection()
    early: list[float] = []
    done = threading.Semaphore(0)

    def check(deadline: float) -> None:
        now = time.monotonic()
        if not deadline <= now < deadline + LATE:
            early.append(now - deadline)
        done.release()

    delays = [0, -1, 1e-9, 0.001, 0.0015, 0.01, 0.0999, 0.25]
    for target in (conn, server):
        for delay in delays:
            target.call_later(delay, check, time.monotonic() + max(delay, 0))
    for _ in range(2 * len(delays)):
        assert done.acquire(timeout=LATE)
    assert not early


def test_timers_go_off_in_the_order_of_their_deadlines(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder())
    connect(server)
    conn = server.wait_connection()
    order: list[str] = []
    end = threading.Event()

    def schedule() -> None:
        # All are due when this callback returns.
        conn.call_later(0.004, order.append, "d")
        conn.call_later(0.0001, order.append, "a")
        conn.call_later(0.0003, order.append, "c")
        conn.call_later(0.0002, order.append, "b")
        conn.call_soon(order.append, "soon")
        conn.call_later(0.005, end.set)
        time.sleep(0.01)

    conn.call_soon(schedule)
    assert end.wait(LATE)
    assert order == ["soon", "a", "b", "c", "d"]


def test_call_every_runs_until_it_is_cancelled(serve: Serve, connect: Connect) -> None:
    """The nth time comes after n intervals or more; a callback may cancel itself."""
    server = serve(Recorder())
    connect(server)
    conn = server.wait_connection()
    for target in (conn, server):
        handles: list[TimerHandle] = []
        times: list[float] = []
        end = threading.Event()

        def tick(
            handles: list[TimerHandle] = handles,
            times: list[float] = times,
            end: threading.Event = end,
        ) -> None:
            times.append(time.monotonic())
            time.sleep(0.002)
            if len(times) == 100:
                handles[0].cancel()
                end.set()

        began = time.monotonic()
        handles.append(target.call_every(0.01, tick))
        assert end.wait(1.0 + LATE)
        # Those that a machine which was busy has missed are left out.
        assert 1.0 <= times[-1] - began < 1.0 + LATE
        assert all(at >= began + 0.01 * (n + 1) for n, at in enumerate(times)), "early"
        assert handles[0].cancelled()


def test_call_every_leaves_out_what_it_missed(serve: Serve) -> None:
    server = serve(Recorder())
    times: list[float] = []
    end = threading.Event()

    def tick() -> None:
        times.append(time.monotonic())
        if len(times) == 1:
            time.sleep(0.35)
        if len(times) == 3:
            handle.cancel()
            end.set()

    began = time.monotonic()
    handle = server.call_every(0.1, tick)
    assert end.wait(LATE)
    # Due at 0.1, and then not before 0.5.
    assert times[1] - began >= 0.5
    assert times[2] - began >= 0.6


# ---- In which order, and where.


def test_call_soon_comes_before_the_next_hook(serve: Serve, connect: Connect) -> None:
    """Bytes that a hook, a callback and the next hook send arrive in that order."""
    count = 500

    def read(conn: Connection, data: bytes) -> None:
        conn.send(b"(")
        conn.call_soon(conn.send, b"1")
        conn.call_soon(conn.send, b"2)")

    server = serve(Recorder(read=read), buffer_size=512)
    client = connect(server)
    client.sendall(b"x" * 512 * count)
    client.shutdown(socket.SHUT_WR)
    assert recv_to_end(client) == b"(12)" * len(server.of("read"))
    assert len(server.of("read")) >= count


def test_callbacks_run_on_the_worker_and_never_overlap_hooks(
    serve: Serve, connect: Connect
) -> None:
    busy = threading.Lock()
    overlaps: list[str] = []
    threads: set[int] = set()
    calls = 0

    def alone(what: str) -> None:
        nonlocal calls
        if not busy.acquire(blocking=False):
            overlaps.append(what)
            return
        threads.add(threading.get_ident())
        calls += 1
        time.sleep(0)  # others may run
        busy.release()

    server = serve(Recorder(read=lambda conn, data: alone("read")), workers=3)
    client = connect(server)
    conn = server.wait_connection()
    repeated = conn.call_every(0.001, alone, "every")

    def schedule(index: int) -> None:
        for n in range(200):
            conn.call_soon(alone, "soon")
            conn.call_later(0.0001 * n, alone, "later")
            if index == 0:
                client.sendall(b"x")

    in_threads(3, schedule)
    server.wait_for(lambda: len(server.received(conn)) == 200 and calls + len(overlaps) > 1400)
    repeated.cancel()
    assert not overlaps
    # On Windows whichever worker gets a result runs what follows, one at a time.
    if server.backend != "iocp":
        assert threads == {server.of("read")[0].thread}
    assert threading.get_ident() not in threads


def test_call_soon_runs_in_the_order_of_the_calls(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(), workers=2)
    connect(server)
    conn = server.wait_connection()
    for target in (conn, server):
        order: list[int] = []
        for n in range(5000):
            target.call_soon(order.append, n)
        wait_until(lambda order=order: len(order) == 5000, "all callbacks")  # type: ignore[misc]
        assert order == list(range(5000))


def test_call_soon_wakes_a_worker_that_sleeps(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(), first_data_timeout=None)
    connect(server)
    conn = server.wait_connection()
    for target in (conn, server):
        for _ in range(100):
            called = threading.Event()
            target.call_soon(called.set)
            assert called.wait(LATE)
            called.clear()
            target.call_later(0.001, called.set)
            assert called.wait(LATE)


def test_an_earlier_timer_wakes_a_worker_that_sleeps_for_a_later_one(
    serve: Serve, connect: Connect
) -> None:
    server = serve(Recorder(), first_data_timeout=None)
    connect(server)
    conn = server.wait_connection()
    for target in (conn, server):
        late = target.call_later(3600, int)
        called = threading.Event()
        target.call_later(0.02, called.set)
        assert called.wait(LATE)
        late.cancel()


def test_callbacks_of_the_server_never_overlap(serve: Serve) -> None:
    server = serve(Recorder(), workers=3)
    busy = threading.Lock()
    overlaps = 0
    calls = 0

    def alone() -> None:
        nonlocal overlaps, calls
        if not busy.acquire(blocking=False):
            overlaps += 1
            return
        calls += 1
        time.sleep(0.0001)
        busy.release()

    def schedule(_: int) -> None:
        for n in range(100):
            server.call_soon(alone)
            server.call_later(0.0002 * n, alone)

    in_threads(4, schedule)
    wait_until(lambda: calls + overlaps == 800, "all callbacks")
    assert overlaps == 0


def test_callbacks_share_a_batch(serve: Serve, connect: Connect) -> None:
    """A thousand callbacks do not take the GIL a thousand times."""
    server = serve(Recorder())
    connect(server)
    conn = server.wait_connection()
    done = threading.Event()

    def schedule() -> None:
        for _ in range(1000):
            conn.call_soon(int)
            server.call_soon(int)
        conn.call_soon(done.set)

    before = server.stats()
    conn.call_soon(schedule)
    assert done.wait(LATE)
    server.wait_for(lambda: server.stats().hook_calls - before.hook_calls >= 2002)
    assert server.stats().hook_batches - before.hook_batches < 20


# ---- Cancelling.


def test_a_cancelled_timer_does_not_run(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder())
    connect(server)
    conn = server.wait_connection()
    ran: list[str] = []
    for target in (conn, server):
        handles = [
            target.call_later(0.01, ran.append, "later"),
            target.call_every(0.01, ran.append, "every"),
        ]
        for handle in handles:
            assert not handle.cancelled()
            handle.cancel()
            handle.cancel()
            assert handle.cancelled()
            assert "cancelled" in repr(handle)
        passed = threading.Event()
        target.call_later(0.03, passed.set)
        assert passed.wait(LATE)
    assert not ran


def test_a_callback_may_cancel_the_next_one(serve: Serve, connect: Connect) -> None:
    def cancel(handles: list[TimerHandle]) -> None:
        for handle in handles:
            handle.cancel()

    server = serve(Recorder())
    connect(server)
    conn = server.wait_connection()
    for target in (conn, server):
        ran: list[str] = []
        handles: list[TimerHandle] = []
        done = threading.Event()

        def schedule(
            target: Any = target, handles: list[TimerHandle] = handles, ran: list[str] = ran
        ) -> None:
            target.call_soon(cancel, handles)
            handles.append(target.call_soon(ran.append, "soon"))
            handles.append(target.call_later(0, ran.append, "later"))
            time.sleep(0.005)

        target.call_soon(schedule)
        target.call_later(0.02, done.set)
        assert done.wait(LATE)
        assert not ran
        assert all(handle.cancelled() for handle in handles)


def test_once_cancel_has_returned_a_callback_does_not_begin(serve: Serve, connect: Connect) -> None:
    """From any thread, with the callback due at that very moment."""
    server = serve(Recorder(), workers=2)
    connect(server)
    conn = server.wait_connection()
    late: list[int] = []

    def race(index: int) -> None:
        for n in range(400):
            cancelled: list[bool] = []

            def check(cancelled: list[bool] = cancelled) -> None:
                if cancelled:
                    late.append(index)

            target = conn if n % 2 else server
            handle = target.call_later(0, check) if n % 3 else target.call_soon(check)
            time.sleep(0.0005 * (n % 4))
            handle.cancel()
            cancelled.append(True)

    in_threads(4, race)
    assert not late


def test_a_timer_that_has_run_is_not_cancelled(serve: Serve) -> None:
    server = serve(Recorder())
    ran = threading.Event()
    handle = server.call_soon(ran.set)
    assert ran.wait(LATE)
    handle.cancel()
    assert not handle.cancelled()


# ---- Mistakes.


def test_an_exception_aborts_the_connection(serve: Serve, connect: Connect, logs: Logs) -> None:
    server = serve(Recorder())
    names = ["call_soon", "call_later", "call_every"]
    for n, name in enumerate(names):
        client = connect(server)
        conn = server.wait_connection(n)
        schedule = getattr(conn, name)
        arguments = (int, "no number") if name == "call_soon" else (0.001, int, "no number")
        schedule(*arguments)
        assert saw_reset(client)
        assert server.wait_closed(conn) is CloseReason.HOOK_ERROR
    records = logs.expect()
    # While the connection is closing its callbacks go on, so the repeated one may fail again.
    failed = [*names, *["call_every"] * (len(records) - len(names))]
    for record, name in zip(records, failed, strict=True):
        assert name in record.getMessage()
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], ValueError)
    assert server.stats().hook_errors == len(records)


def test_an_exception_in_a_callback_of_the_server_is_logged(
    serve: Serve, connect: Connect, logs: Logs
) -> None:
    server = serve(Recorder(read=lambda conn, data: conn.send(data)))
    client = connect(server)
    ticks = threading.Semaphore(0)

    def fail() -> None:
        ticks.release()
        raise KeyboardInterrupt

    handle = server.call_every(0.001, fail)
    for _ in range(3):
        assert ticks.acquire(timeout=LATE), "an exception does not end it"
    handle.cancel()
    server.call_soon(int, "no number")
    server.call_later(0.001, int, "no number")
    server.wait_for(lambda: len({record.getMessage() for record in logs.records}) == 3)
    for record in logs.expect():
        assert record.levelno == logging.ERROR
        assert "of the server failed" in record.getMessage()
    assert ask(client, b"still there?") == b"still there?"


def test_on_hook_error_gets_none_for_the_server(serve: Serve, connect: Connect) -> None:
    seen: list[tuple[Connection | None, str, type]] = []

    class Told(Recorder):
        def on_hook_error(self, conn: Connection | None, hook: str, exc: BaseException) -> None:
            seen.append((conn, hook, type(exc)))

    server = serve(Told())
    connect(server)
    conn = server.wait_connection()
    conn.call_later(0, int, "no number")
    server.wait_for(lambda: seen)
    server.call_later(0, int, "no number")
    server.wait_for(lambda: len(seen) == 2)
    assert seen == [(conn, "call_later", ValueError), (None, "call_later", ValueError)]
    assert conn.is_open


def test_wrong_arguments(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder())
    connect(server)
    conn = server.wait_connection()

    async def never() -> None: ...

    for target in (conn, server):
        for call, arguments, error, text in [
            ("call_soon", (), TypeError, "fn"),
            ("call_soon", (5,), TypeError, "function to call, not 5"),
            ("call_soon", (never,), TypeError, "plain function"),
            ("call_later", (1,), TypeError, "fn"),
            ("call_later", (1, None), TypeError, "function to call, not None"),
            ("call_later", ("1", int), TypeError, "number of seconds"),
            ("call_later", (True, int), TypeError, "number of seconds"),
            ("call_later", (float("nan"), int), ValueError, "nan"),
            ("call_later", (10**400, int), ValueError, "out of range"),
            ("call_every", (0, int), ValueError, "above 0"),
            ("call_every", (-1, int), ValueError, "above 0"),
            ("call_every", (float("nan"), int), ValueError, "above 0"),
        ]:
            function: Any = getattr(target, call)
            with pytest.raises(error, match=text):
                function(*arguments)
        for seconds in (float("inf"), 1e300):
            handle = target.call_later(seconds, int)
            assert not handle.cancelled()
            handle.cancel()
    with pytest.raises(TypeError):
        TimerHandle()
