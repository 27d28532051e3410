"""What the package tells the log, with the loggers ``iocp_bind`` and ``iocp_bind.tls``."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from iocp_bind._types import TLSFailure

if TYPE_CHECKING:
    from iocp_bind import _core

logger = logging.getLogger("iocp_bind")
tls_logger = logging.getLogger("iocp_bind.tls")


def shown(address: tuple[str, int]) -> str:
    """Return an address as people write it."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def log_state(name: str, core: _core.Core, state: str) -> None:
    """Say what has become of the server called `name`."""
    # A server that nobody wants to hear of costs no record.
    address = core.address() if logger.isEnabledFor(logging.INFO) else None
    if address is not None:
        tls = "" if core.tls() is None else " and TLS"
        logger.info("%s %s on %s with %s%s", name, state, shown(address), core.backend(), tls)


def log_handshake_failure(host: str, port: int, failure: int, why: str) -> None:
    """Say which client has failed, and why. The bindings call it on a worker, within a batch."""
    name = TLSFailure(failure).name
    tls_logger.debug("the handshake with %s has failed: %s: %s", shown((host, port)), name, why)
