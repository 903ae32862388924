"""Rows of tables whose slices several workers hold: ids go to the owners, rows come back.

Each worker sends each distinct id once, to the worker that holds its slice, with how often it
occurs. However many tables there are, sizes take one collective, ids one, and rows one for each
width of a row; the backward pass takes one for each width. While rows of one width are on their
way, those of the next are looked up.

Every worker of the group must take part with the same tables, in training with a backward pass,
be its batch empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from recis._slices import shards_of
from recis._tensors import distinct
from recis.nn.hashtable_hook import AdmitHook
from recis.nn.modules.hashtable import HashTable


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
    """`(u, *embedding_shape)`."""
    inverse: Tensor
    """int64 `(n,)`."""


def group_size(group: dist.ProcessGroup | None) -> int:
    """How many workers there are; 1 without `torch.distributed`."""
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size(group)


def group_rank(group: dist.ProcessGroup | None) -> int:
    """Which of them this is."""
    return dist.get_rank(group) if group_size(group) > 1 else 0


def look_up(wanted: Sequence[Wanted], group: dist.ProcessGroup | None) -> list[Found]:
    """The rows of ids of several tables, whoever holds them.

    Args:
        wanted: of each table, the same ones in the same order on every worker.
        group: the workers, by whose rank `gen_slice` cuts the ids; None, all of them.

    Raises:
        RuntimeError: a collective failed.
    """
    if not wanted:
        return []
    plan = _Plan(wanted, group)
    holder = next((w.table._holder for w in wanted if _trains(w)), torch.zeros(()))
    rows = _Rows.apply(holder, plan)
    return [Found(*each) for each in zip(rows, plan.inverses, strict=True)]


def insert(
    table: HashTable, ids: Tensor, embeddings: Tensor, group: dist.ProcessGroup | None
) -> None:
    """Gives ids `(n,)` embeddings `(n, *embedding_shape)`, on whichever worker holds them."""
    plan = _Plan([Wanted(table, ids)], group)
    last = torch.zeros(int(plan.sent.sizes.sum()), dtype=torch.int64)
    last.scatter_reduce_(0, plan.inverses[0], torch.arange(len(ids)), "amax")
    rows, work = plan.start(embeddings[last], [0], plan.sent, plan.received)
    if work is not None:
        work.wait()
    table.insert(plan.ids, rows)


def _trains(wanted: Wanted) -> bool:
    """Whether rows are admitted and may take a gradient."""
    return wanted.table.training and wanted.table.table.dtype.is_floating_point


class _Plan:
    """Which ids go where: agreed among the workers before rows are looked up."""

    def __init__(self, wanted: Sequence[Wanted], group: dist.ProcessGroup | None) -> None:
        self.wanted = wanted
        self.group = group
        self.world = group_size(group)
        found = [distinct(w.ids) for w in wanted]
        self.inverses = [inverse for _, inverse, _ in found]
        ids = torch.cat([each for each, _, _ in found])
        counts = torch.cat([each for _, _, each in found])
        sizes = [each.numel() for each, _, _ in found]
        table = torch.repeat_interleave(torch.arange(len(wanted)), torch.tensor(sizes))
        if self.world == 1:
            self.sent = self.received = _Side(table, torch.tensor([sizes]))
            self.ids, self.counts = ids, counts
            return
        owner = torch.cat(
            [
                shards_of(each, self.world, w.table.slice.slice_size)
                for w, (each, _, _) in zip(wanted, found, strict=True)
            ]
        )
        order = torch.argsort(owner, stable=True)
        at = torch.empty_like(order)
        at[order] = torch.arange(len(order))
        begin = 0
        for k, size in enumerate(sizes):  # a table's distinct ids keep their order per owner
            places = at[begin : begin + size]
            rank = torch.empty_like(places)
            rank[torch.argsort(places)] = torch.arange(size)
            self.inverses[k] = rank[self.inverses[k]]
            begin += size
        send = torch.bincount(owner * len(wanted) + table, minlength=self.world * len(wanted))
        send = send.view(self.world, len(wanted))
        receive = torch.empty_like(send)
        dist.all_to_all_single(receive, send, group=group)
        self.sent = _Side(table[order], send)
        tables = torch.arange(len(wanted)).repeat(self.world)
        self.received = _Side(torch.repeat_interleave(tables, receive.view(-1)), receive)
        pairs = torch.stack([ids, counts], 1)[order]
        arrived = pairs.new_empty((int(receive.sum()), 2))
        dist.all_to_all_single(
            arrived, pairs, receive.sum(1).tolist(), send.sum(1).tolist(), group=group
        )
        self.ids, self.counts = arrived[:, 0].contiguous(), arrived[:, 1]

    def widths(self) -> list[list[int]]:
        """The tables by the width and dtype of their rows, in their order."""
        found: dict[tuple[Any, ...], list[int]] = {}
        for k, wanted in enumerate(self.wanted):
            table = wanted.table
            found.setdefault((table.table.dtype, table.table.shape), []).append(k)
        return list(found.values())

    def start(
        self, rows: Tensor, tables: list[int], source: _Side, target: _Side
    ) -> tuple[Tensor, Any]:
        """Sends rows of some tables from one side to the other: where they go, and the work."""
        if self.world == 1:
            return rows, None
        arriving, leaving = (side.sizes[:, tables].sum(1).tolist() for side in (target, source))
        out = rows.new_empty((sum(arriving), *rows.shape[1:]))
        work = dist.all_to_all_single(
            out, rows.contiguous(), arriving, leaving, group=self.group, async_op=True
        )
        return out, work


class _Side:
    """What travels, by worker and in each by table."""

    def __init__(self, table: Tensor, sizes: Tensor) -> None:
        self.table = table  # of each id
        self.sizes = sizes  # (workers, tables)

    def places(self, k: int, tables: list[int]) -> Tensor | slice:
        """Where the ids of a table are among those of some tables."""
        if tables == [k]:
            return slice(None)
        return (self.table[self._among(tables)] == k).nonzero().view(-1)

    def of(self, k: int) -> Tensor:
        """Which ids are of a table."""
        return (self.table == k).nonzero().view(-1)

    def _among(self, tables: list[int]) -> Tensor:
        return torch.isin(self.table, torch.tensor(tables))


class _Rows(torch.autograd.Function):
    """The exchange of rows as one node of the autograd graph, so that its backward pass is one."""

    @staticmethod
    def forward(ctx: Any, holder: Tensor, plan: _Plan) -> tuple[Tensor, ...]:
        batches: list[Any] = [None] * len(plan.wanted)
        under_way = []
        for tables in plan.widths():
            rows = _join(
                [_own_rows(plan, k, batches) for k in tables],
                [plan.received.places(k, tables) for k in tables],
            )
            under_way.append((tables, *plan.start(rows, tables, plan.received, plan.sent)))
        out: list[Any] = [None] * len(plan.wanted)
        for tables, rows, work in under_way:
            if work is not None:
                work.wait()
            for k in tables:
                out[k] = rows[plan.sent.places(k, tables)]
        ctx.plan, ctx.batches = plan, batches
        frozen = [
            each
            for each, wanted in zip(out, plan.wanted, strict=True)
            if not (_trains(wanted) and wanted.trainable)
        ]
        ctx.mark_non_differentiable(*frozen)
        return tuple(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None]:
        plan = ctx.plan
        under_way = []
        for tables in plan.widths():
            if not any(plan.wanted[k].trainable for k in tables):
                continue
            joined = _join(
                [grads[k] for k in tables], [plan.sent.places(k, tables) for k in tables]
            )
            under_way.append((tables, *plan.start(joined, tables, plan.sent, plan.received)))
        for tables, joined, work in under_way:
            if work is not None:
                work.wait()
            for k in tables:
                if plan.wanted[k].trainable:
                    grad = joined[plan.received.places(k, tables)]
                    plan.wanted[k].table._accumulate(ctx.batches[k], grad, plan.world)
        return None, None


def _own_rows(plan: _Plan, k: int, batches: list[Any]) -> Tensor:
    """Rows of the ids of a table that this worker was asked for."""
    wanted = plan.wanted[k]
    places = plan.received.of(k)
    ids = plan.ids[places]
    if not _trains(wanted):
        return wanted.table.table.read(ids)
    times = plan.counts[places].to(torch.int32)
    rows, batches[k] = wanted.table._admit(ids, wanted.admit_hook, times)
    return rows


def _join(parts: list[Tensor], places: list[Tensor | slice]) -> Tensor:
    """One tensor with each part where its rows belong."""
    if len(parts) == 1:
        return parts[0]
    out = parts[0].new_empty((sum(len(part) for part in parts), *parts[0].shape[1:]))
    for part, place in zip(parts, places, strict=True):
        out[place] = part
    return out
