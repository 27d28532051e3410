"""What the tests share: a server that records its hooks, clients, child processes, measures.

Nothing here sleeps to be right: every wait is for an event and has a deadline.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import logging
import os
import queue
import random
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import pytest

import iocp_bind
from iocp_bind import CloseReason, Connection

if TYPE_CHECKING:
    from typing_extensions import Self

# Seconds after which a wait has failed. Long: it is only ever used up by a failure.
DEADLINE = 20.0

REPOSITORY = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent

ON_LINUX = sys.platform == "linux"
ON_WINE = sys.platform == "win32" and hasattr(ctypes.WinDLL("ntdll"), "wine_get_version")
linux_only = pytest.mark.skipif(not ON_LINUX, reason="needs Linux: /proc, signals or fork")

windows_only = pytest.mark.skipif(sys.platform != "win32", reason="needs Windows")

S = TypeVar("S", bound=iocp_bind.Server)
Address = tuple[str, int]
Target = iocp_bind.Server | Address


class Serve(Protocol):
    """The fixture `serve`: starts a server on a free port and shuts it down after the test."""

    def __call__(self, server: S, **options: Any) -> S: ...


class Connect(Protocol):
    """The fixture `connect`: a client socket with a timeout, closed after the test."""

    def __call__(self, target: Target, *, receive_buffer: int | None = None) -> socket.socket: ...


class Logs(logging.Handler):
    """The fixture `logs`: what the logger `iocp_bind` said.

    A test during which it says something calls `expect`; any other fails then.
    """

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.expected = False

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def expect(self) -> list[logging.LogRecord]:
        self.expected = True
        return self.records


# ---- A server that records.


class Event(NamedTuple):
    hook: str  # established, read, write, error, closing
    conn: Connection
    value: Any
    thread: int


class Recorder(iocp_bind.Server):
    """Records every hook, in order; what a hook does besides is given as a function.

    The functions get what the hook gets: `Recorder(read=lambda conn, data: conn.send(data))`.
    """

    def __init__(
        self,
        *,
        established: Callable[[Connection], object] | None = None,
        read: Callable[[Connection, Any], object] | None = None,
        write: Callable[[Connection, int], object] | None = None,
        error: Callable[[Connection, OSError], object] | None = None,
        closing: Callable[[Connection, CloseReason], object] | None = None,
    ) -> None:
        super().__init__()
        self.events: list[Event] = []
        self.changed = threading.Condition()
        self._established = established
        self._read = read
        self._write = write
        self._error = error
        self._closing = closing

    def _record(self, hook: str, conn: Connection, value: Any) -> None:
        with self.changed:
            self.events.append(Event(hook, conn, value, threading.get_ident()))
            self.changed.notify_all()

    def on_connection_established(self, conn: Connection) -> None:
        self._record("established", conn, None)
        if self._established is not None:
            self._established(conn)

    def on_read_completed(self, conn: Connection, data: Any) -> None:
        self._record("read", conn, bytes(data))
        if self._read is not None:
            self._read(conn, data)

    def on_write_completed(self, conn: Connection, nbytes: int) -> None:
        self._record("write", conn, nbytes)
        if self._write is not None:
            self._write(conn, nbytes)

    def on_connection_error(self, conn: Connection, error: OSError) -> None:
        self._record("error", conn, error)
        if self._error is not None:
            self._error(conn, error)

    def on_connection_closing(self, conn: Connection, reason: CloseReason) -> None:
        self._record("closing", conn, reason)
        if self._closing is not None:
            self._closing(conn, reason)

    # ---- For the test.

    def wait_for(self, predicate: Callable[[], object], what: str = "the event") -> None:
        """Wait until `predicate` holds; it is tried after every hook, and now and then."""
        end = time.monotonic() + DEADLINE
        with self.changed:
            while not predicate():
                left = end - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"{what} did not come; hooks so far: {self.summary()}")
                # A predicate may look at counters that no hook announces.
                self.changed.wait(min(left, 0.02))

    def wait_count(self, hook: str, count: int = 1) -> list[Event]:
        """Wait until `hook` has been called `count` times; return those calls."""
        self.wait_for(lambda: len(self.of(hook)) >= count, f"{count} times {hook}")
        return self.of(hook)

    def wait_connection(self, index: int = 0) -> Connection:
        """Return the connection that was established as number `index`."""
        return self.wait_count("established", index + 1)[index].conn

    def wait_closed(self, conn: Connection) -> CloseReason:
        """Wait for the closing hook of `conn`; return its reason."""
        self.wait_for(lambda: any(e.hook == "closing" for e in self.of_connection(conn)), "closing")
        reason = next(e.value for e in self.of_connection(conn) if e.hook == "closing")
        assert isinstance(reason, CloseReason)
        return reason

    def of(self, hook: str) -> list[Event]:
        with self.changed:
            return [event for event in self.events if event.hook == hook]

    def of_connection(self, conn: Connection) -> list[Event]:
        with self.changed:
            return [event for event in self.events if event.conn is conn]

    def hooks_of(self, conn: Connection) -> list[str]:
        return [event.hook for event in self.of_connection(conn)]

    def received(self, conn: Connection) -> bytes:
        return b"".join(e.value for e in self.of_connection(conn) if e.hook == "read")

    def reasons(self) -> list[CloseReason]:
        return [event.value for event in self.of("closing")]

    def summary(self) -> str:
        with self.changed:
            tail = [(e.hook, e.conn.id, _short(e.value)) for e in self.events[-20:]]
            return f"{len(self.events)} in all, the last {tail}"

    def check_grammar(self) -> None:
        """established -> (read | write)* -> [error] -> closing, for every connection."""
        with self.changed:
            events = list(self.events)
        by_connection: dict[Connection, list[str]] = {}
        for event in events:
            by_connection.setdefault(event.conn, []).append(event.hook)
        for hooks in by_connection.values():
            assert hooks[0] == "established"
            assert hooks.count("established") == 1
            assert hooks[-1] == "closing"
            assert hooks.count("closing") == 1
            assert hooks.count("error") <= 1
            if "error" in hooks:
                assert hooks[-2] == "error"


def _short(value: object) -> object:
    return f"{len(value)} bytes" if isinstance(value, bytes) else value


class Echo(iocp_bind.Server):
    """Only echoes: what a user would write first."""

    def on_read_completed(self, conn: Connection, data: Any) -> None:
        conn.send(data)


def echo_back(conn: Connection, data: Any) -> None:
    """As the `read` of a `Recorder`: echo."""
    conn.send(data)


# ---- Clients.


def address_of(target: Target) -> Address:
    return target.address if isinstance(target, iocp_bind.Server) else target


def open_client(target: Target, *, receive_buffer: int | None = None) -> socket.socket:
    """Connect; the caller closes."""
    address = address_of(target)
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    client = socket.socket(family, socket.SOCK_STREAM)
    try:
        client.settimeout(DEADLINE)
        if receive_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.connect(address)
    except BaseException:
        client.close()
        raise
    return client


def recv_exact(client: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = client.recv(min(size - len(parts), 1 << 20))
        if not part:
            raise AssertionError(f"the stream ended after {len(parts)} of {size} bytes")
        parts += part
    return bytes(parts)


def recv_to_end(client: socket.socket) -> bytes:
    """Everything up to the end of the stream; a reset raises ConnectionResetError."""
    parts = bytearray()
    while part := client.recv(1 << 20):
        parts += part
    return bytes(parts)


def ask(client: socket.socket, message: bytes) -> bytes:
    """Send, and receive an answer of the same length."""
    client.sendall(message)
    return recv_exact(client, len(message))


def reset(client: socket.socket) -> None:
    """Close with a reset instead of an end of stream."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def saw_reset(client: socket.socket) -> bool:
    """Read on: True when the connection was reset, False when the stream ended in order.

    Wine ends the stream in order before it resets it, so there both are taken for a reset.
    """
    try:
        recv_to_end(client)
    except (ConnectionResetError, ConnectionAbortedError, BrokenPipeError):
        return True
    return ON_WINE


def saw_end(client: socket.socket) -> bool:
    """Read on: True when the stream ended in order, False when the connection was reset."""
    try:
        recv_to_end(client)
    except (ConnectionResetError, ConnectionAbortedError, BrokenPipeError):
        return False
    return True


def fill(client: socket.socket, limit: int, patience: float = 0.5) -> int:
    """Send zeros until the peer has taken none for `patience` seconds, or `limit` are out."""
    chunk = bytes(1 << 16)
    sent = 0
    client.setblocking(False)
    try:
        while sent < limit and select.select([], [client], [], patience)[1]:
            with contextlib.suppress(BlockingIOError):
                sent += client.send(chunk[: limit - sent])
    finally:
        client.settimeout(DEADLINE)
    return sent


def pattern(size: int, seed: int = 0) -> bytes:
    """Bytes in which a lost, doubled or moved piece shows."""
    return random.Random(seed).randbytes(size)


def is_refused(target: Target) -> bool:
    """Whether a newcomer is reset at once; that may be before connect() returns."""
    try:
        client = open_client(target)
    except ConnectionResetError:
        return True
    with client:
        return saw_reset(client)


# ---- Threads.


def in_threads(count: int, function: Callable[[int], object]) -> None:
    """Call function(0) .. function(count - 1) at once; raise the first error."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(count)

    def run(index: int) -> None:
        try:
            barrier.wait(DEADLINE)
            function(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE * 2)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


def wait_until(predicate: Callable[[], object], what: str, deadline: float = DEADLINE) -> None:
    """Poll for what no hook announces."""
    end = time.monotonic() + deadline
    pause = threading.Event()
    while not predicate():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {deadline} s")
        pause.wait(0.005)


# ---- Measures of this process (Linux).


def resident_bytes(pid: int | str = "self") -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no Rss in smaps_rollup")


def descriptor_count(pid: int | str = "self") -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def thread_count(pid: int | str = "self") -> int:
    """Threads of the process, without those that the kernel keeps for io_uring."""
    count = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            count += not (task / "comm").read_text().startswith("iou-")
    return count


def need_descriptors(count: int) -> None:
    """Raise the soft limit of descriptors to `count`, or skip the test."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"needs {count} descriptors; RLIMIT_NOFILE allows {hard}")
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def server_socket_of(client: socket.socket) -> socket.socket:
    """Return the server's end of `client`, which is in this process, as a socket of its own."""
    for entry in Path("/proc/self/fd").iterdir():
        try:
            copy = socket.socket(fileno=os.dup(int(entry.name)))
        except OSError:
            continue  # no socket
        try:
            if copy.getpeername() == client.getsockname():
                return copy
        except OSError:
            pass  # not connected
        copy.close()
    raise AssertionError("the server's end was not found in this process")


# ---- Child processes.


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

    def __init__(self, command: Sequence[str], **environment: str) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
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
        assert self.process.stderr is not None
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
            assert stream is not None
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
        """Skip to the line "... HOST:PORT ..." that tells where it listens."""
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

    def tell(self, text: str) -> None:
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
        self.tell(json.dumps({"do": command, **arguments}))
        answer: dict[str, Any] = json.loads(self.line(deadline))
        return answer

    def wait_idle(self) -> dict[str, Any]:
        """Wait until it has no connection, has told of every end, and uses no buffer.

        Returns its report.
        """
        report: dict[str, Any] = {}

        def idle() -> bool:
            nonlocal report
            report = self.ask("report")
            # A connection is gone a turn before its closing is told of, and counted.
            untold = report["established"] - sum(report["closed"].values())
            return (report["connection_count"], report["buffers_in_use"], untold) == (0, 0, 0)

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


# ---- What this system must have.


def uring_refusal() -> str | None:
    """Ask the kernel itself whether it lets this process use io_uring; None: it does."""
    import ctypes

    io_uring_setup = 425  # the same number on every architecture
    libc = ctypes.CDLL(None, use_errno=True)
    parameters = (ctypes.c_char * 120)()
    descriptor = libc.syscall(io_uring_setup, 4, ctypes.byref(parameters))
    if descriptor >= 0:
        os.close(descriptor)
        return None
    code = ctypes.get_errno()
    if code in (errno.EPERM, errno.ENOSYS):
        return f"the kernel refuses io_uring: {os.strerror(code)}"
    return None


def backends_of_this_system() -> list[str]:
    return {"linux": ["io_uring", "epoll"], "win32": ["iocp"]}.get(sys.platform, [])


@contextlib.contextmanager
def clients_of(target: Target, count: int) -> Iterator[list[socket.socket]]:
    """Many clients at once, closed at the end."""
    clients: list[socket.socket] = []
    try:
        for _ in range(count):
            clients.append(open_client(target))
        yield clients
    finally:
        for client in clients:
            client.close()
