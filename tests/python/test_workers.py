"""The threads that run hooks, as the system sees them."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

from support import DEADLINE, Connect, Recorder, Serve, ask, linux_only

from iocp_bind import Connection


def _blocked(task: Path) -> int:
    lines = (task / "status").read_text().splitlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith("SigBlk:"))


def _workers() -> dict[str, Path]:
    tasks = Path("/proc/self/task").iterdir()
    names = {(task / "comm").read_text().strip(): task for task in tasks}
    return {name: task for name, task in names.items() if name.startswith("iocp-worker-")}


@linux_only
def test_workers_have_names(backend: str, serve: Serve) -> None:
    serve(Recorder(), backend=backend, workers=3)
    assert sorted(_workers()) == ["iocp-worker-0", "iocp-worker-1", "iocp-worker-2"]


@linux_only
def test_workers_block_no_signal_that_their_starter_does_not(backend: str, serve: Serve) -> None:
    """A process that a hook starts inherits the mask: blocked, SIGTERM would not end it."""
    serve(Recorder(), backend=backend)
    mine = Path(f"/proc/self/task/{threading.get_native_id()}")
    assert {_blocked(task) for task in _workers().values()} == {_blocked(mine)}


@linux_only
def test_a_process_that_a_hook_starts_can_be_terminated(
    backend: str, serve: Serve, connect: Connect
) -> None:
    codes: list[int] = []

    def start_and_terminate(conn: Connection, data: bytes) -> None:
        child = subprocess.Popen(["sleep", "60"])
        child.terminate()
        try:
            codes.append(child.wait(DEADLINE))
        finally:
            child.kill()
        conn.send(data)

    server = serve(Recorder(read=start_and_terminate), backend=backend)
    ask(connect(server), b"x")
    assert codes == [-15]


@linux_only
def test_one_worker_unless_asked_for_more(backend: str, serve: Serve) -> None:
    """On a free-threaded Python as well."""
    serve(Recorder(), backend=backend, workers=None)
    assert sorted(_workers()) == ["iocp-worker-0"]
