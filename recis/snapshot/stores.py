"""From a store to a snapshot and back, without the code that made its tables."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch

from recis import _engine
from recis._slices import ALL_SLICES
from recis._state import encode
from recis._table import Table
from recis._tensors import DTYPES as ENGINE_DTYPES
from recis.nn.modules.hashtable_hook_impl import HashtableHookFactory
from recis.snapshot.errors import MismatchError
from recis.snapshot.files import local_path
from recis.snapshot.header import DTYPES, NAME_OF
from recis.snapshot.manifest import Manifest, SlotInfo, StateFile, TableInfo
from recis.snapshot.names import policies_path
from recis.snapshot.publish import Draft
from recis.snapshot.read import STATE, SnapshotReader
from recis.snapshot.write import slots_of, write_state, write_table
from recis.store import Store

STORE_STATE = "state"
"""The dense value that a store's own state becomes."""

_BLOCK_BYTES = 64 << 10
# Every row is restored with its embedding: nothing is drawn.
_NO_DRAW = _engine.Draw(_engine.Distribution.CONSTANT, 0.0, 0.0, 0.0, 0.0, 0)

Progress = Callable[[int, int], object]


def slots_in(store: Store, table: str) -> tuple[SlotInfo, ...]:
    """The slots of a table in a store.

    Raises:
        MismatchError: it has no such table; the message lists those it has.
    """
    if table not in store.tables():
        known = ", ".join(store.tables()) or "none"
        raise MismatchError(f"{store!r} has no table {table!r}; it has {known}")
    return tuple(
        SlotInfo(slot.name, NAME_OF[slot.dtype], slot.shape, slot.initial)
        for slot in store.schema(table)
    )


def open_table(store: Store, name: str) -> Table:
    """A table of a store, to be read."""
    return _make_table(store, name, slots_in(store, name)[0])


def _make_table(store: Store, name: str, embedding: SlotInfo) -> Table:
    rows = max(1, _BLOCK_BYTES // embedding.row_bytes)
    held = store.slices.get(name, ALL_SLICES)
    table = Table(name, DTYPES[embedding.dtype], embedding.shape, rows, store, slice=held)
    table.open(_NO_DRAW)
    return table


def save_store(
    path: str | os.PathLike[str],
    root: str | os.PathLike[str],
    *,
    slice_size: int = 65536,
    progress: Progress | None = None,
) -> str:
    """Makes a snapshot of a store's last commit, which another process may go on using.

    Args:
        path: the store.
        root: the directory of snapshots, local or an fsspec URL.
        slice_size: into how many slices rows are put.
        progress: told how many rows of how many are written, after each table.

    Returns:
        The snapshot's path or URL.

    Raises:
        MismatchError: nothing was committed yet.
        FileExistsError: there is a snapshot of its step.
        OSError: it cannot be written; no snapshot was made.
    """
    with Store(path, read_only=True) as store:
        if store.step is None:
            raise MismatchError(f"{store!r} has no commit: there is nothing to save")
        with Draft(root, store.step) as draft:
            states = store.policies.collect()
            opened = {name: open_table(store, name) for name in store.tables()}
            total, done = sum(map(len, opened.values())), 0
            tables = {}
            for name, table in opened.items():
                cut = table.cut()
                try:
                    about = TableInfo(slots_of(cut), slice_size, 0, children=(name,))
                    about = write_table(draft, cut, name, about)
                finally:
                    cut.abandon()
                tables[name] = _with_policies(draft, name, about, states.get(name, {}))
                done += len(table)
                if progress is not None:
                    progress(done, total)
            dense = (write_state(draft, f"dense/{STORE_STATE}.state", store.state()),)
            return draft.publish(Manifest(store.step, tables, epoch=store.epoch, dense=dense))


def _with_policies(
    draft: Draft, name: str, about: TableInfo, states: Mapping[str, tuple[Any, ...]]
) -> TableInfo:
    if not states:
        return about
    file: StateFile = write_state(draft, policies_path(name, 0, 1), dict(states))
    return TableInfo(**{**vars(about), "policies": (file,)})


def load_store(
    reader: SnapshotReader,
    path: str | os.PathLike[str],
    *,
    hot_bytes: int | str = "1GiB",
    progress: Progress | None = None,
) -> int:
    """Makes a store of a snapshot, committed once at the snapshot's step.

    A store's state is that of the dense value "state" if it is the only one; else all of
    them by name.

    Args:
        reader: the snapshot, or the newest of a chain.
        path: of the store, which has no tables yet; made if it is not there.
        hot_bytes: memory for rows.
        progress: told how many rows are loaded of how many.

    Returns:
        The epoch.

    Raises:
        MismatchError: the store has tables already, a slot has a dtype that tables have not, or
            shards' hooks have learnt what cannot be joined.
        DamagedError: the snapshot is. The store has no commit then.
        OSError: it cannot be written.
    """
    for name, about in reader.manifest.tables.items():
        for slot in about.slots:
            if DTYPES[slot.dtype] not in ENGINE_DTYPES:
                raise MismatchError(
                    f"{reader.files.url}, table {name!r}, slot {slot.name!r}: tables cannot hold "
                    f"{slot.dtype}"
                )
    policies = {name: merge_policies(reader.policies(name)) for name in reader.manifest.tables}
    with Store(local_path(path), hot_bytes=hot_bytes) as store:
        if store.tables() or store.epochs():
            raise MismatchError(
                f"{store!r} is in use, with {len(store.tables())} tables: load into a new directory"
            )
        # Rows of a delta replace some of those before: an upper bound.
        total = sum(t.rows for link in reader.chain for t in link.manifest.tables.values())
        done = 0
        tables = []
        for name, about in reader.manifest.tables.items():
            table = _make_table(store, name, about.slots[0])
            tables.append(table)
            for slot in about.slots[1:]:
                table.add_slot(slot.name, DTYPES[slot.dtype], slot.shape, slot.initial)
            for rows in reader.read_rows(name):
                table.restore(rows.ids, rows.slots)
                done += rows.ids.numel()
                if progress is not None:
                    progress(done, total)
            if policies[name]:
                store.policies.load(name, policies[name])
        return store.commit(reader.manifest.step, _state_of(reader))


def _state_of(reader: SnapshotReader) -> Any:
    names = reader.dense_names()
    if names == [STORE_STATE]:
        return reader.dense(STORE_STATE)
    return {name: reader.dense(name) for name in names} or None


def merge_policies(shards: list[dict[str, tuple[Any, ...]]]) -> dict[str, tuple[Any, ...]]:
    """What the hooks of all shards of a table had learnt, as one, as `Loader` does it.

    Raises:
        MismatchError: shards have learnt different things, and nothing here knows how to join
            them.
    """
    merged: dict[str, tuple[Any, ...]] = {}
    for hook in dict.fromkeys(hook for states in shards for hook in states):
        states = [states[hook] for states in shards if hook in states]
        try:
            merged |= HashtableHookFactory().merge_states(
                [{hook: state} for state in states], lambda ids: torch.ones_like(ids).bool()
            )
        except ValueError as error:  # a hook of the user's own, whose code is not here
            if len({encode(state, STATE) for state in states}) > 1:
                raise MismatchError(
                    f"shards have learnt different things, and cannot be joined: {error}, and "
                    "load with recis.serialize.Loader"
                ) from None
            merged[hook] = states[0]
    return merged
