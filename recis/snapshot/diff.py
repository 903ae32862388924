"""What two snapshots or stores have not in common."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recis._slices import slices_of
from recis.snapshot.checksum import bytes_of
from recis.snapshot.errors import MismatchError
from recis.snapshot.merge import Rows
from recis.snapshot.sources import SLICE_SIZE, Source


class SlotDifference(NamedTuple):
    """How far a slot is from what it was, over the rows that both have."""

    rows: int
    """With other bits."""
    max_abs: float
    """The greatest absolute difference of two elements."""
    mean_abs: float
    """Their mean, of elements of all these rows."""
    l2: float
    """The root of the sum of their squares."""


class TableDifference(NamedTuple):
    """How two tables of one name differ."""

    rows: tuple[int, int]
    """How many each has."""
    added: int
    """Ids that only the second has."""
    removed: int
    """Ids that only the first has."""
    changed: int
    """Ids of which a slot that both have has other bits."""
    slots: dict[str, SlotDifference]
    """Of the slots that both have."""
    slots_added: list[str]
    """Those only the second has, with this dtype and shape."""
    slots_removed: list[str]
    """Those only the first has."""

    @property
    def same(self) -> bool:
        """Whether there is no difference."""
        return not (
            self.added or self.removed or self.changed or self.slots_added or self.slots_removed
        )


def diff_table(a: Source, b: Source, table: str) -> TableDifference:
    """Compares a table of two sources, a piece of each in memory; one may lack the table.

    Raises:
        MismatchError: neither has it, or their slices are not the same.
        DamagedError: a file is not what was written.
    """
    sides = [source if table in source.tables() else None for source in (a, b)]
    if sides == [None, None]:
        a.slots(table)  # raises
    sizes = {size for side in sides if side is not None and (size := side.slice_size(table))}
    if len(sizes) > 1:
        raise MismatchError(
            f"table {table!r} has slices of {a.name} and {b.name} that are not the same: "
            f"{sorted(sizes)}. Load one into a store with `recis-ckpt load`, and compare that"
        )
    size = sizes.pop() if sizes else SLICE_SIZE
    slots = [
        {} if side is None else {(s.name, s.dtype, s.shape): s for s in side.slots(table)}
        for side in sides
    ]
    shared = [key[0] for key in slots[0] if key in slots[1]]
    sums = {name: _Sum() for name in shared}
    rows, common, changed = [0, 0], 0, 0
    streams = [iter(()) if side is None else side.read_rows(table, size, shared) for side in sides]
    for left, right in _aligned(streams[0], streams[1], size):
        rows[0] += left.ids.numel()
        rows[1] += right.ids.numel()
        _, i, j = np.intersect1d(
            left.ids.numpy(), right.ids.numpy(), assume_unique=True, return_indices=True
        )
        common += len(i)
        differs = np.zeros(len(i), bool)
        for name in shared if len(i) else ():
            x, y = left.slots[name][torch.from_numpy(i)], right.slots[name][torch.from_numpy(j)]
            differs |= sums[name].add(x, y)
        changed += int(differs.sum())
    return TableDifference(
        (rows[0], rows[1]),
        rows[1] - common,
        rows[0] - common,
        changed,
        {name: found.result() for name, found in sums.items()},
        [key[0] for key in slots[1] if key not in slots[0]],
        [key[0] for key in slots[0] if key not in slots[1]],
    )


class _Sum:
    """The difference of one slot so far."""

    def __init__(self) -> None:
        self._rows = self._elements = 0
        self._max = self._sum = self._squares = 0.0

    def add(self, x: Tensor, y: Tensor) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Takes rows of the same ids, and says which have other bits."""
        raw = [bytes_of(values.contiguous()).reshape(len(values), -1) for values in (x, y)]
        differs: np.ndarray[tuple[int], np.dtype[np.bool_]] = (raw[0] != raw[1]).any(axis=1)
        self._rows += int(differs.sum())
        self._elements += x.numel()
        if differs.any():
            which = torch.from_numpy(differs)
            distance = (x[which].double() - y[which].double()).abs()
            # Of two infinities or two that are no number, there is nothing to measure.
            equal = (x[which] == y[which]) | (x[which].isnan() & y[which].isnan())
            distance[equal] = 0
            self._max = max(self._max, float(distance.nan_to_num(math.inf).max()))
            self._sum += float(distance.nan_to_num(math.inf).sum())
            self._squares += float(distance.nan_to_num(math.inf).square().sum())
        return differs

    def result(self) -> SlotDifference:
        mean = self._sum / self._elements if self._elements else 0.0
        return SlotDifference(self._rows, self._max, mean, math.sqrt(self._squares))


def _aligned(a: Iterator[Rows], b: Iterator[Rows], slice_size: int) -> Iterator[tuple[Rows, Rows]]:
    """Pieces of both with the same range of (slice, id); where one has ended, the other's alone."""
    left, right = next(a, None), next(b, None)
    while left is not None or right is not None:
        bounds = [_last(rows, slice_size) for rows in (left, right) if rows is not None]
        bound = min(bounds)
        one, left = _split(left, bound, slice_size)
        two, right = _split(right, bound, slice_size)
        yield one or _none(two), two or _none(one)
        left = next(a, None) if left is None and one is not None else left
        right = next(b, None) if right is None and two is not None else right


def _last(rows: Rows, slice_size: int) -> tuple[int, int]:
    last = rows.ids[-1:].numpy()
    return int(slices_of(last, slice_size)[0]), int(last[0])


def _split(
    rows: Rows | None, bound: tuple[int, int], slice_size: int
) -> tuple[Rows | None, Rows | None]:
    """Rows up to a bound, and those after it."""
    if rows is None:
        return None, None
    ids = rows.ids.numpy()
    of = slices_of(ids, slice_size)
    slice_, id_ = np.uint64(bound[0]), np.int64(bound[1])
    count = int(((of < slice_) | ((of == slice_) & (ids <= id_))).sum())
    parts: Sequence[Rows] = [
        Rows(rows.ids[half], {name: values[half] for name, values in rows.slots.items()})
        for half in (slice(None, count), slice(count, None))
    ]
    return parts[0], parts[1] if count < len(ids) else None


def _none(like: Rows | None) -> Rows:
    assert like is not None
    return Rows(like.ids[:0], {name: values[:0] for name, values in like.slots.items()})
