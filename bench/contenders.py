"""The things that are measured: the servers and the workloads."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterable, Sequence
from pathlib import Path

from results import ASYNCIO, CONNECT, RAW, SHA256, UVLOOP, before

SERVERS = Path(__file__).resolve().parent / "servers"
BACKENDS = ("io_uring", "epoll")


@dataclasses.dataclass(frozen=True)
class Workload:
    """The work of the load generator, and of the server with each message."""

    name: str
    arguments: tuple[str, ...]
    hook: str = "echo"


@dataclasses.dataclass(frozen=True)
class Contender:
    """A server that is measured."""

    name: str
    command: tuple[str, ...]
    backend: str | None = None
    """A back-end of iocp_bind; `--list` says whether the server has it."""
    workers: int = 1
    under_wine: bool = False
    """It is not pinned, and ends with its input, as it hears of no signals."""
    hooks: tuple[str, ...] = ("echo", "sha256")
    """The things that it can do with a message."""

    def command_for(self, workload: Workload) -> list[str]:
        """The command line that serves `workload`."""
        options = [] if workload.hook == "echo" else ["--hook", workload.hook]
        if self.backend is not None:
            options += ["--backend", self.backend, "--workers", str(self.workers)]
        return [*self.command, *options]


def echo(connections: int, size: int, in_flight: int, check_every: int = 1) -> Workload:
    """Connections x bytes x messages in flight; the client checks one receive in so many."""
    return Workload(
        f"{connections}x{size}x{in_flight}",
        (
            *("--connections", str(connections)),
            *("--bytes", str(size)),
            *("--in-flight", str(in_flight)),
            *("--check-every", str(check_every)),
        ),
    )


WORKLOADS = (
    echo(64, 64, 1),
    echo(1000, 256, 1),
    echo(64, 64, 32),
    # A client that copies and compares them all would be the limit, and all servers equal.
    echo(16, 16384, 4, check_every=8),
    Workload(CONNECT, ("--connect", "--connections", "64", "--bytes", "64")),
    # A hook that computes. The hash is of 256 KiB that the server has, not of what it receives, so
    # that the client, which may share a CPU with a worker, costs next to nothing.
    Workload(SHA256, ("--connections", "64", "--bytes", "64"), hook="sha256"),
)


def iocp_bind_contenders(
    binaries: Path, servers: Path, python: str, workers: Sequence[int]
) -> list[Contender]:
    """The servers of iocp_bind, once per number of workers."""
    ours = []
    for language, program in (
        ("python", (python, str(servers / "echo_iocp_bind.py"))),
        ("cpp", (str(binaries / "server_echo"),)),
    ):
        for backend in BACKENDS:
            for count in workers:
                name = f"{language}/{backend}" + (f"/{count}" if count != 1 else "")
                ours.append(Contender(name, program, backend, count))
    return ours


def contenders_before(checkout: Path, workers: Sequence[int]) -> list[Contender]:
    """The servers of iocp_bind that `make bench` built in another checkout."""
    found = iocp_bind_contenders(
        checkout / "build" / "release" / "bench",
        checkout / "bench" / "servers",
        str(checkout / "build" / "venv" / "bin" / "python"),
        workers,
    )
    return [dataclasses.replace(server, name=before(server.name)) for server in found]


def contenders(binaries: Path, python: str, workers: Sequence[int]) -> list[Contender]:
    """Every server there is; those of iocp_bind once per number of workers."""
    return [
        Contender(RAW, (str(binaries / "raw_epoll_echo"),), hooks=("echo",)),
        *iocp_bind_contenders(binaries, SERVERS, python, workers),
        Contender(UVLOOP, (python, str(SERVERS / "echo_uvloop.py"))),
        Contender(ASYNCIO, (python, str(SERVERS / "echo_asyncio.py"))),
    ]


WINDOWS_WORKLOADS = (echo(16, 64, 1), echo(16, 64, 32), echo(16, 16384, 4, check_every=8))


def on_windows(path: Path) -> str:
    """Return Wine's name of a file of this system."""
    return "Z:" + str(path.resolve()).replace("/", "\\")


def windows_contenders(folder: Path, wine: str, workers: Sequence[int]) -> list[Contender]:
    """Return the servers that `make bench-windows` built in `folder`, under Wine.

    None is pinned, as the wineserver is not, which every one of them asks several times for a
    message.
    """
    python = (wine, on_windows(folder / "python" / "python.exe"))
    programs = folder / "release" / "bench"
    ours = []
    for language, program in (
        ("python", (*python, on_windows(SERVERS / "echo_iocp_bind.py"))),
        ("cpp", (wine, on_windows(programs / "server_echo.exe"))),
    ):
        for count in workers:
            name = f"{language}/iocp" + (f"/{count}" if count != 1 else "")
            ours.append(Contender(name, program, "iocp", count, under_wine=True))
    raw = (wine, on_windows(programs / "raw_iocp_echo.exe"))
    asyncio = (*python, on_windows(SERVERS / "echo_asyncio.py"))
    return [
        Contender(RAW, raw, under_wine=True, hooks=("echo",)),
        *ours,
        Contender(ASYNCIO, asyncio, under_wine=True),
    ]


def select(patterns: Iterable[str], names: Sequence[str], others: Sequence[str]) -> list[str]:
    """The names that a pattern matches; all when no pattern is about them but about `others`.

    ValueError for a pattern that matches neither.
    """
    patterns = list(patterns)
    for pattern in patterns:
        if not fnmatch.filter([*names, *others], pattern):
            raise ValueError(
                f"--only {pattern} matches nothing; there are {', '.join([*names, *others])}"
            )
    chosen = [name for name in names if any(fnmatch.fnmatch(name, p) for p in patterns)]
    return chosen or list(names)
