"""What tables, stores, exchanges and snapshots have counted: of one worker, and of a group.

`recis.prometheus` has them as text, and serves them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch.distributed as dist

from recis._collectives import gather as gather_objects
from recis._counters import EXCHANGES, SNAPSHOTS, Counts
from recis.nn.modules._agreement import exchange
from recis.nn.modules._exchange import group_rank
from recis.serialize.blocks import tables_of

SKEWED = 1.5
"""The greatest share over the mean from which `gather` warns."""

# What is compared among workers, and the mean from which it says something.
_SHARES = {"rows": 1_000, "lookups": 1_000, "sent_bytes": 1 << 20}
_warned: set[tuple[str, str]] = set()


class WorkerMetrics(NamedTuple):
    """What one worker has counted."""

    rank: int
    """In its group."""
    tables: dict[str, Counts]
    """By table: `HashTable.stats()`, and of what this worker has looked up through a
    `DynamicEmbedding` or an `EmbeddingEngine`: `batch_ids`, repeats included; `requested_ids`, each
    once a look-up; `remote_ids`, those of them that other workers hold. `lookups` are what the
    table was asked for: of all workers together as many as `requested_ids`."""
    stores: dict[str, Counts]
    """By path: `Store.stats()`."""
    exchanges: Counts
    """Of this process: `collectives`; `sent_bytes` and `received_bytes`, to and from others."""
    snapshots: Counts
    """Of this process: `saves`, `failures`, `written_bytes` of its own files, `seconds` of all."""


class Skew(NamedTuple):
    """How unevenly something is spread over workers."""

    counter: str
    """What: "rows" and "lookups" of a table, "sent_bytes" of exchanges."""
    table: str
    """Which; empty for exchanges."""
    rank: int
    """Of the worker that has most."""
    ratio: float
    """What it has over the mean; 1 is balance."""
    mean: float


class GroupMetrics(NamedTuple):
    """What the workers of a group have counted."""

    workers: tuple[WorkerMetrics, ...]
    """By rank."""

    def tables(self) -> dict[str, Counts]:
        """The counts of each table, summed over the workers."""
        names = dict.fromkeys(name for worker in self.workers for name in worker.tables)
        return {
            name: _sum(worker.tables.get(name, {}) for worker in self.workers) for name in names
        }

    def exchanges(self) -> Counts:
        """The counts of exchanges, summed over the workers."""
        return _sum(worker.exchanges for worker in self.workers)

    def snapshots(self) -> Counts:
        """The counts of snapshots, summed over the workers."""
        return _sum(worker.snapshots for worker in self.workers)

    def skews(self) -> list[Skew]:
        """How the slices of each table, and what is exchanged, are spread over the workers."""
        found = [
            self._skew(
                counter, name, [w.tables.get(name, {}).get(counter, 0) for w in self.workers]
            )
            for name in self.tables()
            for counter in ("rows", "lookups")
        ]
        sent = [worker.exchanges["sent_bytes"] for worker in self.workers]
        return [*found, self._skew("sent_bytes", "", sent)]

    def _skew(self, counter: str, table: str, shares: list[int | float]) -> Skew:
        most = shares.index(max(shares))
        return Skew(
            counter, table, self.workers[most].rank, skew(shares), sum(shares) / len(shares)
        )


def skew(shares: Sequence[int | float]) -> float:
    """The greatest share over the mean; 1 is balance, and that of nothing."""
    total = sum(shares)
    return max(shares) * len(shares) / total if total else 1.0


def collect(tables: Mapping[str, object], group: dist.ProcessGroup | None = None) -> WorkerMetrics:
    """What this worker has counted up to now: no collective, and any thread may ask.

    Args:
        tables: by name, as `filter_out_sparse_param(model)` gives them, or modules.
        group: in which the worker has its rank; None, all workers.

    Raises:
        TypeError: something else is among the tables.
        RuntimeError: a store is closed.
    """
    found = tables_of("metrics", tables)
    stores = {t.store.path: t.store for t in found.values() if t.store is not None}
    return WorkerMetrics(
        rank=group_rank(group),
        tables={name: {**t.stats(), **t.requests.read()} for name, t in found.items()},
        stores={path: store.stats() for path, store in stores.items()},
        exchanges=EXCHANGES.read(),
        snapshots=SNAPSHOTS.read(),
    )


def gather(mine: WorkerMetrics, group: dist.ProcessGroup | None = None) -> GroupMetrics:
    """What all workers have counted: a collective, of one worker without `torch.distributed`.

    The first worker warns, once for each table, if one has `SKEWED` times the mean of its rows or
    look-ups, and once if one sends so much.

    Args:
        mine: of this worker, as `collect` gives it.
        group: the workers; None, all of them.

    Raises:
        ExchangeError: a worker is lost, or does something else.
    """
    with exchange("gather metrics"):
        found = GroupMetrics(tuple(gather_objects(mine, group)))
    if group_rank(group) == 0:
        for each in found.skews():
            _warn(each, len(found.workers))
    return found


def _warn(found: Skew, workers: int) -> None:
    key = (found.counter, found.table)
    if found.ratio <= SKEWED or found.mean < _SHARES[found.counter] or key in _warned:
        return
    _warned.add(key)
    what = found.counter.replace("_", " ")
    of = f"table {found.table!r}: {what}" if found.table else f"exchanges: {what}"
    warnings.warn(
        f"{of}: worker {found.rank} of {workers} has {found.ratio:.2f} times the mean of "
        f"{found.mean:,.0f}, so the others wait for it. A worker holds the ids of some slices, "
        "uint64(id) % 65536: ids whose low bits are alike fall to few of them; hash such ids. "
        "recis-ckpt inspect shows how even the slices of a snapshot are",
        stacklevel=3,
    )


def _sum(counts: Iterable[Counts]) -> Counts:
    total: Counts = {}
    for each in counts:
        for name, value in each.items():
            total[name] = total.get(name, 0) + value
    return total
