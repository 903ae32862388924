"""How steadily does a table grow, and how much memory does it take beyond its rows?

Every batch is 65,536 ids never seen before, with the two Adam slots attached. The peer writes the
same rows into tensors allocated for all of them beforehand, at row numbers it need not look up.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import (
    BATCH_IDS,
    Homes,
    Report,
    Spread,
    arguments,
    ratio,
    seconds,
    splitmix64,
)
from peers import installed, is_recis, recis_adam, recis_table
from torch import Tensor
from torch.nn import functional

from recis.nn.initializers import ConstantInitializer, UniformInitializer

Run = dict[str, float]

SLOTS = 3  # the embedding and two of its size


@dataclass(frozen=True)
class Grower:
    """A table that admits what it has not seen."""

    grow: Callable[[Tensor], Tensor]  # unseen ids, int64 (n,), to their embeddings, (n, dim)
    own_bytes: Callable[[], int]  # by its own count


def main() -> None:
    parser = arguments(
        __doc__, rows=20_000_000, dims=[32], threads=[1, 2], rounds=3, peers=["torch"]
    )
    parser.add_argument("--init", choices=["zero", "uniform"], default="zero")
    options = parser.parse_args()
    names = installed(options.peers)
    setting = f"{options.rows:,} new ids, {BATCH_IDS:,} a batch, embeddings start {options.init}"
    report = Report(__doc__, setting)
    for dim in options.dims:
        for threads in options.threads:
            with Homes(_run, options.rows, dim, threads, options.init) as homes:
                _add(report, dim, threads, report.interleave(homes, names, options))
    report.finish(options.json)


def _run(name: str, rows: int, dim: int, threads: int, init: str) -> Run:
    torch.set_num_threads(threads)
    before_bytes = _memory_bytes("VmRSS")
    grower = GROWERS[name](rows, dim, init)
    with torch.no_grad():
        taken = seconds(grower.grow, _new_ids(rows))
    payload_bytes = rows * dim * 4 * SLOTS
    median = statistics.median(taken)
    return {
        "M rows/s": rows / sum(taken) / 1e6,
        "M rows/s, median batch": BATCH_IDS / median / 1e6,
        "median ms": median * 1e3,
        "worst ms": max(taken) * 1e3,
        "worst / median": max(taken) / median,
        "own count / payload": grower.own_bytes() / payload_bytes,
        "peak / payload": (_memory_bytes("VmHWM") - before_bytes) / payload_bytes,
    }


def _new_ids(rows: int) -> Iterator[Tensor]:
    for first in range(0, rows, BATCH_IDS):
        ranks = np.arange(first, min(first + BATCH_IDS, rows)) + 1
        yield torch.from_numpy(splitmix64(ranks))


def _recis_grower(_rows: int, dim: int, init: str, *, large_pages: bool = False) -> Grower:
    zero, uniform = ConstantInitializer(0.0), UniformInitializer(-0.1, 0.1)
    table = recis_table(dim, large_pages, zero if init == "zero" else uniform)
    recis_adam(table)

    def own_bytes() -> int:
        stats = table.stats()
        return stats["hot_bytes"] + stats["index_bytes"]

    return Grower(lambda ids: table(ids), own_bytes)


def _torch_grower(rows: int, dim: int, init: str) -> Grower:
    embedding, *state = slots = [torch.empty(rows, dim) for _ in range(SLOTS)]
    count = 0

    def grow(ids: Tensor) -> Tensor:
        nonlocal count
        new = slice(count, count + len(ids))
        count += len(ids)
        if init == "zero":
            embedding[new].zero_()
        else:
            embedding[new].uniform_(-0.1, 0.1)
        for slot in state:
            slot[new].zero_()
        return functional.embedding(torch.arange(new.start, new.stop), embedding)

    return Grower(grow, lambda: sum(slot.nbytes for slot in slots))


def _add(report: Report, dim: int, threads: int, runs: dict[str, list[Run]]) -> None:
    for name, each in runs.items():
        row: dict[str, object] = {"dim": dim, "threads": threads, "who": name}
        report.rows.append(row | {key: Spread.of([run[key] for run in each]) for key in each[0]})
    for name in filter(is_recis, runs):
        case = f"dim {dim}, {threads} threads, {name}"

        def column(name: str, key: str) -> list[float]:
            return [run[key] for run in runs[name]]

        if "torch" in runs:
            got = ratio(column(name, "M rows/s"), column("torch", "M rows/s"))
            report.goal(f"{case}: rows/s over torch's", got, at_least=0.9)
        for key, limit in (("worst / median", 5), ("peak / payload", 1.1)):
            report.goal(f"{case}: {key}", Spread.of(column(name, key)), at_most=limit)


def _memory_bytes(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) * 1024


GROWERS: dict[str, Callable[[int, int, str], Grower]] = {
    "recis": _recis_grower,
    "recis-large": partial(_recis_grower, large_pages=True),
    "torch": _torch_grower,
}


if __name__ == "__main__":
    main()
