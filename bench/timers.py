"""How much many timers cost, and how late they are.

    python bench/timers.py [--backend NAME] [--pending N] [--rate N] [--seconds S]

For each back-end, `--pending` timers wait at any time and `--rate` of them go off in a second: half
are of one connection, half of the server. Each that goes off schedules the next. Prints the
processor time that the process took for it, in percent of one core, and how late the timers were.
Ends with 1 when that is not below 5 % of a core with 99 % of the timers less than 10 ms late.
"""

from __future__ import annotations

import argparse
import random
import socket
import sys
import threading
import time
from typing import Any, NamedTuple

import iocp_bind

MOST_CPU = 0.05  # cores
MOST_LATE = 0.010  # seconds, for 99 %


class Result(NamedTuple):
    """A measurement of one back-end."""

    rate: float  # timers that went off in a second
    cpu: float  # cores
    late: list[float]  # seconds, sorted

    def quantile(self, share: float) -> float:
        """Return how late the timers were at most, but for the latest ones."""
        return self.late[min(int(len(self.late) * share), len(self.late) - 1)]

    @property
    def good(self) -> bool:
        """Whether it is what the project promises."""
        return self.cpu < MOST_CPU and self.quantile(0.99) < MOST_LATE


class Accepting(iocp_bind.Server):
    """Hands its one connection to whoever waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.accepted = threading.Event()
        self.conn: iocp_bind.Connection

    def on_connection_established(self, conn: iocp_bind.Connection) -> None:
        """Keep the connection."""
        self.conn = conn
        self.accepted.set()


def measure(backend: str, pending: int, rate: int, seconds: float) -> Result:
    """Run the timers on one back-end."""
    server = Accepting()
    options: Any = {"backend": backend, "first_data_timeout": None}
    server.start(port=0, **options)
    late: list[float] = []
    now = time.monotonic
    wait = pending / rate  # so many go off in a second if each waits for so long
    with server, socket.create_connection(server.address):
        server.accepted.wait()

        def go_off(target: iocp_bind.Connection | iocp_bind.Server, deadline: float) -> None:
            late.append(now() - deadline)
            deadline += wait
            target.call_later(deadline - now(), go_off, target, deadline)

        began = now()
        for n in range(pending):
            deadline = began + wait + random.random() * wait
            target = server if n % 2 else server.conn
            target.call_later(deadline - now(), go_off, target, deadline)
        # Measured once all that go off were scheduled by a timer.
        time.sleep(max(0.0, began + 2 * wait - now()))
        late.clear()
        cpu, at = time.process_time(), now()
        time.sleep(seconds)
        cpu, took = time.process_time() - cpu, now() - at
        result = late.copy()
    return Result(len(result) / took, cpu / took, sorted(result))


def main() -> int:
    """Measure, print a line for each back-end, and judge."""
    parser = argparse.ArgumentParser(description="How much many timers cost.")
    parser.add_argument("--backend", help="only this one")
    parser.add_argument("--pending", type=int, default=100_000)
    parser.add_argument("--rate", type=int, default=10_000, help="a second")
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    known = iocp_bind.backends()
    names = [options.backend] if options.backend else [n for n in known if known[n].available]
    good = True
    for name in names:
        result = measure(name, options.pending, options.rate, options.seconds)
        good = good and result.good
        print(
            f"{name}: {options.pending} pending, {result.rate:.0f} a second, "
            f"{100 * result.cpu:.2f} % of a core; late: median "
            f"{1000 * result.quantile(0.5):.2f} ms, 99 % {1000 * result.quantile(0.99):.2f} ms, "
            f"all {1000 * result.late[-1]:.2f} ms"
        )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
