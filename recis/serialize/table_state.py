"""A table as a state dict of one value: what `torch.distributed.checkpoint` saves of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

import torch

from recis._state import decode, encode
from recis.nn.modules.hashtable_hook_impl import HashtableHookFactory
from recis.serialize.checks import check_table, inside
from recis.snapshot.errors import DamagedError, MismatchError
from recis.snapshot.header import DTYPES
from recis.snapshot.manifest import SlotInfo, TableInfo
from recis.snapshot.write import slots_of

if TYPE_CHECKING:
    from recis._table import Table

_WHAT = "table"  # what states are encoded as


def table_state(table: Table) -> dict[str, bytes]:
    """The rows of a table's slices and what its hooks have learnt; see `Table.state_dict`."""
    size = table.slice.slice_size
    cut = table.cut()
    try:
        slots = slots_of(cut)
        ids = torch.empty(cut.rows, dtype=torch.int64)
        values = {
            slot.name: torch.empty((cut.rows, *slot.shape), dtype=DTYPES[slot.dtype])
            for slot in slots
        }
        addresses = [value.data_ptr() for value in values.values()]
        part = (table.slice.slice_begin, table.slice.slice_end)
        count = cut.read(size, *part, len(ids), ids.data_ptr(), addresses)
    finally:
        cut.abandon()  # for a later delta it has not been saved
    state = {
        "slots": [astuple(slot) for slot in slots],
        "slice_size": size,
        "children": table.children,
        "coalesced": table.coalesced,
        "ids": ids[:count],
        "values": {name: value[:count] for name, value in values.items()},
        "policies": table.policies.of(table.name),
    }
    return {_key(table): encode(state, _WHAT)}


def load_table_state(table: Table, state: Mapping[str, Any]) -> None:
    """Replaces a table's content; see `Table.load_state_dict`."""
    what = f"state dict, table {table.name!r}"
    if state.keys() != {_key(table)}:
        raise MismatchError(
            f"{what}: expected the key {_key(table)!r}, the table's slices, found "
            f"{', '.join(map(repr, state)) or 'none'}: for another number of workers save and load "
            "with recis.serialize"
        )
    about, found = _decoded(what, state[_key(table)])
    check_table(what, about, table)
    policies = HashtableHookFactory().merge_states([found["policies"]], inside(table.slice))
    for slot in about.slots[1:]:
        table.add_slot(slot.name, DTYPES[slot.dtype], slot.shape, slot.initial)
    table.track(False)
    table.known_since = None
    table.clear()
    table.restore(found["ids"], found["values"])
    table.policies.load(table.name, policies)


def _decoded(what: str, data: bytes) -> tuple[TableInfo, dict[str, Any]]:
    """What `table_state` encoded."""
    try:
        found = decode(data, _WHAT)
        about = TableInfo(
            slots=tuple(SlotInfo(*slot) for slot in found["slots"]),
            slice_size=found["slice_size"],
            rows=len(found["ids"]),
            children=tuple(found["children"]),
            coalesced=found["coalesced"],
        )
        expected = {
            slot.name: (DTYPES[slot.dtype], (about.rows, *slot.shape)) for slot in about.slots
        }
        values = {
            name: (value.dtype, tuple(value.shape)) for name, value in found["values"].items()
        }
        if values != expected or len(found["ids"].unique()) != about.rows:
            raise ValueError(f"{about.rows} distinct ids with {expected}, found {values}")
    except Exception as error:  # the bytes are not trusted: anything may come of them
        raise DamagedError(what, "an encoded table", f"{type(error).__name__}: {error}") from None
    return about, found


def _key(table: Table) -> str:
    """Workers that hold different slices have different keys: none is taken for a copy."""
    part = table.slice
    return f"{part.slice_begin:05d}-{part.slice_end:05d}-of-{part.slice_size:05d}"
