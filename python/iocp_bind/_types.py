"""The package's values: why a connection closed, what a server counted, which back-ends exist."""

from __future__ import annotations

import dataclasses
import enum

from iocp_bind import _core


class CloseReason(enum.IntEnum):
    """Why a connection was closed, as told to `Server.on_connection_closing`."""

    PEER_CLOSED = 0
    """The client ended its stream."""
    LOCAL_CLOSE = 1
    """`Connection.close`."""
    LOCAL_ABORT = 2
    """`Connection.abort`."""
    ERROR = 3
    """An error; `Server.on_connection_error` reported it."""
    FIRST_DATA_TIMEOUT = 4
    """The client sent nothing for `first_data_timeout`."""
    IDLE_TIMEOUT = 5
    """Nothing was received, and nothing sent or taken, for `idle_timeout`."""
    WRITE_TIMEOUT = 6
    """The client took no byte of what was sent for `write_timeout`."""
    SHUTDOWN = 7
    """`Server.shutdown` closed it."""
    HOOK_ERROR = 8
    """An exception left a hook."""


@dataclasses.dataclass(frozen=True)
class Stats:
    """What a server has counted since `start`. Taken without stopping anything."""

    accepted: int
    """Connections taken from the system."""
    refused: int
    """Of those, reset because the server was full or stopping."""
    accept_errors: int
    """Accepts that failed, for whatever reason."""
    established: int
    """Connections for which `on_connection_established` was due."""
    closed: dict[CloseReason, int]
    """Of those, the ones that have ended, by reason."""
    connections: int
    """Connections now."""
    reads: int
    """Receives that brought data."""
    writes: int
    """Sends given to the system of which it took bytes."""
    bytes_received: int
    bytes_sent: int
    hook_calls: int
    hook_errors: int
    """Exceptions that left a hook."""
    hook_batches: int
    """How often the GIL was taken; each time for all hooks that were due."""
    gil_wait_seconds: float
    """Time spent waiting for the GIL."""
    hook_seconds: float
    """Time spent in hooks, the GIL held."""
    buffers_in_use: int
    """Receive buffers that hold data which somebody has not let go."""
    free_buffers: int
    """Receive buffers kept for reuse, or given to the system ahead of data."""
    free_contexts: int
    """Connection objects kept for reuse."""
    pending_accepts: int
    """Accept operations with the system now."""


@dataclasses.dataclass(frozen=True)
class BackendInfo:
    """Whether a back-end can run here."""

    available: bool
    reason: str
    """Why not, in words to act on; empty when available."""


def backends() -> dict[str, BackendInfo]:
    """Return every back-end by name, the best one first."""
    return {name: BackendInfo(available, reason) for name, available, reason in _core._backends()}
