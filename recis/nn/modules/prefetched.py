"""Ids whose rows are on their way."""

from __future__ import annotations

from torch import Tensor

from recis import _engine
from recis._table import Table


class Prefetched:
    """What `HashTable.prefetch` gives: that table takes it in place of the ids.

    Attributes:
        ids: as they were given. They must stay as they are until they are looked up.
    """

    def __init__(self, ids: Tensor, table: Table, found: _engine.Prefetched | None) -> None:
        self.ids = ids
        self._table = table
        self._found = found

    def take_found(self, table: Table) -> _engine.Prefetched | None:
        """What the engine knows of the ids, once; None if it would have to ask anyway.

        Raises:
            ValueError: another table prefetched them.
        """
        if table is not self._table:
            raise ValueError(
                f"table {table.name!r}: ids that table {self._table.name!r} prefetched: look them "
                "up there, or pass .ids"
            )
        found, self._found = self._found, None
        return found
