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
    NGINX,
    RAW,
    RESUME,
    SHA256,
    STREAMS,
    TLS,
    TWISTED,
    UVLOOP,
    before,
)

SMALL = 256
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
    tls: bool = False
    one_small: bool = False
    """A connection has one message of a few bytes in flight."""


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
    plain: bool = True
    """It can do without TLS."""
    tls: tuple[str, ...] = ()
    """The command that serves with TLS when `--tls` and a file are added; empty: there is none."""
    http: bool = False
    """It answers requests: one short message at a time."""

    def serves(self, workload: Workload) -> bool:
        """Whether it can serve `workload`."""
        if workload.hook not in self.hooks or (self.http and not workload.one_small):
            return False
        return bool(self.tls) if workload.tls else self.plain

    def command_for(self, workload: Workload, certificate: Path | None = None) -> list[str]:
        """The command line that serves `workload`; `certificate` is for workloads with TLS."""
        options = []
        if workload.tls:
            options += ["--tls", str(certificate)]
        if workload.hook != "echo" and not self.only_echoes:
            options += ["--hook", workload.hook]
        if self.backend is not None:
            options += ["--backend", self.backend, "--workers", str(self.workers)]
        return [*(self.tls if workload.tls else self.command), *options]

    def load_arguments(self, workload: Workload, certificate: Path | None = None) -> list[str]:
        """The arguments of the load generator, but for where the server is."""
        options = ["--tls", str(certificate)] if workload.tls else []
        if self.http:
            options.append("--http")
        return [*workload.arguments, *options]


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
        one_small=in_flight == 1 and size <= SMALL,
    )


def with_tls(workload: Workload, *arguments: str) -> Workload:
    """Return the same over TLS."""
    name = f"{TLS}/{workload.name}"
    return dataclasses.replace(
        workload, name=name, arguments=(*workload.arguments, *arguments), tls=True
    )


def framed(hook: str, workload: Workload) -> Workload:
    """The same with messages that the server cuts from the stream."""
    return Workload(f"{hook}/{workload.name}", (*workload.arguments, "--framing", hook), hook)


FEW = echo(64, 64, 1)
MANY = echo(64, 64, 32)
# A client that copies and compares them all would be the limit, and all servers equal.
LARGE = echo(16, 16384, 4, check_every=8)
ACCEPTS = Workload(CONNECT, ("--connect", "--connections", "64", "--bytes", "64"), one_small=True)

WORKLOADS = (
    FEW,
    echo(1000, 256, 1),
    MANY,
    LARGE,
    ACCEPTS,
    # A hook that computes. The hash is of 256 KiB that the server has, not of what it receives, so
    # that the client, which may share a CPU with a worker, costs next to nothing.
    Workload(SHA256, ("--connections", "64", "--bytes", "64"), hook=SHA256),
    *(framed(LENGTH_PREFIX, workload) for workload in (MANY, FEW, LARGE)),
    framed(LINES, MANY),
    *(with_tls(workload) for workload in (FEW, LARGE, ACCEPTS)),
    dataclasses.replace(with_tls(ACCEPTS, "--resume"), name=f"{TLS}/{RESUME}"),
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
                tls = program if hooks == BYTES or language == "cpp" else ()
                ours.append(Contender(name, program, backend, count, hooks=hooks, tls=tls))
    return ours


def contenders_before(checkout: Path, workers: Sequence[int]) -> list[Contender]:
    """The servers of iocp_bind that `make bench` built in another checkout.

    One from before there was framing has no servers for messages, and one from before there was TLS
    has none with TLS.
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
    # The server of that bench must have it, and not the engine alone.
    has_tls = "--tls" in (checkout / "bench" / "server_echo.cpp").read_text(encoding="utf-8")
    return [
        dataclasses.replace(
            server, name=before(server.name), hooks=hooks, tls=server.tls if has_tls else ()
        )
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
            tls=(str(binaries / "raw_tls_echo"),),
        ),
        Contender(
            NGINX,
            (python, str(SERVERS / "echo_nginx.py")),
            hooks=("echo",),
            plain=False,
            tls=(python, str(SERVERS / "echo_nginx.py")),
            http=True,
        ),
        *iocp_bind_contenders(binaries, SERVERS, python, workers),
        *(
            Contender(
                name,
                (python, str(SERVERS / script)),
                hooks=hooks,
                tls=(python, str(SERVERS / script)) if "echo" in hooks else (),
            )
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
