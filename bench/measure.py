"""Measuring: rounds of all servers, side by side."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from contenders import Contender, Workload
from processes import (
    BenchError,
    MissingError,
    RunningServer,
    end_input,
    run_load,
    running_server,
)
from results import Problem, Results, Sample, parse_load, rotated

WARM_UP = 0.2
ROUNDS_PER_PROCESS = 5
"""A server lives for so many rounds: long enough to be measured right after the others, again and
again, short enough that the luck of one process's memory layout does not decide."""
LOAD_SLACK = 40.0
"""The time that the load generator may take beyond its measured time, in seconds."""

Show = Callable[[str, str | None], None]
"""Reports a step: that it begins (None), or how it went."""


def parse_backends(output: str) -> dict[str, str]:
    """Read what a server's `--list` printed: back-end to why it is not available, or ""."""
    pairs = (line.partition("\t") for line in output.splitlines() if line)
    return {name: reason for name, _, reason in pairs}


def check_contender(contender: Contender) -> None:
    """MissingError or BenchError with a reason when the server cannot run here."""
    program = Path(contender.command[0])
    if not program.is_file():
        raise BenchError(f"{program} is not built")
    if contender.backend is None:
        return
    command = [*contender.command, "--list"]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise BenchError(lines[-1] if lines else f"--list: exit code {done.returncode}")
    reason = parse_backends(done.stdout).get(contender.backend, "not a back-end of this build")
    if reason:
        raise MissingError(reason)


class Servers:
    """The servers of one workload, each started when it is first asked for."""

    def __init__(self, workload: Workload, cpus: list[int], certificate: Path) -> None:
        """None runs yet."""
        self._workload = workload
        self._certificate = certificate
        self._cpus = cpus
        self._running: dict[str, tuple[RunningServer, contextlib.ExitStack]] = {}

    def get(self, contender: Contender) -> RunningServer:
        """The server, running; BenchError or MissingError when it does not start."""
        if contender.name not in self._running:
            stack = contextlib.ExitStack()
            command = contender.command_for(self._workload, self._certificate)
            cpus = self._cpus if contender.under_wine else self._cpus[: contender.workers]
            end = end_input if contender.under_wine else subprocess.Popen.terminate
            server = stack.enter_context(running_server(command, cpus, end))
            self._running[contender.name] = (server, stack)
        return self._running[contender.name][0]

    def end(self, name: str) -> None:
        """End one, if it runs; BenchError when it had ended before or does not end cleanly."""
        if name in self._running:
            self._running.pop(name)[1].close()

    def names(self) -> list[str]:
        """The names of those that run."""
        return list(self._running)


@dataclasses.dataclass(frozen=True)
class Bench:
    """The things to measure, and how."""

    contenders: dict[str, Contender]
    workloads: dict[str, Workload]
    load_program: Path
    rounds: int
    seconds: float
    server_cpus: list[int]
    """A server with one worker gets the first, one with two the first two, and so on."""
    load_cpu: int
    certificate: Path
    """With its key: of the servers with TLS."""

    def run(self, results: Results, console: Console) -> None:
        """Fill in `results`, with progress on `console`; what is there stays there on Ctrl-C."""
        for name, contender in self.contenders.items():
            try:
                check_contender(contender)
            except MissingError as reason:
                results.missing[name] = str(reason)
            except BenchError as error:
                results.errors.append(Problem(name, str(error)))
        samples = [
            len(self._competitors(workload, results)) * self.rounds
            for workload in self.workloads.values()
        ]
        # Drawn between measurements only: a thread that redraws would take part in them.
        progress = Progress(
            TextColumn("{task.description:<40}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,
            transient=True,
        )
        with progress:
            task = progress.add_task("", total=sum(samples))

            def show(step: str, outcome: str | None) -> None:
                if outcome is None:
                    progress.update(task, description=step, refresh=True)
                    return
                progress.advance(task)
                if not console.is_terminal:
                    console.print(f"{step}: {outcome}", highlight=False, markup=False)

            for first in range(1, self.rounds + 1, ROUNDS_PER_PROCESS):
                rounds = range(first, min(first + ROUNDS_PER_PROCESS, self.rounds + 1))
                for workload in self.workloads.values():
                    self._run_rounds(workload, rounds, results, show)

    def _competitors(self, workload: Workload, results: Results) -> list[str]:
        """The names of the servers that can serve `workload`."""
        out = {*results.missing, *(p.server for p in results.errors if p.workload is None)}
        return [
            name
            for name, contender in self.contenders.items()
            if contender.serves(workload) and name not in out
        ]

    def _run_rounds(self, workload: Workload, rounds: range, results: Results, show: Show) -> None:
        """Some rounds of one workload, whose servers live side by side meanwhile."""
        servers = Servers(workload, self.server_cpus, self.certificate)
        try:
            for number in rounds:
                for name in rotated(self._competitors(workload, results), number):
                    step = f"round {number}, {workload.name}, {name}"
                    show(step, None)
                    show(step, self._measure_into(results, servers, name, workload, number))
        finally:
            for name in servers.names():
                try:
                    servers.end(name)
                except BenchError as error:
                    results.errors.append(Problem(name, str(error), workload.name, rounds[-1]))

    def _measure_into(
        self, results: Results, servers: Servers, name: str, workload: Workload, number: int
    ) -> str:
        """Add the sample, or why there is none; returns it in words."""
        try:
            server = servers.get(self.contenders[name])
            sample = self._measure(server, name, workload, number)
        except MissingError as reason:
            results.missing[name] = str(reason)
            return f"missing: {reason}"
        except BenchError as error:
            message = str(error)
            # The server's own message is the better reason.
            try:
                servers.end(name)
            except BenchError as reason:
                message = str(reason)
            results.errors.append(Problem(name, message, workload.name, number))
            return f"error: {message}"
        results.samples.append(sample)
        return f"{sample.requests_per_second:,.0f}/s, {sample.server_cpu_us:.2f} µs CPU each"

    def _measure(self, server: RunningServer, name: str, workload: Workload, number: int) -> Sample:
        line = run_load(
            [
                str(self.load_program),
                *("--port", str(server.port)),
                *("--server-pid", str(server.pid)),
                *("--cpu", str(self.load_cpu)),
                *("--seconds", str(self.seconds)),
                *("--warm-up", str(WARM_UP)),
                *self.contenders[name].load_arguments(workload, self.certificate),
            ],
            timeout=self.seconds + WARM_UP + LOAD_SLACK,
        )
        return parse_load(line, workload.name, name, number)
