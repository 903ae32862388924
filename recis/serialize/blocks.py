"""What a `filter_func` chooses among."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor

from recis._table import Table
from recis.nn.modules.hashtable import HashTable


class WriteBlock(NamedTuple):
    """A slot of a table, or a dense tensor, that would be saved."""

    name: str
    slices: str

    def tensor_name(self) -> str:
        """`<table>@<slot>`, or the name of a dense tensor."""
        return self.name

    def slice_info(self) -> str:
        """`<begin>@<end>@<size>` of a table, nothing for a dense tensor."""
        return self.slices


FilterBlocks = Callable[[list[WriteBlock]], list[WriteBlock]]


def every_block(blocks: list[WriteBlock]) -> list[WriteBlock]:
    """All of them: nothing is left out."""
    return blocks


def tables_of(what: str, hashtables: Mapping[str, object] | None) -> dict[str, Table]:
    """Tables by their own names, given as modules or as a state dict has them.

    Raises:
        TypeError: something else is among them.
    """
    found = {}
    for key, value in (hashtables or {}).items():
        table = value.table if isinstance(value, HashTable) else value
        if not isinstance(table, Table):
            raise TypeError(
                f"{what}: {key!r} is a {type(value).__name__}, not a table: pass "
                "filter_out_sparse_param(model)"
            )
        found[table.name] = table
    return found


def chosen(
    filter_func: FilterBlocks, tables: Mapping[str, Table], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Table], dict[str, Tensor]]:
    """What a `filter_func` leaves of tables and tensors.

    Raises:
        ValueError: it leaves a part of a table's slots: a row is saved whole.
    """
    blocks = []
    for name, table in tables.items():
        part = table.slice
        slices = f"{part.slice_begin}@{part.slice_end}@{part.slice_size}"
        blocks += [WriteBlock(f"{name}@{slot.name}", slices) for slot in table.engine.slots()]
    blocks += [WriteBlock(name, "") for name in tensors]
    left = {block.tensor_name() for block in filter_func(list(blocks))}
    kept = {}
    for name, table in tables.items():
        slots = [slot.name for slot in table.engine.slots()]
        missing = [slot for slot in slots if f"{name}@{slot}" not in left]
        if missing and len(missing) < len(slots):
            raise ValueError(
                f"table {name!r}: filter_func left out the slot {missing[0]!r} and not all; rows "
                "are saved whole: leave out all slots of a table or none"
            )
        if not missing:
            kept[name] = table
    return kept, {name: tensor for name, tensor in tensors.items() if name in left}
