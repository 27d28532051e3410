"""Chaos and soak: a server under hundreds of clients of all bad kinds at once, watched.

    soak.py --minutes 10                       # on each back-end, shared by 1, 2, 3 and 4 workers
    soak.py --minutes 1 --backends epoll --workers 3 --seed 4711
    soak.py --subject python --workers 1

Clients check every byte they get. The server is one process for a back-end and a number of workers;
its memory, descriptors and counters are looked at every second from outside. Writes results.json
and chart.png into --out; the exit code is 0 when every check of every share passed. It ends
with the command that runs each share again in which a check failed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import queue
import random
import shlex
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from chart import draw_chart

if TYPE_CHECKING:
    from typing_extensions import Self

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
SUBJECTS = {
    "cpp": [str(REPOSITORY / "build/release/tests/soak/soak_server")],
    "python": [sys.executable, str(HERE / "python_server.py")],
}
"""Servers, as commands; soak_server.cpp describes what they are asked and what they answer."""

TIMEOUTS = {
    "first_data_timeout": 4.0,
    "idle_timeout": 6.0,
    "write_timeout": 4.0,
    "close_timeout": 2.0,
}
DESCRIPTORS = 650
"""The server's limit: enough for the clients that are always there, not for a hoard."""
SQUEEZE_EVERY, SQUEEZE_LASTS, SQUEEZE_BY = 20.0, 2.0, 50
"""Every so many seconds the server has so many descriptors more than the limit allows."""
SHORTEST = TIMEOUTS["idle_timeout"] + 3.0
"""Seconds of a share in which clients of every kind are served."""
WARM_UP = 60.0
FLAT = 4 << 20
"""Bytes by which memory may grow once the server is warm."""
SLACK = 64 << 10
"""Bytes that a server may still have allocated after its end: buffers of streams and of threads."""
ANSWER_TIMEOUT = 10.0
GRACE = 60.0
"""Seconds that clients may take to end after their time is over; polite ones wait for answers."""


Tick = Callable[[float], None]
"""Told every second how long the share has lasted."""


class SoakError(Exception):
    """The share could not be carried on; the message says why."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """One server process, and what it is put through."""

    backend: str
    workers: int
    seconds: float
    seed: int
    subject: str

    @property
    def name(self) -> str:
        return f"{self.backend} x {self.workers}"

    @property
    def replay(self) -> str:
        """The command that runs this share alone, for as long and with the same seed."""
        return (
            f"build/venv/bin/python tests/soak/soak.py --minutes {self.seconds / 60:.6g} "
            f"--backends {self.backend} --workers {self.workers} --seed {self.seed} "
            f"--subject {self.subject}"
        )


@dataclasses.dataclass(frozen=True)
class Check:
    """Something that must hold."""

    name: str
    passed: bool
    seen: str


@dataclasses.dataclass
class Share:
    """The outcome of a plan."""

    plan: Plan
    samples: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """The server's books, and what the system says about its process; one a second."""
    polite: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    chaos: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """The clients' reports: `clients.Tally.report`."""
    last: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The server's books after its end."""
    squeezes: int = 0
    exit_code: int | None = None
    errors: list[str] = dataclasses.field(default_factory=list)


class Child:
    """A process whose lines of standard output are collected; killed on leaving, by its pid."""

    def __init__(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.name = Path(command[-1]).name if len(command) == 1 else shlex.join(command)[:80]
        self.lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._collect, daemon=True)
        self._reader.start()

    def _collect(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put("")

    def line(self, timeout: float = ANSWER_TIMEOUT) -> str:
        try:
            line = self.lines.get(timeout=timeout)
        except queue.Empty:
            raise SoakError(f"no answer within {timeout:g} s: {self.name}") from None
        if not line:
            code = self.process.wait(ANSWER_TIMEOUT)
            raise SoakError(f"ended with exit code {code}: {self.name}")
        return line

    def ask(self) -> dict[str, Any]:
        """The server's books."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the lines say why
        answer: dict[str, Any] = json.loads(self.line())
        return answer

    def all_lines(self) -> list[dict[str, Any]]:
        """Until the process has ended."""
        return [json.loads(line) for line in iter(self.lines.get, "")]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def run_share(plan: Plan, tick: Tick) -> Share:
    """Never raises what the server, or the clients, did wrong: it is in the share."""
    share = Share(plan)
    options = {"backend": plan.backend, "workers": plan.workers} | TIMEOUTS
    command = [
        *("prlimit", f"--nofile={DESCRIPTORS}:", "--"),
        *SUBJECTS[plan.subject],
        *(str(part) for option in options.items() for part in option),
    ]
    with Child(command) as server:
        try:
            port = int(server.line().removeprefix("listening "))
            _put_under_load(share, server, port, tick)
            _wait_until_empty(share, server)
            assert server.process.stdin is not None
            server.process.stdin.close()
            share.last = json.loads(server.line())
            share.exit_code = server.process.wait(ANSWER_TIMEOUT)
        except (SoakError, subprocess.TimeoutExpired, psutil.Error) as error:
            share.errors.append(str(error))
    return share


def _put_under_load(share: Share, server: Child, port: int, tick: Tick) -> None:
    plan = share.plan
    work = json.dumps(
        {
            "port": port,
            "seed": f"{plan.seed} {plan.name}",
            "seconds": plan.seconds,
            "timeouts": TIMEOUTS,
        }
    )
    program = [sys.executable, str(HERE / "clients.py")]
    process = psutil.Process(server.process.pid)
    began = time.monotonic()
    with Child([*program, "polite", work]) as polite, Child([*program, "chaos", work]) as chaos:
        clients = (polite.process, chaos.process)
        with Squeeze(process, began) as squeeze:
            while any(client.poll() is None for client in clients):
                passed = time.monotonic() - began
                if passed > plan.seconds + GRACE:
                    raise SoakError(f"clients have not ended {GRACE:g} s after their time was over")
                share.samples.append(_sample(server, process, passed))
                squeeze.turn()
                tick(passed)
                time.sleep(max(0.0, passed + 1.0 - (time.monotonic() - began)))
        share.squeezes = squeeze.times
        for child, lines in ((polite, share.polite), (chaos, share.chaos)):
            lines.extend(child.all_lines())
            if child.process.returncode != 0:
                raise SoakError(f"exit code {child.process.returncode}: {child.name}")


def _sample(server: Child, process: psutil.Process, passed: float) -> dict[str, Any]:
    books = server.ask()
    memory = process.memory_full_info()
    return books | {
        "seconds": passed,
        "time": time.time(),
        "memory": memory.uss,
        "resident": memory.rss,
        "descriptors": process.num_fds(),
    }


class Squeeze:
    """Takes descriptors away from a process, by its limit, and gives them back."""

    def __init__(self, process: psutil.Process, began: float) -> None:
        self.times = 0
        self._process = process
        self._soft, self._hard = process.rlimit(psutil.RLIMIT_NOFILE)
        self._begin_at = began + SQUEEZE_EVERY / 2
        self._end_at: float | None = None

    def turn(self) -> None:
        now = time.monotonic()
        if self._end_at is None and now >= self._begin_at:
            self._limit(max(16, self._process.num_fds() - SQUEEZE_BY))
            self.times += 1
            self._end_at = now + SQUEEZE_LASTS
        elif self._end_at is not None and now >= self._end_at:
            self._limit(self._soft)
            self._begin_at = now + SQUEEZE_EVERY
            self._end_at = None

    def _limit(self, soft: int) -> None:
        self._process.rlimit(psutil.RLIMIT_NOFILE, (soft, self._hard))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(psutil.Error):
            self._limit(self._soft)


def _wait_until_empty(share: Share, server: Child) -> None:
    """The clients are gone: the server sees to it that their connections are."""
    deadline = time.monotonic() + ANSWER_TIMEOUT
    while (left := server.ask()["connections"]) > 0:
        if time.monotonic() > deadline:
            share.errors.append(f"{left} connections left {ANSWER_TIMEOUT:g} s after their clients")
            return
        time.sleep(0.05)


def growth(samples: Sequence[dict[str, Any]], warm_up: float) -> int | None:
    """Bytes from when the server was warm to the highest level after it.

    A level is the median of ten seconds: what is in the buffers of the moment is no growth.
    """
    levels: list[float] = []
    for begin in range(int(warm_up), int(samples[-1]["seconds"]) - 9, 10):
        window = [s["memory"] for s in samples if begin <= s["seconds"] < begin + 10]
        levels.append(statistics.median(window))
    return int(max(levels) - levels[0]) if len(levels) > 1 else None


def judge(share: Share) -> list[Check]:
    """Every promise that this share has seen kept or broken."""
    checks = [Check("ran to its end", not share.errors, "; ".join(share.errors) or "yes")]
    if share.errors:
        return checks
    polite, chaos, last = share.polite[-1], share.chaos[-1], share.last

    def check(name: str, passed: bool, seen: object) -> None:
        checks.append(Check(name, passed, str(seen)))

    for name, tally in (("polite", polite), ("chaotic", chaos)):
        seen = "; ".join(tally["failures"]) or f"{tally['echoed']:,} bytes"
        if tally["failed"]:
            seen += (
                f" ({tally['failed']} in all; the clients stood still for {tally['stall_s']:.2f} s)"
            )
        check(f"{name} clients were served exactly", tally["failed"] == 0, seen)
    served = polite["served"] | chaos["served"]
    check("clients of every kind were served", all(served.values()), served)
    check("hooks in order, bytes of each connection add up", not last["wrong"], last["wrong"])
    check("no hook failed", last["hook_errors"] == 0, last["hook_errors"])
    pairs = {
        "established and closed": ("established", "closed"),
        "established and its hook": ("established", "hooks_established"),
        "closed and its hook": ("closed", "hooks_closing"),
        "received in all and by each connection": ("bytes_received", "closed_received"),
        "sent in all and by each connection": ("bytes_sent", "closed_sent"),
    }
    for name, (one, other) in pairs.items():
        check(f"{name} agree", last[one] == last[other], f"{last[one]:,} and {last[other]:,}")
    lost = last["accepted"] - last["refused"] - last["established"]
    errors = last["accept_errors"]
    check("accepted ones were established, or gone", 0 <= lost <= errors, f"{lost} of {errors}")
    check("no connection left", last["connections"] == 0, last["connections"])
    check("no receive buffer left", last["buffers_in_use"] == 0, last["buffers_in_use"])
    before, after = last["descriptors_before"], last["descriptors_after"]
    check("no descriptor left", before == after, f"{before} before, {after} after")
    if "heap_before" in last:
        kept = last["heap"] - last["heap_before"]
        check("no memory left", kept <= SLACK, f"{kept:,} bytes")
    check("descriptors did run out", last["warnings"] > 0, last["accept_errors"])
    check("the server ended in order", share.exit_code == 0, f"exit code {share.exit_code}")
    grown = growth(share.samples, WARM_UP)
    if grown is not None:
        check("memory is flat once warm", grown <= FLAT, f"{grown / (1 << 20):+.1f} MiB")
    return checks


def main() -> int:
    arguments = _parse()
    console = Console()
    if not console.is_terminal:
        console.width = 200
    seed = arguments.seed
    seconds = arguments.minutes * 60 / len(arguments.workers)
    if seconds < SHORTEST:
        console.print(f"shares of {seconds:g} s are too short: {SHORTEST:g} s at least")
        return 2
    plans = [
        Plan(backend, workers, seconds, seed, arguments.subject)
        for backend in arguments.backends
        for workers in arguments.workers
    ]
    console.print(f"{len(plans)} shares of {seconds:g} s, seed {seed}")
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    shares: list[Share] = []
    verdicts: list[list[Check]] = []
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=seconds * len(plans))
        for number, plan in enumerate(plans):
            bar.update(task, description=plan.name)
            done = number * seconds

            def tick(passed: float, done: float = done) -> None:
                bar.update(task, completed=done + passed)

            share = run_share(plan, tick)
            shares.append(share)
            verdicts.append(judge(share))
            for check in verdicts[-1]:
                if not check.passed:
                    console.print(
                        f"[bold red]{plan.name}: not so: {check.name}[/]: {escape(check.seen)}",
                        highlight=False,
                        soft_wrap=True,
                    )
    console.print(_table(shares, verdicts))
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    results = [
        dataclasses.asdict(share) | {"checks": [dataclasses.asdict(check) for check in verdict]}
        for share, verdict in zip(shares, verdicts, strict=True)
    ]
    (out / "results.json").write_text(json.dumps({"seed": seed, "shares": results}))
    draw_chart(results, out / "chart.png")
    console.print(f"{out / 'results.json'}, {out / 'chart.png'}", soft_wrap=True)
    failed = [
        share.plan.replay
        for share, verdict in zip(shares, verdicts, strict=True)
        if not all(check.passed for check in verdict)
    ]
    for replay in failed:
        console.print("To repeat this failure:")
        console.print(f"    {escape(replay)}", highlight=False, soft_wrap=True)
    return int(bool(failed))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Chaos and soak of the server.")
    parser.add_argument("--minutes", type=float, default=1.0, help="on each back-end (%(default)s)")
    parser.add_argument("--backends", nargs="+", default=["epoll", "io_uring"], metavar="NAME")
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 3, 4], metavar="N")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--subject", choices=SUBJECTS, default="cpp", help="(%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build/soak"), help="folder (%(default)s)")
    return parser.parse_args()


def _table(shares: Iterable[Share], verdicts: Iterable[list[Check]]) -> Table:
    table = Table(box=None, pad_edge=False)
    names = "share", "checks", "exchanges", "MB", "p50", "p99", "p99.9", "worst ms"
    for name in (*names, "clients served", "MiB", "grown", "descriptors"):
        table.add_column(name, justify="left" if name == "share" else "right")
    for share, verdict in zip(shares, verdicts, strict=True):
        passed = sum(check.passed for check in verdict)
        checks = f"{passed} of {len(verdict)}"
        if share.errors:
            table.add_row(share.plan.name, f"[bold red]{checks}[/]")
            continue
        polite, last = share.polite[-1], share.last
        grown = growth(share.samples, WARM_UP)
        table.add_row(
            share.plan.name,
            checks if passed == len(verdict) else f"[bold red]{checks}[/]",
            f"{polite['exchanges']:,}",
            f"{(polite['echoed'] + share.chaos[-1]['echoed']) / 1e6:,.0f}",
            *(f"{polite[key]:.1f}" for key in ("p50_ms", "p99_ms", "p99.9_ms", "p100_ms")),
            f"{last['closed']:,}",
            f"{share.samples[-1]['memory'] / (1 << 20):.1f}",
            "-" if grown is None else f"{grown / (1 << 20):+.1f}",
            f"{max(s['descriptors'] for s in share.samples)}",
        )
    return table


if __name__ == "__main__":
    os.chdir(REPOSITORY)
    sys.exit(main())
