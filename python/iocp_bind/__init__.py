"""TCP servers on completion ports: subclass `Server`, override `on_*` hooks, run.

Native threads do the I/O without the GIL, through I/O completion ports on Windows and io_uring or
epoll on Linux. They take the GIL only to call hooks, once for a whole batch of them.

    import iocp_bind

    class Echo(iocp_bind.Server):
        def on_read_completed(self, conn, data):
            conn.send(data)

    Echo().run("127.0.0.1", 4567)  # until Ctrl-C or SIGTERM
"""

from iocp_bind._core import (
    BackendUnavailable,
    Connection,
    FrameError,
    SendBacklogFull,
    TimerHandle,
    TLSError,
    TLSTruncated,
    __version__,
)
from iocp_bind._framing import (
    Cobs,
    Delimiter,
    FixedSize,
    Framing,
    LengthPrefix,
    Netstring,
    Slip,
    VarintPrefix,
)
from iocp_bind._server import Server
from iocp_bind._tls import TLS, TLSInfo, TLSLibrary, tls_library
from iocp_bind._types import BackendInfo, CloseReason, Stats, TLSFailure, backends

__all__ = [
    "TLS",
    "BackendInfo",
    "BackendUnavailable",
    "CloseReason",
    "Cobs",
    "Connection",
    "Delimiter",
    "FixedSize",
    "FrameError",
    "Framing",
    "LengthPrefix",
    "Netstring",
    "SendBacklogFull",
    "Server",
    "Slip",
    "Stats",
    "TLSError",
    "TLSFailure",
    "TLSInfo",
    "TLSLibrary",
    "TLSTruncated",
    "TimerHandle",
    "VarintPrefix",
    "__version__",
    "backends",
    "tls_library",
]
