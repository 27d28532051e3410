"""Measures of TLS that run.py does not take: memory, and latency during a storm of handshakes.

    python bench/tls.py idle [--only GLOB] [--connections N] [--rounds N]
    python bench/tls.py storm [--only GLOB] [--handshaking N] [--seconds S] [--rounds N]

`idle` is the memory by which a server grows for each connection that has spoken once and is idle
since. `storm` is the latency of one connected client's echo of 64 bytes: alone, and while many
others at a time (--handshaking) connect, get one message back and leave. The two load generators
share a CPU; the one with the storm gives way. Prints medians of rounds, a line for each server.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from certificate import certificate
from contenders import FEW, Contender, contenders, select, with_tls
from measure import check_contender
from processes import BenchError, MissingError, RunningServer, run_load, running_server
from run import find_binaries, parse_numbers

WORKLOAD = with_tls(FEW)
STORM_LEAD = 0.5
"""Seconds of the storm before the other client is measured."""


class Measurement:
    """Measures one server: `idle` or `storm`."""

    def __init__(self, options: argparse.Namespace, binaries: Path, file: Path) -> None:
        """`file`: the certificate and its key."""
        self._options = options
        self._file = file
        self._load = str(binaries / "iocp_load")

    def command(self, contender: Contender, server: RunningServer, *arguments: str) -> list[str]:
        """The command line of a load generator."""
        return [
            *(self._load, "--port", str(server.port), "--server-pid", str(server.pid)),
            *("--cpu", str(self._options.load_cpu), "--tls", str(self._file)),
            *(("--http",) if contender.http else ()),
            *arguments,
        ]

    def idle(self, contender: Contender, server: RunningServer) -> dict[str, float]:
        """KiB for each connection."""
        connections = ("--idle", "--connections", str(self._options.connections))
        line = run_load(self.command(contender, server, *connections), timeout=300.0)
        return {"KiB a connection": float(json.loads(line)["kib_per_connection"])}

    def storm(self, contender: Contender, server: RunningServer) -> dict[str, float]:
        """Milliseconds, for 99 % of the echoes."""
        seconds = self._options.seconds
        one = self.command(
            contender, server, "--connections", "1", "--seconds", str(seconds), "--warm-up", "0.2"
        )
        alone = json.loads(run_load(one, timeout=seconds + 30.0))
        # In the session of this process, like the client that is measured: the scheduler weighs
        # the processes of a session against each other.
        blowing = ("--connect", "--connections", str(self._options.handshaking))
        length = ("--warm-up", str(STORM_LEAD), "--seconds", str(seconds + STORM_LEAD))
        many = ["nice", "-n", "19", *self.command(contender, server, *blowing, *length)]
        with subprocess.Popen(many, stdout=subprocess.PIPE, text=True) as storm:
            try:
                done = subprocess.run(
                    one, capture_output=True, text=True, timeout=seconds + 30.0, check=False
                )
                if done.returncode != 0:
                    raise BenchError(done.stderr.strip())
                beside = json.loads(done.stdout)
                output, _ = storm.communicate(timeout=seconds + 30.0)
            finally:
                storm.kill()
        if storm.returncode != 0:
            raise BenchError("the storm ended early")
        return {
            "p99 alone, ms": alone["p99_us"] / 1000,
            "p99 in the storm, ms": beside["p99_us"] / 1000,
            "connections a second": json.loads(output)["requests_per_second"],
        }


def measure(
    contender: Contender,
    options: argparse.Namespace,
    file: Path,
    once: Callable[[Contender, RunningServer], dict[str, float]],
) -> str:
    """The medians in words; each round has a server of its own."""
    rounds = []
    for _ in range(options.rounds):
        command = contender.command_for(WORKLOAD, file)
        cpus = options.server_cpus[: contender.workers]
        with running_server(command, cpus, subprocess.Popen.terminate) as server:
            rounds.append(once(contender, server))
    return ", ".join(
        f"{name}: {statistics.median(figures[name] for figures in rounds):.2f}"
        for name in rounds[0]
    )


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    cpus = sorted(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description="Memory and latency of servers with TLS.")
    parser.add_argument("what", choices=["idle", "storm"])
    parser.add_argument("--only", action="append", default=[], metavar="GLOB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=2000, help="idle ones")
    parser.add_argument("--handshaking", type=int, default=256, help="at a time")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--server-cpus", type=parse_numbers, default=cpus, metavar="N,...")
    parser.add_argument("--load-cpu", type=int, default=cpus[-1])
    parser.add_argument("--binaries", type=Path, metavar="DIR", help="where the programs are built")
    return parser.parse_args()


def main() -> int:
    """Measure; 1 when a server could not be."""
    options = parse_arguments()
    binaries = (options.binaries or find_binaries()).resolve()
    known = {c.name: c for c in contenders(binaries, sys.executable, [1]) if c.serves(WORKLOAD)}
    patterns = [part for text in options.only for part in text.split(",")]
    good = True
    with certificate() as file:
        kinds = Measurement(options, binaries, file)
        once = kinds.idle if options.what == "idle" else kinds.storm
        for name in select(patterns, list(known), []):
            try:
                check_contender(known[name])
                print(f"{name}: {measure(known[name], options, file, once)}", flush=True)
            except MissingError as reason:
                print(f"{name}: missing: {reason}")
            except BenchError as error:
                good = False
                print(f"{name}: error: {error}", file=sys.stderr)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
