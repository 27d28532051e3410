"""``python -m iocp_bind echo``: the original's test program."""

from __future__ import annotations

import argparse
import logging
import sys
import threading
import time
from typing import Any

import iocp_bind
from iocp_bind import CloseReason, Connection
from iocp_bind._commands._output import say

# Seconds that clients get to end their side.
SHUTDOWN_TIMEOUT = 0.5


class EchoServer(iocp_bind.Server):
    """Sends back what it receives; says where it listens."""

    def __init__(self, shutdown_event: str | None) -> None:
        """Make one that stops when the Windows event of that name is set."""
        super().__init__()
        self.shutdown_event = shutdown_event

    def start(self, *args: Any, **options: Any) -> None:
        """Start, then look at the event: one that is set would be used up before."""
        super().start(*args, **options)
        if self.shutdown_event is not None:
            _stop_at_event(self.shutdown_event, self)
        host, port = self.address
        tls = "" if self.tls is None else " and TLS"
        say(f"echo server listening on {host}:{port} with {self.backend}{tls}; Ctrl-C ends it")

    def on_read_completed(self, conn: Connection, data: bytes) -> None:
        """Echo."""
        conn.send(data)


class ReportingEchoServer(EchoServer):
    """Prints each event as well."""

    def _report(self, conn: Connection, event: str) -> None:
        host, port = conn.remote_address
        moment = time.strftime("%H:%M:%S")
        say(f"{moment} #{conn.id} {host} port {port}: {event}")

    def on_connection_established(self, conn: Connection) -> None:
        """Report."""
        tls = "" if conn.tls is None else f" with {conn.tls.version}"
        self._report(conn, f"connected{tls} ({self.connection_count} now)")

    def on_read_completed(self, conn: Connection, data: bytes) -> None:
        """Report and echo."""
        self._report(conn, f"received {len(data)} bytes")
        super().on_read_completed(conn, data)

    def on_write_completed(self, conn: Connection, nbytes: int) -> None:
        """Report."""
        self._report(conn, f"sent {nbytes} bytes")

    def on_connection_error(self, conn: Connection, error: OSError) -> None:
        """Report."""
        self._report(conn, f"error: {error}")

    def on_connection_closing(self, conn: Connection, reason: CloseReason) -> None:
        """Report."""
        self._report(conn, f"closed: {reason.name}")


class _Failures(logging.Handler):
    """Prints the handshakes that have failed, which no hook is called for."""

    def __init__(self) -> None:
        """Take those records alone."""
        super().__init__()
        self.addFilter(lambda record: record.levelno == logging.DEBUG)

    def emit(self, record: logging.LogRecord) -> None:
        """Print."""
        say(f"{time.strftime('%H:%M:%S')} {record.getMessage()}")


def _report_failed_handshakes() -> None:
    logger = logging.getLogger("iocp_bind.tls")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(_Failures())


def _stop_at_event(name: str, server: iocp_bind.Server) -> None:
    """Shut `server` down when another program sets the Windows event `name`."""
    if sys.platform != "win32":
        raise ValueError("--shutdown-event needs the named events of Windows; send SIGTERM here")
    import ctypes

    kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    kernel.CreateEventW.restype = ctypes.c_void_p
    kernel.CreateEventW.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_wchar_p]
    kernel.WaitForSingleObject.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    # Made here unless the other program was first; reset by itself, as the original's was.
    event = kernel.CreateEventW(None, False, False, name)
    if event is None:
        raise ctypes.WinError(ctypes.get_last_error())

    def wait() -> None:
        forever = 0xFFFFFFFF
        kernel.WaitForSingleObject(event, forever)
        server.shutdown()

    threading.Thread(target=wait, name="shutdown event", daemon=True).start()


# The ends of sentences that advise options, and what they are here.
_HINTS = {
    "give keyfile if it is elsewhere": "give --tls-key if it is elsewhere",
    "give its password": "decrypt it with openssl pkey, as echo takes no password",
}


def _tls(cert: str | None, key: str | None) -> iocp_bind.TLS | None:
    if cert is None and key is not None:
        raise ValueError("--tls-key needs --tls-cert")
    if cert is None:
        return None
    try:
        return iocp_bind.TLS(cert, key)
    except ValueError as error:
        sentence = str(error)
    for ours, here in _HINTS.items():
        if sentence.endswith(ours):
            sentence = sentence.removesuffix(ours) + here
    raise ValueError(sentence)


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C, Ctrl-Break or SIGTERM, or until the event `args.shutdown_event`."""
    server = (EchoServer if args.quiet else ReportingEchoServer)(args.shutdown_event)
    if not args.quiet:
        _report_failed_handshakes()
    try:
        server.run(
            args.host,
            args.port,
            shutdown_timeout=SHUTDOWN_TIMEOUT,
            backend=args.backend,
            workers=args.workers,
            tls=_tls(args.tls_cert, args.tls_key),
        )
    # BackendUnavailable, and a build without TLS, are RuntimeErrors.
    except (OSError, ValueError, RuntimeError) as error:
        print(f"iocp_bind echo: {error}", file=sys.stderr)
        return 1
    say("stopped")
    return 0
