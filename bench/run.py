"""Measure echo servers side by side: `python bench/run.py --help`. See README.md beside it."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from certificate import certificate
from contenders import (
    WINDOWS_WORKLOADS,
    WORKLOADS,
    Contender,
    Workload,
    contenders,
    contenders_before,
    on_windows,
    select,
    windows_contenders,
)
from measure import Bench
from report import WIDTH, draw_chart, print_comparison, print_results
from results import Results, load, save

BENCH = Path(__file__).resolve().parent


def find_binaries() -> Path:
    """The folder with the load generator that was built last; ValueError when there is none."""
    found = BENCH.parent.glob("build*/**/bench/iocp_load")
    newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
    if newest is None:
        raise ValueError("the bench programs are not built: `make bench`, or name their --binaries")
    return newest.parent


def parse_numbers(text: str) -> list[int]:
    """ "0,2" as [0, 2]."""
    return [int(part) for part in text.split(",")]


DESCRIBE_PYTHON = """
import importlib.metadata, json, platform
versions = {"python": platform.python_version()}
for package in ("iocp-bind", "uvloop", "twisted"):
    try:
        versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        versions[package] = "not installed"
print(json.dumps(versions))
"""


def describe_python(python: Sequence[str]) -> dict[str, str]:
    """The versions of the interpreter of the Python servers, and of what they use."""
    done = subprocess.run(
        [*python, "-c", DESCRIBE_PYTHON],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if done.returncode != 0:
        raise ValueError(f"{python[-1]} is not a Python that runs: {done.stderr.strip()}")
    return {str(key): str(value) for key, value in json.loads(done.stdout).items()}


def describe_machine() -> dict[str, str]:
    """The facts that someone who reads the figures later wants to know."""

    def first_line(path: str, key: str = "") -> str:
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except OSError:
            return "unknown"
        return next((line.partition(":")[2].strip() or line for line in lines if key in line), "")

    return {
        "cpu": first_line("/proc/cpuinfo", "model name"),
        "cpus": str(os.cpu_count()),
        "kernel": platform.release(),
        "congestion_control": first_line("/proc/sys/net/ipv4/tcp_congestion_control"),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python bench/run.py",
        description="Measure echo servers side by side, rounds interleaved.",
        epilog="Exit code: 0, 1 when something could not be measured, 2 for a bad command line.",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="GLOB",
        help="only the workloads and servers that match; repeatable, commas allowed",
    )
    parser.add_argument("--rounds", type=int, default=10, help="of all servers (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=0.5, help="measured per server and round (%(default)s)"
    )
    parser.add_argument(
        "--workers",
        type=parse_numbers,
        default=[1],
        metavar="N,...",
        help="numbers of workers of iocp_bind's servers, each a server of its own (1)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results")
    parser.add_argument("--chart", type=Path, metavar="FILE.png", help="draw the ratios")
    parser.add_argument(
        "--from", type=Path, dest="source", metavar="FILE", help="show an earlier run"
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("A.json", "B.json"),
        help="show what changed from A to B",
    )
    parser.add_argument(
        "--python",
        type=shutil.which,
        default=sys.executable,
        metavar="PROGRAM",
        help="the interpreter of the Python servers (this one)",
    )
    parser.add_argument(
        "--windows",
        type=Path,
        metavar="DIR",
        help="measure what was built there for Windows, under Wine: see `make bench-windows`",
    )
    parser.add_argument(
        "--before",
        type=Path,
        metavar="CHECKOUT",
        help="measure the servers of another checkout as well, which `make bench` has built there",
    )
    parser.add_argument("--binaries", type=Path, metavar="DIR", help="where the programs are built")
    cpus = sorted(os.sched_getaffinity(0))
    parser.add_argument(
        "--server-cpus",
        type=parse_numbers,
        default=cpus,
        metavar="N,...",
        help=f"of the servers: the first for one worker, two for two ({cpus[0]},...)",
    )
    parser.add_argument(
        "--load-cpu", type=int, default=cpus[-1], help="of the load generator (%(default)s)"
    )
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1 or not 0.01 <= arguments.seconds <= 600:
        parser.error("--rounds is at least 1, --seconds from 0.01 to 600")
    if arguments.python is None:
        parser.error("--python: no such program")
    if min(arguments.workers) < 1:
        parser.error("--workers is at least 1")
    if not {*arguments.server_cpus, arguments.load_cpu} <= set(cpus):
        parser.error(f"this process may use the CPUs {cpus} only")
    return arguments


def what_there_is(
    arguments: argparse.Namespace, binaries: Path
) -> tuple[list[str], list[Contender], Sequence[Workload]]:
    """The interpreter of the Python servers, the servers and the workloads."""
    if not arguments.windows:
        found = contenders(binaries, arguments.python, arguments.workers)
        if arguments.before:
            found += contenders_before(arguments.before.resolve(), arguments.workers)
        return [arguments.python], found, WORKLOADS
    wine = shutil.which("wine")
    if wine is None:
        raise ValueError("there is no Wine here: `make bench-windows` installs it")
    python = [wine, on_windows(arguments.windows / "python" / "python.exe")]
    return python, windows_contenders(arguments.windows, wine, arguments.workers), WINDOWS_WORKLOADS


def prepare(arguments: argparse.Namespace, certificate_file: Path) -> tuple[Bench, Results]:
    """Return the settings that the command line asks for; ValueError when they cannot be."""
    binaries = (arguments.binaries or find_binaries()).resolve()
    if not (binaries / "iocp_load").is_file():
        raise ValueError(f"no iocp_load in {binaries}: `make bench` builds it")
    python, all_servers, all_workloads = what_there_is(arguments, binaries)
    servers = {server.name: server for server in all_servers}
    workloads = {workload.name: workload for workload in all_workloads}
    patterns = [part for text in arguments.only for part in text.split(",")]
    chosen_servers = select(patterns, list(servers), list(workloads))
    chosen_workloads = select(patterns, list(workloads), list(servers))
    bench = Bench(
        contenders={name: servers[name] for name in chosen_servers},
        workloads={name: workloads[name] for name in chosen_workloads},
        load_program=binaries / "iocp_load",
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        server_cpus=arguments.server_cpus,
        load_cpu=arguments.load_cpu,
        certificate=certificate_file,
    )
    settings = {
        **describe_machine(),
        **describe_python(python),
        "rounds": bench.rounds,
        "seconds": bench.seconds,
        "server_cpus": bench.server_cpus,
        "load_cpu": bench.load_cpu,
    }
    return bench, Results(settings, chosen_workloads, chosen_servers)


def measure(arguments: argparse.Namespace, log: Console) -> tuple[Results, bool]:
    """Run the bench; the results, and whether it was interrupted."""
    with certificate() as file:
        return measure_with(arguments, log, file)


def measure_with(
    arguments: argparse.Namespace, log: Console, certificate_file: Path
) -> tuple[Results, bool]:
    """Run the bench with this certificate for the servers with TLS."""
    bench, results = prepare(arguments, certificate_file)
    used = max(contender.workers for contender in bench.contenders.values())
    if not arguments.windows and bench.load_cpu in bench.server_cpus[:used]:
        log.print("[yellow]server and load generator share a CPU: the figures say little[/]")
    try:
        bench.run(results, log)
    except KeyboardInterrupt:
        log.print("interrupted; what was measured until then:")
        return results, True
    return results, False


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    arguments = parse_arguments(argv)
    # As Ctrl-C does: what was started is ended on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    output, log = Console(), Console(stderr=True)
    if not output.is_terminal:
        # A file has room for all columns, however long the names of the servers are.
        output = Console(width=2 * WIDTH)
    interrupted = False
    try:
        if arguments.compare:
            before, after = (load(path) for path in arguments.compare)
            print_comparison(output, before, after)
            return 0
        if arguments.source:
            results = load(arguments.source)
        else:
            results, interrupted = measure(arguments, log)
        print_results(output, results)
        if arguments.json:
            save(results, arguments.json)
        if arguments.chart and results.samples:
            draw_chart(results, arguments.chart)
    except (ValueError, OSError) as error:
        log.print(f"bench: {error}", markup=False, highlight=False)
        return 2
    if interrupted:
        return 130
    if results.errors or not results.samples:
        log.print("To repeat this failure:")
        command = shlex.join([sys.executable, *sys.argv])
        log.print(f"    {command}", markup=False, highlight=False, soft_wrap=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
