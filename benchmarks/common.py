"""What every benchmark shares: the workload, fair timing, and the printed result."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")
R = TypeVar("R")

BATCH_IDS = 65_536
MOST_TRIES = 3  # of a round, on average


class Batch(NamedTuple):
    """The same lookups twice: as ids for a hash table, as rows for a fixed vocabulary."""

    ids: Tensor  # int64 (n,), anywhere in the 64 bits
    rows: Tensor  # int64 (n,), in [0, vocabulary)


class Vocabulary:
    """Ids 0, 1, 2, ... by falling frequency, spread by splitmix64 and put in shuffled rows."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._row_of_rank = np.random.default_rng(99).permutation(rows)

    def ids(self) -> Tensor:
        """Returns the id of each row, int64 `(rows,)`."""
        ids = np.empty(self.rows, np.int64)
        ids[self._row_of_rank] = splitmix64(np.arange(1, self.rows + 1))
        return torch.from_numpy(ids)

    def zipf(self, batches: int = 20, size: int = BATCH_IDS, exponent: float = 1.05) -> list[Batch]:
        """Draws batches from a bounded Zipf law by its inverse distribution function."""
        law = np.cumsum(np.arange(1, self.rows + 1, dtype=np.float64) ** -exponent)
        draws = np.random.default_rng(1).random((batches, size)) * law[-1]
        ranks = np.minimum(np.searchsorted(law, draws), self.rows - 1)
        ids, rows = splitmix64(ranks + 1), self._row_of_rank[ranks]
        return [Batch(*map(torch.from_numpy, pair)) for pair in zip(ids, rows, strict=True)]


def splitmix64(values: np.ndarray) -> np.ndarray:
    """Spreads small integers over all of int64, one to one."""
    x = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))).view(np.int64)


def seconds(call: Callable[[T], object], items: Iterable[T]) -> list[float]:
    """Times one call an item; freeing what the call returns is part of it."""
    taken = []
    for item in items:
        start = time.perf_counter()
        call(item)
        taken.append(time.perf_counter() - start)
    return taken


class Laps:
    """Splits the time of repeated rounds over named phases."""

    def __init__(self) -> None:
        self._taken: dict[str, list[float]] = {}
        self._last = 0.0

    def start(self) -> None:
        self._last = time.perf_counter()

    def end(self, phase: str) -> None:
        now = time.perf_counter()
        self._taken.setdefault(phase, []).append(now - self._last)
        self._last = now

    def medians(self) -> dict[str, float]:
        """Returns the median seconds of each phase, and of all phases together as "total"."""
        totals = [sum(laps) for laps in zip(*self._taken.values(), strict=True)]
        every = self._taken | {"total": totals}
        return {phase: statistics.median(laps) for phase, laps in every.items()}


class Homes(Generic[R]):
    """Plays `turn(name, *arguments)` of each contestant in a process of its own.

    The process ends after the turn, or is kept for the next one: the turn may then cache.
    """

    def __init__(self, turn: Callable[..., R], *arguments: object, keep: bool = False) -> None:
        self._turn = turn
        self._arguments = arguments
        self._keep = keep
        self._kept: dict[str, ProcessPoolExecutor] = {}

    def __call__(self, name: str) -> R:
        return self.together([name])[0]

    def together(self, names: Sequence[str]) -> list[R]:
        """The turns of several that play at the same time."""
        homes = {
            name: self._kept.pop(name, None) or ProcessPoolExecutor(1, get_context("spawn"))
            for name in names
        }
        playing = [home.submit(self._turn, name, *self._arguments) for name, home in homes.items()]
        results = [turn.result() for turn in playing]
        for name, home in homes.items():
            if self._keep:
                self._kept[name] = home
            else:
                home.shutdown()
        return results

    def __enter__(self) -> Homes[R]:
        return self

    def __exit__(self, *_error: object) -> None:
        for home in self._kept.values():
            home.shutdown()


@dataclass(frozen=True)
class Spread:
    """The median over rounds and the extremes."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.3g} [{self.low:.3g}, {self.high:.3g}]"


def ratio(above: Sequence[float], below: Sequence[float]) -> Spread:
    """Divides round by round, so that a load that lasts a round cancels out."""
    return Spread.of([a / b for a, b in zip(above, below, strict=True)])


@dataclass
class Report:
    """Collects rows, goals and notes; prints them and writes them as JSON."""

    question: str | None
    setting: str
    rows: list[dict[str, object]] = field(default_factory=list)
    goals: list[dict[str, object]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)
    repeats: int = 0

    def interleave(
        self, turn: Callable[[str], R], names: Sequence[str], options: argparse.Namespace
    ) -> dict[str, list[R]]:
        """Gives each contestant a turn a round, A B C, C B A, ..., so that foreign load meets all.

        A round that other programs disturbed is played again, a few times at most.

        Returns: what each contestant's turns returned, round by round.
        """
        results: dict[str, list[R]] = {name: [] for name in names}
        tries_left = MOST_TRIES * options.rounds
        while len(results[names[0]]) < options.rounds:
            foreign_s, start = _foreign_s(), time.perf_counter()
            order = names if tries_left % 2 else names[::-1]
            played = {name: turn(name) for name in order}
            wall_s = time.perf_counter() - start
            load = (_foreign_s() - foreign_s) / wall_s / (os.cpu_count() or 1)
            tries_left -= 1
            if load > options.quiet and tries_left >= options.rounds - len(results[names[0]]):
                self.repeats += 1
                continue
            self.loads.append(load)
            for name in names:
                results[name].append(played[name])
        return results

    def goal(
        self,
        what: str,
        got: Spread | float,
        *,
        at_least: float = float("-inf"),
        at_most: float = float("inf"),
    ) -> None:
        """Judges the median of `got`; one of the two bounds is given."""
        wanted = f">= {at_least:g}" if at_most == float("inf") else f"<= {at_most:g}"
        middle = got.median if isinstance(got, Spread) else got
        verdict = "met" if at_least <= middle <= at_most else "MISSED"
        self.goals.append({"goal": what, "wanted": wanted, "got": got, "verdict": verdict})

    def finish(self, json_file: Path | None) -> None:
        machine = self._machine()
        print(f"\n{(self.question or '').strip()}\n\n{self.setting}")
        print(", ".join(f"{key} {value}" for key, value in machine.items()), end="\n\n")
        for table in filter(None, (self.rows, self.goals)):
            print(_aligned(table), end="\n\n")
        for note in self.notes:
            print(note)
        if json_file is not None:
            content = {"setting": self.setting, "machine": machine, "rows": self.rows}
            content |= {"goals": self.goals, "notes": self.notes}
            json_file.write_text(json.dumps(content, indent=1, default=asdict) + "\n")

    def _machine(self) -> dict[str, object]:
        """Names the machine, and the share of it that other programs took during the rounds."""
        return {
            "cores": os.cpu_count(),
            "cpu": _cpu_name(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "foreign load": Spread.of(self.loads),
            "rounds repeated": self.repeats,
        }


def arguments(
    question: str | None,
    *,
    rows: int,
    dims: list[int],
    threads: list[int],
    rounds: int,
    peers: list[str],
) -> argparse.ArgumentParser:
    """Returns a parser of the options that all benchmarks have, with this one's defaults."""
    parser = argparse.ArgumentParser(
        description=question, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=rows, help="ids in the table")
    parser.add_argument("--dims", type=int, nargs="+", default=dims, help="embedding sizes")
    parser.add_argument("--threads", type=int, nargs="+", default=threads, help="torch threads")
    parser.add_argument("--rounds", type=int, default=rounds, help="turns of each contestant")
    parser.add_argument("--peers", nargs="*", default=peers, help="who runs beside recis")
    parser.add_argument(
        "--quiet", type=float, default=0.1, help="repeat rounds with more foreign load than this"
    )
    parser.add_argument("--json", type=Path, help="file to write the result to")
    return parser


def contestants(peers: Sequence[str]) -> list[str]:
    """Returns recis and the peers beside it, each once, whatever the user has named twice."""
    return list(dict.fromkeys(["recis", *peers]))


def _aligned(rows: list[dict[str, object]]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns] + [[_text(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _text(cell: object) -> str:
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _foreign_s() -> float:
    """CPU seconds since boot that went to neither this process nor its children."""
    ticks = list(map(int, Path("/proc/stat").read_text().split()[1:9]))
    busy = sum(ticks) - ticks[3] - ticks[4]  # less idle and waiting for a disk
    for child in active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        busy -= int(fields[11]) + int(fields[12])
    return busy / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])
