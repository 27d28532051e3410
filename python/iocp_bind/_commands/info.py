"""``python -m iocp_bind info``."""

from __future__ import annotations

import platform

import iocp_bind


def run() -> int:
    """Print versions and back-ends."""
    print(f"iocp_bind {iocp_bind.__version__}")
    print(f"Python {platform.python_version()} ({platform.python_implementation()})")
    print(f"{platform.system()} {platform.release()} {platform.machine()}")
    print("back-ends, best first:")
    for name, backend in iocp_bind.backends().items():
        print(f"  {name:<9} {'available' if backend.available else f'no: {backend.reason}'}")
    return 0
