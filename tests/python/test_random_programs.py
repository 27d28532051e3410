"""Random programs of calls against a real server, and what must hold whatever they do.

A program starts a server with some options, connects clients, and lets either side send, pause,
half-close, close, abort, reset, raise, in any order; now and then everything comes to rest, where
all that was promised can be looked at, and the server may be restarted with other options.

A run makes a fixed number of programs; IOCP_BIND_PROGRAMS changes the number in `make test`. With
CI set they are always the same ones. A program that fails is printed, after it has been made as
short as possible.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import select
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from support import DEADLINE, ON_LINUX, ON_WINE, Recorder, full_load, pattern, reset

import iocp_bind
from iocp_bind import CloseReason, Connection

Step = tuple[str, dict[str, Any]]

PROGRAMS = int(os.environ.get("IOCP_BIND_PROGRAMS", "40"))
MANY_PROGRAMS = 200 if ON_LINUX else 60

# Each send is cut out of this, at a place of its own.
BYTES = pattern(1 << 20)
UNLIMITED = 1 << 30

SIZES = st.one_of(
    st.integers(0, 100),
    st.integers(0, 70_000),
    st.sampled_from([511, 512, 513, 4096, 65_536, 65_537, 400_000]),
)
OPTIONS = st.fixed_dictionaries(
    {
        "workers": st.integers(1, 2),
        "zero_copy": st.booleans(),
        "established_on": st.sampled_from(["connect", "first_data"]),
        "buffer_size": st.sampled_from([512, 4096, 65_536]),
        "initial_reads": st.sampled_from([0, 1, 4]),
        "flow_control": st.booleans(),
        "write_high_water": st.sampled_from([0, 1000, 65_536]),
        "send_backlog_limit": st.sampled_from([1000, 100_000, UNLIMITED]),
        "max_pending_sends": st.sampled_from([None, 1, 5]),
        "max_free_contexts": st.sampled_from([0, 1, 100]),
        "max_free_buffers": st.sampled_from([0, 200]),
        "answers_end": st.booleans(),  # the server has on_end_of_stream
    }
)
WHICH = st.integers(0, 20)  # of the clients


def _step(name: str, **arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    return st.tuples(st.just(name), st.fixed_dictionaries(arguments))


KINDS = {
    "connect": _step("connect", small=st.booleans(), speaks=st.booleans(), waits=st.booleans()),
    "client_sends": _step("client_sends", index=WHICH, size=SIZES),
    "client_receives": _step("client_receives", index=WHICH, size=SIZES),
    "client_half_closes": _step(
        "client_half_closes",
        index=WHICH,
        deed=st.sampled_from(["answer", "keep", "pause", "abort", "raise"]),
    ),
    "client_leaves": _step("client_leaves", index=WHICH, by_reset=st.booleans()),
    "server_sends": _step("server_sends", index=WHICH, size=SIZES, cuts=st.integers(0, 3)),
    "broadcast": _step("broadcast", size=st.integers(16, 5000)),
    "next_read": _step(
        "next_read",
        index=WHICH,
        deed=st.sampled_from(["echo", "close", "abort", "pause", "raise"]),
    ),
    "pause_or_resume": _step("pause_or_resume", index=WHICH, pause=st.booleans()),
    "server_ends": _step("server_ends", index=WHICH, abort=st.booleans()),
    "rest": _step("rest"),
    "restart": _step("restart", options=OPTIONS, graceful=st.booleans()),
}
# Most are traffic: there is little to be seen in a connection that ends as soon as it has begun.
TRAFFIC = ["client_sends", "client_receives", "server_sends", "server_sends"]
# A program is drawn as a whole before it runs: what is drawn cannot depend on what happens. A step
# that makes no sense where it stands does nothing.
STEPS = st.sampled_from([*["connect"] * 3, *TRAFFIC * 3, *KINDS]).flatmap(KINDS.__getitem__)


class Raised(Exception):
    """The exception that a hook raises on purpose."""


class Subject(Recorder):
    """The server: an exception that is on purpose ends its connection, any other is logged too."""

    def on_hook_error(self, conn: Connection | None, hook: str, exc: BaseException) -> None:
        if isinstance(exc, Raised):
            assert conn is not None
            conn.abort()
        else:
            super().on_hook_error(conn, hook, exc)


class Answering(Subject):
    """The same, and it is told when a client has finished sending."""

    def __init__(self, end: Callable[[Connection], object], **hooks: Any) -> None:
        super().__init__(**hooks)
        self._end = end

    def on_end_of_stream(self, conn: Connection) -> None:
        self._record("end_of_stream", conn, None)
        self._end(conn)


class Session:
    """A client and its connection: what was sent, what came, and what may end it."""

    def __init__(self, client: socket.socket) -> None:
        self.client: socket.socket | None = client  # None: closed
        self.address: tuple[str, int] = client.getsockname()
        self.conn: Connection | None = None  # None: not yet established
        self.sent = bytearray()  # by the client
        self.delivered = bytearray()  # of that, to the read hook
        # By the connection; False: a broadcast, of which only the number of takers is known.
        self.accepted: list[tuple[bytes, bool]] = []
        self.written: list[int] = []
        self.received = bytearray()  # by the client
        self.saw: str | None = None  # by the client, at the end: "end" or "reset"
        self.may_close: set[CloseReason] = set()  # what has been done that ends it
        self.half_closed = False
        self.deeds: list[str] = []
        self.end_deed = "answer"  # what the server does at its end, if it is told
        self.end_came = 0  # how often its end was reported
        self.kept = False  # open behind its end, until somebody closes it
        self.reason: CloseReason | None = None

    def expected(self) -> list[bytes]:
        """Return what was accepted, without the broadcasts that it did not take."""
        taken = []
        place = 0
        for data, certain in self.accepted:
            if certain or self.received.startswith(data, place):
                taken.append(data)
                place += len(data)
        return taken


def _pick(sessions: list[Session], index: int) -> Session | None:
    return sessions[index % len(sessions)] if sessions else None


class Program:
    """A program under way: a method for each step; the oracles are in `rest` and `_stop`."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.serial = 0
        self.lock = threading.Lock()  # around a send and the note of it
        self.sessions: dict[tuple[str, int], Session] = {}
        self.raised: list[Connection] = []
        self.broken: list[str] = []  # what hooks have seen that must not be
        self.connections: list[weakref.ref[Connection]] = []

    # ---- Hooks. They run on the server's threads.

    def _established(self, conn: Connection) -> None:
        session = self.sessions[conn.remote_address]
        assert session.conn is None
        self.connections.append(weakref.ref(conn))
        session.conn = conn

    def _read(self, conn: Connection, data: Any) -> None:
        session = self.sessions[conn.remote_address]
        session.delivered += data
        deed = session.deeds.pop(0) if session.deeds else None
        if deed == "echo":
            with contextlib.suppress(iocp_bind.SendBacklogFull):
                self._send(session, bytes(data), lambda: conn.send(data))
        elif deed == "close":
            session.may_close.add(CloseReason.LOCAL_CLOSE)
            conn.close()
        elif deed == "abort":
            session.may_close.add(CloseReason.LOCAL_ABORT)
            conn.abort()
        elif deed == "pause":
            conn.pause_reading()
        elif deed == "raise":
            session.may_close.add(CloseReason.LOCAL_ABORT)  # by on_hook_error
            self.raised.append(conn)
            raise Raised

    def _write(self, conn: Connection, nbytes: int) -> None:
        self.sessions[conn.remote_address].written.append(nbytes)

    def _end(self, conn: Connection) -> None:
        session = self.sessions[conn.remote_address]
        session.end_came += 1
        if session.delivered != session.sent:
            self.broken.append(f"an end behind {len(session.delivered)} of {len(session.sent)}")
        if session.end_deed == "answer":
            session.may_close.add(CloseReason.LOCAL_CLOSE)
            answer = self._cut(1000)
            with contextlib.suppress(iocp_bind.SendBacklogFull):
                self._send(session, answer, lambda: conn.send(answer))
            conn.close()
        elif session.end_deed == "abort":
            session.may_close.add(CloseReason.LOCAL_ABORT)
            conn.abort()
        elif session.end_deed == "raise":
            session.may_close.add(CloseReason.LOCAL_ABORT)  # by on_hook_error
            self.raised.append(conn)
            raise Raised
        else:
            if session.end_deed == "pause":
                conn.pause_reading()
            session.kept = True

    def _closing(self, conn: Connection, reason: CloseReason) -> None:
        self.sessions[conn.remote_address].reason = reason

    # ---- Steps.

    def start(self, options: dict[str, Any]) -> None:
        self.options = options
        self.limited = (
            options["send_backlog_limit"] < UNLIMITED or options["max_pending_sends"] is not None
        )
        hooks: dict[str, Any] = {
            "established": self._established,
            "read": self._read,
            "write": self._write,
            "closing": self._closing,
        }
        self.server = Answering(self._end, **hooks) if options["answers_end"] else Subject(**hooks)
        self.connected = 0
        self.server.start(
            port=0,
            backend=self.backend,  # type: ignore[arg-type]
            write_low_water=options["write_high_water"] // 2,
            close_timeout=DEADLINE,
            **{name: value for name, value in options.items() if name != "answers_end"},
        )

    def _has_client(self) -> bool:
        return any(session.client is not None for session in self.sessions.values())

    def _open(self, index: int) -> Session | None:
        """Return a session whose client is there."""
        return _pick([s for s in self.sessions.values() if s.client is not None], index)

    def _known(self, index: int) -> Session | None:
        """Return a session whose connection was reported to hooks; it may have ended since."""
        return _pick([s for s in self.sessions.values() if s.conn is not None], index)

    def _cut(self, size: int) -> bytes:
        self.serial += 1
        begin = self.serial * 7919 % (len(BYTES) // 2)
        return BYTES[begin : begin + size]

    def _send(self, session: Session, data: bytes, send: Callable[[], bool]) -> bool:
        with self.lock:
            accepted = send()
            if accepted:
                session.accepted.append((data, True))
        return accepted

    def connect(self, small: bool, speaks: bool, waits: bool) -> None:
        if len(self.sessions) >= 20:
            return
        client = socket.socket()
        if small:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        # Its address is known before a hook can ask for it. Each client has a loopback address of
        # its own: the port of one that was reset is free at once, while its hooks are still due.
        client.bind((f"127.0.1.{len(self.sessions) + 1}", 0))
        session = Session(client)
        self.sessions[session.address] = session
        self.connected += 1
        client.settimeout(DEADLINE)
        client.connect(self.server.address)
        client.setblocking(False)
        if speaks:
            self._client_sends(session, 10)
        if waits and (speaks or self.options["established_on"] == "connect"):
            self.server.wait_for(lambda: session.conn is not None, "established")

    def client_sends(self, index: int, size: int) -> None:
        session = self._open(index)
        if session is not None and not session.half_closed:
            self._client_sends(session, size)

    def _client_sends(self, session: Session, size: int) -> None:
        assert session.client is not None
        data = self._cut(size)
        try:
            session.sent += data[: session.client.send(data)]
        except BlockingIOError:
            pass
        except ConnectionError:
            # Linux reports a reset once: recv would find an end of stream after it.
            self._client_ends(session, "reset")

    def client_receives(self, index: int, size: int) -> None:
        session = self._open(index)
        if session is not None:
            self._client_receives(session, size + 1)

    def _client_receives(self, session: Session, most: int) -> None:
        assert session.client is not None
        try:
            data = session.client.recv(most)
        except BlockingIOError:
            return
        except ConnectionError:
            self._client_ends(session, "reset")
            return
        session.received += data
        if not data:
            self._client_ends(session, "end")

    def _client_ends(self, session: Session, saw: str) -> None:
        assert session.client is not None
        assert session.may_close, "the client sees an end that nobody made"
        session.saw = saw
        session.client.close()
        session.client = None

    def client_half_closes(self, index: int, deed: str = "answer") -> None:
        session = self._open(index)
        if session is None or session.client is None:
            return
        if not session.half_closed:
            session.end_deed = deed
        session.half_closed = True
        session.may_close.add(CloseReason.PEER_CLOSED)
        with contextlib.suppress(OSError):  # it has been reset
            session.client.shutdown(socket.SHUT_WR)

    def client_leaves(self, index: int, by_reset: bool) -> None:
        if ON_WINE:
            # It may lose a reset, and what leaves something unread makes one.
            self.client_half_closes(index)
            return
        session = self._open(index)
        if session is None or session.client is None:
            return
        # With something unread a close is a reset, and so is what is sent to a client that is gone.
        session.may_close |= {CloseReason.PEER_CLOSED, CloseReason.ERROR}
        if by_reset:
            reset(session.client)
        else:
            session.client.close()
        session.client = None

    def server_sends(self, index: int, size: int, cuts: int) -> None:
        session = self._known(index)
        if session is None or session.conn is None:
            return
        conn = session.conn
        data = self._cut(size)
        ends = [size * cut // (cuts + 1) for cut in range(1, cuts + 2)]
        lines = [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
        try:
            if not self._send(
                session, data, lambda: conn.writelines(lines) if cuts else conn.send(data)
            ):
                assert session.may_close, "a send was refused by a connection that nobody has ended"
        except iocp_bind.SendBacklogFull:
            assert self.limited

    def broadcast(self, size: int) -> None:
        data = self._cut(size)
        with self.lock:
            sessions = list(self.sessions.values())
            open_ones = [s for s in sessions if s.reason is None]
            all_known = all(s.conn is not None for s in open_ones)
            takers = self.server.broadcast(data)
            certain = all_known and takers == len(open_ones)
            for session in open_ones:
                session.accepted.append((data, certain))
        if all_known:
            assert takers <= len(open_ones)
            if not self.limited:
                assert takers >= sum(not session.may_close for session in open_ones)

    def next_read(self, index: int, deed: str) -> None:
        session = self._known(index)
        if session is not None:
            session.deeds.append(deed)

    def pause_or_resume(self, index: int, pause: bool) -> None:
        session = self._known(index)
        if session is None or session.conn is None:
            return
        if pause:
            session.conn.pause_reading()
        else:
            session.conn.resume_reading()

    def server_ends(self, index: int, abort: bool) -> None:
        session = self._known(index)
        if session is None or session.conn is None:
            return
        conn = session.conn
        session.may_close.add(CloseReason.LOCAL_ABORT if abort else CloseReason.LOCAL_CLOSE)
        if abort:
            conn.abort()
        else:
            self.server.close_connection(conn)
        assert not conn.is_open
        assert not conn.send(b"x")

    def restart(self, options: dict[str, Any], graceful: bool) -> None:
        self._stop(graceful)
        self.start(options)

    def run(self, options: dict[str, Any], steps: list[Step]) -> None:
        self.start(options)
        try:
            for name, arguments in steps:
                getattr(self, name)(**arguments)
            self.rest()
            self._stop(graceful=True)
        finally:
            self.server.shutdown(0)
            for session in self.sessions.values():
                if session.client is not None:
                    session.client.close()

    # ---- Oracles.

    def _pump(self, until: Callable[[], object], what: str) -> None:
        """Let clients receive all that comes, until something holds."""
        end = time.monotonic() + DEADLINE
        while not until():
            clients = {s.client: s for s in self.sessions.values() if s.client is not None}
            if clients:
                for client in select.select(list(clients), [], [], 0.002)[0]:
                    self._client_receives(clients[client], 1 << 20)
            else:
                with self.server.changed:
                    self.server.changed.wait(0.002)
            assert time.monotonic() < end, f"{what}: {self.server.summary()}, {self._states()}"

    def _states(self) -> list[dict[str, Any]]:
        return [
            {k: len(v) if isinstance(v, bytearray) else v for k, v in vars(s).items()}
            for s in self.sessions.values()
        ]

    def _at_rest(self) -> Iterator[bool]:
        """Conditions that come true, all of them, when nothing more is on its way."""
        stats = self.server.stats()
        sessions = list(self.sessions.values())
        yield stats.accepted + stats.accept_errors >= self.connected  # some count as both
        yield self.server.connection_count == sum(s.client is not None for s in sessions)
        yield len(self.server.of("established")) == len(self.server.of("closing")) + sum(
            s.conn is not None and s.client is not None for s in sessions
        )
        for session in sessions:
            conn = session.conn
            if session.client is None:
                continue
            yield not session.may_close  # its client is still to see the end
            yield conn is not None or self.options["established_on"] == "first_data"
            yield len(session.delivered) == len(session.sent)
            if conn is not None:
                yield conn.send_backlog == 0
                yield len(session.received) == conn.bytes_sent
                yield len(session.written) == len(session.expected())

    def rest(self) -> None:
        """Nobody is paused, all clients receive; then all that was sent is where it belongs."""
        for session in self.sessions.values():
            session.deeds.clear()

        def rested() -> bool:
            # A hook may pause while we are here: its deed was under way.
            for session in self.sessions.values():
                if session.conn is not None:
                    session.conn.resume_reading()
                    if session.kept:
                        session.kept = False
                        session.may_close.add(CloseReason.LOCAL_CLOSE)
                        session.conn.close()
            return all(self._at_rest())

        self._pump(rested, "coming to rest")
        living = []
        for session in self.sessions.values():
            self._check(session)
            if session.client is not None and session.conn is not None:
                living.append(session.conn)
                assert session.conn.is_open
                assert session.delivered == session.sent
                assert session.received == b"".join(session.expected())
                assert session.conn.bytes_received == len(session.delivered)
            elif session.conn is not None:
                assert not session.conn.is_open
                assert not session.conn.send(b"x")
        assert sorted(c.id for c in self.server.connections()) == sorted(c.id for c in living)
        if self.options["established_on"] == "connect":
            assert self.server.connection_count == len(living)

    def _check(self, session: Session) -> None:
        """Check what holds of every session that is at rest or has ended."""
        assert self.broken == []
        assert session.end_came <= 1
        if self.options["answers_end"]:
            assert session.reason is not CloseReason.PEER_CLOSED, "nobody has closed it"
        assert session.sent.startswith(session.delivered)
        if session.conn is None:
            assert not session.received
            return
        expected = session.expected()
        sizes = [len(data) for data in expected]
        if all(certain for _, certain in session.accepted):
            assert b"".join(expected).startswith(session.received)
            # A send is complete as soon as it and all before it are out; an empty one too.
            out = sum(end <= session.conn.bytes_sent for end in itertools.accumulate(sizes))
            assert session.written == sizes[:out] or session.reason is None
            assert sizes[: len(session.written)] == session.written
        if session.reason is None:
            assert session.written == sizes
            return
        assert session.reason in session.may_close, session.reason
        if ON_WINE:  # which ends every stream in order, so an end says nothing
            return
        if session.may_close <= {CloseReason.PEER_CLOSED, CloseReason.ERROR} and (
            session.reason is CloseReason.PEER_CLOSED
        ):
            assert session.delivered == session.sent, "the end came before the data"
        if session.saw == "end":
            assert session.received == b"".join(expected), "the end came before what was accepted"
            assert session.written == sizes

    def _stop(self, graceful: bool) -> None:
        """Shut down; then nothing is left of the run."""
        for session in self.sessions.values():
            if session.reason is None:
                session.may_close.add(CloseReason.SHUTDOWN)
        if graceful:
            stopper = threading.Thread(target=self.server.shutdown, args=(DEADLINE,))
            stopper.start()
            self._pump(lambda: not self.server.running, "shutting down")
            stopper.join(DEADLINE)
        else:
            self.server.shutdown(0)
        assert not self.server.running
        assert self.server.connections() == []
        assert self.server.connection_count == 0
        self.server.check_grammar()
        stats = self.server.stats()
        closed = self.server.reasons()
        assert (stats.connections, stats.buffers_in_use) == (0, 0)
        assert stats.refused <= sum(s.conn is None for s in self.sessions.values())
        assert stats.established == len(self.server.of("established"))
        assert stats.closed == {reason: closed.count(reason) for reason in CloseReason}
        assert stats.hook_calls == len(self.server.events)
        assert stats.hook_errors == len(self.raised)
        # The client may see the end a moment after the server has done with it.
        self._pump(lambda: not self._has_client(), "the clients seeing the end")
        assert all(s.conn is None or s.reason is not None for s in self.sessions.values())
        for session in list(self.sessions.values()):
            self._check(session)
            session.conn = None
        assert stats.bytes_received >= sum(len(s.delivered) for s in self.sessions.values())
        assert stats.bytes_sent >= sum(len(s.received) for s in self.sessions.values())
        self.sessions.clear()
        self.raised.clear()
        self.server.events.clear()
        if any(conn() is not None for conn in self.connections):
            gc.collect()
        assert [conn for conn in self.connections if conn() is not None] == []
        self.connections.clear()


# A failure is made short for up to five minutes.
@pytest.mark.timeout(600 + max(PROGRAMS, MANY_PROGRAMS))
@pytest.mark.parametrize("programs", [PROGRAMS, full_load(MANY_PROGRAMS)])
def test_random_programs(backend: str, programs: int) -> None:
    @settings(max_examples=programs, phases=set(Phase) - {Phase.explain})
    @given(options=OPTIONS, steps=st.lists(STEPS, min_size=20, max_size=80))
    def run(options: dict[str, Any], steps: list[Step]) -> None:
        Program(backend).run(options, steps)

    run()
