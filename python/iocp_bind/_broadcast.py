"""Broadcasts, and the clients that one leaves out because their backlog is full."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Literal

    from typing_extensions import Buffer

    from iocp_bind._core import Connection, Core

logger = logging.getLogger("iocp_bind")


def broadcast(
    core: Core,
    data: Buffer,
    exclude: Connection | None,
    to: Iterable[Connection] | None,
    on_full: Literal["skip", "close"] | Callable[[Connection], object],
    *,
    framed: bool,
) -> int:
    """Send `data`, with `framed` as a message, and see to the connections that cannot take it."""
    check_on_full(on_full)
    if isinstance(on_full, str):
        return core.broadcast(data, exclude, to, on_full == "close", None, framed)
    full: list[Connection] = []
    accepted = core.broadcast(data, exclude, to, False, full, framed)
    call_for_each(on_full, full)
    return accepted


def check_on_full(on_full: object) -> None:
    """Raise ValueError or TypeError unless `on_full` is what `Server.broadcast` takes."""
    if isinstance(on_full, str):
        if on_full not in ("skip", "close"):
            raise ValueError(f"on_full must be 'skip', 'close' or a function, not {on_full!r}")
        return
    if not callable(on_full):
        kind = type(on_full).__name__
        raise TypeError(f"on_full must be 'skip', 'close' or a function, not {kind}")
    if inspect.iscoroutinefunction(on_full):
        raise TypeError(
            "on_full must be a plain function, as nothing would await it; remove 'async'"
        )


def call_for_each(on_full: Callable[[Connection], object], full: list[Connection]) -> None:
    """Call `on_full` for each of `full`; the first exception is raised when all have had theirs.

    Further ones are logged. One that is no `Exception`, such as KeyboardInterrupt, ends it at once.
    """
    first: Exception | None = None
    for conn in full:
        try:
            on_full(conn)
        except Exception as error:  # the others must not go without
            if first is None:
                first = error
            else:
                logger.exception("on_full of a broadcast failed for %r, as for another", conn)
    if first is not None:
        raise first
