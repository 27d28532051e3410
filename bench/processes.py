"""Starting and ending what is measured. Every process is ended by its own pid."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

START_TIMEOUT = 15.0
STOP_TIMEOUT = 5.0
EXIT_MISSING = 77
"""With this code a server says that the system lacks what it needs."""

PINNED = Path(__file__).with_name("pinned.py")


End = Callable[[subprocess.Popen[bytes]], None]
"""How a server is asked to end: SIGTERM, or `end_input`."""


class BenchError(Exception):
    """A server or the load generator failed; the message says how."""


class MissingError(Exception):
    """A server needs something that is not installed."""


@dataclasses.dataclass(frozen=True)
class RunningServer:
    """Where a server is, and which process to measure."""

    port: int
    pid: int


@contextlib.contextmanager
def running_server(
    command: Sequence[str], cpus: Iterable[int], end: End
) -> Iterator[RunningServer]:
    """A fresh server on these CPUs, ended on leaving.

    BenchError when it does not start, has died in between, or does not end cleanly when asked to.
    """
    pinned = [sys.executable, str(PINNED), ",".join(str(cpu) for cpu in cpus), *command]
    process = subprocess.Popen(
        pinned,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # Not a file: Python under Wine does not start with one.
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stderr is not None
    with process.stderr as errors:
        os.set_blocking(errors.fileno(), False)
        try:
            try:
                yield RunningServer(_listening_port(process), process.pid)
            except BenchError as error:
                raise BenchError(_with_output(str(error), errors)) from error
            if process.poll() is not None:
                message = f"ended while it was measured, exit code {process.returncode}"
                raise BenchError(_with_output(message, errors))
        except BaseException:
            _stop(process, end)
            if process.returncode == EXIT_MISSING:
                raise MissingError(_tail(errors)) from None
            raise
        if not _stop(process, end):
            raise BenchError(_with_output(f"did not end within {STOP_TIMEOUT:g} s", errors))
        if process.returncode != 0:
            message = f"exit code {process.returncode} at its end"
            raise BenchError(_with_output(message, errors))


def end_input(process: subprocess.Popen[bytes]) -> None:
    """Close what the process reads from."""
    assert process.stdin is not None
    process.stdin.close()


def run_load(command: Sequence[str], timeout: float) -> str:
    """The line that the load generator prints; BenchError with its message when it fails."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            start_new_session=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"the load generator took more than {timeout:g} s") from None
    except OSError as error:
        raise BenchError(f"{command[0]}: {error.strerror}") from error
    if done.returncode != 0:
        raise BenchError(done.stderr.strip() or f"load generator: exit code {done.returncode}")
    return done.stdout


def _listening_port(process: subprocess.Popen[bytes]) -> int:
    """Wait for the line "listening PORT"."""
    assert process.stdout is not None
    deadline = time.monotonic() + START_TIMEOUT
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise BenchError(f"did not listen within {START_TIMEOUT:g} s")
            piece = os.read(process.stdout.fileno(), 256)
            if not piece:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_TIMEOUT)
                raise BenchError(f"ended before it listened, exit code {process.returncode}")
            line += piece
    words = line.split()
    if len(words) != 2 or words[0] != b"listening":
        raise BenchError(f'"listening PORT" expected, not {line!r}')
    return int(words[1])


def _stop(process: subprocess.Popen[bytes], end: End) -> bool:
    """End the process; False when it had to be killed."""
    clean = True
    try:
        end(process)
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            clean = False
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
    return clean


def _tail(errors: IO[bytes]) -> str:
    """The last line that the process has written to stderr, of those that nobody has read."""
    lines = (errors.read() or b"").decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _with_output(message: str, errors: IO[bytes]) -> str:
    tail = _tail(errors)
    return f"{message}: {tail}" if tail else message
