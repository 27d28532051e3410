"""Looks for leaks at the end of every interpreter of the Python tests, also of their children.

After the interpreter's end, which is when the sanitizer looks by itself, all that CPython never
frees is a leak as well. So it is asked to look just before: what Python still holds is reached from
it then, and what is not reached by anything has been lost.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import os


def _look_for_leaks(process: int = os.getpid()) -> None:
    if os.getpid() != process:
        return  # forked: what the threads held that are not here is not lost
    gc.collect()  # what is held by garbage alone
    ctypes.CDLL(None).__lsan_do_leak_check()  # ends the process when there are leaks


if hasattr(ctypes.CDLL(None), "__lsan_do_leak_check"):
    # Registered first, so it comes last: after the package has stopped what runs.
    atexit.register(_look_for_leaks)
