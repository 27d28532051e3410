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
    RECEIVE_TIMEOUT = 9
    """Nothing was received for `receive_timeout`, whatever was sent."""
    FRAME_ERROR = 10
    """The client sent bytes that are no message; `Server.on_connection_error` reported it."""
    MESSAGE_TIMEOUT = 11
    """A message was not complete within `message_timeout`."""
    HANDSHAKE_TIMEOUT = 12
    """A handshake that `Connection.start_tls` began was not done within `handshake_timeout`."""


class TLSFailure(enum.IntEnum):
    """Why a handshake of TLS came to nothing; `Stats.tls_failures` counts them."""

    TIMEOUT = 0
    """It was not done within `handshake_timeout`, or another timeout of the connection was over."""
    PEER_LEFT = 1
    """The client ended or broke the connection."""
    PROTOCOL = 2
    """The client sent what is no TLS, or both sides have no version or cipher in common."""
    CERTIFICATE = 3
    """The client's certificate is missing, or is not trusted."""
    REFUSED = 4
    """The client refused, with an alert: it does not trust the server's certificate, say."""
    RESOURCES = 5
    """Memory ran out."""
    CLOSED = 6
    """The server closed the connection: it stops, or a hook closed it after `start_tls`."""


@dataclasses.dataclass(frozen=True)
class Stats:
    """The figures of a server since `start`. Nothing stops while they are read.

    A counter only grows, until the next `start`; a gauge is how many there are at this moment.
    """

    accepted: int
    """Connections taken from the system. Counter."""
    refused: int
    """Accepted connections that were reset because the server was full or stopping. Counter."""
    accept_errors: int
    """Accepts that failed, for any reason. Counter."""
    established: int
    """Connections that were established, whether or not the hook is overridden. Counter."""
    closed: dict[CloseReason, int]
    """Established connections that have ended, by reason. Counters."""
    tls_handshakes: int
    """Handshakes of TLS that were done. Counter."""
    tls_resumed: int
    """How many of them resumed an earlier session of the client. Counter."""
    tls_failures: dict[TLSFailure, int]
    """Handshakes that came to nothing, by cause. No hook is called for such a connection, unless
    `Connection.start_tls` began the handshake. Counters."""
    connections: int
    """Connections that exist now. Gauge."""
    reads: int
    """Receives that brought data. Counter."""
    messages: int
    """Messages that connections with a framing have received. Counter."""
    writes: int
    """Send operations of which the system took bytes. Counter."""
    bytes_received: int
    """Bytes that clients sent and the server received. Counter."""
    bytes_sent: int
    """Bytes that the system took to send. Counter."""
    hook_calls: int
    """Calls of hooks and of callbacks. Counter."""
    hook_errors: int
    """Exceptions that left a hook or a callback. Counter."""
    hook_batches: int
    """How often the GIL was taken, each time for all hooks that were due. Counter."""
    gil_wait_seconds: float
    """Seconds spent waiting for the GIL, by all workers together. Counter."""
    hook_seconds: float
    """Seconds spent in hooks, with the GIL held, by all workers together. Counter."""
    buffers_in_use: int
    """Receive buffers whose data is still in use. Gauge."""
    free_buffers: int
    """Receive buffers kept for reuse, or that the system has for data to come. Gauge."""
    free_contexts: int
    """Connection objects that are kept for reuse. Gauge."""
    pending_accepts: int
    """Accept operations that the system has now. Gauge."""
    sends_refused: int
    """Calls of `Connection.send` and its like that raised `SendBacklogFull`. Counter."""
    broadcasts_skipped: int
    """Connections that were left out of a broadcast because their backlog was full. Counter."""
    send_backlog: int
    """Bytes that all connections have accepted and the system has not taken yet. Gauge."""


@dataclasses.dataclass(frozen=True)
class BackendInfo:
    """Whether a back-end can run here."""

    available: bool
    reason: str
    """Why it cannot run here, and what to do; empty when it can."""


def backends() -> dict[str, BackendInfo]:
    """Return every back-end by name, the best one first."""
    return {name: BackendInfo(available, reason) for name, available, reason in _core._backends()}
