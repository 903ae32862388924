"""What the example shows: progress while it runs, then a table and curves."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from time import perf_counter

import numpy as np
import rich
import torch
from flights_data import Flights
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich import box
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from torch.nn.functional import binary_cross_entropy_with_logits

DAY_MINUTES = 24 * 60
WINDOW_MINUTES = 28 * DAY_MINUTES  # of what progress and curves show


class Run:
    """One replay: predictions, each made before its outcome was known, and what they took."""

    def __init__(self, name: str, flights: Flights) -> None:
        self.name = name
        self.flights = flights
        self.logits = torch.zeros(len(flights.late))
        self.days: list[dict[str, float]] = []  # the embedding's counters, then and at the end

    def quality(self, begin: float, end: float = np.inf) -> tuple[float, float]:
        """AUC and log loss of the flights that should depart from minute `begin` to `end`."""
        span = slice(*self.flights.departs.searchsorted([begin, end]))
        late, logits = self.flights.late[span], self.logits[span]
        loss = binary_cross_entropy_with_logits(logits, late)
        return _auc(late.numpy(), logits.numpy()), float(loss)


def _auc(late: NDArray[np.float32], logits: NDArray[np.float32]) -> float:
    """The share of (late, punctual) pairs in the right order; a tie counts half."""
    _, level, count = np.unique(logits, return_inverse=True, return_counts=True)
    rank = (count.cumsum() - (count - 1) / 2)[level]
    lates = np.count_nonzero(late)
    pairs = lates * (len(late) - lates)
    return float(rank[late > 0].sum() - lates * (lates + 1) / 2) / pairs if pairs else np.nan


@contextmanager
def replay_progress(run: Run) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """Shows a bar; the function it gives takes note of a day. A log gets one line at the end."""
    departs = run.flights.departs
    columns = (
        TextColumn("{task.description:20}"),
        BarColumn(10),
        TextColumn("loss {task.fields[loss]:.3f} AUC {task.fields[auc]:.3f}"),
        TextColumn("{task.fields[pace]} {task.fields[rows]:7,} ids"),
    )
    with Progress(*columns) as progress:
        task = progress.add_task(run.name, total=len(departs), loss=0.0, auc=0.5, pace="", rows=0)
        start = perf_counter()

        def show(hour: int, stats: dict[str, float]) -> None:
            now = (hour + 1) * 60
            done = int(departs.searchsorted(now))
            auc, loss = run.quality(now - WINDOW_MINUTES, now)
            run.days.append(stats)
            pace = _traffic(stats) or f"{done / (perf_counter() - start):6,.0f} flights/s"
            rows = int(stats["rows"])
            progress.update(task, completed=done, loss=loss, auc=auc, pace=pace, rows=rows)

        yield show


def _traffic(stats: dict[str, float]) -> str:
    """Of a store: how many of the ids asked for were hot, and what went to disk and back."""
    if "reads" not in stats:
        return ""
    hot = 1 - stats["reads"] / max(stats["hits"], 1)
    moved_mb = (stats["bytes_read"] + stats["bytes_written"]) / 1e6
    return f"{hot:4.0%} hot {moved_mb:4,.0f} MB moved"


def report(runs: list[Run]) -> None:
    """Prints each run's quality in the last quarter of the time and the fate of its ids."""
    table = Table(box=box.SIMPLE, show_edge=False, collapse_padding=True, pad_edge=False)
    table.add_column("last quarter")
    counters = {"admitted": "admits", "refused": "refusals", "evicted": "evictions", "rows": "rows"}
    for header in ("AUC", "loss", *counters, "MB"):
        table.add_column(header, justify="right")
    for run in runs:
        stats = run.days[-1]
        auc, loss = run.quality(0.75 * run.flights.departs[-1])
        counts = [f"{stats[key]:,}" if key in stats else "-" for key in counters.values()]
        megabytes = f"{stats['bytes'] / 1e6:.0f}"
        table.add_row(run.name, f"{auc:.4f}", f"{loss:.4f}", *counts, megabytes)
    print()
    rich.print(table)
    print()
    peak_mb = getrusage(RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(f"Peak memory of the process: {peak_mb:,.0f} MB")


def draw(runs: list[Run], path: Path) -> None:
    """Writes the curves of AUC and rows as a PNG."""
    figure = Figure(figsize=(9, 7), layout="constrained")
    quality, size = figure.subplots(2, sharex=True)
    for run in runs:
        days = np.arange(WINDOW_MINUTES, run.flights.departs[-1], DAY_MINUTES)
        auc = [run.quality(day - WINDOW_MINUTES, day)[0] for day in days]
        style = {"label": run.name, "zorder": 3 if run is runs[0] else 2}
        quality.plot(days / DAY_MINUTES, auc, **style)
        size.plot([day["rows"] for day in run.days], **style)
    evicted = [day["evictions"] for day in runs[0].days]
    size.plot(evicted, "C0--", label=f"{runs[0].name}, evicted so far")
    quality.set(ylabel="AUC of the four weeks before")
    size.set(ylabel="rows", xlabel="days")
    size.yaxis.set_major_formatter("{x:,.0f}")
    for axes in (quality, size):
        axes.legend()
        axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    print(f"Curves: {path}")
