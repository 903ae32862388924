"""Writing a snapshot anew: with other shards, or a chain of deltas as one. Memory: about a part."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np

from recis._slices import Array, gen_slice
from recis.snapshot.manifest import FileInfo, TableInfo
from recis.snapshot.merge import Rows
from recis.snapshot.publish import Draft
from recis.snapshot.read import SnapshotReader
from recis.snapshot.write import PART_BYTES, collect, count_slices, write_file, write_rows

READ_BYTES = 8 << 20
"""Of rows that are held."""

Progress = Callable[[int, int], object]


def rewrite(
    reader: SnapshotReader,
    root: str | os.PathLike[str],
    *,
    shards: int | None = None,
    progress: Progress | None = None,
    part_bytes: int = PART_BYTES,
) -> str:
    """Writes the rows of a snapshot, deltas applied, as a full snapshot of the same step.

    Rows, slots, dense values and the states of hooks are the same bits; the latter stay in the
    files of the shards that wrote them.

    Args:
        reader: the snapshot.
        root: the directory of snapshots to write to, local or an fsspec URL.
        shards: how many there will be; default, as many as there are.
        progress: told how many rows are written of how many.
        part_bytes: of a file; a slice is never split.

    Returns:
        The new snapshot's path or URL.

    Raises:
        ValueError: `shards` is not positive.
        FileExistsError: the directory has a snapshot of this step.
        DamagedError: the snapshot is; none was made.
        OSError: it cannot be written; none was made.
    """
    shards = reader.manifest.world_size if shards is None else shards
    if shards < 1:
        raise ValueError(f"there must be at least one shard, asked for {shards}")
    with Draft(root, reader.manifest.step) as draft:
        counts = {name: _count(reader, name) for name in reader.manifest.tables}
        report = _Report(progress, sum(int(count.sum()) for count in counts.values()))
        tables = {
            name: _write_table(draft, reader, name, counts[name], shards, report, part_bytes)
            for name in reader.manifest.tables
        }
        for file in reader.manifest.dense:
            write_file(draft, file.path, reader.read_pieces(file))
        return draft.publish(
            replace(reader.manifest, tables=tables, world_size=shards, parent=None)
        )


class _Report:
    """Passes rows on and says how many they were."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def __call__(self, rows: Iterable[Rows]) -> Iterator[Rows]:
        for piece in rows:
            yield piece
            self._done += piece.ids.numel()
            if self._progress is not None:
                self._progress(self._done, self._total)


def _count(reader: SnapshotReader, table: str) -> Array:
    """The rows of each slice: of one snapshot known, of a chain found by merging ids."""
    about = reader.table(table)
    if len(reader.sources(table)) > 1:
        return count_slices(reader.read_rows(table, slots=()), about.slice_size)
    counts = [np.diff(reader.open_file(table, file).offsets) for file in about.rows_files()]
    return np.concatenate(counts)


def _write_table(
    draft: Draft,
    reader: SnapshotReader,
    name: str,
    counts: Array,
    shards: int,
    report: _Report,
    part_bytes: int,
) -> TableInfo:
    about = replace(reader.table(name), files=(), rows=0, deleted=0)
    files: list[FileInfo] = []
    for shard in range(shards):
        of = gen_slice(shard, shards, about.slice_size)
        slices = of.slice_begin, of.slice_end
        rows = reader.read_rows(name, slices, max_bytes=READ_BYTES)
        files += write_rows(
            draft,
            report(rows),
            counts,
            name,
            about,
            shard=shard,
            shards=shards,
            slices=slices,
            part_bytes=part_bytes,
        ).files
    for file in about.policies:
        write_file(draft, file.path, reader.read_pieces(file))
    return collect(about, files)
