"""The children of a coalesced table, and how their ids share it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_ID_BITS = 52
_MAX_CHILDREN = 4094


class ChildrenInfo:
    """Names of the tables that share one, in the order of their indices."""

    def __init__(self, table: str, children: Sequence[str], coalesced: bool) -> None:
        if isinstance(children, str):
            raise TypeError(
                f"table {table!r}: children must be a list of names, found {children!r}"
            )
        names = list(children)
        if not 1 <= len(names) <= _MAX_CHILDREN:
            raise ValueError(
                f"table {table!r}: expected 1 to {_MAX_CHILDREN} children, found {len(names)}"
            )
        if len(set(names)) != len(names):
            raise ValueError(f"table {table!r}: children must have different names, found {names}")
        if len(names) > 1 and not coalesced:
            raise ValueError(
                f"table {table!r}: {len(names)} children need coalesced=True, "
                "to keep their ids apart"
            )
        self._table = table
        self._names = names
        self._coalesced = coalesced

    def children(self) -> list[str]:
        """Every child's name."""
        return list(self._names)

    def is_coalesce(self) -> bool:
        """Whether ids carry the index of their child in bits 52 to 63."""
        return self._coalesced

    def has_child(self, name: str) -> bool:
        """Whether there is a child of this name."""
        return name in self._names

    def child_index(self, name: str) -> int:
        """The index of a child.

        Raises:
            KeyError: there is none of this name.
        """
        if name not in self._names:
            raise KeyError(
                f"table {self._table!r} has no child {name!r}; it has {', '.join(self._names)}"
            )
        return self._names.index(name)

    def child_at(self, index: int) -> str:
        """The name of a child.

        Raises:
            IndexError: there is none at this index.
        """
        if not 0 <= index < len(self._names):
            raise IndexError(
                f"table {self._table!r} has no child {index}; it has {len(self._names)}"
            )
        return self._names[index]

    def encode(self, ids: Tensor, child: str) -> Tensor:
        """Ids of a child as the table knows them, `(id & (2**52 - 1)) | index << 52`.

        Raises:
            ValueError: an id is negative or needs more than 52 bits, and would lose some.
        """
        index = self.child_index(child)
        if not self._coalesced:
            return ids
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >> _ID_BITS):
            raise ValueError(
                f"table {self._table!r}, child {child!r}: ids of a coalesced table must be in "
                f"[0, 2**{_ID_BITS}), found {int(ids.min())} to {int(ids.max())}"
            )
        return ids | _shifted(index)

    def decode(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """`(ids, indices)`: what `encode` was given, of whichever child."""
        if not self._coalesced:
            return ids, torch.zeros_like(ids)
        indices = (ids >> _ID_BITS) & ((1 << (64 - _ID_BITS)) - 1)
        return ids & ((1 << _ID_BITS) - 1), indices

    def check_encoded(self, ids: Tensor) -> None:
        """Raises ValueError if an id carries the index of a child that is not there."""
        if not self._coalesced or not ids.numel():
            return
        highest = int(self.decode(ids)[1].max())
        if highest >= len(self._names):
            raise ValueError(
                f"table {self._table!r}: an id belongs to child {highest} but there are "
                f"{len(self._names)}; encode ids with children_info().encode(ids, child)"
            )


def _shifted(index: int) -> int:
    """The child's bits as a Python int that fits int64."""
    bits = index << _ID_BITS
    return bits - (1 << 64) if bits >> 63 else bits
