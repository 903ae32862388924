"""`Loader`: a snapshot into tables and tensors, of any number of shards."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from recis._table import Table
from recis.nn.modules.hashtable_hook_impl import HashtableHookFactory
from recis.serialize.blocks import FilterBlocks, chosen, every_block, tables_of
from recis.serialize.checks import check_table, inside
from recis.serialize.saver import MODEL
from recis.snapshot.errors import DamagedError, MismatchError
from recis.snapshot.header import DTYPES
from recis.snapshot.manifest import TableInfo
from recis.snapshot.read import SnapshotReader
from recis.snapshot.upstream.read import Group, UpstreamReader, open_any
from recis.snapshot.verify import verify

Reader = SnapshotReader | UpstreamReader

_HELD_BYTES = 40 << 20  # of rows: several groups of a large table are read at once


class Loader:
    """Loads a snapshot, with those it is a delta to, whatever number of shards saved it.

    Each table takes the ids of its `slice` and leaves the others. Ids that it holds already keep
    their rows and get the saved values; other rows stay, unless `clear`.

    A checkpoint of RecIS 1.0 is loaded in the same way: each child of a table takes the rows that
    were saved under its name. It has no checksums and nothing of hooks but their slots.

    Args:
        checkpoint_path: a directory of snapshots, whose newest is loaded, or one of them; or a
            checkpoint of RecIS 1.0, the directory with the file `index`. Local or an fsspec URL.
        hashtables: tables by name, as `filter_out_sparse_param(model)` gives them, or modules.
        tensors: dense tensors by name, which are written in place.
        parallel: threads that read.
        filter_func: of the list of blocks that would be loaded, those that are.
        strict: whether to refuse when the newest is damaged. Otherwise the newest that is not is
            loaded, with a warning.
        clear: whether the tables lose what they have.
        track: whether to remember from now on which rows change, so that the next snapshot can
            be a delta to this one.

    Example:
        >>> from recis.nn import HashTable
        >>> from recis.serialize import Saver
        >>> from tempfile import TemporaryDirectory
        >>> folder = TemporaryDirectory()
        >>> users = HashTable([4], name="loader_example")
        >>> _ = users(torch.tensor([1, 2, 3]))
        >>> _ = Saver(path=folder.name, hashtables={"users": users}).save(step=10)
        >>> users.clear()
        >>> Loader(folder.name, hashtables={"users": users}).load()
        10
        >>> len(users)
        3
        >>> folder.cleanup()
    """

    def __init__(
        self,
        checkpoint_path: str | os.PathLike[str],
        hashtables: Mapping[str, object] | None = None,
        tensors: Mapping[str, Tensor] | None = None,
        parallel: int = 16,
        filter_func: FilterBlocks = every_block,
        *,
        strict: bool = False,
        clear: bool = False,
        track: bool = False,
    ) -> None:
        self._path = os.fspath(checkpoint_path)
        self._tables = tables_of("Loader", hashtables)
        self._tensors = dict(tensors or {})
        self._parallel = parallel
        self._filter = filter_func
        self._strict = strict
        self._clear = clear
        self._track = track

    def load(self) -> int:
        """Loads it and returns its step; of a checkpoint of RecIS 1.0, that of `ckpt_<step>` or 0.

        Raises:
            FileNotFoundError: there is no snapshot.
            ValueError: it lacks a table, slot or tensor, or has another dtype, shape or
                slice_size; nothing has changed.
            RuntimeError: it is damaged, or a later version wrote it; nothing has changed.
        """
        reader = open_any(self._path, strict=self._strict)
        tables, tensors = chosen(self._filter, self._tables, self._tensors)
        if isinstance(reader, UpstreamReader):
            if self._track:
                raise MismatchError(
                    f"{reader.files.url}: no delta can follow a checkpoint of RecIS 1.0: load it "
                    "with track=False, and save a snapshot with track=True"
                )
            reader = reader.grouped(
                {name: Group(tuple(t.children), t.coalesced) for name, t in tables.items()}
            )
        for name, table in tables.items():
            check_table(f"{reader.files.url}, table {name!r}", reader.table(name), table)
        dense = _dense(reader, tensors)
        policies = {name: _policies(reader, name, table) for name, table in tables.items()}
        if isinstance(reader, UpstreamReader):
            for name, table in tables.items():
                reader.check_ids(name, _slices(table))
        elif any(_cannot_go_back(table, reader.table(name)) for name, table in tables.items()):
            problems = verify(reader.files.url, "deep")
            if problems:
                first = problems[0]
                raise DamagedError(
                    first.path, first.expected, first.found,
                    tensor=first.tensor, slices=first.slices,
                )  # fmt: skip
        empty = [table for table in tables.values() if len(table) == 0]
        try:
            for name, table in tables.items():
                self._load_table(reader, name, table)
        except BaseException:
            for table in empty:
                table.clear()
            raise
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(dense[name])
        for name, table in tables.items():
            table.policies.load(name, policies[name])
        return reader.manifest.step

    def _load_table(self, reader: Reader, name: str, table: Table) -> None:
        about = reader.table(name)
        known = {slot.name() for slot in table.slot_group().slots()}
        for slot in about.slots:
            if slot.name not in known:
                table.add_slot(slot.name, DTYPES[slot.dtype], slot.shape, slot.initial)
        if self._clear:
            table.clear()
        fresh = len(table) == 0
        table.track(False)
        for rows in reader.read_rows(
            name, _slices(table), parallel=self._parallel, max_bytes=_HELD_BYTES
        ):
            table.restore(rows.ids, rows.slots)
        # Rows that were there before are not in the snapshot: no delta to it could tell.
        table.track(self._track and fresh)
        table.known_since = reader.checksum if self._track and fresh else None


def _slices(table: Table) -> tuple[int, int]:
    return table.slice.slice_begin, table.slice.slice_end


def _policies(reader: Reader, name: str, table: Table) -> dict[str, tuple[Any, ...]]:
    """What the hooks of a table are to take up, once all of it was found to be what they can."""
    shards = reader.policies(name)
    try:
        merged = HashtableHookFactory().merge_states(shards, inside(table.slice))
        table.policies.check(name, merged)
    except Exception as error:  # anything may come of what a hook did not expect
        raise MismatchError(
            f"{reader.files.url}, table {name!r}: its hooks cannot take up the states that were "
            f"saved of them: {error}"
        ) from error
    return merged


def _cannot_go_back(table: Table, about: TableInfo) -> bool:
    """Whether loading changes more of a table than clearing it takes back."""
    slots = {slot.name() for slot in table.slot_group().slots()}
    return (
        len(table) > 0
        or table.known_since is not None
        or any(slot.name not in slots for slot in about.slots)
    )


def _dense(reader: Reader, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The dense tensors that are to be loaded."""
    if not tensors:
        return {}
    found: dict[str, Tensor] = reader.dense(MODEL) if MODEL in reader.dense_names() else {}
    for name, tensor in tensors.items():
        saved = found.get(name)
        if saved is None:
            raise MismatchError(
                f"{reader.files.url} has no dense tensor {name!r}; it has "
                f"{', '.join(sorted(found)) or 'none'}"
            )
        if saved.shape != tensor.shape or saved.dtype != tensor.dtype:
            raise MismatchError(
                f"{reader.files.url}: the dense tensor {name!r} is {saved.dtype} "
                f"{list(saved.shape)}, expected {tensor.dtype} {list(tensor.shape)}"
            )
    return found
