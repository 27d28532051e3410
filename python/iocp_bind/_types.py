"""Values of the package: why a connection closed, counters of a server, back-ends."""

from __future__ import annotations

import dataclasses
import enum

from iocp_bind import _core


class CloseReason(enum.IntEnum):
    """Why a connection was closed; `Server.on_connection_closing` gets it."""

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
    """The counters of a server since `start`. Nothing stops while they are read."""

    accepted: int
    """Connections taken from the system."""
    refused: int
    """Accepted connections that were reset because the server was full or stopping."""
    accept_errors: int
    """Accepts that failed, for any reason."""
    established: int
    """Connections that were established, whether or not the hook is overridden."""
    closed: dict[CloseReason, int]
    """Established connections that have ended, by reason."""
    connections: int
    """Connections that exist now."""
    reads: int
    """Receives that brought data."""
    writes: int
    """Send operations of which the system took bytes."""
    bytes_received: int
    bytes_sent: int
    hook_calls: int
    hook_errors: int
    """Exceptions that left a hook."""
    hook_batches: int
    """How often the GIL was taken, each time for all hooks that were due."""
    gil_wait_seconds: float
    """Time spent waiting for the GIL."""
    hook_seconds: float
    """Time spent in hooks, with the GIL held."""
    buffers_in_use: int
    """Receive buffers whose data is still in use."""
    free_buffers: int
    """Receive buffers that are kept for reuse, or that the system has for data to come."""
    free_contexts: int
    """Connection objects that are kept for reuse."""
    pending_accepts: int
    """Accept operations that the system has now."""


@dataclasses.dataclass(frozen=True)
class BackendInfo:
    """Whether a back-end can run here."""

    available: bool
    reason: str
    """Why it cannot run here, and what to do; empty when it can."""


def backends() -> dict[str, BackendInfo]:
    """Return every back-end by name, the best one first."""
    return {name: BackendInfo(available, reason) for name, available, reason in _core._backends()}
