"""What tables hold, on one worker and on all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Content = dict[str, dict[str, Tensor]]
"""By table: `ids`, and in the same order every slot and the pending `gradient`."""


def content(tables: Mapping[str, Any]) -> Content:
    """What these tables hold, by ascending id."""
    found = {}
    for name, table in tables.items():
        ids, rows = table.ids_map()
        order = ids.argsort()
        ids, rows = ids[order], rows[order]
        slots = {slot.name(): slot.read(rows) for slot in table.slot_group().slots()}
        gradient = table.grad(1).to_dense()
        assert len(rows) == 0 or len(gradient) > rows.max()
        found[name] = {"ids": ids, **slots, "gradient": gradient[rows]}
    return found


def joined(parts: Sequence[Content]) -> Content:
    """The tables whose slices several workers hold, as one process would have them."""
    whole = {}
    for name in parts[0]:
        columns = {
            column: torch.cat([part[name][column] for part in parts]) for column in parts[0][name]
        }
        ids = columns["ids"]
        assert len(ids.unique()) == len(ids), f"{name}: two workers hold the same ids"
        order = ids.argsort()
        whole[name] = {column: values[order] for column, values in columns.items()}
    return whole
