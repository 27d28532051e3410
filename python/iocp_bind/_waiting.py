"""Waiting that a signal can end, on every system."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import sys
import threading


class Stopped:
    """An event that is set once, when a server has stopped. Any thread may wait for it.

    On Linux a signal interrupts a thread that waits for a lock. On Windows it does not, so the main
    thread waits for a socket there, to which Python itself writes when a signal has come.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._wakers: set[socket.socket] = set()

    def set(self) -> None:
        """Let every wait return. Any thread may call it."""
        with self._lock:
            self._event.set()
            for waker in self._wakers:
                # A full socket has enough in it to wake its reader.
                with contextlib.suppress(BlockingIOError):
                    waker.send(b"\0")

    def wait(self) -> None:
        """Block until `set`, or until a signal's handler raises, as Ctrl-C does."""
        if sys.platform == "win32" and threading.current_thread() is threading.main_thread():
            self._wait_for_signals_too()
        else:
            self._event.wait()

    def _wait_for_signals_too(self) -> None:
        receiver, waker = socket.socketpair()
        with receiver, waker:
            waker.setblocking(False)
            receiver.setblocking(False)
            with self._lock:
                self._wakers.add(waker)
            before = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
            try:
                while not self._event.is_set():
                    select.select([receiver], [], [])
                    # Handlers run now, between two instructions of this thread.
                    with contextlib.suppress(BlockingIOError):
                        receiver.recv(4096)
            finally:
                signal.set_wakeup_fd(before)
                with self._lock:
                    self._wakers.discard(waker)
