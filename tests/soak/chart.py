"""The figures of a soak over time, drawn."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LATENCIES = {"p50_ms": "median", "p99_ms": "99 %", "p99.9_ms": "99.9 %"}


def draw_chart(shares: Sequence[dict[str, Any]], path: Path) -> None:
    """A column per back-end: memory, descriptors, latency; the numbers of workers one by one."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    backends = list(dict.fromkeys(share["plan"]["backend"] for share in shares))
    figure, axes = pyplot.subplots(
        3, len(backends), figsize=(6.5 * len(backends), 8), layout="constrained", squeeze=False,
        sharex=True, sharey="row",
    )  # fmt: skip
    for column, backend in enumerate(backends):
        memory, descriptors, latency = axes[:, column]
        memory.set_title(backend)
        start = 0.0
        for share in shares:
            if share["plan"]["backend"] != backend or not share["samples"]:
                continue
            samples = share["samples"]
            at = [(start + s["seconds"]) / 60 for s in samples]
            memory.plot(at, [s["memory"] / 2**20 for s in samples], color="tab:blue", lw=0.8)
            descriptors.plot(at, [s["descriptors"] for s in samples], color="tab:green", lw=0.8)
            began = samples[0]["time"] - samples[0]["seconds"]
            reports = [report for report in share["polite"][:-1] if "p50_ms" in report]
            at = [(start + report["time"] - began) / 60 for report in reports]
            for shade, name in zip((0.9, 0.6, 0.3), LATENCIES, strict=True):
                values = [report[name] for report in reports]
                latency.plot(at, values, color=str(1 - shade), lw=0.7)
            for axis in axes[:, column]:
                axis.axvline(start / 60, color="black", lw=0.6, ls=":")
            workers = share["plan"]["workers"]
            label = f"{workers} worker{'s' if workers > 1 else ''}"
            level = statistics.median(s["memory"] for s in samples) / 2**20
            memory.annotate(f"{label}\n{level:.0f} MiB", (start / 60, 0.02),
                            xycoords=("data", "axes fraction"), fontsize=8)  # fmt: skip
            start += samples[-1]["seconds"]
        latency.set_xlabel("minutes")
    for axis, label in zip(
        axes[:, 0],
        ("private memory of the server, MiB", "its descriptors", "echo latency, ms"),
        strict=True,
    ):
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
    for axis in axes[2]:
        axis.set_yscale("log")
        axis.set_ylim(bottom=0.1)
    axes[2][0].legend(
        [Line2D([], [], color=str(1 - shade)) for shade in (0.9, 0.6, 0.3)],
        LATENCIES.values(), fontsize=8, loc="lower right",
    )  # fmt: skip
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
