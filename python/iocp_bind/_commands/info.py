"""``python -m iocp_bind info``."""

from __future__ import annotations

import platform

import iocp_bind
from iocp_bind._commands._output import say


def run() -> int:
    """Print versions and back-ends."""
    say(f"iocp_bind {iocp_bind.__version__}")
    say(f"Python {platform.python_version()} ({platform.python_implementation()})")
    say(f"{platform.system()} {platform.release()} {platform.machine()}")
    say("back-ends, best first:")
    for name, backend in iocp_bind.backends().items():
        say(f"  {name:<9} {'available' if backend.available else f'no: {backend.reason}'}")
    library = iocp_bind.tls_library()
    say(f"TLS: {library.version if library.available else f'no: {library.reason}'}")
    return 0
