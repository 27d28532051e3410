"""Strings by key, some of which expire, in bounded memory."""

from __future__ import annotations

import time
from collections.abc import Callable

from resp import CommandError

from iocp_bind import TimerHandle

# Clients decide what they store; we decide how much of it we keep.
MAX_MEMORY = 256 * 1024 * 1024
LONGEST_LIFE = 100 * 365 * 24 * 3600  # seconds; replies hold no more than 64 bits
KEY_MEMORY = 200  # what a key takes beside its bytes and those of its value


class Strings:
    """All that clients have stored. A key that expires goes with its timer, or at a look-up."""

    def __init__(self, call_later: Callable[..., TimerHandle]) -> None:
        """Begin with nothing; `call_later` is the server's."""
        self.call_later = call_later
        self.timers: dict[bytes, TimerHandle] = {}
        self.values: dict[bytes, bytes] = {}
        self.deadlines: dict[bytes, float] = {}  # when keys expire, by time.monotonic()
        self.memory = 0  # bytes that all keys and values take

    def find(self, key: bytes) -> bytes | None:
        """Return the value of a key that has not expired."""
        deadline = self.deadlines.get(key)
        if deadline is not None and deadline <= time.monotonic():
            self.drop(key)
        return self.values.get(key)

    def drop(self, key: bytes) -> bool:
        """Remove a key; return whether there was one."""
        self.set_deadline(key, None)
        value = self.values.pop(key, None)
        if value is None:
            return False
        self.memory -= KEY_MEMORY + len(key) + len(value)
        return True

    def store(self, key: bytes, value: bytes, seconds: float | None) -> None:
        """Keep a value for so long; None is for ever."""
        before = self.find(key)
        old = 0 if before is None else KEY_MEMORY + len(key) + len(before)
        memory = self.memory - old + KEY_MEMORY + len(key) + len(value)
        if memory > MAX_MEMORY:
            raise CommandError("no memory for it")
        self.memory = memory
        self.values[key] = value
        self.set_deadline(key, seconds)

    def expire(self, key: bytes, seconds: float) -> bool:
        """Let a key expire; return whether there is one."""
        if self.find(key) is None:
            return False
        self.set_deadline(key, seconds)
        return True

    def set_deadline(self, key: bytes, seconds: float | None) -> None:
        """Set when a key, which is there, expires."""
        if (timer := self.timers.pop(key, None)) is not None:
            timer.cancel()
            del self.deadlines[key]
        if seconds is not None:
            seconds = min(seconds, LONGEST_LIFE)
            self.deadlines[key] = time.monotonic() + seconds
            self.timers[key] = self.call_later(seconds, self.find, key)

    def time_left(self, key: bytes) -> float | None:
        """Return the seconds until a key expires; None: it does not."""
        deadline = self.deadlines.get(key)
        return None if deadline is None else deadline - time.monotonic()
