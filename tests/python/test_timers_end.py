"""The callbacks of call_soon, call_later and call_every: how long they are kept, and their end."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
from support import (
    Connect,
    Recorder,
    Serve,
    linux_only,
    run_script,
    wait_until,
)

import iocp_bind
from iocp_bind import CloseReason, Connection, TimerHandle

# A stalled machine must not fail a test: what comes too late is late by seconds here.
LATE = 5.0


class Thing:
    """Something that a callback keeps alive."""


def _gone(reference: weakref.ref[Thing]) -> bool:
    return reference() is None


# ---- What is kept, and for how long.


def test_a_callback_is_let_go_when_it_has_run(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder())
    connect(server)
    conn = server.wait_connection()
    for target in (conn, server):
        for schedule in (target.call_soon, lambda *args, t=target: t.call_later(0.001, *args)):
            thing = Thing()
            reference = weakref.ref(thing)
            handle = schedule(id, thing)
            del thing
            wait_until(lambda r=reference: _gone(r), "the end of its arguments")  # type: ignore[misc]
            assert not handle.cancelled()


def test_a_callback_is_let_go_when_it_is_cancelled(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder())
    connect(server)
    conn = server.wait_connection()
    for target in (conn, server):
        things = [Thing() for _ in range(1000)]
        references = [weakref.ref(thing) for thing in things]
        handles = [target.call_later(3600, id, thing) for thing in things]
        handles += [target.call_every(3600, id, thing) for thing in things]
        del things
        for handle in handles:
            handle.cancel()
        assert all(_gone(reference) for reference in references)


@linux_only
def test_many_timers_that_are_cancelled_take_no_memory(serve: Serve) -> None:
    """Nor do their handles, once those are gone."""
    server = serve(Recorder())

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * 4096

    def schedule_and_cancel() -> None:
        for handle in [server.call_later(3600, int) for _ in range(100_000)]:
            handle.cancel()

    schedule_and_cancel()
    before = resident()
    for _ in range(5):
        schedule_and_cancel()
    assert resident() - before < 8 << 20


def test_a_handle_may_be_dropped(serve: Serve) -> None:
    server = serve(Recorder())
    ran = threading.Event()
    server.call_later(0.01, ran.set)
    gc.collect()
    assert ran.wait(LATE)


def test_a_cycle_through_a_timer_goes_with_the_connection(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder())
    client = connect(server)
    conn = server.wait_connection()
    thing: Any = Thing()
    thing.handle = conn.call_later(3600, id, (thing, conn))
    conn.data = thing
    references = [weakref.ref(thing), weakref.ref(conn)]
    client.close()
    server.wait_closed(conn)
    server.events.clear()
    del thing, conn

    def collected() -> bool:
        gc.collect()
        return all(reference() is None for reference in references)

    wait_until(collected, "the end of the cycle")


def test_a_cycle_through_a_timer_goes_with_the_server(backend: Any) -> None:
    class Clock(iocp_bind.Server):
        handle: TimerHandle

        def tick(self) -> None:
            ticks.release()

    ticks = threading.Semaphore(0)
    server = Clock()
    server.start(port=0, backend=backend)
    server.handle = server.call_every(0.001, server.tick)
    for _ in range(3):
        assert ticks.acquire(timeout=LATE)
    server.shutdown()
    reference = weakref.ref(server)
    del server

    def collected() -> bool:
        gc.collect()
        return reference() is None

    wait_until(collected, "the end of the server")


# ---- The end.


@pytest.mark.parametrize("how", ["close", "abort", "client"])
def test_nothing_runs_after_closing(serve: Serve, connect: Connect, how: str) -> None:
    late: list[str] = []
    closed: list[Connection] = []
    handles: list[TimerHandle] = []

    def call(conn: Connection) -> None:
        if conn in closed:
            late.append("late")

    def closing(conn: Connection, _: CloseReason) -> None:
        closed.append(conn)
        handles.extend([conn.call_soon(call, conn), conn.call_later(0, call, conn)])

    def established(conn: Connection) -> None:
        conn.call_every(0.001, call, conn)
        for n in range(100):
            conn.call_later(0.001 * n, call, conn)

    server = serve(Recorder(established=established, closing=closing))
    for n in range(20):
        client = connect(server)
        conn = server.wait_connection(n)
        if how == "client":
            client.close()
        else:
            getattr(conn, how)()
            client.close()
        server.wait_closed(conn)
        handle = conn.call_later(0.001, call, conn)
        assert handle.cancelled()
        handle.cancel()
    passed = threading.Event()
    server.call_later(0.15, passed.set)
    assert passed.wait(LATE)
    assert not late
    assert all(handle.cancelled() for handle in handles)


def test_a_closing_connection_still_has_its_timers(serve: Serve, connect: Connect) -> None:
    """It may give up waiting for its client before close_timeout."""
    server = serve(Recorder(), close_timeout=60.0)
    connect(server)
    conn = server.wait_connection()
    conn.close()
    conn.call_later(0.05, conn.abort)
    server.wait_closed(conn)


def test_call_soon_always_runs_before_closing(serve: Serve, connect: Connect) -> None:
    ran: list[Connection] = []
    orders: list[bool] = []
    server = serve(Recorder(closing=lambda conn, _: orders.append(conn in ran)), workers=2)
    for n in range(50):
        client = connect(server)
        conn = server.wait_connection(n)
        client.close()
        handle = conn.call_soon(ran.append, conn)
        server.wait_closed(conn)
        assert handle.cancelled() == (conn not in ran), "it runs, or it was too late from the start"
    connect(server)
    conn = server.wait_connection(50)
    conn.call_soon(ran.append, conn)
    conn.abort()
    server.wait_closed(conn)
    assert orders[-1]


@pytest.mark.parametrize("_round", range(5))
def test_nothing_runs_after_shutdown(serve: Serve, connect: Connect, _round: int) -> None:
    over = False
    late = 0

    def note() -> None:
        nonlocal late
        late += over

    server = serve(Recorder(established=lambda conn: conn.call_every(0.001, note)), workers=2)
    for _ in range(3):
        connect(server)
    server.wait_count("established", 3)
    handles = [server.call_every(0.001, note), server.call_later(60, note)]
    for n in range(200):
        server.call_later(0.0005 * n, note)
    last: list[int] = []
    server.call_soon(last.append, 1)
    server.shutdown(0.02)
    over = True
    assert last, "what was asked for before the shutdown is called"
    assert all(handle.cancelled() for handle in handles)
    with pytest.raises(RuntimeError, match="call start"):
        server.call_soon(note)
    with pytest.raises(RuntimeError, match="call start"):
        server.call_later(1, note)
    options: Any = {"port": 0, "backend": server.backend}
    server.start(**options)
    passed = threading.Event()
    server.call_later(0.02, passed.set)
    assert passed.wait(LATE)
    assert late == 0


def test_a_server_that_was_never_started_has_no_time() -> None:
    with pytest.raises(RuntimeError, match="call start"):
        iocp_bind.Server().call_later(1, print)


def test_shutdown_in_a_timer(serve: Serve) -> None:
    server = serve(Recorder())
    server.call_later(0.02, server.shutdown)
    server.serve_forever()
    assert not server.running


def test_the_interpreter_ends_with_timers_pending(backend: str) -> None:
    done = run_script(
        "import sys, iocp_bind\n"
        "server = iocp_bind.Server()\n"
        f"server.start(port=0, backend={backend!r})\n"
        "handles = [server.call_later(n / 1000, int) for n in range(1000)]\n"
        "handles.append(server.call_every(0.001, int))\n"
        "print('done')\n"
    )
    assert done.code == 0, done
    assert done.stderr == ""
