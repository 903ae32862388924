"""What is different between two snapshots."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from recis.snapshot.errors import MismatchError
from recis.snapshot.read import Rows, SnapshotReader, open_snapshot
from recis.snapshot.rewrite import slice_counts
from recis.snapshot.sparse_file import Array

_WINDOW_ROWS = 1 << 16  # of each snapshot, that are held at a time


@dataclass
class SlotDifference:
    """How far a slot's values are apart, over the elements of rows that both have."""

    rows: int = 0
    """Rows of which an element differs."""
    largest: float = 0.0
    """The largest absolute difference."""
    mean: float = 0.0
    """The mean absolute difference over all elements."""
    l2: float = 0.0
    """The root of the sum of squared differences."""


@dataclass
class TableDifference:
    """How two tables differ."""

    added: int = 0
    """Ids that only the second has."""
    removed: int = 0
    """Ids that only the first has."""
    common: int = 0
    """Ids that both have."""
    changed: int = 0
    """Of these, those of which a slot differs."""
    slots: dict[str, SlotDifference] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        """Whether they hold the same."""
        return not (self.added or self.removed or self.changed)


def compare(
    first: str | os.PathLike[str], second: str | os.PathLike[str]
) -> dict[str, TableDifference]:
    """How the tables of two snapshots differ, by name; a table that one lacks counts as empty.

    Rows are streamed. Values are compared bit for bit, and how far they are apart is in float64.

    Raises:
        MismatchError: a table has other slots or slices in the two.
        FileNotFoundError, RuntimeError: one cannot be read.
    """
    readers = open_snapshot(first), open_snapshot(second)
    names = dict.fromkeys([*readers[0].manifest.tables, *readers[1].manifest.tables])
    return {name: _compare_tables(*readers, name) for name in sorted(names)}


def _compare_tables(a: SnapshotReader, b: SnapshotReader, name: str) -> TableDifference:
    difference = TableDifference()
    if name not in a.manifest.tables:
        difference.added = int(slice_counts(b, name).sum())
        return difference
    if name not in b.manifest.tables:
        difference.removed = int(slice_counts(a, name).sum())
        return difference
    slots = a.table(name).slots
    if slots != b.table(name).slots or a.table(name).slice_size != b.table(name).slice_size:
        raise MismatchError(
            f"table {name!r} has the slots {[slot.name for slot in slots]} in {a.files.url} and "
            f"{[slot.name for slot in b.table(name).slots]} in {b.files.url}, or other shapes, "
            "initial values or slices: only equal ones are compared"
        )
    difference.slots = {slot.name: SlotDifference() for slot in slots}
    for window in _windows(slice_counts(a, name) + slice_counts(b, name)):
        _compare_rows(_all(a, name, window), _all(b, name, window), difference)
    for slot in slots:
        found = difference.slots[slot.name]
        found.l2 = math.sqrt(found.l2)
        found.mean /= max(1, difference.common * math.prod(slot.shape))
    return difference


def _windows(counts: Array) -> Iterator[tuple[int, int]]:
    """Ranges of slices with about as many rows."""
    ends = np.cumsum(counts)
    begin = 0
    while begin < len(counts):
        before = int(ends[begin - 1]) if begin else 0
        end = int(np.searchsorted(ends, before + _WINDOW_ROWS, side="right"))
        end = min(max(end, begin + 1), len(counts))
        yield begin, end
        begin = end


def _all(reader: SnapshotReader, name: str, slices: tuple[int, int]) -> Rows:
    pieces = list(reader.read_rows(name, slices))
    names = [slot.name for slot in reader.table(name).slots]
    if not pieces:
        return Rows(torch.empty(0, dtype=torch.int64), {})
    return Rows(
        torch.cat([piece.ids for piece in pieces]),
        {slot: torch.cat([piece.slots[slot] for piece in pieces]) for slot in names},
    )


def _compare_rows(a: Rows, b: Rows, difference: TableDifference) -> None:
    _, in_a, in_b = np.intersect1d(
        a.ids.numpy(), b.ids.numpy(), assume_unique=True, return_indices=True
    )
    difference.removed += len(a.ids) - len(in_a)
    difference.added += len(b.ids) - len(in_b)
    difference.common += len(in_a)
    if not len(in_a):
        return
    changed = torch.zeros(len(in_a), dtype=torch.bool)
    for slot, found in difference.slots.items():
        x, y = a.slots[slot][torch.from_numpy(in_a)], b.slots[slot][torch.from_numpy(in_b)]
        differing = (_bits(x) != _bits(y)).any(-1)
        differs = differing.any(1)
        apart = (x.double() - y.double()).abs().nan_to_num(math.inf)
        apart = apart.reshape(len(x), -1).masked_fill(~differing, 0.0)  # NaN equals itself
        found.rows += int(differs.sum())
        found.largest = max(found.largest, float(apart.max()))
        found.mean += float(apart.sum())
        found.l2 += float(apart.square().sum())
        changed |= differs
    difference.changed += int(changed.sum())


def _bits(values: Tensor) -> Tensor:
    """The bytes of each element, `(rows, elements, bytes)`."""
    flat = values.reshape(len(values), -1, 1).contiguous()
    return flat.view(torch.uint8)
