"""The figures of a run: what a JSON file keeps of it and what is worked out of that."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

FORMAT = 1
RAW = "raw"
UVLOOP = "uvloop"
ASYNCIO = "asyncio"
STREAMS = "streams"
TWISTED = "twisted"
LENGTH_PREFIX = "length-prefix"
LINES = "lines"
CONNECT = "connect"
NGINX = "nginx"
TLS = "tls"
RESUME = "resume"
SHA256 = "sha256"


@dataclasses.dataclass(frozen=True)
class Sample:
    """One server under one workload in one round. A request of `connect` is a whole connection."""

    workload: str
    server: str
    round: int
    requests_per_second: float
    p50_us: float
    p99_us: float
    p999_us: float
    server_cpu_us: float
    """CPU time of the server process per request."""
    server_cpu: float
    """Share of one CPU that the server used."""
    load_cpu: float
    """Share of one CPU that the load generator used."""
    rss_kib: float


@dataclasses.dataclass(frozen=True)
class Problem:
    """A failed measurement: of a server (`workload` and `round` are None), or of one sample."""

    server: str
    message: str
    workload: str | None = None
    round: int | None = None

    def __str__(self) -> str:
        """In one line."""
        where = self.server
        if self.workload is not None:
            where += f", {self.workload}"
        if self.round is not None:
            where += f", round {self.round}"
        return f"{where}: {self.message}"


@dataclasses.dataclass
class Results:
    """A whole run."""

    settings: dict[str, Any]
    workloads: list[str]
    servers: list[str]
    samples: list[Sample] = dataclasses.field(default_factory=list)
    missing: dict[str, str] = dataclasses.field(default_factory=dict)
    """Servers that this system does not have, and why; not an error."""
    errors: list[Problem] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table: medians over the rounds, ratios as `ratio` defines them."""

    workload: str
    server: str
    rounds: int
    requests_per_second: float
    spread: float
    """Half of the distance between the best and the worst round, as a share of the median."""
    p50_us: float
    p99_us: float
    p999_us: float
    server_cpu_us: float
    server_cpu: float
    load_cpu: float
    rss_kib: float
    rate_to_raw: float | None
    rate_to_peer: float | None
    """The other server in Python: see `peer`."""
    cpu_to_raw: float | None
    cpu_to_peer: float | None
    rate_to_one_worker: float | None
    """For a server with more than one, against the same with one."""
    rate_to_before: float | None
    """Against the same server of the other checkout: see `before`."""
    cpu_to_before: float | None


@dataclasses.dataclass(frozen=True)
class Change:
    """A row that two runs have in common."""

    before: Row
    after: Row


def save(results: Results, path: Path) -> None:
    """Write a run to a JSON file."""
    data = {"format": FORMAT, **dataclasses.asdict(results)}
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> Results:
    """Read what `save` wrote; ValueError when the file is something else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise ValueError(f"format {data['format']}, not {FORMAT}")
        return Results(
            settings=data["settings"],
            workloads=data["workloads"],
            servers=data["servers"],
            samples=[Sample(**sample) for sample in data["samples"]],
            missing=data["missing"],
            errors=[Problem(**problem) for problem in data["errors"]],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a result of this bench: {error}") from error


def parse_load(line: str, workload: str, server: str, round_number: int) -> Sample:
    """The sample that a line of `iocp_load` stands for."""
    data = json.loads(line)
    return Sample(
        workload=workload,
        server=server,
        round=round_number,
        requests_per_second=float(data["requests_per_second"]),
        p50_us=float(data["p50_us"]),
        p99_us=float(data["p99_us"]),
        p999_us=float(data["p999_us"]),
        server_cpu_us=float(data["server_cpu_us_per_request"]),
        server_cpu=float(data["server_cpu"]),
        load_cpu=float(data["load_cpu"]),
        rss_kib=float(data["server_rss_kib"]),
    )


def rotated(servers: Sequence[str], round_number: int) -> list[str]:
    """The order of a round (the first is 1): each starts with another server."""
    if not servers:
        return []
    first = (round_number - 1) % len(servers)
    return [*servers[first:], *servers[:first]]


def ratio(values: Mapping[int, float], base: Mapping[int, float]) -> float | None:
    """The median of the ratios within each round (both are by round); None without a common round.

    The two were measured within seconds of each other there, so that what the machine did to one
    round cancels out.
    """
    ratios = [value / base[key] for key, value in values.items() if base.get(key)]
    return statistics.median(ratios) if ratios else None


def summarise(results: Results) -> list[Row]:
    """A row for each workload and server that has samples, in the order of the run."""
    by_row: dict[tuple[str, str], list[Sample]] = {}
    for sample in results.samples:
        by_row.setdefault((sample.workload, sample.server), []).append(sample)
    return [
        _row(by_row, workload, server, peer(results, workload))
        for workload in results.workloads
        for server in results.servers
        if (workload, server) in by_row
    ]


def one_worker(server: str) -> str | None:
    """The name of the same server with one worker: of "cpp/epoll/2" it is "cpp/epoll"."""
    name, _, workers = server.rpartition("/")
    return name if workers.isdigit() else None


def before(server: str) -> str:
    """The name of the same server as another checkout, `--before`, has it."""
    return f"before/{server}"


def is_framed(workload: str) -> bool:
    """Whether the server of the workload cuts messages from the stream."""
    return workload.startswith((f"{LENGTH_PREFIX}/", f"{LINES}/"))


def is_connect(workload: str) -> bool:
    """Whether what counts is connections."""
    return workload.rpartition("/")[2] in (CONNECT, RESUME)


def peer(results: Results, workload: str) -> str:
    """The server to compare Python servers with: uvloop, or asyncio if uvloop is missing.

    For lines it is `readline` of asyncio's streams, with which most programs read them.
    """
    if workload.startswith(f"{LINES}/") and STREAMS in results.servers:
        return STREAMS
    return UVLOOP if UVLOOP in results.servers else ASYNCIO


def _row(
    by_row: Mapping[tuple[str, str], Sequence[Sample]], workload: str, server: str, peer: str
) -> Row:
    samples = by_row[workload, server]

    def median(get: Callable[[Sample], float]) -> float:
        return statistics.median(get(sample) for sample in samples)

    def compared(base: str | None, get: Callable[[Sample], float]) -> float | None:
        if base is None:
            return None
        others = by_row.get((workload, base), ())
        return ratio({s.round: get(s) for s in samples}, {s.round: get(s) for s in others})

    def rate(sample: Sample) -> float:
        return sample.requests_per_second

    def cpu(sample: Sample) -> float:
        return sample.server_cpu_us

    rates = [rate(sample) for sample in samples]
    middle = statistics.median(rates)
    return Row(
        workload=workload,
        server=server,
        rounds=len(samples),
        requests_per_second=middle,
        spread=(max(rates) - min(rates)) / 2 / middle if middle else 0.0,
        p50_us=median(lambda sample: sample.p50_us),
        p99_us=median(lambda sample: sample.p99_us),
        p999_us=median(lambda sample: sample.p999_us),
        server_cpu_us=median(cpu),
        server_cpu=median(lambda sample: sample.server_cpu),
        load_cpu=median(lambda sample: sample.load_cpu),
        rss_kib=median(lambda sample: sample.rss_kib),
        rate_to_raw=compared(RAW, rate),
        rate_to_peer=compared(peer, rate),
        cpu_to_raw=compared(RAW, cpu),
        cpu_to_peer=compared(peer, cpu),
        rate_to_one_worker=compared(one_worker(server), rate),
        rate_to_before=compared(before(server), rate),
        cpu_to_before=compared(before(server), cpu),
    )


def compare(before: Iterable[Row], after: Iterable[Row]) -> list[Change]:
    """The rows that two runs have in common, in the order of the second."""
    old = {(row.workload, row.server): row for row in before}
    return [
        Change(old[row.workload, row.server], row)
        for row in after
        if (row.workload, row.server) in old
    ]


def relative(before: float | None, after: float | None) -> float | None:
    """The change as a share of what was: 0.1 is 10 % more."""
    if before is None or after is None or before == 0:
        return None
    return after / before - 1


def score(row: Row) -> float | None:
    """The figure in the chart: how good the row is against the raw loop, more is better.

    The rate; for connections, where the client has more to do than any server, the CPU time.
    """
    if not is_connect(row.workload):
        return row.rate_to_raw
    return 1 / row.cpu_to_raw if row.cpu_to_raw else None
