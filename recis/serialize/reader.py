"""`CheckpointReader`: single tensors of a snapshot."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from recis.serialize.saver import MODEL
from recis.snapshot.header import DTYPES
from recis.snapshot.read import SnapshotReader
from recis.snapshot.upstream.read import open_any


class CheckpointReader:
    """Names, shapes and values of what a snapshot holds.

    A slot of a table is named `<table>@<slot>`, its ids `<table>@id`; dense tensors have their
    own names. Rows are ordered by slice, and by id in a slice; of a checkpoint of RecIS 1.0, as
    they are in its files, part by part.

    Args:
        path: a directory of snapshots, whose newest is read, or one of them; or a checkpoint of
            RecIS 1.0, where each child of a coalesced table is a table.

    Raises:
        FileNotFoundError: there is no snapshot.
        RuntimeError: it is damaged, or a later version wrote it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._reader = open_any(path)
        self._dense: dict[str, Tensor] = (
            self._reader.dense(MODEL) if MODEL in self._reader.dense_names() else {}
        )

    def tensor_names(self) -> list[str]:
        """All names, sorted."""
        names = list(self._dense)
        for table, about in self._reader.manifest.tables.items():
            names += [f"{table}@id", *(f"{table}@{slot.name}" for slot in about.slots)]
        return sorted(names)

    def tensor_shape(self, name: str) -> list[int]:
        """The shape; of a slot, `[rows, *shape]`. A chain of deltas is looked through for it."""
        if name in self._dense:
            return list(self._dense[name].shape)
        table, slot = self._place(name)
        about = self._reader.table(table)
        shape = next((list(s.shape) for s in about.slots if s.name == slot), [])
        reader = self._reader
        if isinstance(reader, SnapshotReader) and len(reader.sources(table)) == 1:
            return [about.rows, *shape]
        pieces = reader.read_rows(table, slots=[])
        return [sum(piece.ids.numel() for piece in pieces), *shape]

    def tensor_dtype(self, name: str) -> torch.dtype:
        """The dtype."""
        if name in self._dense:
            return self._dense[name].dtype
        table, slot = self._place(name)
        about = self._reader.table(table)
        return next((DTYPES[s.dtype] for s in about.slots if s.name == slot), torch.int64)

    def read_tensor(self, name: str) -> Tensor:
        """The value, verified.

        Raises:
            KeyError: there is none of this name.
            RuntimeError: it is damaged.
        """
        if name in self._dense:
            return self._dense[name]
        table, slot = self._place(name)
        slots = [] if slot == "id" else [slot]
        pieces = [
            piece.ids if slot == "id" else piece.slots[slot]
            for piece in self._reader.read_rows(table, slots=slots)
        ]
        if pieces:
            return torch.cat(pieces)
        return torch.empty(self.tensor_shape(name), dtype=self.tensor_dtype(name))

    def _place(self, name: str) -> tuple[str, str]:
        """The table and the slot of a name."""
        table, at, slot = name.rpartition("@")
        about = self._reader.manifest.tables.get(table)
        if not at or about is None or slot not in {"id", *(s.name for s in about.slots)}:
            raise KeyError(
                f"{self._reader.files.url} has no tensor {name!r}; tensor_names() lists all"
            )
        return table, slot

    def __repr__(self) -> str:
        return f"CheckpointReader({self._reader.files.url!r})"
