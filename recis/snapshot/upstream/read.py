"""Rows of a checkpoint of RecIS 1.0, behind the face of a `SnapshotReader`."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recis._slices import slices_of
from recis.nn.modules._children import ChildrenInfo
from recis.snapshot.errors import MismatchError
from recis.snapshot.files import open_files
from recis.snapshot.manifest import Manifest, TableInfo
from recis.snapshot.merge import Rows
from recis.snapshot.read import SnapshotReader, open_snapshot
from recis.snapshot.upstream.checkpoint import Checkpoint, Child, Part
from recis.snapshot.upstream.names import is_checkpoint, step_of

logger = logging.getLogger(__name__)

MODEL = "model"
"""The name of the dense value that the dense tensors are."""

_NAMED_IDS = 5  # in an error


class Group(NamedTuple):
    """Which children make a table: what the layout does not say."""

    children: tuple[str, ...]
    coalesced: bool


class UpstreamReader:
    """An open checkpoint. Made by `open_upstream`; threads may share it.

    Args:
        checkpoint: it.
        groups: tables by name, of these children; default, one of each child.

    Raises:
        MismatchError: children of a coalesced table differ in slots or slices, or are missing.
    """

    def __init__(self, checkpoint: Checkpoint, groups: Mapping[str, Group] | None = None) -> None:
        self.checkpoint = checkpoint
        self.files = checkpoint.files
        if groups is None:
            groups = {name: Group((name,), False) for name in checkpoint.children}
        self._groups = dict(groups)
        self.manifest = Manifest(
            step=step_of(self.files.url) or 0,
            tables={name: self._about(name, group) for name, group in groups.items()},
            world_size=checkpoint.shards,
        )
        """Its tables; there is no such file."""
        self.checksum = None
        """Nothing: no delta can follow it."""

    def grouped(self, groups: Mapping[str, Group]) -> UpstreamReader:
        """The same checkpoint seen as these tables."""
        return UpstreamReader(self.checkpoint, groups)

    def table(self, name: str) -> TableInfo:
        """What is known of a table; MismatchError if there is none of this name."""
        found = self.manifest.tables.get(name)
        if found is None:
            known = ", ".join(self.manifest.tables) or "none"
            raise MismatchError(f"{self.files.url} has no table {name!r}; it has {known}")
        return found

    def _about(self, name: str, group: Group) -> TableInfo:
        what = f"{self.files.url}, table {name!r}"
        known = self.checkpoint.children
        for child in group.children:
            if child not in known:
                raise MismatchError(
                    f"{what}: the checkpoint has no rows of {child!r}; it has {', '.join(known)}"
                )
        first, *others = (known[child] for child in group.children)
        for child, other in zip(group.children[1:], others, strict=True):
            if (other.slots, other.slice_size) != (first.slots, first.slice_size):
                raise MismatchError(
                    f"{what}: its children {group.children[0]!r} and {child!r} have different "
                    "slots or slices: they were not saved from one coalesced table"
                )
        if group.coalesced and (1 << 52) % first.slice_size:
            raise MismatchError(
                f"{what}: the ids of a coalesced table are in slices of their own only if there is "
                f"a power of two of them, found {first.slice_size}"
            )
        return TableInfo(
            slots=first.slots,
            slice_size=first.slice_size,
            rows=sum(part.rows for child in (first, *others) for part in child.parts),
            children=group.children,
            coalesced=group.coalesced,
        )

    # ---- rows ----

    def read_rows(
        self,
        table: str,
        slices: tuple[int, int] | None = None,
        slots: Sequence[str] | None = None,
        max_bytes: int = 64 << 20,
        parallel: int = 4,
    ) -> Iterator[Rows]:
        """The rows of a table in the order of the files, ids as the table encodes them.

        Rows that are not of their part's slices are left out, as RecIS does.

        Args:
            table: its name.
            slices: only those of slices `[begin, end)`; all of the parts with such is read.
            slots: which ones; default, all.
            max_bytes: of rows in memory at a time.
            parallel: how many threads read.

        Raises:
            MismatchError: there is no such table, or no part with one of the slices.
            ValueError: an id does not fit a coalesced table; the message names some.
            DamagedError: a file is shorter than it was.
        """
        about = self.table(table)
        begin, end = (0, about.slice_size) if slices is None else slices
        row_bytes = 8 + sum(slot.row_bytes for slot in about.slots)
        wanted = [slot.name for slot in about.slots] if slots is None else list(slots)
        step = max(1, max_bytes // max(1, parallel) // row_bytes)

        def read(name: str, child: Child, part: Part, first: int) -> Rows:
            last = min(first + step, part.rows)
            ids = self.checkpoint.read_rows(part.ids, first, last)
            kept = self._kept(child, part, ids, begin, end)
            values = {}
            for slot in wanted:
                block = part.slots[slot]
                if kept.any():
                    rows = self.checkpoint.read_rows(block, first, last)
                    values[slot] = rows if kept.all() else rows[kept]
            return Rows(self._encoded(table, name, ids[kept]), values)

        ahead: deque[Future[Rows]] = deque()
        with ThreadPoolExecutor(max(1, parallel), "recis-read") as pool:
            try:
                for name, child, part in self._parts(table, begin, end):
                    for first in range(0, part.rows, step):
                        ahead.append(pool.submit(read, name, child, part, first))
                        if len(ahead) >= max(1, parallel):
                            yield from _some(ahead.popleft().result())
                while ahead:
                    yield from _some(ahead.popleft().result())
            finally:
                for future in ahead:
                    future.cancel()

    def check_ids(self, table: str, slices: tuple[int, int] | None = None) -> None:
        """Reads the ids of a table, 8 bytes a row of a part at a time, and no other slot.

        Raises:
            DamagedError: an id is in a part twice.
            MismatchError, ValueError: as `read_rows` does.
        """
        begin, end = (0, self.table(table).slice_size) if slices is None else slices
        for name, child, part in self._parts(table, begin, end):
            ids = self.checkpoint.read_rows(part.ids, 0, part.rows)
            ids = ids[self._kept(child, part, ids, *part.slices)]
            self._encoded(table, name, ids)
            ordered = np.sort(ids.numpy())
            twice = ordered[1:][ordered[1:] == ordered[:-1]]
            if len(twice):
                raise self.checkpoint.damaged(
                    part.ids.path, "each id once", f"{int(twice[0])} again", part.ids.key
                )
            strays = part.rows - len(ids)
            if strays:
                logger.warning(
                    "%s, table %r: %d rows of other slices than [%d, %d) are left out, as by RecIS",
                    self.files.name(part.ids.path), name, strays, *part.slices,
                )  # fmt: skip

    def _parts(self, table: str, begin: int, end: int) -> Iterator[tuple[str, Child, Part]]:
        """Those with slices of `[begin, end)`, which must have all of these."""
        for name in self._groups[table].children:
            child = self.checkpoint.children[name]
            found, at = [], begin
            for part in child.parts:
                low, high = part.slices
                if low < end and at < high:
                    if low > at:
                        break
                    found.append(part)
                    at = high
            if at < end:
                raise MismatchError(
                    f"{self.files.url}, table {name!r}: no part holds slice {at} of "
                    f"{child.slice_size}: the workers that did have saved elsewhere, or not at all"
                )
            yield from ((name, child, part) for part in found)

    def _kept(self, child: Child, part: Part, ids: Tensor, begin: int, end: int) -> Tensor:
        low, high = max(begin, part.slices[0]), min(end, part.slices[1])
        of = slices_of(ids.numpy(), child.slice_size)
        return torch.from_numpy((of >= low) & (of < high))

    def _encoded(self, table: str, child: str, ids: Tensor) -> Tensor:
        group = self._groups[table]
        if not group.coalesced:
            return ids
        lost = ids[(ids < 0) | (ids >= 1 << 52)]
        if len(lost):
            some = ", ".join(map(str, lost[:_NAMED_IDS].tolist()))
            raise MismatchError(
                f"{self.files.url}, table {table!r}, child {child!r}: {len(lost)} ids of "
                "these rows are not in [0, 2**52) and would lose bits in a coalesced table: "
                f"{some}. Load {child!r} into a table of its own"
            )
        return ChildrenInfo(table, group.children, True).encode(ids, child)

    # ---- what is no rows ----

    def policies(self, table: str) -> list[dict[str, tuple[Any, ...]]]:
        """Nothing: what hooks know besides slots is not in the layout."""
        return []

    def dense_names(self) -> list[str]:
        """`model` if there are dense tensors."""
        return [MODEL] if self.checkpoint.dense else []

    def dense(self, name: str) -> Any:
        """The dense tensors by name."""
        if name not in self.dense_names():
            raise MismatchError(f"{self.files.url} has no dense value {name!r}")
        return {key: self.checkpoint.read_dense(key) for key in self.checkpoint.dense}

    def __repr__(self) -> str:
        return f"UpstreamReader({self.files.url!r})"


def open_upstream(url: str | os.PathLike[str]) -> UpstreamReader:
    """Opens a checkpoint, each child as a table of its own.

    Args:
        url: its directory, local or an fsspec URL.

    Raises:
        FileNotFoundError: there is none.
        DamagedError: its files contradict the layout or one another.
    """
    files = open_files(url)
    if not is_checkpoint(files):
        raise FileNotFoundError(
            f"{files.url}: there is no checkpoint of RecIS 1.0 in it; name the directory with the "
            "file 'index'"
        )
    return UpstreamReader(Checkpoint(files))


def is_upstream(url: str | os.PathLike[str]) -> bool:
    """Whether there is a checkpoint of RecIS 1.0 in a directory, whole or not."""
    return is_checkpoint(open_files(url))


def open_any(url: str | os.PathLike[str], strict: bool = False) -> SnapshotReader | UpstreamReader:
    """Opens a snapshot as `open_snapshot` does, or a checkpoint of RecIS 1.0."""
    return open_upstream(url) if is_upstream(url) else open_snapshot(url, strict=strict)


def _some(rows: Rows) -> Iterator[Rows]:
    if len(rows.ids):
        yield rows
