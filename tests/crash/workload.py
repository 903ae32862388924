"""What is done to snapshots under faults, and what must be there afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from recis import Store
from recis.nn import HashTable
from recis.nn.hashtable_hook import FrequencyAdmitHook
from recis.nn.modules.hashtable import HashtableRegister, gen_slice
from recis.serialize import Loader, Saver
from recis.snapshot.names import DRAFT_PREFIX, FORMAT, LATEST, parse_step, step_name
from recis.snapshot.publish import newest, steps
from recis.snapshot.read import open_snapshot
from recis.snapshot.stores import open_table
from recis.snapshot.verify import verify

Content = dict[str, object]
Tables = dict[str, HashTable]
Files = frozenset[tuple[str, bytes]]

_SLICE = gen_slice(0, 1, 600)  # few, so that files are small; more than one group


class Workload:
    """Tables, dense values, and what they held at each step that was saved."""

    def __init__(self) -> None:
        self._tables, self._read = _make_tables(), _make_tables()
        self._weight = torch.zeros(300)
        self.saved: dict[int, Content] = {}
        self._checked: set[Files] = set()  # of snapshots, to check the same only once

    def train(self, step: int) -> None:
        """Changes some rows, adds some and evicts some; which ones follows from the step."""
        random = torch.Generator().manual_seed(step)
        for table in self._tables.values():
            ids = torch.randint(-500, 500, (60,), generator=random)
            table(ids, admit_hook=FrequencyAdmitHook(2))
            values = torch.randn(40, *table.table.shape, generator=random)
            table.insert(ids[:40], values.to(table.table.dtype))
            table.evict(ids[:5])
        self._weight += torch.randn(300, generator=random)

    def expect(self, step: int) -> None:
        """What there is now is what a snapshot of this step must have."""
        self.saved[step] = _content(self._tables, self._weight, step)

    def save(self, root: Path, step: int, parent: int | None = None, shards: int = 1) -> None:
        """Saves what there is."""
        for shard in range(shards):
            self._saver(root, step, self._tables, shard, shards, parent).save(step)

    def save_beside(self, root: Path, step: int, tables: Tables | None = None) -> None:
        """Saves what there is while all rows change, and change back."""
        tables = self._tables if tables is None else tables
        handle = self._saver(root, step, tables).save_async(step)
        for table in tables.values():
            rows, slot = table.table.ids_map()[1], table.table.get_slot("embedding")
            values = slot.read(rows)
            slot.write(rows, torch.zeros_like(values))
            slot.write(rows, values)
        handle.wait()

    def put_into(self, path: Path) -> None:
        """Makes a store of the tables as they are, most of whose rows are cold."""
        with Store(path, hot_bytes=400) as store:
            tables = _make_tables(store=store)
            for name, table in tables.items():
                ids, rows = self._tables[name].table.ids_map()
                slots = self._tables[name].table.slot_group().slots()
                table.table.restore(ids, {slot.name(): slot.read(rows) for slot in slots})
            store.commit(1)

    def save_beside_on_device(self, path: Path, root: Path, step: int) -> None:
        """The same of the tables of a store, with some of their rows on a device."""
        with Store(path, hot_bytes=400) as store:
            tables = _make_tables(store=store, device="emulated", device_bytes=160)
            for table in tables.values():
                table(table.ids())
                assert table.stats()["device_rows"] > 0
            self.save_beside(root, step, tables)

    def save_store(self, path: Path, root: Path, step: int) -> None:
        """Saves the tables of a store."""
        with Store(path, read_only=True) as store:
            tables = {name: open_table(store, name) for name in store.tables()}
            self._saver(root, step, tables).save(step)

    def _saver(
        self,
        root: Path,
        step: int,
        tables: Mapping[str, object],
        shard: int = 0,
        shards: int = 1,
        parent: int | None = None,
    ) -> Saver:
        return Saver(
            shard_index=shard,
            shard_num=shards,
            parallel=1,  # so that all runs make the same calls
            path=root,
            hashtables=tables,
            tensors={"weight": self._weight},
            parent=None if parent is None else root / step_name(parent),
            track=True,
            states={"training": {"step": step}},
        )

    def load(self, path: Path) -> Content:
        """What a snapshot holds, or the newest of a directory."""
        weight = torch.zeros_like(self._weight)
        Loader(path, self._read, {"weight": weight}, clear=True).load()
        return _content(self._read, weight, open_snapshot(path).dense("training")["step"])

    def check(self, root: Path, needed: Iterable[int], allowed: Iterable[int]) -> None:
        """Every snapshot that can be seen is whole and what was saved, and none is missing."""
        found = steps(root)
        assert set(needed) <= set(found) <= set(allowed), f"{needed} <= {found} <= {allowed}"
        others = {name for name in _names(root) if not name.startswith(DRAFT_PREFIX)}
        assert {parse_step(name) for name in others - {FORMAT, LATEST}} == set(found), others
        files = _files(root, found)
        if files in self._checked:
            return
        for step in found:
            assert verify(root / step_name(step), "deep") == []
            assert self.load(root / step_name(step)) == self.saved[step], f"step {step}"
        assert newest(root) == max(found, default=None)
        if found:
            assert self.load(root) == self.saved[max(found)]
        self._checked.add(files)


def drafts(root: Path) -> list[str]:
    """What nobody is to see."""
    return [name for name in _names(root) if name.startswith(DRAFT_PREFIX)]


def _names(root: Path) -> list[str]:
    return os.listdir(root) if root.exists() else []


def _files(root: Path, found: list[int]) -> Files:
    """What is in the files of these steps, by name."""
    paths = [path for step in found for path in (root / step_name(step)).rglob("*")]
    return frozenset((str(p.relative_to(root)), p.read_bytes()) for p in paths if p.is_file())


def _make_tables(**place: Any) -> Tables:
    tables = {
        "users": HashTable([4], name="users", slice=_SLICE, **place),
        "items": HashTable([3], dtype=torch.float16, name="items", slice=_SLICE, **place),
    }
    for table in tables.values():
        HashtableRegister().release(table.table)  # there will be others of this name
    return tables


def _content(tables: Tables, weight: torch.Tensor, step: int) -> Content:
    found: Content = {"step": step, "weight": _bits(weight)}
    for name, table in tables.items():
        ids, rows = table.table.ids_map()
        order = ids.argsort()
        found[name] = _bits(ids[order])
        for slot in table.table.slot_group().slots():
            found[f"{slot.name()} of {name}"] = _bits(slot.read(rows[order]))
    return found


def _bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()
