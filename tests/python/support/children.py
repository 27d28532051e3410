"""Programs in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from typing_extensions import Self
from support.clients import Address
from support.waiting import DEADLINE, wait_until

# The tests, whose modules and programs the children may use.
HERE = Path(__file__).resolve().parents[1]


class Finished(NamedTuple):
    code: int
    stdout: str
    stderr: str
    seconds: float


def child_environment(**changes: str) -> dict[str, str]:
    # A package that is not the installed one, as for coverage, is the children's too.
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **changes}
    environment.pop("IOCP_BIND_BACKEND", None)
    environment.update(changes)
    return environment


def run_script(
    text: str,
    *arguments: str,
    python: str = sys.executable,
    deadline: float = 30.0,
    **environment: str,
) -> Finished:
    """Run `text` in a fresh interpreter. One that outlives `deadline` is killed and fails."""
    began = time.monotonic()
    command = [python, "-X", "dev", "-W", "default", "-c", text, *arguments]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=deadline,
            check=False,
            env=child_environment(**environment),
        )
    except subprocess.TimeoutExpired as hung:
        raise AssertionError(
            f"the child hangs; stdout {hung.stdout!r}, stderr {hung.stderr!r}"
        ) from None
    return Finished(done.returncode, done.stdout, done.stderr, time.monotonic() - began)


class Child:
    """A process whose output is read line by line, with a deadline."""

    def __init__(
        self, command: Sequence[str], *, log_is_output: bool = False, **environment: str
    ) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if log_is_output else subprocess.PIPE,
            text=True,
            env=child_environment(**environment),
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._errors: list[str] = []
        self._threads = [
            threading.Thread(target=self._read_out, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _read_out(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))

    def _read_errors(self) -> None:
        if self.process.stderr is not None:
            self._errors.extend(self.process.stderr)

    @classmethod
    def of_script(cls, text: str, *arguments: str, python: str = sys.executable) -> Child:
        return cls([python, "-c", text, *arguments])

    @property
    def pid(self) -> int:
        return self.process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE)
        for thread in self._threads:
            thread.join(DEADLINE)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def line(self, deadline: float = DEADLINE) -> str:
        """Return the next line of its output."""
        end = time.monotonic() + deadline
        while True:
            try:
                return self._lines.get(timeout=0.05)
            except queue.Empty:
                gone = self.process.poll() is not None
                if time.monotonic() > end or (gone and self._lines.empty()):
                    raise AssertionError(
                        f"no line from the child; exit code {self.process.poll()}, "
                        f"stderr {''.join(self._errors)!r}"
                    ) from None

    def line_with(self, text: str) -> str:
        """Skip to the next line that contains `text`."""
        while text not in (line := self.line()):
            pass
        return line

    def listening(self) -> Address:
        """Skip to the line "... HOST:PORT ..." that says where it listens."""
        for word in self.line_with("listening on ").split("listening on ")[1].split():
            host, _, port = word.rpartition(":")
            return host.strip("[]"), int(port.rstrip(";,."))
        raise AssertionError("no address in the line")

    def wait_for_end_of_output(self) -> None:
        """Wait until nobody holds its standard output open."""
        self._threads[0].join(DEADLINE)
        assert not self._threads[0].is_alive()

    def errors_so_far(self) -> str:
        return "".join(self._errors)

    def send_line(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def finish(self, deadline: float = DEADLINE) -> Finished:
        """Wait for its end; the seconds are those it took from now on."""
        began = time.monotonic()
        try:
            code = self.process.wait(deadline)
        except subprocess.TimeoutExpired:
            raise AssertionError("the child hangs") from None
        seconds = time.monotonic() - began
        for thread in self._threads:
            thread.join(DEADLINE)
        lines = []
        while not self._lines.empty():
            lines.append(self._lines.get())
        return Finished(code, "\n".join(lines), "".join(self._errors), seconds)


class ServerChild(Child):
    """`server_child.py`: a server in a process of its own, so that only its memory counts."""

    def __init__(self, backend: str, mode: str = "echo", **options: Any) -> None:
        program = str(HERE / "server_child.py")
        options = {"backend": backend, **options}
        super().__init__([sys.executable, program, mode, json.dumps(options)])
        self.address: Address = ("", 0)

    def __enter__(self) -> Self:
        host, port = json.loads(self.line())
        self.address = (host, port)
        return self

    def ask(self, command: str, deadline: float = DEADLINE, **arguments: Any) -> dict[str, Any]:
        self.send_line(json.dumps({"do": command, **arguments}))
        answer: dict[str, Any] = json.loads(self.line(deadline))
        return answer

    def wait_idle(self) -> dict[str, Any]:
        """Wait until it has no connection, has reported every end, and uses no buffer.

        Returns its report.
        """
        report: dict[str, Any] = {}

        def idle() -> bool:
            nonlocal report
            report = self.ask("report")
            # A connection is gone a turn before its closing is reported and counted.
            unreported = report["established"] - sum(report["closed"].values())
            return (report["connection_count"], report["buffers_in_use"], unreported) == (0, 0, 0)

        wait_until(idle, f"the server child becoming idle ({report})")
        return report


def run_child(program: str, *arguments: str, deadline: float = 30.0) -> Finished:
    """Run `program`, a file of this folder, in a fresh interpreter."""
    text = f"import runpy; runpy.run_path({str(HERE / program)!r}, run_name='__main__')"
    return run_script(text, *arguments, deadline=deadline)


def pythons() -> list[str]:
    """Interpreters that have the package: this one, and those of IOCP_BIND_PYTHONS."""
    others = os.environ.get("IOCP_BIND_PYTHONS", "").split(os.pathsep)
    return list(dict.fromkeys([sys.executable, *(path for path in others if path)]))
