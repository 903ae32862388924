"""Random schedules of all that workers do with their tables, played by them or by one alone.

A seed gives everything: how many workers there are, their tables, what they do in which order, and
the batch of each. One process plays it as one of the workers, with its own batches, or as the
oracle, with those of all of them one after the other, which has its tables on the CPU always.

Where a schedule is exact, gradients are small multiples of powers of two and sums of them have
no rounding, so that any number of workers must come to the same bits.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from recis import Store
from recis._slices import gen_slice, shards_of
from recis.hooks import HashTableFilterHook
from recis.nn import DynamicEmbedding, EmbeddingEngine
from recis.nn.hashtable_hook import FrequencyFilterHook, GlobalStepFilterHook
from recis.nn.modules.hashtable import filter_out_sparse_param
from recis.optim import SparseAdam, SparseSGD
from recis.ragged import RaggedTensor
from recis.serialize import Saver
from recis.serialize.saver import SaveHandle

from .tables import content
from .training import options

LENGTH = 10
ALWAYS = ["forward", "forward", "backward", "backward", "step"]
ALWAYS += ["evaluate", "sight", "insert", "evict", "filter", "drop"]
SOMETIMES = ["save", "save_async", "save_async", "save_delta", "save_delta"]  # they take longest
IN_A_STORE = ["prefetch", "commit", "restart"]
TIMEOUT = timedelta(seconds=60)

Rows = list[list[int]]


def workers_of(seed: int) -> int:
    """How many play the schedule of a seed: 2, 3 or 4."""
    return [2, 3, 2, 4][seed % 4]


class Schedule:
    """Tables, and what is done with them in which order."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        self.seed = seed
        self.workers = workers_of(seed)
        self.options, self.coalesce = options(seed)
        self.averages = self.options["feature0"].grad_reduce_by == "id"
        self.exact = not self.averages and chance.random() < 0.8
        hook = chance.choice([None, GlobalStepFilterHook(2), FrequencyFilterHook(2)])
        for name, option in self.options.items():
            inexact = self.exact and option.combiner == "mean"
            combiner = "sum" if inexact else option.combiner
            self.options[name] = replace(option, filter_hook=hook, combiner=combiner)
        self.hot_bytes = chance.choice([None, None, 8000, 40000])  # None: in no store
        menu = ALWAYS + (IN_A_STORE if self.hot_bytes else [])
        menu += SOMETIMES if chance.random() < 0.3 else []
        self.operations = ["forward", "backward", "step"]
        self.operations += [chance.choice(menu) for _ in range(LENGTH)]
        self.on_device = chance.random() < 0.1

    def chance(self, k: int, worker: int | None = None) -> random.Random:
        """What is drawn for an operation by all workers alike, or by one of them."""
        return random.Random(f"{self.seed} {k} {worker}")

    def ids(self, chance: random.Random, count: int) -> list[int]:
        low, high = (0, 40) if self.coalesce else (-20, 20)
        return [chance.randint(low, high) * 7919 for _ in range(count)]


class Batch:
    """A worker's rows of an operation: of each feature that it has, ids and weights."""

    def __init__(self, schedule: Schedule, k: int, worker: int, learns: bool) -> None:
        common, chance = schedule.chance(k), schedule.chance(k, worker)
        shape = common.choice(["even", "uneven", "uneven", "one-sided", "empty"])
        heir = common.randrange(schedule.workers)
        self.rows = {
            "even": 3,
            "uneven": chance.randint(0, 6),
            "one-sided": 6 if worker == heir else 0,
            "empty": 0,
        }[shape]
        self.coefficients = [chance.choice([-1.0, 0.5, 2.0]) for _ in range(self.rows)]
        self.features: dict[str, tuple[str, Rows, list[list[float]]]] = {}
        for name in schedule.options:
            # A backward pass needs a feature that learns, be it without rows.
            if chance.random() < 0.7 or (learns and name == "feature0"):
                kind = chance.choice(["dense", "ragged", "weighted", "nested", "lengths"])
                length = chance.randint(1, 3)
                sizes = [
                    length if kind == "dense" else chance.randint(0, 4) for _ in range(self.rows)
                ]
                weighted = [0.0, 0.5, 2.0] if kind == "weighted" else [1.0]
                self.features[name] = (
                    kind,
                    [schedule.ids(chance, size) for size in sizes],
                    [[chance.choice(weighted) for _ in range(size)] for size in sizes],
                )


def ids_of(kind: str, rows: Rows, weights: list[list[float]]) -> Any:
    """Rows of ids in one of the forms that an engine takes."""
    flat = torch.tensor([id for row in rows for id in row], dtype=torch.int64)
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    if kind == "dense":
        return flat.view(len(rows), len(rows[0]) if rows else 1)
    if kind == "lengths":
        return flat, lengths
    if kind == "nested":
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        return torch.nested.nested_tensor_from_jagged(flat, offsets)
    weight = torch.tensor([weight for row in weights for weight in row])
    return RaggedTensor.from_lengths(flat, lengths, weight if kind == "weighted" else None)


def features_of(batches: Sequence[Batch]) -> dict[str, Any]:
    """Their features, the rows of one batch after those of the other."""
    found = {}
    for name in {name: None for batch in batches for name in batch.features}:
        given = [batch.features[name] for batch in batches if name in batch.features]
        kind = given[0][0] if len(batches) == 1 else "weighted"
        rows, weights = ([row for each in given for row in each[i]] for i in (1, 2))
        found[name] = ids_of(kind, rows, weights)
    return found


class Player:
    """Plays a schedule as one of the workers or, without a rank, as all of them."""

    def __init__(self, schedule: Schedule, folder: Path, rank: int | None = None) -> None:
        self.schedule = schedule
        self.found: list[Any] = []
        """What there was to see of each operation."""
        self.rank, self.world = (0, 1) if rank is None else (rank, schedule.workers)
        self._alone = rank is None
        self._mine = range(schedule.workers) if rank is None else [rank]
        self._folder = folder / f"seed-{schedule.seed}"
        self._committed: Any = {}
        self._filter = HashTableFilterHook(1)
        self._open()

    def play(self) -> list[Any]:
        """What there was to see of each operation, and what there is in the end."""
        for k, operation in enumerate(self.schedule.operations):
            try:
                self.found.append(getattr(self, operation)(k))
            except Exception as error:
                raise RuntimeError(
                    f"operation {k}, {operation}, of {self.schedule.operations}; "
                    f"again by RECIS_SCHEDULES={self.schedule.seed}:{self.schedule.seed + 1}"
                ) from error
        self._saved()
        self.found.append(self._content())
        self._close()
        return self.found

    # ---- operations ----

    def forward(self, k: int) -> Any:
        out, batches = self._look_up(k, learns=True)
        names = sorted(out)
        if self.schedule.exact:
            losses = []
            for name in names:
                given = [c for b in batches if name in b.features for c in b.coefficients]
                losses.append((torch.tensor(given)[:, None] * out[name]).sum())
        else:
            rows = sum(Batch(self.schedule, k, w, True).rows for w in range(self.schedule.workers))
            losses = [out[name].square().sum() / max(rows, 1) for name in names]
        # Of a sum over all workers, "worker" expects each one's share times their number.
        self._losses.append(sum(losses) * (1 if self.schedule.averages else self.world))
        return {name: each.detach().clone() for name, each in out.items()}

    def backward(self, k: int) -> None:
        """Of one of the forward passes, or of all that are left at once."""
        if not self._losses:
            return
        how = self.schedule.chance(k).choice(["first", "last", "all"])
        if how == "all":
            sum(self._losses).backward()
            self._losses.clear()
        else:
            self._losses.pop(0 if how == "first" else -1).backward()

    def drop(self, k: int) -> None:
        if self._losses:
            self._losses.pop()

    def step(self, k: int) -> None:
        self._optimizer.step()
        self._optimizer.zero_grad()

    def evaluate(self, k: int) -> Any:
        self._engine.eval()
        out, _ = self._look_up(k, learns=False)
        self._engine.train()
        return out

    def sight(self, k: int) -> Any:
        """Admits ids and learns nothing."""
        with torch.no_grad():
            return self._look_up(k, learns=False)[0]

    def insert(self, k: int) -> None:
        common = self.schedule.chance(k)
        made = [each for each in self._engine.modules() if isinstance(each, DynamicEmbedding)]
        embedding = common.choice(made)
        children = embedding.hashtable.children_info()
        child = common.choice(children.children())
        ids, values = [], []
        for worker in self._mine:
            chance = self.schedule.chance(k, worker)
            given = self.schedule.ids(chance, chance.randint(0, 5))
            ids += given
            values += [[chance.choice([-1.0, 0.5, 2.0])] * self._dim(embedding) for _ in given]
        encoded = children.encode(torch.tensor(ids, dtype=torch.int64), child)
        rows = torch.tensor(values, dtype=embedding.hashtable.table.dtype)
        embedding.insert(encoded, rows.view(len(ids), self._dim(embedding)))

    def evict(self, k: int) -> Tensor:
        """How many rows went, wherever they were."""
        return torch.tensor([table.evict(self._some(table, k)) for table in self._tables.values()])

    def filter(self, k: int) -> None:
        self._filter.after_step(None, k + 1)

    def prefetch(self, k: int) -> None:
        for table in self._tables.values():
            table.prefetch(self._some(table, k))

    def save(self, k: int) -> Any:
        return self._save(k, delta=False, later=False)

    def save_async(self, k: int) -> Any:
        return self._save(k, delta=False, later=True)

    def save_delta(self, k: int) -> Any:
        return self._save(k, delta=True, later=self.schedule.chance(k).random() < 0.5)

    def commit(self, k: int) -> None:
        self._store.commit(k, self._optimizer.state_dict())
        self._committed = content(self._tables)

    def restart(self, k: int) -> Any:
        """Goes on from the last commit, as after a crash of all."""
        self._saved()
        self._close()
        self._open()
        found = self._content()
        for name, columns in self._committed.items():
            for column, values in columns.items():
                if column != "gradient":
                    assert torch.equal(found[name][column], values), f"{name}: {column}"
        return found

    # ---- what they are made of ----

    def _open(self) -> None:
        self._store: Any = None
        schedule = self.schedule
        options, device_bytes = schedule.options, None
        if schedule.on_device and not self._alone:
            options = {n: replace(option, device="emulated") for n, option in options.items()}
            device_bytes = schedule.hot_bytes and 1000
        if schedule.hot_bytes:
            path = self._folder / f"store-{self.rank}-of-{self.world}"
            path.parent.mkdir(exist_ok=True)
            self._store = Store.open_common(path, hot_bytes=schedule.hot_bytes)
        self._engine = EmbeddingEngine(
            options, coalesce=schedule.coalesce, store=self._store, device_bytes=device_bytes
        )
        self._tables = filter_out_sparse_param(self._engine)
        rule = SparseAdam if schedule.exact else SparseSGD
        self._optimizer = rule(self._tables, lr=0.125)
        if self._store is not None and self._store.step is not None:
            self._optimizer.load_state_dict(self._store.state())
        self._losses: list[Tensor] = []
        self._pending: SaveHandle | None = None
        self._snapshot: str | None = None

    def _close(self) -> None:
        del self._engine, self._optimizer, self._tables
        self._losses.clear()
        self._pending = None
        if self._store is not None:
            self._store.close()

    def _content(self) -> Any:
        found = content(self._tables)
        for name, table in self._tables.items():
            assert table.slice == gen_slice(self.rank, self.world, table.slice.slice_size)
            held = shards_of(found[name]["ids"], self.world, table.slice.slice_size)
            assert bool((held == self.rank).all()), f"{name} has rows of another worker"
        return found

    def _look_up(self, k: int, learns: bool) -> tuple[dict[str, Tensor], list[Batch]]:
        batches = [Batch(self.schedule, k, worker, learns) for worker in self._mine]
        out = self._engine(features_of(batches))
        return {name: each.flatten(1) for name, each in out.items()}, batches

    def _some(self, table: Any, k: int) -> Tensor:
        """Ids of a table that all workers draw alike, whoever has them."""
        ids = self.schedule.ids(self.schedule.chance(k), 8)
        children = len(table.children) if table.coalesced else 1
        return torch.tensor([id | child << 52 for id in ids for child in range(children)])

    def _dim(self, embedding: DynamicEmbedding) -> int:
        return embedding.hashtable.table.shape[0]

    def _save(self, k: int, delta: bool, later: bool) -> Any:
        """The tables, as the snapshot must have them; the oracle needs none."""
        self._saved()
        if self._alone:
            return content(self._tables)
        saver = Saver(
            self.rank,
            self.world,
            path=self._folder / "snapshots",
            hashtables=self._tables,
            track=True,
            parent=self._snapshot if delta else None,
        )
        if later:
            self._pending = saver.save_async(k)
        else:
            self._snapshot = saver.save(k)
        return None

    def _saved(self) -> None:
        if self._pending is not None:
            self._snapshot = self._pending.wait()
            self._pending = None


def main(seeds: Sequence[int], folder: Path) -> None:
    """Plays schedules as one of their workers, and leaves what there was to see."""
    dist.init_process_group("gloo", timeout=TIMEOUT)
    torch.set_num_threads(1)
    rank = dist.get_rank()
    found = {seed: Player(Schedule(seed), folder, rank).play() for seed in seeds}
    torch.save(found, folder / f"{rank}.pt")
