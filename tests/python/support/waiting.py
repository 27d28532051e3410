"""Waiting for what no hook announces, and doing several things at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

# Seconds after which a wait has failed. Long: it is only ever used up by a failure.
DEADLINE = 20.0


def in_threads(count: int, function: Callable[[int], object]) -> None:
    """Call function(0) .. function(count - 1) at once; raise the first error."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(count)

    def run(index: int) -> None:
        try:
            barrier.wait(DEADLINE)
            function(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE * 2)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


def wait_until(
    predicate: Callable[[], object], what: str, deadline: float = DEADLINE, pause: float = 0.005
) -> None:
    """Poll for what no hook announces, every `pause` seconds."""
    end = time.monotonic() + deadline
    never = threading.Event()
    while not predicate():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {deadline} s")
        never.wait(pause)
