"""Waiting that a signal can end, on every system."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

# What ends `Server.run`.
_STOP_SIGNALS = [signal.SIGINT, signal.SIGTERM]
if sys.platform == "win32":
    _STOP_SIGNALS.append(signal.SIGBREAK)  # Ctrl-Break


class Wakeup:
    """A socket that Python writes to when a signal has come, and other threads to wake its reader.

    A wait for a lock is not enough. On Windows no signal interrupts it; on Linux a signal does not
    if it comes just before the wait, or to another thread.

    The main thread enters the block: inside it the socket is the wakeup descriptor of the process
    (`signal.set_wakeup_fd`). Numbers of signals are passed on to the descriptor set before.
    """

    def __init__(self) -> None:
        """Make it.

        Raises:
            OSError: the system has no descriptors.
        """
        self._receiver, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        self._before = -1
        # Closed when nobody has this object any more: another thread may still be in `wake`.
        weakref.finalize(self, _close, self._receiver, self._waker)

    def __enter__(self) -> Self:
        """Become the wakeup descriptor of the process."""
        self._before = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the process back the descriptor that it had before."""
        try:
            signal.set_wakeup_fd(self._before)
        except (OSError, ValueError):
            signal.set_wakeup_fd(-1)  # its owner has closed it
        self._receiver.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            self.wait()

    def wake(self) -> None:
        """Let `wait` return. Any thread may call it."""
        # A full socket has enough in it to wake its reader.
        with contextlib.suppress(BlockingIOError):
            self._waker.send(b"\0")

    def wait(self) -> bytes:
        """Block until a signal has come, or `wake` was called.

        Returns:
            The numbers of the signals. In the main thread their handlers run before the next turn
            of a loop.
        """
        numbers = self._receiver.recv(4096).replace(b"\0", b"")
        if numbers and self._before != -1:
            with contextlib.suppress(OSError):  # full, or closed
                _write(self._before, numbers)
        return numbers


def _close(*sockets: socket.socket) -> None:
    for each in sockets:
        each.close()


def _write(descriptor: int, data: bytes) -> None:
    if sys.platform != "win32":
        os.write(descriptor, data)
        return
    # There it is a socket as a rule, which os.write cannot write to.
    borrowed = socket.socket(fileno=descriptor)
    try:
        borrowed.send(data)
    finally:
        borrowed.detach()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


class Stopped:
    """An event that is set once, when a server has stopped. Any thread may wait for it.

    There is no lock that the main thread holds: a handler, which runs in it between any two
    instructions, may wait for the server to stop.
    """

    def __init__(self) -> None:
        """Make one that is not set."""
        self.thread = threading.get_ident()  # the one that makes it, which is in `start`
        self._event = threading.Event()
        self._wakeups: set[Wakeup] = set()

    def set(self) -> None:
        """Let every wait return. Any thread may call it."""
        self._event.set()
        for wakeup in list(self._wakeups):
            wakeup.wake()

    def wait(self) -> None:
        """Block until `set`, or until a signal's handler raises, as Ctrl-C does."""
        if not _in_main_thread():
            self._event.wait()
            return
        try:
            wakeup = Wakeup()
        except OSError:
            if sys.platform == "win32":
                raise
            # Clients have all descriptors. Nearly every signal interrupts this wait as well.
            self._event.wait()
            return
        with wakeup:
            self.wait_with(wakeup, lambda _: False)

    def wait_with(self, wakeup: Wakeup, is_enough: Callable[[bytes], bool]) -> None:
        """Block until `set`, or until `is_enough` says so of the signals that have come."""
        self._wakeups.add(wakeup)
        try:
            while not self._event.is_set():
                if is_enough(wakeup.wait()):
                    return
        finally:
            self._wakeups.discard(wakeup)


class StopSignals:
    """The signals that end `Server.run`: a block in which they end nothing else.

    The first one ends `wait`. The second one is passed to `hurrying`. A signal that is ignored, or
    whose handler is not Python's, is left alone. On a thread that is not the main one this does
    nothing, since Python lets no other thread set handlers.
    """

    def __init__(self) -> None:
        """Make it; it takes effect in its block."""
        self._before: dict[signal.Signals, Any] = {}
        self._come = 0  # how many stop signals have been read from the wakeup
        self._blocks = contextlib.ExitStack()
        self._wakeup: Wakeup | None = None

    def __enter__(self) -> Self:
        """Take the signals."""
        if _in_main_thread():
            with contextlib.ExitStack() as blocks:
                self._wakeup = blocks.enter_context(Wakeup())
                blocks.callback(self._restore)
                for number in _STOP_SIGNALS:
                    if signal.getsignal(number) not in (None, signal.SIG_IGN):
                        self._before[number] = signal.signal(number, self._ignore)
                self._blocks = blocks.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the signals the handlers back that they had before."""
        self._blocks.close()

    def _ignore(self, number: int, frame: FrameType | None) -> None:
        """Do nothing: the number comes through the wakeup."""

    def _restore(self) -> None:
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._ignore:
                signal.signal(number, handler)

    def _count(self, numbers: bytes) -> int:
        self._come += sum(number in self._before for number in numbers)
        return self._come

    def wait(self, stopped: Stopped) -> None:
        """Block until `stopped` is set, or a signal has come, also one since the block began."""
        if self._wakeup is None:
            stopped.wait()
        else:
            stopped.wait_with(self._wakeup, lambda numbers: self._count(numbers) >= 1)

    @contextlib.contextmanager
    def hurrying(self, hurry: Callable[[], object]) -> Iterator[None]:
        """Call `hurry` when the second signal comes while the block runs, on another thread.

        The main thread may be in a native call in the block, where no handler runs.
        """
        wakeup = self._wakeup
        is_over = False

        def watch(wakeup: Wakeup) -> None:
            while not is_over and self._come < 2:
                self._count(wakeup.wait())
            if self._come >= 2:
                hurry()

        with contextlib.ExitStack() as watching:
            if wakeup is not None:
                thread = threading.Thread(target=watch, args=(wakeup,), name="iocp_bind signals")
                # Where no thread can be started the second signal hurries nothing.
                with contextlib.suppress(RuntimeError):
                    thread.start()
                    watching.callback(thread.join)
                    watching.callback(wakeup.wake)
            try:
                yield
            finally:
                is_over = True
