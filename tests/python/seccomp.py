"""System calls that the system refuses from now on: a seccomp filter. Linux only."""

from __future__ import annotations

import ctypes
import platform
import struct

_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _FOR_ALL_THREADS = 1, 1

_NUMBERS = {
    "x86_64": {
        "seccomp": 317,
        "sendto": 44,
        "sendmsg": 46,
        "epoll_wait": 232,
        "epoll_pwait": 281,
        "io_uring_enter": 426,
    },
    "aarch64": {
        "seccomp": 277,
        "sendto": 206,
        "sendmsg": 211,
        "epoll_pwait": 22,
        "io_uring_enter": 426,
    },
}


def refuse(calls: tuple[str, ...], code: int, *, all_threads: bool) -> None:
    """Let each of the calls fail with `code`, in this thread or in all of the process.

    Raises:
        OSError: the system has no such filters.
    """
    numbers = _NUMBERS[platform.machine()]
    program = [(_LOAD, 0, 0, 0)]
    for number in (numbers[call] for call in calls if call in numbers):
        program += [(_JUMP_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | code)]
    program.append((_RETURN, 0, 0, _ALLOW))
    steps = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    header = ctypes.create_string_buffer(
        struct.pack("HxxxxxxQ", len(program), ctypes.addressof(steps))
    )
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    flags = _FOR_ALL_THREADS if all_threads else 0
    if libc.syscall(numbers["seccomp"], _SET_MODE_FILTER, flags, header) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")
