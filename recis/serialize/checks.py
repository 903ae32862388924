"""Whether what was saved fits a table, and which of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from recis._slices import Slice, slices_of
from recis.snapshot.errors import MismatchError
from recis.snapshot.header import DTYPES
from recis.snapshot.manifest import TableInfo

if TYPE_CHECKING:
    from recis._table import Table


def check_table(what: str, about: TableInfo, table: Table) -> None:
    """Raises MismatchError, which says `what`, unless a saved table fits one."""
    if about.slice_size != table.slice.slice_size:
        raise MismatchError(
            f"{what}: it has {about.slice_size} slices, the table {table.slice.slice_size}: make "
            f"the table with a slice of {about.slice_size}"
        )
    if (about.coalesced, list(about.children)) != (table.coalesced, table.children):
        raise MismatchError(
            f"{what}: it has the children {list(about.children)}, the table {table.children}: ids "
            "would be read as another child's"
        )
    saved = {slot.name: slot for slot in about.slots}
    for slot in table.slot_group().slots():
        found = saved.get(slot.name())
        if found is None:
            raise MismatchError(
                f"{what}: it has no slot {slot.name()!r}, which the table has; it has "
                f"{', '.join(saved)}. Load before what needs the slot is made, or save with it"
            )
        if (DTYPES[found.dtype], found.shape) != (slot.dtype, slot.shape):
            raise MismatchError(
                f"{what}: slot {slot.name()!r} is {found.dtype} {list(found.shape)}, in the table "
                f"{slot.dtype} {list(slot.shape)}"
            )


def inside(part: Slice) -> Callable[[Tensor], Tensor]:
    """Which ids belong to these slices: of int64 `(n,)`, a bool mask."""

    def keep(ids: Tensor) -> Tensor:
        of = torch.from_numpy(slices_of(ids.numpy(), part.slice_size).astype(np.int64))
        return (of >= part.slice_begin) & (of < part.slice_end)

    return keep
