"""The things that are measured: the servers and the workloads."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterable, Sequence
from pathlib import Path

from results import (
    ASYNCIO,
    CONNECT,
    LENGTH_PREFIX,
    LINES,
    RAW,
    SHA256,
    STREAMS,
    TWISTED,
    UVLOOP,
    before,
)

SERVERS = Path(__file__).resolve().parent / "servers"
BACKENDS = ("io_uring", "epoll")
BYTES = ("echo", SHA256)
"""The hooks that get bytes wherever the network cut them."""
MESSAGES = (LENGTH_PREFIX, LINES)
"""The hooks that get whole messages: what a server cuts them by."""


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
    hooks: tuple[str, ...] = BYTES
    """The things that it can do with a message."""
    only_echoes: bool = False
    """It sends back bytes, whatever they mean, and is not told of a hook."""

    def command_for(self, workload: Workload) -> list[str]:
        """The command line that serves `workload`."""
        options = []
        if workload.hook != "echo" and not self.only_echoes:
            options += ["--hook", workload.hook]
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


def framed(hook: str, workload: Workload) -> Workload:
    """The same with messages that the server cuts from the stream."""
    return Workload(f"{hook}/{workload.name}", (*workload.arguments, "--framing", hook), hook)


FEW = echo(64, 64, 1)
MANY = echo(64, 64, 32)
# A client that copies and compares them all would be the limit, and all servers equal.
LARGE = echo(16, 16384, 4, check_every=8)

WORKLOADS = (
    FEW,
    echo(1000, 256, 1),
    MANY,
    LARGE,
    Workload(CONNECT, ("--connect", "--connections", "64", "--bytes", "64")),
    # A hook that computes. The hash is of 256 KiB that the server has, not of what it receives, so
    # that the client, which may share a CPU with a worker, costs next to nothing.
    Workload(SHA256, ("--connections", "64", "--bytes", "64"), hook=SHA256),
    *(framed(LENGTH_PREFIX, workload) for workload in (MANY, FEW, LARGE)),
    framed(LINES, MANY),
)


def iocp_bind_contenders(
    binaries: Path, servers: Path, python: str, workers: Sequence[int]
) -> list[Contender]:
    """The servers of iocp_bind, once per number of workers."""
    script = (python, str(servers / "echo_iocp_bind.py"))
    ours = []
    for language, hook, program, hooks in (
        ("python", "", script, BYTES),
        ("python", "/on_messages", script, MESSAGES),
        ("python", "/on_message", (*script, "--one-by-one"), MESSAGES),
        ("cpp", "", (str(binaries / "server_echo"),), (*BYTES, *MESSAGES)),
    ):
        for backend in BACKENDS:
            for count in workers:
                name = f"{language}/{backend}{hook}" + (f"/{count}" if count != 1 else "")
                ours.append(Contender(name, program, backend, count, hooks=hooks))
    return ours


def contenders_before(checkout: Path, workers: Sequence[int]) -> list[Contender]:
    """The servers of iocp_bind that `make bench` built in another checkout.

    One from before there was framing has no servers for messages.
    """
    found = iocp_bind_contenders(
        checkout / "build" / "release" / "bench",
        checkout / "bench" / "servers",
        str(checkout / "build" / "venv" / "bin" / "python"),
        workers,
    )
    known = {*BYTES}
    if (checkout / "cpp" / "iocp" / "framing.h").is_file():
        known |= {*MESSAGES}
    return [
        dataclasses.replace(server, name=before(server.name), hooks=hooks)
        for server in found
        if (hooks := tuple(hook for hook in server.hooks if hook in known))
    ]


def contenders(binaries: Path, python: str, workers: Sequence[int]) -> list[Contender]:
    """Every server there is; those of iocp_bind once per number of workers."""
    return [
        Contender(
            RAW,
            (str(binaries / "raw_epoll_echo"),),
            hooks=("echo", *MESSAGES),
            only_echoes=True,
        ),
        *iocp_bind_contenders(binaries, SERVERS, python, workers),
        *(
            Contender(name, (python, str(SERVERS / script)), hooks=hooks)
            for name, script, hooks in (
                (UVLOOP, "echo_uvloop.py", (*BYTES, *MESSAGES)),
                (ASYNCIO, "echo_asyncio.py", (*BYTES, *MESSAGES)),
                (STREAMS, "echo_streams.py", (LINES,)),
                (TWISTED, "echo_twisted.py", MESSAGES),
            )
        ),
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
        Contender(RAW, raw, under_wine=True, hooks=("echo",), only_echoes=True),
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
