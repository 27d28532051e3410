"""The server: options, hooks, life cycle."""

from __future__ import annotations

import atexit
import contextlib
import functools
import inspect
import logging
import os
import sys
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from iocp_bind import _core
from iocp_bind._broadcast import broadcast
from iocp_bind._framing import Framing
from iocp_bind._hook_checks import (
    check_message_hooks,
    overridden_hooks,
    refuse_hidden_methods,
    refuse_unknown_hooks,
)
from iocp_bind._hooks import Data, Hooks
from iocp_bind._log import log_handshake_failure, log_state, logger, shown, tls_logger
from iocp_bind._types import CloseReason, Stats, TLSFailure
from iocp_bind._waiting import Stopped, StopSignals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import EllipsisType
    from typing import Literal

    from typing_extensions import Buffer, Self, TypeVarTuple, Unpack

    from iocp_bind._core import Connection, TimerHandle
    from iocp_bind._start_options import StartOptions
    from iocp_bind._tls import TLS

    _Args = TypeVarTuple("_Args")


class _Core(_core.Core):
    """The native part of a server, and the event that `serve_forever` waits for."""

    stopped: Stopped | None = None


# The cores of the servers that run, or are being started. A server itself may be neither hashable
# nor comparable.
_running: set[_Core] = set()

_BUFFER_SIZE = 16 * 1024 if sys.platform == "win32" else 64 * 1024

# Seconds that clients get to end their side when the user has pressed Ctrl-C.
_INTERRUPTED_TIMEOUT = 0.5


class Server(Hooks[Data]):
    """A TCP server. Subclass it, override the hooks you need, call `run`, or `start`.

    A subclass with an `__init__` of its own calls `super().__init__()`. A dataclass does so in
    its `__post_init__`; one with ``slots=True`` calls `iocp_bind.Server.__init__(self)` there.
    A subclass may have any attributes and methods, with two exceptions, which `start` refuses: an
    attribute that hides a method of `Server`, and a method whose name begins with ``on_`` and is
    not a hook, since it would be a misspelt one.

    Hooks run on the server's native threads, in this order for each connection:

        on_connection_established
            -> (on_read_completed | on_message(s) | on_write_completed | on_writable)*
            -> [on_end_of_stream -> (on_write_completed | on_writable)*]
            -> [on_connection_error] -> on_connection_closing

    There is exactly one closing, last, for each established. Hooks of one connection never
    overlap. A hook that is not overridden costs nothing, not even the GIL. Keep hooks short:
    while one runs, other clients of the same worker wait. A hook may call every method here,
    `shutdown` included.

    Every method may be called from any thread at any time.

    Attributes:
        framing: how what clients send is cut into messages, such as
            ``framing = iocp_bind.LengthPrefix(4)`` in the class; None for bytes as they come.
            `start` takes it unless it gets one of its own.

    Hooks get bytes. For a type checker the class ``iocp_bind.Server[memoryview]`` is one that is
    started with ``zero_copy=True``.
    """

    framing: Framing | None = None

    # A slot, and not an entry of __dict__: see _core_of.
    __slots__ = ("__dict__", "__iocp_bind_core", "__weakref__")

    def __init__(self) -> None:
        """Make a server that does not run yet.

        Raises:
            RuntimeError: the server is running, or this is a forked child.
        """
        try:
            core = _core_of(self)
        except RuntimeError:
            _core_slot.__set__(self, _Core())
        else:
            if core.running():
                raise RuntimeError("the server is running; __init__ must not be called again")

    def __reduce__(self) -> NoReturn:
        """Refuse: threads and sockets can be neither copied nor pickled."""
        raise TypeError(f"{type(self).__name__} is a server, and cannot be copied or pickled")

    # ---- Life cycle.

    def start(
        self,
        host: str = "127.0.0.1",
        port: int = 4567,
        *,
        backend: Literal["auto", "io_uring", "epoll", "iocp"] = "auto",
        workers: int | None = None,
        max_connections: int = 2000,
        at_capacity: Literal["refuse", "wait"] = "refuse",
        listen_backlog: int = 1024,
        initial_accepts: int = 10,
        max_accepts: int = 100,
        initial_reads: int = 4,
        buffer_size: int = _BUFFER_SIZE,
        max_free_buffers: int = 200,
        max_free_contexts: int = 100,
        send_backlog_limit: int = 1024 * 1024,
        max_pending_sends: int | None = None,
        write_high_water: int = 64 * 1024,
        write_low_water: int = 16 * 1024,
        flow_control: bool = True,
        framing: Framing | EllipsisType | None = ...,
        tls: TLS | EllipsisType | None = ...,
        established_on: Literal["connect", "first_data"] = "connect",
        first_data_timeout: float | None = 120.0,
        idle_timeout: float | None = None,
        receive_timeout: float | None = None,
        message_timeout: float | None = None,
        write_timeout: float | None = None,
        close_timeout: float = 5.0,
        keepalive: tuple[float, float] | None = (5.0, 1.0),
        no_delay: bool = True,
        reuse_port: bool = False,
        dual_stack: bool = True,
        zero_copy: bool = False,
    ) -> None:
        """Start serving; returns when clients can connect.

        Durations are in seconds. A timeout of None is off.

        Args:
            host: a name or an address of this machine. ``""`` and ``"0.0.0.0"`` are all of
                IPv4; ``"::"`` is all of IPv6 and, with `dual_stack`, of IPv4.
            port: 0 to 65535. With 0 the system picks one; `address` has it.
            backend: ``"auto"`` takes the environment variable ``IOCP_BIND_BACKEND`` if it is
                set, else the best one that can run here; see `iocp_bind.backends`.
            workers: native threads; None is 1. More of them help only when hooks give the GIL
                up.
            max_connections: the most clients at once.
            at_capacity: how the next client is treated. ``"refuse"`` resets it, and the log
                says so once a minute at most; ``"wait"`` leaves it in the system's backlog
                until there is room.
            listen_backlog: how many clients the system queues before they are accepted.
            initial_accepts: accepts posted ahead (Windows).
            max_accepts: the most accepts posted (Windows), or taken in one turn (Linux).
            initial_reads: reads posted for a new connection, and after one was filled; one at
                other times (Windows). 0 waits with a read that has no buffer.
            buffer_size: bytes of a receive buffer, and so the most that one `on_read_completed`
                gets. The default is 64 KiB; 16 KiB on Windows, where an idle connection has up to
                `initial_reads` of them.
            max_free_buffers: receive buffers kept for reuse.
            max_free_contexts: connection objects kept for reuse.
            send_backlog_limit: bytes of memory; when the system has refused to take this much,
                `Connection.send` raises. Data that was not offered to the system yet counts
                only from 16 times the limit on: it is offered when the hooks are over, and in
                a hook when it is more than the limit. A send counts with the memory it takes.
                Up to 4048 bytes, that is a block of 256, 512, 1024, 2048 or 4096 bytes, which
                holds the data and 48 bytes of record. Above, it is the unsent bytes and 48,
                and 256 more for a `bytes` of 16 KiB or more. A send counts in full until its
                `on_write_completed`. Without that hook an empty send counts nothing, and if
                `max_pending_sends` is None as well, sends of up to 1024 bytes share blocks of
                4096.
            max_pending_sends: sends queued at once; at this number `Connection.send` raises.
            write_high_water: bytes, counted in the same way. Above this many unsent bytes the
                server stops reading from the client.
            write_low_water: bytes. At or below this many, the server reads again.
            flow_control: whether the two marks stop and resume reading. `on_writable` follows
                them in any case.
            framing: how connections cut what they receive into messages; by default the
                attribute `framing` of the server. A connection may change it:
                `Connection.framing`.
            tls: an `iocp_bind.TLS` for all clients; None for none. By default it is what
                `self.tls` was set to, in `__init__` for example; anything else replaces that.
                `on_connection_established` is called when the handshake is done. Until then the
                `handshake_timeout` of the TLS takes the place of `first_data_timeout`, which
                counts from then on.
            established_on: when `on_connection_established` is called. With ``"first_data"``
                no hook is ever called for a client that sends nothing.
            first_data_timeout: how long a client may be silent after connecting. Turn it
                off for protocols in which clients only listen.
            idle_timeout: how long nothing may be received, and nothing sent or taken by the
                client. While reading is paused, data that the client sends does not count.
            receive_timeout: how long nothing may be received, whatever is sent. The time
                stands still while reading is paused, by `Connection.pause_reading` or by flow
                control. It no longer applies once the client has ended its stream. A connection
                may have an `idle_timeout` and a `receive_timeout` of its own: attributes of
                `Connection`.
            message_timeout: how long a message may take, from its first byte to its last. The
                time stands still while reading is paused. If bytes are at hand when it is up,
                the message gets it once more.
            write_timeout: how long a client may take no byte of what was sent. A client that
                takes a part, and then no more, is closed after at most twice this time; the
                same holds for `idle_timeout`.
            close_timeout: how long a graceful close waits for the client. A client that has
                not acknowledged all bytes by then is reset.
            keepalive: (idle, interval) of TCP keep-alive probes.
            no_delay: TCP_NODELAY.
            reuse_port: SO_REUSEPORT: several processes share the port.
            dual_stack: whether ``"::"`` accepts IPv4 clients.
            zero_copy: whether hooks get memoryviews instead of bytes: `on_read_completed` and
                the two of messages.

        Raises:
            OSError: the system refused; the message names the step and the address.
            MemoryError: memory ran out.
            ValueError: an option is out of its range.
            TypeError: an option or a hook is of the wrong kind.
            RuntimeError: the server is running, or this is a forked child.
            BackendUnavailable: the back-end cannot run here; the message says why.
        """
        options = {name: value for name, value in locals().items() if name in _OPTION_NAMES}
        core = _core_of(self)
        options["workers"] = 1 if workers is None else workers
        options["backend"] = _chosen_backend(backend)
        if framing is ...:
            options["framing"] = self.framing
        if tls is ...:
            options["tls"] = self.tls
        if not isinstance(zero_copy, bool):
            raise TypeError(f"zero_copy must be a bool, not {type(zero_copy).__name__}")
        refuse_hidden_methods(self, Server)
        refuse_unknown_hooks(self, Server)
        hooks: dict[str, object] = dict(overridden_hooks(self, Server))
        check_message_hooks(self, hooks, framed=isinstance(options["framing"], Framing))
        hooks["on_hook_error"] = self.on_hook_error
        hooks["warn"] = logger.warning
        # A level that is set later does not count: failures that nobody wants to hear of cost
        # nothing.
        heard = tls_logger.isEnabledFor(logging.DEBUG)
        hooks["handshake_failed"] = log_handshake_failure if heard else None
        stopped = Stopped()
        hooks["begun"] = functools.partial(_running.add, core)
        hooks["stopped"] = functools.partial(_on_stopped, self, core, stopped)
        core.start(options, hooks, tuple(CloseReason), zero_copy)
        core.stopped = stopped
        log_state(type(self).__name__, core, "is listening")

    def run(
        self,
        host: str = "127.0.0.1",
        port: int = 4567,
        *,
        shutdown_timeout: float = 5.0,
        **options: Unpack[StartOptions],
    ) -> None:
        """Serve until SIGINT or SIGTERM comes, then shut down gracefully: a program's main part.

        Ctrl-C sends SIGINT, Docker and systemd send SIGTERM, Ctrl-Break on Windows sends SIGBREAK.
        Closing hooks run, clients get what was sent to them, and no exception is raised. A second
        signal aborts what is left at once. A `shutdown` in a hook or on another thread ends it as
        well.

        It calls `start` and `shutdown`, which a subclass may extend. While it runs it replaces the
        handlers of these signals; a signal that is ignored stays ignored. It belongs in the main
        thread. On another thread Python handles no signals, and it serves until `shutdown`.

        Args:
            host: as for `start`.
            port: as for `start`.
            shutdown_timeout: seconds that clients get to end their side; 0 aborts them at once.
            options: those of `start`.

        Raises:
            ValueError: `shutdown_timeout` is negative, or `start` raises it.
            RuntimeError: this is a hook, or `start` raises it.
            Exception: what else `start` raises.
        """
        core = _core_of(self)
        core.check_usable()
        _core._check_timeout(shutdown_timeout)
        _refuse_in_hook("run")
        before = core.stopped
        with StopSignals() as signals:
            try:
                self.start(host, port, **options)
                signals.wait(_stopped_of(core))
            finally:
                # Not a run that somebody else began, because of which `start` has failed.
                ours = core.stopped
                if ours is not None and ours is not before and ours.thread == get_ident():
                    with signals.hurrying(functools.partial(core.shutdown, 0.0)):
                        self.shutdown(shutdown_timeout)

    def serve_forever(self) -> None:
        """Block until `shutdown`. Signals are handled at once: Ctrl-C raises KeyboardInterrupt.

        Raises:
            RuntimeError: the server was never started, or this is a hook or a forked child.
        """
        core = _core_of(self)
        core.check_usable()
        _refuse_in_hook("serve_forever")
        _stopped_of(core).wait()

    def shutdown(self, timeout: float = 5.0) -> None:
        """Stop: accept no more, close all gracefully, abort what is left after `timeout`.

        When it has returned, no hook runs, and `start` works again. It may be called any number
        of times. It waits for hooks that are running. In a hook, of this server or of another
        one, it returns at once, and the shutdown goes on after the hook.

        Args:
            timeout: seconds; 0 aborts at once.

        Raises:
            ValueError: `timeout` is negative.
            RuntimeError: this is a forked child.
        """
        _core_of(self).shutdown(timeout)

    def __enter__(self) -> Self:
        """Return the server; leaving the block shuts it down."""
        refuse_hidden_methods(self, Server)  # leaving the block calls shutdown
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Shut down; clients get less time when the block is left by Ctrl-C or sys.exit."""
        hurry = kind is not None and not issubclass(kind, Exception)
        self.shutdown(_INTERRUPTED_TIMEOUT if hurry else 5.0)

    # ---- Connections.

    def close_connection(self, conn: Connection) -> None:
        """Close one connection gracefully, as `Connection.close` does."""
        _core_of(self).close_connection(conn)

    def close_all_connections(self) -> None:
        """Close every connection gracefully; the server goes on accepting."""
        _core_of(self).close_all_connections()

    def broadcast(
        self,
        data: Buffer,
        exclude: Connection | None = None,
        *,
        to: Iterable[Connection] | None = None,
        on_full: Literal["skip", "close"] | Callable[[Connection], object] = "skip",
    ) -> int:
        """Send `data` to many connections; it is copied once for all.

        Connections that are closing are left out, and so are those whose backlog is full.

        Args:
            data: a contiguous bytes-like object.
            exclude: a connection that does not get it.
            to: the connections that get it, in any iterable, each of them once; they may belong
                to other servers too. None: all established connections of this server.
            on_full: what follows for a connection whose backlog is full. ``"skip"``: nothing.
                ``"close"``: it is aborted, with `CloseReason.LOCAL_ABORT`; a graceful close
                would wait until it reads. A function: it is called with each of them, in this
                thread, when all others have the data. If it raises an exception, the others are
                still served, and the first exception leaves this method; further ones are
                logged.

        Returns:
            How many connections accepted it.

        Raises:
            TypeError: `data` is not bytes-like, `to` has something else than connections, or
                `on_full` is of the wrong kind. Nothing was sent.
            ValueError: `on_full` is another text. Nothing was sent.
            BufferError: `data` is not contiguous. Nothing was sent.
            MemoryError: memory ran out; some connections may have accepted it.
        """
        return broadcast(_core_of(self), data, exclude, to, on_full, framed=False)

    def broadcast_message(
        self,
        message: Buffer,
        exclude: Connection | None = None,
        *,
        to: Iterable[Connection] | None = None,
        on_full: Literal["skip", "close"] | Callable[[Connection], object] = "skip",
    ) -> int:
        """Send `message` to many connections, each with its own framing.

        It is encoded once for each framing. Connections without a framing are left out.
        Everything else is as for `broadcast`.

        Raises:
            ValueError: a framing cannot carry this message; some connections may have accepted
                it. Or as `broadcast` raises it.
            Exception: what else `broadcast` raises.
        """
        return broadcast(_core_of(self), message, exclude, to, on_full, framed=True)

    def connections(self) -> list[Connection]:
        """Return a snapshot of the established connections."""
        return _core_of(self).connections()

    # ---- Time.

    def call_soon(
        self, fn: Callable[[Unpack[_Args]], object], /, *args: Unpack[_Args]
    ) -> TimerHandle:
        """Call ``fn(*args)`` on a worker, as soon as it can.

        Callbacks of the server never overlap each other, and run in the order of the calls. With
        several workers, hooks and callbacks of connections may run at the same time. They go on
        while `shutdown` closes the connections, and end with it: none runs after it has returned.
        An exception goes to `on_hook_error` with None as the connection.

        Returns:
            A handle, whose `cancel` takes the callback back.

        Raises:
            RuntimeError: the server does not run, or this is a forked child.
            TypeError: `fn` is no function that can be called.
            MemoryError: memory ran out; nothing was scheduled.
        """
        return _core_of(self).call_soon(fn, *args)

    def call_later(
        self, delay: float, fn: Callable[[Unpack[_Args]], object], /, *args: Unpack[_Args]
    ) -> TimerHandle:
        """Call ``fn(*args)`` on a worker when `delay` seconds have passed.

        Never earlier. If the worker is not busy it is about a millisecond late, and up to five
        when many timers go off. A delay of 0 or less is due at once; one that is infinite never
        comes. For everything else see `call_soon`.

        Raises:
            ValueError: `delay` is not a number (NaN).
        """
        return _core_of(self).call_later(delay, fn, *args)

    def call_every(
        self, interval: float, fn: Callable[[Unpack[_Args]], object], /, *args: Unpack[_Args]
    ) -> TimerHandle:
        """Call ``fn(*args)`` on a worker every `interval` seconds until it is cancelled.

        The first time is one interval from now. Each deadline is one interval after the one
        before, so it does not drift; deadlines that a busy worker has missed are left out. It runs
        once in a millisecond at most. For everything else see `call_soon`.

        Raises:
            ValueError: `interval` is not above 0.
        """
        return _core_of(self).call_every(interval, fn, *args)

    # ---- State.

    def __repr__(self) -> str:
        """Return class, state, address, back-end and number of connections; it never raises."""
        return f"<{type(self).__name__} {_description(self)}>"

    @property
    def address(self) -> tuple[str, int]:
        """The (host, port) that is bound; when the server does not run, that of the last run.

        Raises:
            RuntimeError: the server was never started.
        """
        address = _core_of(self).address()
        if address is None:
            raise RuntimeError("the server has no address before start()")
        return address

    @property
    def backend(self) -> str:
        """``"iocp"``, ``"io_uring"`` or ``"epoll"``; ``""`` before `start`."""
        return _core_of(self).backend()

    @property
    def tls(self) -> TLS | None:
        """The `iocp_bind.TLS` that new clients get; None, as at first: they get no TLS.

        It may be set at any time, on any thread, to renew a certificate, for example. While the
        server runs, clients that connect from then on get the new one. Clients that are connected
        keep what they have. When the server does not run, it is the default of the next `start`.
        If setting raises an exception, nothing has changed.

        Raises:
            TypeError: it is set to something else; or to None while the server runs.
            ValueError: it is set to one of `iocp_bind.TLS.client`.
            RuntimeError: this is a forked child.
        """
        return _core_of(self).tls()

    @tls.setter
    def tls(self, tls: TLS | None) -> None:
        _core_of(self).set_tls(tls)

    @property
    def running(self) -> bool:
        """True from a `start` that succeeded until the last worker has left."""
        return _core_of(self).running()

    @property
    def connection_count(self) -> int:
        """How many connections there are now."""
        return _core_of(self).connection_count()

    def stats(self) -> Stats:
        """Return the counters since `start`."""
        values = _core_of(self).stats()
        closed = dict(zip(CloseReason, values.pop("closed"), strict=True))
        failures = dict(zip(TLSFailure, values.pop("tls_failures"), strict=True))
        return Stats(closed=closed, tls_failures=failures, **values)


# A descriptor: access through it asks no __getattr__, __setattr__ or attribute of a subclass.
_core_slot: Any = Server.__dict__["_Server__iocp_bind_core"]


def _core_of(server: Server[Any]) -> _Core:
    try:
        core: _Core = _core_slot.__get__(server)
    except AttributeError:
        name = type(server).__name__
        raise RuntimeError(
            f"{name} has not been initialised: call super().__init__() first in "
            f"{name}.__init__(), or in __post_init__() of a dataclass"
        ) from None
    return core


def _description(server: Server[Any]) -> str:
    try:
        core = _core_of(server)
    except RuntimeError:
        return "not initialised"
    state = core.state()
    if state not in ("running", "stopping", "stopped"):
        return state
    address = core.address()
    assert address is not None
    tls = "" if core.tls() is None else " tls"
    return (
        f"{state} address={shown(address)} backend={core.backend()}{tls} "
        f"connections={core.connection_count()}"
    )


def _on_stopped(server: Server[Any], core: _Core, stopped: Stopped) -> None:
    """Note that a run is over. The pending call keeps the server alive until then."""
    try:
        log_state(type(server).__name__, core, "has stopped")
    finally:
        stopped.set()
        # Last: the end of the interpreter waits for the cores that are in there.
        _running.discard(core)


def _refuse_in_hook(method: str) -> None:
    if _core._on_worker_thread():
        raise RuntimeError(
            f"{method}() was called in a hook: the server cannot stop before the hook returns, so "
            "it would wait forever"
        )


def _stopped_of(core: _Core) -> Stopped:
    if core.stopped is None:
        raise RuntimeError("the server was never started; call start() first")
    return core.stopped


_OPTION_NAMES = frozenset(inspect.signature(Server.start).parameters) - {"self", "zero_copy"}


def _chosen_backend(backend: str) -> str:
    """Resolve ``"auto"`` with the environment, and refuse a misspelt name from there."""
    from_environment = os.environ.get("IOCP_BIND_BACKEND", "")
    if backend != "auto" or not from_environment:
        return backend
    known = ["auto", *(name for name, _, _ in _core._backends())]
    if from_environment not in known:
        raise ValueError(
            f"the environment variable IOCP_BIND_BACKEND must be one of {', '.join(known)}, "
            f"not {from_environment!r}"
        )
    return from_environment


def _stop_all() -> None:
    """Stop every server before the interpreter ends: no thread may ask for the GIL then."""
    _core._refuse_starts()
    for core in list(_running):
        with contextlib.suppress(RuntimeError):  # a forked child
            core.shutdown(0.0)


atexit.register(_stop_all)
