"""`Snapshot`: lookups straight from the files of a snapshot, while newer ones are published."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Literal, overload

import numpy as np
import torch
from torch import Tensor

from recis._slices import slices_of
from recis._tensors import check_ids, new_output, use_torch_threads
from recis.snapshot.errors import MismatchError, SnapshotError
from recis.snapshot.files import LocalFiles
from recis.snapshot.header import DTYPES
from recis.snapshot.manifest import SlotInfo
from recis.snapshot.mapped import MappedFile
from recis.snapshot.read import SnapshotReader, open_snapshot

_COUNTED_AT_ONCE = 1 << 20  # ids


class Snapshot:
    """Read-only tables out of the newest snapshot in a directory, or out of one of them.

    Files are mapped, not loaded: opening takes milliseconds, and processes that serve the same
    snapshot share its memory. They stay readable when the snapshot is deleted. Deltas are looked
    through from the newest to the base. Threads may share a Snapshot.

    Args:
        path: a local directory of snapshots, or one snapshot in it.
        strict: whether to refuse when the newest snapshot is damaged. Otherwise the newest that
            is not is served, with a warning.
        check: whether lookups verify what they touch, 256 slices at a time, when they first
            touch it. Otherwise rows are not verified: `recis-ckpt verify` does that.

    Raises:
        FileNotFoundError: there is no snapshot.
        RuntimeError: it is damaged, or a later version of recis wrote it.

    Example:
        >>> from recis.nn import HashTable
        >>> from recis.serialize import Saver
        >>> from tempfile import TemporaryDirectory
        >>> folder = TemporaryDirectory()
        >>> users = HashTable([2], name="served_example")
        >>> users.insert(torch.tensor([7]), torch.ones(1, 2))
        >>> _ = Saver(path=folder.name, hashtables={"served_example": users.table}).save()
        >>> Snapshot(folder.name).table("served_example").lookup(torch.tensor([7, 8]))
        tensor([[1., 1.],
                [0., 0.]])
        >>> folder.cleanup()
    """

    def __init__(
        self, path: str | os.PathLike[str], *, strict: bool = False, check: bool = False
    ) -> None:
        self._path = os.fspath(path)
        self._strict = strict
        self._check = check
        self._current = _Opened(open_snapshot(self._path, strict=strict), check)

    @property
    def step(self) -> int:
        """Of the snapshot that is being served."""
        return self._current.reader.manifest.step

    def tables(self) -> list[str]:
        """Names of its tables, sorted."""
        return sorted(self._current.reader.manifest.tables)

    def table(self, name: str) -> ServedTable:
        """A table, also after a `refresh`.

        Raises:
            ValueError: there is none of this name; the message lists those there are.
        """
        self._current.reader.table(name)
        return ServedTable(self, name)

    def refresh(self) -> bool:
        """Goes on to the newest snapshot of the directory, and returns whether it is another.

        Lookups of other threads go on meanwhile, each in one snapshot; what one of them still
        reads stays mapped.

        Raises:
            RuntimeError: the newest is damaged, and what was served still is. Damage that its
                manifest or the files' sizes show is an error only if `strict` was asked for;
                otherwise the newest that is whole is served, with a warning.
        """
        reader = open_snapshot(self._path, strict=self._strict)
        if reader.checksum == self._current.reader.checksum:
            return False
        self._current = _Opened(reader, self._check)
        return True

    @property
    def opened(self) -> _Opened:
        """What is being served now."""
        return self._current

    def __repr__(self) -> str:
        return f"Snapshot({self._path!r}, step={self.step})"


class ServedTable:
    """A table of a `Snapshot`. Threads may share it."""

    def __init__(self, snapshot: Snapshot, name: str) -> None:
        self._snapshot = snapshot
        self._name = name

    def slots(self) -> list[str]:
        """Names of the slots, the embedding first."""
        return [slot.name for slot in self._snapshot.opened.reader.table(self._name).slots]

    def __len__(self) -> int:
        """Rows; of a chain of deltas, counted by looking all their ids up."""
        return self._snapshot.opened.count(self._name)

    @overload
    def lookup(
        self, ids: Tensor, slot: str = ..., *, return_mask: Literal[False] = ...
    ) -> Tensor: ...

    @overload
    def lookup(
        self, ids: Tensor, slot: str = ..., *, return_mask: Literal[True]
    ) -> tuple[Tensor, Tensor]: ...

    def lookup(
        self, ids: Tensor, slot: str = "embedding", *, return_mask: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """One value of a slot for each id.

        Args:
            ids: int64 of any shape; repeats are fine.
            slot: which one.
            return_mask: whether to return also which ids are there, bool of the ids' shape.

        Returns:
            `(*ids.shape, *slot shape)`, zeros for ids that are not there.

        Raises:
            TypeError: ids are not int64.
            ValueError: there is no such slot, or the table is gone since a `refresh`.
            RuntimeError: with `check`, what it touched is damaged.
        """
        ids = check_ids(ids, f"table {self._name!r}: ids")
        values, known = self._snapshot.opened.lookup(self._name, ids.reshape(-1), slot)
        values = values.reshape(*ids.shape, *values.shape[1:])
        return (values, known.reshape(ids.shape)) if return_mask else values

    def __repr__(self) -> str:
        return f"ServedTable({self._name!r}, slots={self.slots()})"


class _Opened:
    """One snapshot with all its parents, mapped; nothing in it changes."""

    def __init__(self, reader: SnapshotReader, check: bool) -> None:
        if not isinstance(reader.files, LocalFiles):
            raise SnapshotError(
                f"{reader.files.url}: only local snapshots can be served: copy it here first"
            )
        self.reader = reader
        self._levels = {
            table: [_Level(source, table, check) for source in reversed(reader.sources(table))]
            for table in reader.manifest.tables
        }
        """The files of each table, newest snapshot first."""

    def lookup(self, table: str, ids: Tensor, slot: str) -> tuple[Tensor, Tensor]:
        """Values `(n, *shape)` of ids int64 `(n,)`, and which of them are there."""
        about = self.reader.table(table)
        wanted = next((found for found in about.slots if found.name == slot), None)
        if wanted is None:
            names = ", ".join(found.name for found in about.slots)
            raise MismatchError(f"table {table!r} has no slot {slot!r}; it has {names}")
        use_torch_threads(ids.numel())
        out, _ = new_output((ids.numel(), *wanted.shape), DTYPES[wanted.dtype])
        out.zero_()
        known = torch.zeros(ids.numel(), dtype=torch.bool)
        left = torch.arange(ids.numel())  # places that no newer snapshot knows of
        for level in self._levels[table]:
            if left.numel() == 0:
                break
            decided = level.lookup(ids[left], wanted, left, out, known)
            left = left[~decided]
        return out, known

    def count(self, table: str) -> int:
        """Rows of a table."""
        about = self.reader.table(table)
        levels = self._levels[table]
        if len(levels) == 1:
            return about.rows
        total = 0
        for index, level in enumerate(levels):
            for ids in level.ids():
                for newer in levels[:index]:
                    ids = ids[~newer.decides(ids)]
                total += ids.numel()
        return total


class _Level:
    """The files that one snapshot of a chain has of a table."""

    def __init__(self, reader: SnapshotReader, table: str, check: bool) -> None:
        about = reader.table(table)
        assert isinstance(reader.files, LocalFiles)
        files, slots = reader.files, about.slots
        self._slice_size = about.slice_size
        self._slots = {slot.name for slot in slots}
        self._rows = [
            MappedFile(files, table, info, slots, about.slice_size, check)
            for info in about.rows_files()
        ]
        self._deleted = [
            MappedFile(files, table, info, slots, about.slice_size, check)
            for info in about.deleted_files()
            if info.rows > 0
        ]
        self._ends = np.array([file.info.slice_end for file in self._rows])

    def lookup(
        self, ids: Tensor, slot: SlotInfo, places: Tensor, out: Tensor, known: Tensor
    ) -> Tensor:
        """Fills `out` and `known` at the places of ids that are here; returns which it decided."""
        decided = self._gone(ids)
        for file, at, rows in self._find(ids):
            where, here = places[at], rows >= 0
            if slot.name in self._slots:
                aimed = torch.full((out.shape[0],), -1)
                aimed[where] = rows
                file.gather(slot.name, aimed, out)
            else:
                out[where[here]] = slot.initial
            known[where] = here
            decided[at] |= here
        return decided

    def ids(self) -> Iterator[Tensor]:
        """The ids of all rows, int64, some at a time."""
        for file in self._rows:
            for first in range(0, file.info.rows, _COUNTED_AT_ONCE):
                yield file.ids(first, min(first + _COUNTED_AT_ONCE, file.info.rows))

    def decides(self, ids: Tensor) -> Tensor:
        """Which of ids int64 `(n,)` have a row here or were deleted here, bool."""
        decided = self._gone(ids)
        for _, at, rows in self._find(ids):
            decided[at] |= rows >= 0
        return decided

    def _gone(self, ids: Tensor) -> Tensor:
        gone = torch.zeros(ids.numel(), dtype=torch.bool)
        for file in self._deleted:
            gone |= file.find(ids) >= 0
        return gone

    def _find(self, ids: Tensor) -> Iterator[tuple[MappedFile, Tensor, Tensor]]:
        """Each file with the places of the ids that may be in it, and their rows there or -1."""
        slices = slices_of(ids.numpy(), self._slice_size)
        which = np.searchsorted(self._ends, slices.astype(np.int64), side="right")
        order = np.argsort(which, kind="stable")
        bounds = np.searchsorted(which[order], np.arange(len(self._rows) + 1))
        for file, first, last in zip(self._rows, bounds[:-1], bounds[1:], strict=True):
            if last > first:
                at = torch.from_numpy(order[first:last])
                yield file, at, file.find(ids[at])
