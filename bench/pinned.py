"""Run a command on some CPUs: `python pinned.py 0,1 command argument...`.

The command replaces this process, so its pid is the one that was started. It gets SIGTERM when the
process that started it ends, however that happens.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Set affinity, descriptor limit and death signal, and become the command."""
    cpus, command = sys.argv[1], sys.argv[2:]
    os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
