"""The output of the commands, which may have lost its reader."""

from __future__ import annotations

import os
import sys


def say(line: str) -> None:
    """Print `line` at once. When that is impossible go on, without it and those after it."""
    try:
        print(line, flush=True)
    except OSError as error:
        # A reader that has left, as `head` does, knows that it has.
        if not isinstance(error, BrokenPipeError):
            print(f"iocp_bind: cannot write the output: {error}", file=sys.stderr)
        # Python keeps what it could not write, and would complain of it at its end.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
