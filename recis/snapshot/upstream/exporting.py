"""From a snapshot to RecIS 1.0's layout. Memory: some pieces of rows."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from recis._slices import gen_slice
from recis.nn.modules._children import ChildrenInfo
from recis.snapshot.errors import MismatchError
from recis.snapshot.header import NAME_OF
from recis.snapshot.manifest import TableInfo
from recis.snapshot.merge import Rows
from recis.snapshot.read import SnapshotReader
from recis.snapshot.upstream.names import EMBEDDING, ID, Place, check_block_name
from recis.snapshot.upstream.read import MODEL
from recis.snapshot.upstream.write import CheckpointWriter, NewBlock

logger = logging.getLogger(__name__)

PARALLEL = 8
"""Data files of a shard, as RecIS writes them."""

_PIECE_BYTES = 32 << 20
_NAMED_IDS = 5  # in an error

Progress = Callable[[int, int], object]


def export_snapshot(
    reader: SnapshotReader,
    path: str | os.PathLike[str],
    *,
    shards: int | None = None,
    parallel: int = PARALLEL,
    progress: Progress | None = None,
) -> str:
    """Writes the tables and dense tensors of a snapshot, deltas applied, for RecIS 1.0.

    The layout has no place for other dense values, for what hooks know beside slots, and for what
    new rows start with: a warning names what is left out.

    Args:
        reader: the snapshot.
        path: the directory to make, local.
        shards: how many; default, as many as the snapshot has.
        parallel: data files of a shard, at most.
        progress: told how many rows are written of how many.

    Returns:
        The path.

    Raises:
        MismatchError: RecIS 1.0 could not read a name, dtype or id; nothing was written.
        FileExistsError: the directory holds something; nothing has changed.
        DamagedError: the snapshot is; nothing was written.
        ValueError: a number is not positive, or the path is a URL.
        OSError: it cannot be written; nothing was.
    """
    shards = reader.manifest.world_size if shards is None else shards
    if min(shards, parallel) < 1:
        raise ValueError(f"there must be at least one shard and file, asked for {shards, parallel}")
    tables = {
        name: _Table(reader, name, about, shards) for name, about in reader.manifest.tables.items()
    }
    names = reader.dense_names()
    dense: dict[str, Tensor] = reader.dense(MODEL) if MODEL in names else {}
    left_out = [name for name in names if name != MODEL]
    left_out += [f"hooks of {name}" for name in tables if reader.table(name).policies]
    if left_out:
        logger.warning(
            "%s: RecIS 1.0's layout has no place for %s", reader.files.url, ", ".join(left_out)
        )
    blocks = [block for table in tables.values() for block in table.blocks()]
    blocks += [_dense_block(reader, name, tensor) for name, tensor in dense.items()]
    _check_distinct(reader, blocks)
    total, done = sum(table.rows for table in tables.values()), 0
    with CheckpointWriter(path, blocks, shards, parallel) as writer:
        for table in tables.values():
            for place, rows in table.read():
                writer.append(place, rows.ids)
                for slot, values in rows.slots.items():
                    writer.append(place._replace(slot=slot), values)
                done += len(rows.ids)
                if progress is not None:
                    progress(done, total)
        for name, tensor in dense.items():
            writer.append(name, tensor)
        return writer.publish()


class _Table:
    """A table of the snapshot, and how many rows each shard has of each child."""

    def __init__(self, reader: SnapshotReader, name: str, about: TableInfo, shards: int) -> None:
        self._what = f"{reader.files.url}, table {name!r}"
        self._reader = reader
        self._name = name
        self._about = about
        self._shards = shards
        names = list(about.children) or [name]
        self._children = ChildrenInfo(name, names, about.coalesced)
        self._check()
        self._counts = [
            sum(
                (
                    torch.bincount(self._child_of(rows.ids), minlength=len(names))
                    for rows in self._pieces(shard, slots=False)
                ),
                start=torch.zeros(len(names), dtype=torch.int64),
            ).tolist()
            for shard in range(shards)
        ]
        self.rows = sum(map(sum, self._counts))

    def _check(self) -> None:
        for name in [*self._children.children(), *(slot.name for slot in self._about.slots)]:
            _check_name(self._what, name)
        if self._about.slots[0].name != EMBEDDING or ID in {s.name for s in self._about.slots}:
            raise MismatchError(
                f"{self._what}: RecIS 1.0 needs a first slot {EMBEDDING!r} and none named {ID!r}, "
                f"found {', '.join(slot.name for slot in self._about.slots)}"
            )
        if self._about.coalesced and (1 << 52) % self._about.slice_size:
            raise MismatchError(
                f"{self._what}: RecIS 1.0 puts ids of a child into slices, which are those of the "
                f"table only if there is a power of two of them, found {self._about.slice_size}"
            )

    def blocks(self) -> Iterator[NewBlock]:
        """Those of all shards."""
        for shard in range(self._shards):
            for child, count in zip(self._children.children(), self._counts[shard], strict=True):
                place = self._place(shard, child)
                yield NewBlock(place, "I64", (count,))
                for slot in self._about.slots:
                    yield NewBlock(place._replace(slot=slot.name), slot.dtype, (count, *slot.shape))

    def read(self) -> Iterator[tuple[Place, Rows]]:
        """Rows with the ids that the files hold, and where these go."""
        for shard in range(self._shards):
            for rows in self._pieces(shard, slots=True):
                of = self._child_of(rows.ids)
                ids = self._children.decode(rows.ids)[0]
                for index in of.unique().tolist():
                    which = of == index
                    place = self._place(shard, self._children.child_at(index))
                    slots = {name: values[which] for name, values in rows.slots.items()}
                    yield place, Rows(ids[which], slots)

    def _pieces(self, shard: int, slots: bool) -> Iterator[Rows]:
        part = gen_slice(shard, self._shards, self._about.slice_size)
        slices = part.slice_begin, part.slice_end
        return self._reader.read_rows(self._name, slices, None if slots else (), _PIECE_BYTES)

    def _place(self, shard: int, child: str) -> Place:
        part = gen_slice(shard, self._shards, self._about.slice_size)
        return Place(
            child, ID, shard, self._shards, part.slice_begin, part.slice_end, part.slice_size
        )

    def _child_of(self, ids: Tensor) -> Tensor:
        """The index of the child that each id is of."""
        indices = self._children.decode(ids)[1]
        lost = ids[indices >= len(self._children.children())]
        if len(lost):
            some = ", ".join(map(str, lost[:_NAMED_IDS].tolist()))
            raise MismatchError(
                f"{self._what}: {len(lost)} ids of these rows carry the index of no child in "
                f"bits 52 to 63, and RecIS 1.0 would give them to another: {some}. Evict them, or "
                "encode them with children_info().encode(ids, child)"
            )
        return indices


def _dense_block(reader: SnapshotReader, name: str, tensor: Tensor) -> NewBlock:
    what = f"{reader.files.url}, dense tensor {name!r}"
    _check_name(what, name)
    if tensor.dtype == torch.bool:
        raise MismatchError(
            f"{what} is bool: RecIS 1.0 writes files with such a tensor and cannot read them. Save "
            "it as uint8"
        )
    return NewBlock(name, NAME_OF[tensor.dtype], tuple(tensor.shape))


def _check_name(what: str, name: str) -> None:
    try:
        check_block_name(name)
    except ValueError as error:
        raise MismatchError(f"{what}: {error}") from None


def _check_distinct(reader: SnapshotReader, blocks: list[NewBlock]) -> None:
    seen: set[str] = set()
    for block in blocks:
        if block.key in seen:
            raise MismatchError(
                f"{reader.files.url}: two tables would have a block {block.key!r} in RecIS 1.0's "
                "layout, where children of all tables need different names"
            )
        seen.add(block.key)
