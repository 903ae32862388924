"""How fast are 65,536 ids looked up in a big table, beside tables that do not hash?

The peers share one weight matrix, recis holds its own copy, and all answers are compared first.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import partial

import torch
from common import (
    BATCH_IDS,
    Batch,
    Report,
    Spread,
    Vocabulary,
    arguments,
    ratio,
    seconds,
)
from peers import LOOKUPS, Lookup, installed, is_recis, random_rows


@dataclass(frozen=True)
class Goal:
    dim: int
    threads: int
    peer: str
    times: float


GOALS = [
    Goal(16, 2, "torch", 1.0),
    Goal(64, 2, "torch", 1.0),
    Goal(64, 2, "fbgemm", 2.0),
    Goal(64, 2, "mch", 5.0),
    Goal(128, 2, "torch", 3.0),
]


def main() -> None:
    peers = ["torch", "fbgemm", "unique", "mch"]
    options = arguments(
        __doc__, rows=10_000_000, dims=[16, 64, 128], threads=[1, 2], rounds=5, peers=peers
    ).parse_args()
    names = installed(options.peers)
    vocabulary = Vocabulary(options.rows)
    batches = vocabulary.zipf()
    report = Report(__doc__, f"{options.rows:,} rows, {len(batches)} batches of Zipf 1.05")
    with torch.no_grad():
        for dim in options.dims:
            lookups = _filled(names, vocabulary, dim, batches[0])
            for threads in options.threads:
                torch.set_num_threads(threads)
                times = report.interleave(partial(_turn, lookups, batches), names, options)
                _add(report, dim, threads, times)
            del lookups  # before the next ones are filled
    report.finish(options.json)


def _filled(names: list[str], vocabulary: Vocabulary, dim: int, check: Batch) -> dict[str, Lookup]:
    weight = random_rows(vocabulary.rows, dim)
    lookups = {name: LOOKUPS[name](vocabulary, weight) for name in names}
    for name, lookup in lookups.items():
        if not torch.equal(lookup(check), weight[check.rows]):
            raise AssertionError(f"{name} does not return the rows it was given")
    return lookups


def _turn(lookups: dict[str, Lookup], batches: list[Batch], name: str) -> float:
    """Returns the median seconds a batch, after two batches to warm up."""
    return statistics.median(seconds(lookups[name], batches[:2] + batches)[2:])


def _add(report: Report, dim: int, threads: int, times: dict[str, list[float]]) -> None:
    for name, taken in times.items():
        report.rows.append(
            {
                "dim": dim,
                "threads": threads,
                "who": name,
                "M ids/s": Spread.of([BATCH_IDS / second / 1e6 for second in taken]),
                "time / recis": ratio(taken, times["recis"]),
            }
        )
    for goal in GOALS:
        if (goal.dim, goal.threads) != (dim, threads) or goal.peer not in times:
            continue
        for name in filter(is_recis, times):
            what = f"dim {dim}, {threads} threads: {goal.peer} time / {name} time"
            report.goal(what, ratio(times[goal.peer], times[name]), at_least=goal.times)


if __name__ == "__main__":
    main()
