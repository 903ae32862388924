"""Rows of tables whose slices several workers hold: ids go to the owners, rows come back.

Each worker sends each distinct id once, to the worker that holds its slice, with how often it
occurs. However many tables there are, agreeing on them takes one collective, ids one, and rows one
for each width of a row; so does the backward pass, which has no ids. While rows of one width are on
their way, those of the next are looked up.

Every worker of the group must take part with the same tables, in training with a backward pass,
be its batch empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from recis._place import Place
from recis._slices import shards_of
from recis._tensors import distinct
from recis.nn.hashtable_hook import AdmitHook
from recis.nn.modules._agreement import agree, carry, exchange
from recis.nn.modules.hashtable import HashTable

_NAMES_MOST = 5  # in a message


class Wanted(NamedTuple):
    """Ids of one table."""

    table: HashTable
    ids: Tensor
    """int64 `(n,)` on the CPU."""
    admit_hook: AdmitHook | None = None
    trainable: bool = True


class Found(NamedTuple):
    """Rows of distinct ids, and where each of the ids is among them."""

    rows: Tensor
    """`(u, *embedding_shape)`, on the table's device."""
    inverse: Tensor
    """int64 `(n,)` on the CPU."""
    place: Place
    """The table's."""


def group_size(group: dist.ProcessGroup | None) -> int:
    """How many workers there are; 1 without `torch.distributed`.

    Raises:
        ValueError: this process is not one of them.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    size = dist.get_world_size(group)
    if size < 1:
        raise ValueError(
            f"this process, of rank {dist.get_rank()}, is not in the process group of the table: "
            "make the table in those that are"
        )
    return size


def group_rank(group: dist.ProcessGroup | None) -> int:
    """Which of them this is."""
    return dist.get_rank(group) if group_size(group) > 1 else 0


def look_up(wanted: Sequence[Wanted], group: dist.ProcessGroup | None) -> list[Found]:
    """The rows of ids of several tables, whoever holds them.

    Args:
        wanted: of each table, the same ones in the same order on every worker.
        group: the workers, by whose rank `gen_slice` cuts the ids; None, all of them.

    Raises:
        ExchangeError: a worker is lost, or has called something else.
    """
    if not wanted:
        return []
    plan = _Plan("look up", wanted, group)
    plan.count()
    holder = next((w.table._holder for w in wanted if _learns(w)), torch.zeros(()))
    rows = _Rows.apply(holder, plan)
    places = (w.table.table.place for w in wanted)
    return [Found(*each) for each in zip(rows, plan.inverses, places, strict=True)]


def insert(
    table: HashTable, ids: Tensor, embeddings: Tensor, group: dist.ProcessGroup | None
) -> None:
    """Gives ids `(n,)` embeddings `(n, *embedding_shape)`, on whichever worker holds them."""
    plan = _Plan("insert", [Wanted(table, ids)], group)
    (inverse,), ((asked, counts),) = plan.inverses, plan.asked
    last = torch.zeros(sum(plan.sent.by_worker([0])), dtype=torch.int64)
    last.scatter_reduce_(0, inverse, torch.arange(len(ids)), "amax")
    sent = plan.start(plan.what, [0], [embeddings[last]], plan.sent, plan.received)
    ((_, rows),) = sent.wait()
    table._insert(asked, rows, counts.to(torch.int32))


def _admits(wanted: Wanted) -> bool:
    """Whether unknown ids get rows."""
    return wanted.table.training and wanted.table.table.dtype.is_floating_point


def _learns(wanted: Wanted) -> bool:
    """Whether rows take a gradient."""
    return _admits(wanted) and wanted.trainable


def _names(wanted: Sequence[Wanted]) -> str:
    """Of tables, for messages."""
    names = dict.fromkeys(child for w in wanted for child in w.table.children_hashtable)
    listed = ", ".join(map(repr, list(names)[:_NAMES_MOST]))
    more = len(names) - _NAMES_MOST
    return f"{listed} and {more} more" if more > 0 else listed


def _details(wanted: Sequence[Wanted]) -> str:
    """What every worker must know of tables alike."""
    return repr(
        [
            (
                w.table.table.info,
                w.table.children_hashtable,
                w.table.table.dtype,
                w.table.table.shape,
                w.table.slice.slice_size,
                _admits(w),
                _learns(w) and torch.is_grad_enabled(),
                str(w.admit_hook),
            )
            for w in wanted
        ]
    )


class _Plan:
    """Which ids go where: agreed among the workers before rows are looked up."""

    def __init__(
        self, action: str, wanted: Sequence[Wanted], group: dist.ProcessGroup | None
    ) -> None:
        self.names = _names(wanted)
        self.what = f"{action} {self.names}"
        self.wanted = wanted
        self.learning = [k for k, each in enumerate(wanted) if _learns(each)]
        self.group = group
        self.world = group_size(group)
        ids, inverses, counts = zip(*(distinct(w.ids) for w in wanted), strict=True)
        self.inverses = list(inverses)
        sizes = [len(each) for each in ids]
        if self.world == 1:
            self.sent = self.received = _Side(torch.tensor([sizes]))
            self.asked = list(zip(ids, counts, strict=True))
            return
        # By table, then by owner, so that what an owner gives is together.
        key = torch.cat(
            [
                shards_of(each, self.world, w.table.slice.slice_size) + k * self.world
                for k, (w, each) in enumerate(zip(wanted, ids, strict=True))
            ]
        )
        order = torch.argsort(key, stable=True)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        for k, (begin, places) in enumerate(
            zip(accumulate([0, *sizes]), place.split(sizes), strict=False)
        ):
            self.inverses[k] = (places - begin)[self.inverses[k]]
        pairs = torch.stack([torch.cat(ids), torch.cat(counts)], 1).index_select(0, order)
        every = list(range(len(wanted)))
        send = torch.bincount(key, minlength=len(wanted) * self.world).view(-1, self.world).t()
        self.sent = _Side(send)
        self.details = _details(wanted)
        receive, arrived = self._exchange_ids(send, self.sent.join(pairs.split(sizes), every))
        self.received = _Side(receive)
        self.asked = [
            (part[:, 0].contiguous(), part[:, 1]) for part in self.received.split(arrived, every)
        ]

    def _exchange_ids(self, send: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """How many ids of each table come from each worker, and those with their counts.

        Args:
            send: `(workers, tables)`, how many go to them.
            pairs: int64 `(ids, 2)`, in the order of workers and tables.
        """
        tables = send.shape[1]
        leaving = send.sum(1)
        arriving = agree(self.what, self.details, leaving, self.group)
        given = [part for w in zip(send, pairs.split(leaving.tolist()), strict=True) for part in w]
        lengths = (tables + 2 * arriving).tolist()
        taken = send.new_empty(sum(lengths))
        joined = torch.cat([part.reshape(-1) for part in given])
        carry(self.what, taken, joined, self.group, (lengths, (tables + 2 * leaving).tolist()))
        parts = taken.split(lengths)
        return (
            torch.stack([part[:tables] for part in parts]),
            torch.cat([part[tables:] for part in parts]).view(-1, 2),
        )

    def count(self) -> None:
        """Adds to the counters of the tables."""
        of_tables = self.sent.by_table(), self.sent.by_table(group_rank(self.group))
        for each, inverse, requested, own in zip(
            self.wanted, self.inverses, *of_tables, strict=True
        ):
            each.table.table.requests.add(
                batch_ids=len(inverse), requested_ids=requested, remote_ids=requested - own
            )

    def widths(self, tables: Sequence[int]) -> list[list[int]]:
        """These tables by the width and dtype of their rows, in their order."""
        found: dict[tuple[Any, ...], list[int]] = {}
        for k in tables:
            table = self.wanted[k].table
            found.setdefault((table.table.dtype, table.table.shape), []).append(k)
        return list(found.values())

    def start(
        self, what: str, tables: list[int], parts: list[Tensor], source: _Side, target: _Side
    ) -> _Travelling:
        """Sends rows of each of some tables from one side to the other, by way of the CPU."""
        if self.world == 1:
            return _Travelling(what, tables, target, parts)
        rows = source.join([part.cpu() for part in parts], tables)
        arriving, leaving = target.by_worker(tables), source.by_worker(tables)
        out = rows.new_empty((sum(arriving), *rows.shape[1:]))
        work = carry(what, out, rows, self.group, (arriving, leaving), wait=False)
        return _Travelling(what, tables, target, [out], work)


class _Travelling(NamedTuple):
    """Rows of some tables on their way."""

    what: str
    tables: list[int]
    target: _Side
    rows: list[Tensor]
    work: Any = None

    def wait(self) -> list[tuple[int, Tensor]]:
        """They by table, once they are there."""
        parts: Sequence[Tensor] = self.rows
        if self.work is not None:
            with exchange(self.what):
                self.work.wait()
            parts = self.target.split(self.rows[0], self.tables)
        return list(zip(self.tables, parts, strict=True))


class _Side:
    """How much of each table one worker has for each, or each for one.

    Rows of several tables travel in the order of workers, those for one in the order of tables;
    what is done with them is so by table.

    Args:
        sizes: int64 `(workers, tables)`.
    """

    def __init__(self, sizes: Tensor) -> None:
        self._sizes = sizes
        self._orders: dict[tuple[int, ...], Tensor] = {}

    def by_worker(self, tables: list[int]) -> list[int]:
        """How many rows of these tables there are for each."""
        found: list[int] = self._sizes[:, tables].sum(1).tolist()
        return found

    def by_table(self, worker: int | None = None) -> list[int]:
        """How many rows of each table there are for a worker; None, for all of them."""
        sizes = self._sizes.sum(0) if worker is None else self._sizes[worker]
        found: list[int] = sizes.tolist()
        return found

    def split(self, rows: Tensor, tables: list[int]) -> Sequence[Tensor]:
        """Rows that came, by table, those of each in the order of workers."""
        if len(tables) == 1:
            return [rows]
        sizes = self._sizes[:, tables].sum(0).tolist()
        parts: Sequence[Tensor] = rows.index_select(0, self._order(tables)).split(sizes)
        return parts

    def join(self, parts: Sequence[Tensor], tables: list[int]) -> Tensor:
        """The opposite: rows as they go."""
        if len(tables) == 1:
            return parts[0].contiguous()
        order = self._order(tables)
        out = parts[0].new_empty((len(order), *parts[0].shape[1:]))
        for part, places in zip(parts, order.split([len(part) for part in parts]), strict=True):
            out[places] = part
        return out

    def _order(self, tables: list[int]) -> Tensor:
        """Where each row is on its way, in the order of tables and workers."""
        if tuple(tables) not in self._orders:
            sizes = self._sizes[:, tables]
            ends = sizes.flatten().cumsum(0)
            begins = (ends.view_as(sizes) - sizes).t().flatten()
            lengths = sizes.t().flatten()
            self._orders[tuple(tables)] = torch.arange(int(ends[-1])) + torch.repeat_interleave(
                begins - (lengths.cumsum(0) - lengths), lengths
            )
        return self._orders[tuple(tables)]


class _Rows(torch.autograd.Function):
    """The exchange of rows as one node of the autograd graph, so that its backward pass is one."""

    @staticmethod
    def forward(ctx: Any, holder: Tensor, plan: _Plan) -> tuple[Tensor, ...]:
        batches: list[Any] = [None] * len(plan.wanted)
        under_way = []
        for tables in plan.widths(range(len(plan.wanted))):
            own = [_own_rows(plan, k, batches) for k in tables]
            under_way.append(plan.start(plan.what, tables, own, plan.received, plan.sent))
        out: list[Any] = [None] * len(plan.wanted)
        for each in under_way:
            for k, rows in each.wait():
                out[k] = rows.to(plan.wanted[k].table.device)
        ctx.plan, ctx.batches = plan, batches
        ctx.mark_non_differentiable(*(out[k] for k in range(len(out)) if k not in plan.learning))
        return tuple(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None]:
        plan = ctx.plan
        what = f"bring gradients to {plan.names}"
        if plan.world > 1:
            nothing = torch.zeros(plan.world, dtype=torch.int64)
            agree(what, plan.details, nothing, plan.group)
        under_way = []
        for tables in plan.widths(plan.learning):
            given = [grads[k] for k in tables]
            under_way.append(plan.start(what, tables, given, plan.sent, plan.received))
        for each in under_way:
            for k, grad in each.wait():
                plan.wanted[k].table._accumulate(ctx.batches[k], grad, plan.world)
        return None, None


def _own_rows(plan: _Plan, k: int, batches: list[Any]) -> Tensor:
    """Rows of the ids of a table that this worker was asked for."""
    wanted = plan.wanted[k]
    ids, counts = plan.asked[k]
    if not _admits(wanted):
        return wanted.table.table.read(ids.to(wanted.table.device))
    times = counts.to(torch.int32)
    rows, batches[k] = wanted.table._admit(ids, wanted.admit_hook, times)
    return rows
