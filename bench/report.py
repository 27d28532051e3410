"""The views of a run: tables for the terminal, a chart for the documentation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from results import (
    RAW,
    Change,
    Results,
    Row,
    compare,
    is_connect,
    is_framed,
    peer,
    relative,
    score,
    summarise,
)

BUSY = 0.95
ONE_WORKER = "x 1 worker"
BEFORE = "x before"
CPU_BEFORE = "CPU x before"
NONE = "-"


def print_results(console: Console, results: Results) -> None:
    """A table per workload, what is missing, what failed."""
    rows = summarise(results)
    for workload in results.workloads:
        chosen = [row for row in rows if row.workload == workload]
        if chosen:
            console.print(_table(workload, chosen, results, wide=console.width >= WIDTH))
    for server, reason in results.missing.items():
        console.print(f"[yellow]missing[/] {escape(server)}: {escape(reason)}")
    for problem in results.errors:
        console.print(f"[bold red]error[/] {escape(str(problem))}")


def print_comparison(console: Console, before: Results, after: Results) -> None:
    """How each row that both runs have changed."""
    changes = compare(summarise(before), summarise(after))
    if not changes:
        console.print("The two runs have no workload and server in common.")
    for workload in after.workloads:
        chosen = [change for change in changes if change.after.workload == workload]
        if chosen:
            console.print(_comparison_table(workload, chosen))


def draw_chart(results: Results, path: Path) -> None:
    """Grouped bars: every server against the raw loop, per workload; messages below bytes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    scores = {
        (row.workload, row.server): value
        for row in summarise(results)
        if row.server != RAW and (value := score(row)) is not None
    }
    with_scores = [w for w in results.workloads if any(w == key[0] for key in scores)]
    halves = [[w for w in with_scores if is_framed(w) == framed] for framed in (False, True)]
    parts = [half for half in halves if half] or [[]]
    figure, places = pyplot.subplots(
        len(parts), figsize=(11, 4.6 * len(parts)), layout="constrained", squeeze=False
    )
    for axes, workloads in zip(places.flat, parts, strict=True):
        servers = [s for s in results.servers if any((w, s) in scores for w in workloads)]
        _draw_bars(axes, workloads, servers, scores)
    places.flat[0].set_title(
        "TCP echo, one core: connections x bytes x messages in flight", fontsize=11
    )
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _draw_bars(
    axes: Any,
    workloads: Sequence[str],
    servers: Sequence[str],
    scores: Mapping[tuple[str, str], float],
) -> None:
    """One group of bars for each workload."""
    width = 0.86 / max(len(servers), 1)
    for index, server in enumerate(servers):
        places, heights = [], []
        for place, workload in enumerate(workloads):
            if (workload, server) in scores:
                places.append(place + (index - (len(servers) - 1) / 2) * width)
                heights.append(scores[workload, server])
        bars = axes.bar(places, heights, width * 0.92, label=server, color=_color(server, index))
        axes.bar_label(bars, fmt="%.2f", fontsize=7, padding=1)
    axes.axhline(1.0, color="black", linewidth=1, linestyle="--", label=f"{RAW} (C, epoll)")
    axes.set_xticks(
        range(len(workloads)),
        [f"{name}\n(CPU per connection)" if is_connect(name) else name for name in workloads],
    )
    axes.set_ylabel("rate, raw C epoll loop = 1")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(ncols=1, fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _color(server: str, index: int) -> str:
    known = {
        "python/io_uring": "#1f5fa8",
        "python/epoll": "#6fa8dc",
        "cpp/io_uring": "#2e7d32",
        "cpp/epoll": "#81c784",
        "python/io_uring/on_messages": "#1f5fa8",
        "python/epoll/on_messages": "#6fa8dc",
        "python/io_uring/on_message": "#5e35b1",
        "python/epoll/on_message": "#b39ddb",
        "uvloop": "#e08e0b",
        "asyncio": "#f6cf7a",
        "streams": "#fbe7b8",
        "twisted": "#c2185b",
    }
    return known.get(server, f"C{index % 10}")


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table; only those that are `always` there fit a terminal of 80 columns."""

    header: str
    cell: Callable[[Row], str]
    always: bool = True


def _load(row: Row) -> str:
    """The load generator's share, highlighted where it alone is at its limit."""
    style = "bold yellow" if row.load_cpu >= BUSY > row.server_cpu else "dim"
    return f"[{style}]{row.load_cpu:.0%}[/]"


def _columns(peer: str) -> list[Column]:
    """Return the columns of a table whose Python servers are compared with `peer`."""
    return [
        Column("rate/s", lambda row: f"{row.requests_per_second:,.0f}"),
        Column("±", lambda row: f"{row.spread:.0%}"),
        Column(f"x {RAW}", lambda row: _ratio(row.rate_to_raw)),
        Column(f"x {peer}", lambda row: _ratio(row.rate_to_peer)),
        Column(ONE_WORKER, lambda row: _ratio(row.rate_to_one_worker), always=False),
        Column(BEFORE, lambda row: _ratio(row.rate_to_before)),
        Column(CPU_BEFORE, lambda row: _ratio(row.cpu_to_before)),
        Column("p50 µs", lambda row: f"{row.p50_us:,.0f}", always=False),
        Column("p99", lambda row: f"{row.p99_us:,.0f}", always=False),
        Column("p99.9", lambda row: f"{row.p999_us:,.0f}"),
        Column("CPU µs", lambda row: f"{row.server_cpu_us:.2f}"),
        Column(f"x {RAW}", lambda row: _ratio(row.cpu_to_raw)),
        Column(f"x {peer}", lambda row: _ratio(row.cpu_to_peer), always=False),
        Column("CPU", lambda row: f"{row.server_cpu:.0%}", always=False),
        Column("load", _load),
        Column("RSS MiB", lambda row: f"{row.rss_kib / 1024:.1f}", always=False),
    ]


WIDTH = 140
"""The columns of the table that has all of them."""


def _table(workload: str, rows: Sequence[Row], results: Results, *, wide: bool) -> Table:
    per = "connections" if is_connect(workload) else "requests"
    rounds = max(row.rounds for row in rows)
    title = f"{workload}: {per}, medians, rounds: {rounds}"
    unused = set()
    if all(row.rate_to_one_worker is None for row in rows):
        unused.add(ONE_WORKER)
    if all(row.rate_to_before is None for row in rows):
        unused |= {BEFORE, CPU_BEFORE}
    other = peer(results, workload)
    if all(row.rate_to_peer is None for row in rows):
        unused.add(f"x {other}")
    columns = [
        column
        for column in _columns(other)
        if (wide or column.always) and column.header not in unused
    ]
    table = _empty_table(title, [column.header for column in columns])
    for row in rows:
        table.add_row(escape(row.server), *(column.cell(row) for column in columns))
    present = {row.server for row in rows}
    failed = {p.server for p in results.errors if p.workload in (None, workload)}
    for server in results.servers:
        if server in results.missing and server not in present:
            table.add_row(f"[dim]{escape(server)}[/]", "[yellow]missing[/]")
        elif server in failed - present:
            table.add_row(escape(server), "[red]error[/]")
    return table


def _empty_table(title: str, headers: Iterable[str]) -> Table:
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    table.add_column("server", no_wrap=True)
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    return table


def _comparison_table(workload: str, changes: Sequence[Change]) -> Table:
    table = _empty_table(
        f"{workload}: before → after",
        ("rate", f"x {RAW}", "", "p50", "p99.9", "CPU µs", f"CPU x {RAW}", "", "RSS"),
    )
    for change in changes:
        before, after = change.before, change.after
        table.add_row(
            escape(after.server),
            _change(before.requests_per_second, after.requests_per_second, better=1),
            f"{_ratio(before.rate_to_raw)} → {_ratio(after.rate_to_raw)}",
            _change(before.rate_to_raw, after.rate_to_raw, better=1),
            _change(before.p50_us, after.p50_us, better=-1),
            _change(before.p999_us, after.p999_us, better=-1),
            _change(before.server_cpu_us, after.server_cpu_us, better=-1),
            f"{_ratio(before.cpu_to_raw)} → {_ratio(after.cpu_to_raw)}",
            _change(before.cpu_to_raw, after.cpu_to_raw, better=-1),
            _change(before.rss_kib, after.rss_kib, better=-1),
        )
    return table


def _ratio(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


def _change(before: float | None, after: float | None, *, better: int) -> str:
    """The change in per cent, coloured from 5 % on; `better` is the sign of an improvement."""
    change = relative(before, after)
    if change is None:
        return NONE
    text = f"{change:+.0%}"
    if abs(change) < 0.05:
        return f"[dim]{text}[/]"
    return f"[green]{text}[/]" if change * better > 0 else f"[red]{text}[/]"
