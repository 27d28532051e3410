"""What replies cost that are sent one by one, against one joined send: redis-benchmark decides.

python bench/replies.py [--rounds N] [--requests N] [--pipeline N] [--clients N]

Both servers live side by side on the first CPU, idle while the other one is measured; the client is
on the last CPU. The ratio is the median of the ratios within each round. The goal is 0.8.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import iocp_bind
from processes import PINNED, running_server

SERVER = Path(__file__).parent / "servers" / "keyvalue_replies.py"
KINDS = {"one by one": [], "joined": ["--joined"]}


def measure(port: int, cpu: int, options: argparse.Namespace) -> float:
    """Requests per second."""
    command = [sys.executable, str(PINNED), str(cpu), "redis-benchmark", "-p", str(port), "--csv"]
    command += ["-t", "get", "-P", str(options.pipeline), "-n", str(options.requests)]
    command += ["-c", str(options.clients)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    found = re.search(r'"GET","([\d.]+)"', done.stdout)
    if found is None:
        raise ValueError(done.stdout + done.stderr)
    return float(found[1])


def main() -> None:
    """Measure every back-end of this system."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=500_000)
    parser.add_argument("--pipeline", type=int, default=256)
    parser.add_argument("--clients", type=int, default=50)
    options = parser.parse_args()
    if shutil.which("redis-benchmark") is None:
        sys.exit("redis-benchmark is missing: install what Debian calls redis-tools")
    cpus = sorted(os.sched_getaffinity(0))
    for backend in (name for name, info in iocp_bind.backends().items() if info.available):
        rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
        with contextlib.ExitStack() as stack:
            ports = {
                kind: stack.enter_context(
                    running_server(
                        [sys.executable, str(SERVER), "--backend", backend, *arguments],
                        cpus[:1],
                        lambda process: process.send_signal(signal.SIGTERM),
                    )
                ).port
                for kind, arguments in KINDS.items()
            }
            for number in range(options.rounds):
                order = list(KINDS) if number % 2 == 0 else list(KINDS)[::-1]
                for kind in order:
                    rates[kind].append(measure(ports[kind], cpus[-1], options))
        separate, joined = rates["one by one"], rates["joined"]
        ratio = statistics.median(a / b for a, b in zip(separate, joined, strict=True))
        print(
            f"{backend}: one by one {statistics.median(separate):,.0f}/s, "
            f"joined {statistics.median(joined):,.0f}/s, ratio {ratio:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
