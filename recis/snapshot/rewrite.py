"""Snapshots made of snapshots: other shards, or a chain of deltas as one."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from recis._slices import gen_slice
from recis.snapshot.manifest import StateFile, TableInfo
from recis.snapshot.publish import Draft
from recis.snapshot.read import SnapshotReader, open_snapshot
from recis.snapshot.sparse_file import Array
from recis.snapshot.write import collect, count_slices, write_file, write_rows

Progress = Callable[[int, int], None]
"""Called with `(rows done, rows in all)`."""


def rewrite(
    source: str | os.PathLike[str],
    root: str | os.PathLike[str],
    shards: int | None = None,
    progress: Progress | None = None,
) -> str:
    """Writes a snapshot anew, with those it is a delta to, as one that stands for itself.

    Rows are streamed and verified: memory is bounded, whatever the size. What hooks have learnt and
    dense values are copied.

    Args:
        source: a snapshot, or a directory of them, whose newest is taken.
        root: the directory to write into; the step stays the same.
        shards: of the new one; default, as many as now.
        progress: told of rows as they are written.

    Returns:
        The path or URL of the new snapshot.

    Raises:
        FileExistsError: there is a snapshot of this step.
        RuntimeError: the source is damaged; nothing was published.
        OSError: it cannot be written; nothing was published.
    """
    reader = open_snapshot(source)
    manifest = reader.manifest
    shards = manifest.world_size if shards is None else shards
    gen_slice(0, shards)
    counts = {name: slice_counts(reader, name) for name in manifest.tables}
    total, done = sum(int(of.sum()) for of in counts.values()), 0
    with Draft(root, manifest.step) as draft:
        tables = {}
        for name, table in manifest.tables.items():
            parts = []
            for shard in range(shards):
                part = gen_slice(shard, shards, table.slice_size)
                slices = (part.slice_begin, part.slice_end)
                about = write_rows(
                    draft, reader.read_rows(name, slices), counts[name], name, table,
                    shard=shard, shards=shards, slices=slices,
                )  # fmt: skip
                parts.append(about)
                done += about.rows
                if progress is not None:
                    progress(done, total)
            tables[name] = _joined(table, parts, [_copy(reader, draft, f) for f in table.policies])
        dense = tuple(_copy(reader, draft, file) for file in manifest.dense)
        return draft.publish(
            replace(manifest, tables=tables, dense=dense, world_size=shards, parent=None)
        )


def slice_counts(reader: SnapshotReader, table: str) -> Array:
    """The live rows of each slice of a table, int64 `(slice_size,)`."""
    about = reader.table(table)
    if len(reader.sources(table)) > 1:
        return count_slices(reader.read_rows(table, slots=[]), about.slice_size)
    counts = np.zeros(about.slice_size, np.int64)
    for info in about.rows_files():
        file = reader.open_file(table, info)
        counts[info.slice_begin : info.slice_end] = np.diff(file.offsets)
    return counts


def _joined(table: TableInfo, parts: list[TableInfo], policies: list[StateFile]) -> TableInfo:
    files = [file for part in parts for file in part.files]
    return replace(collect(table, files), policies=tuple(policies))


def _copy(reader: SnapshotReader, draft: Draft, file: StateFile) -> StateFile:
    return write_file(draft, file.path, [reader.read_whole(file)], file.shard, file.shards)
