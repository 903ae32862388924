"""Rows of a snapshot or of a store, behind one face."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from recis._slices import Array, slices_of
from recis._state import encode
from recis._tensors import new_output
from recis.snapshot.checksum import to_hex, xxh3
from recis.snapshot.errors import MismatchError
from recis.snapshot.files import is_remote, local_path
from recis.snapshot.header import DTYPES
from recis.snapshot.manifest import SlotInfo
from recis.snapshot.merge import Rows
from recis.snapshot.read import STATE, SnapshotReader, open_snapshot
from recis.snapshot.sparse_file import GROUP_SLICES
from recis.snapshot.stores import open_table, slots_in
from recis.snapshot.write import Cut, cut_parts
from recis.store import Store

SLICE_SIZE = 65536
"""Into how many slices a store's rows are put, where nothing else says so."""

_PIECE_BYTES = 4 << 20


class Source(ABC):
    """Tables that can be read in order, or by id. Made by `open_source`."""

    name: str
    """The snapshot or store."""

    @abstractmethod
    def tables(self) -> list[str]:
        """Their names."""

    @abstractmethod
    def slots(self, table: str) -> tuple[SlotInfo, ...]:
        """In the table's order.

        Raises:
            MismatchError: there is no such table.
        """

    @abstractmethod
    def slice_size(self, table: str) -> int | None:
        """Into how many slices its rows are put; None if any number will do."""

    @abstractmethod
    def read_rows(self, table: str, slice_size: int, slots: Sequence[str]) -> Iterator[Rows]:
        """All rows by slice, and by id in a slice, piece by piece."""

    @abstractmethod
    def count_slices(self, table: str, slice_size: int) -> Array:
        """Rows of each slice, int64 `(slice_size,)`; in a chain, those of each of its snapshots."""

    @abstractmethod
    def find(self, table: str, ids: Tensor, slots: Sequence[str]) -> Rows:
        """The rows of those of the distinct ids int64 `(n,)` that have one, in their order."""

    @abstractmethod
    def state_sums(self) -> dict[str, str]:
        """A checksum of each state that belongs to no row: dense values, hooks."""

    @abstractmethod
    def close(self) -> None:
        """Lets go of it."""

    def __enter__(self) -> Source:
        """The source itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Lets go of it."""
        self.close()


class _SnapshotSource(Source):
    def __init__(self, reader: SnapshotReader) -> None:
        self._reader = reader
        self.name = reader.files.url

    def tables(self) -> list[str]:
        return sorted(self._reader.manifest.tables)

    def slots(self, table: str) -> tuple[SlotInfo, ...]:
        return self._reader.table(table).slots

    def slice_size(self, table: str) -> int | None:
        return self._reader.table(table).slice_size

    def read_rows(self, table: str, slice_size: int, slots: Sequence[str]) -> Iterator[Rows]:
        return self._reader.read_rows(table, slots=slots, max_bytes=_PIECE_BYTES)

    def count_slices(self, table: str, slice_size: int) -> Array:
        counts = np.zeros(slice_size, np.int64)
        for reader in self._reader.sources(table):
            for info in reader.table(table).rows_files():
                offsets = reader.open_file(table, info).offsets
                counts[info.slice_begin : info.slice_end] += np.diff(offsets)
        return counts

    def find(self, table: str, ids: Tensor, slots: Sequence[str]) -> Rows:
        size = self._reader.table(table).slice_size
        groups = np.unique(slices_of(ids.numpy(), size) // np.uint64(GROUP_SLICES))
        found = []
        for group in groups.tolist():
            begin = int(group) * GROUP_SLICES
            end = min(begin + GROUP_SLICES, size)
            for piece in self._reader.read_rows(table, (begin, end), slots, _PIECE_BYTES):
                found.append(_select(piece, torch.isin(piece.ids, ids)))
        return _in_order_of(ids, found, self.slots(table), slots)

    def state_sums(self) -> dict[str, str]:
        manifest = self._reader.manifest
        sums = {file.path: file.xxh3 for file in manifest.dense}
        for table in manifest.tables.values():
            sums |= {file.path: file.xxh3 for file in table.policies}
        return sums

    def close(self) -> None:
        pass  # no file stays open


class _StoreSource(Source):
    def __init__(self, path: str) -> None:
        self.name = path
        self._store = Store(path, read_only=True)

    def tables(self) -> list[str]:
        return sorted(self._store.tables())

    def slots(self, table: str) -> tuple[SlotInfo, ...]:
        return slots_in(self._store, table)

    def slice_size(self, table: str) -> int | None:
        return None

    def read_rows(self, table: str, slice_size: int, slots: Sequence[str]) -> Iterator[Rows]:
        about = self.slots(table)
        cut = open_table(self._store, table).cut()
        try:
            counts = _counts_of(cut, slice_size)
            for begin, end in cut_parts(counts, 0, about, _PIECE_BYTES):
                count = int(counts[begin:end].sum())
                ids = torch.empty(count, dtype=torch.int64)
                values = {
                    slot.name: new_output((count, *slot.shape), DTYPES[slot.dtype])[0]
                    for slot in about
                }
                addresses = [value.data_ptr() for value in values.values()]
                cut.read(slice_size, begin, end, count, ids.data_ptr(), addresses)
                yield Rows(ids, {name: values[name] for name in slots})
        finally:
            cut.abandon()

    def count_slices(self, table: str, slice_size: int) -> Array:
        cut = open_table(self._store, table).cut()
        try:
            return _counts_of(cut, slice_size)
        finally:
            cut.abandon()

    def find(self, table: str, ids: Tensor, slots: Sequence[str]) -> Rows:
        self.slots(table)  # raises if there is none
        opened = open_table(self._store, table)
        rows = opened.rows_of(ids)
        known = rows >= 0
        values = {name: opened.get_slot(name).read(rows[known]) for name in slots}
        return Rows(ids[known], values)

    def state_sums(self) -> dict[str, str]:
        states = {"state": self._store.state()}
        for table, hooks in self._store.policies.collect().items():
            states |= {f"policies/{table}/{hook}": state for hook, state in hooks.items()}
        return {name: to_hex(xxh3(encode(state, STATE))) for name, state in states.items()}

    def close(self) -> None:
        self._store.close()


def _counts_of(cut: Cut, slice_size: int) -> Array:
    counts = np.zeros(slice_size, np.int64)
    cut.count_slices(slice_size, counts.ctypes.data)
    return counts


def is_store(url: str | os.PathLike[str]) -> bool:
    """Whether a path is that of a store."""
    url = os.fspath(url)
    return not is_remote(url) and os.path.isfile(os.path.join(local_path(url), "data.mdb"))


def open_source(url: str | os.PathLike[str]) -> Source:
    """Opens a snapshot, the newest of a directory of them, or a store, read-only.

    Raises:
        FileNotFoundError: there is neither.
        SnapshotError, RuntimeError: it is damaged, or a later version of recis wrote it.
    """
    if is_store(url):
        return _StoreSource(local_path(url))
    return _SnapshotSource(open_snapshot(url, strict=True))


def check_slots(source: Source, table: str, wanted: Sequence[str] | None) -> list[str]:
    """The slots of a table that are wanted, all of them if None.

    Raises:
        MismatchError: there is no such table or slot.
    """
    known = [slot.name for slot in source.slots(table)]
    for name in wanted or ():
        if name not in known:
            raise MismatchError(
                f"{source.name}, table {table!r} has no slot {name!r}; it has {', '.join(known)}"
            )
    return known if wanted is None else list(wanted)


def _select(rows: Rows, which: Tensor) -> Rows:
    return Rows(rows.ids[which], {name: values[which] for name, values in rows.slots.items()})


def _in_order_of(
    ids: Tensor, pieces: list[Rows], about: Sequence[SlotInfo], slots: Sequence[str]
) -> Rows:
    known = {slot.name: slot for slot in about}
    empty = Rows(
        torch.empty(0, dtype=torch.int64),
        {n: torch.empty((0, *known[n].shape), dtype=DTYPES[known[n].dtype]) for n in slots},
    )
    pieces = [empty, *pieces]
    whole = Rows(
        torch.cat([piece.ids for piece in pieces]),
        {name: torch.cat([piece.slots[name] for piece in pieces]) for name in slots},
    )
    place = {id: i for i, id in enumerate(whole.ids.tolist())}
    return _select(whole, torch.tensor([place[i] for i in ids.tolist() if i in place]).long())
