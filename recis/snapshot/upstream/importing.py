"""From RecIS 1.0's layout to a snapshot. Memory: some pieces of rows, and dense values whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from recis._slices import Array, gen_slice, slices_of
from recis.snapshot.checksum import bytes_of
from recis.snapshot.errors import DamagedError, MismatchError, SnapshotError
from recis.snapshot.files import Bytes
from recis.snapshot.header import DTYPES
from recis.snapshot.manifest import FileInfo, Manifest, SlotInfo, TableInfo
from recis.snapshot.merge import Rows
from recis.snapshot.names import check_table
from recis.snapshot.publish import Draft, named
from recis.snapshot.upstream.names import step_of
from recis.snapshot.upstream.read import MODEL, Group, UpstreamReader
from recis.snapshot.upstream.training_files import read_training_files
from recis.snapshot.write import (
    collect,
    count_slices,
    cut_parts,
    put,
    write_rows,
    write_state,
    write_tensors,
)

SORT_BYTES = 64 << 20
"""Of rows that are put in order at a time."""

Progress = Callable[[int, int], object]


def import_checkpoint(
    reader: UpstreamReader,
    root: str | os.PathLike[str],
    *,
    step: int | None = None,
    coalesced: Mapping[str, tuple[str, ...]] | None = None,
    progress: Progress | None = None,
    sort_bytes: int = SORT_BYTES,
) -> str:
    """Writes a checkpoint of RecIS 1.0, with what its framework put beside, as a snapshot.

    Rows are sorted by way of a temporary file beside the snapshot, of the size of a shard of a
    table. `model.pt` joins the dense tensors; `extra.pt` and `io_state_<shard>.pt` become dense
    values of their names.

    Args:
        reader: the checkpoint.
        root: the directory of snapshots to write to, local or an fsspec URL.
        step: of the snapshot; default, `global_step` of `extra.pt`, or that of `ckpt_<step>`.
        coalesced: tables that several children share, by name, with these in the order of the
            table. The checkpoint does not know them. Every other child becomes a table.
        progress: told how many rows are written of how many.
        sort_bytes: of rows in memory at a time; a slice is never split.

    Returns:
        The snapshot's path or URL.

    Raises:
        MismatchError: a file needs code to be read, ids do not fit a coalesced table, or names
            or steps are missing; none was made.
        DamagedError: the checkpoint is; none was made.
        FileExistsError: the directory has a snapshot of this step.
        OSError: it cannot be written; none was made.
    """
    url = reader.files.url
    reader = reader.grouped(_groups(reader, coalesced or {}))
    for name in reader.manifest.tables:
        _check_table(url, name)
    more = read_training_files(reader.files)
    tensors = _joined(
        url, reader.dense(MODEL) if MODEL in reader.dense_names() else {}, more.tensors
    )
    known = (step, more.step, step_of(url))
    step = next((found for found in known if found is not None), None)
    if step is None:
        raise MismatchError(
            f"{url}: the step is neither in extra.pt nor in the name of the directory, "
            "ckpt_<step>: say which one it is (--step)"
        )
    shards = reader.manifest.world_size
    with Draft(root, step) as draft:
        # The sum of what was there, rows of foreign slices included: an upper bound.
        total, done = sum(table.rows for table in reader.manifest.tables.values()), 0

        def report(rows: Iterable[Rows]) -> Iterator[Rows]:
            nonlocal done
            for piece in rows:
                yield piece
                done += len(piece.ids)
                if progress is not None:
                    progress(done, total)

        tables = {}
        for name, about in reader.manifest.tables.items():
            counts = count_slices(
                reader.read_rows(name, slots=(), max_bytes=sort_bytes), about.slice_size
            )
            files: list[FileInfo] = []
            for shard in range(shards):
                part = gen_slice(shard, shards, about.slice_size)
                slices = part.slice_begin, part.slice_end
                rows = _sorted(
                    reader, name, slices, counts, os.path.dirname(draft.path("x")), sort_bytes
                )
                files += write_rows(
                    draft,
                    report(rows),
                    counts,
                    name,
                    about,
                    shard=shard,
                    shards=shards,
                    slices=slices,
                ).files
            tables[name] = collect(about, files)
        dense = [write_state(draft, f"dense/{n}.state", value) for n, value in more.states.items()]
        if tensors:
            dense.append(write_tensors(draft, f"dense/{MODEL}.safetensors", tensors))
        dense.sort(key=lambda file: file.path)
        return draft.publish(Manifest(step, tables, world_size=shards, dense=tuple(dense)))


def _groups(reader: UpstreamReader, coalesced: Mapping[str, tuple[str, ...]]) -> dict[str, Group]:
    """The tables that the snapshot will have."""
    taken = [child for children in coalesced.values() for child in children]
    groups = {name: Group(children, True) for name, children in coalesced.items()}
    for child in reader.checkpoint.children:
        if child not in taken:
            if child in groups:
                raise MismatchError(
                    f"{reader.files.url} has rows of {child!r}, which cannot be the name of a "
                    "coalesced table, too: choose another"
                )
            groups[child] = Group((child,), False)
    if len(set(taken)) != len(taken):
        raise MismatchError(f"a child can be in one coalesced table only, once: {', '.join(taken)}")
    return groups


def _check_table(url: str, name: str) -> None:
    try:
        check_table(name)
    except ValueError as error:
        raise MismatchError(
            f"{url}, table {name!r} cannot be in a snapshot: {error}. Load it from there with "
            "recis.serialize.Loader, into a table whose children=[...] has this name"
        ) from None


def _joined(url: str, own: dict[str, Tensor], model: dict[str, Tensor]) -> dict[str, Tensor]:
    for name in own.keys() & model.keys():
        if not torch.equal(own[name], model[name]):
            raise MismatchError(
                f"{url}: the dense tensor {name!r} is in the data files and, with other values, in "
                "model.pt: move model.pt away to import the former"
            )
    return own | model


def _sorted(
    reader: UpstreamReader,
    table: str,
    slices: tuple[int, int],
    counts: Array,
    folder: str,
    sort_bytes: int,
) -> Iterator[Rows]:
    """The rows of a table by slice, and by id in a slice: sorted run of slices by run."""
    about = reader.table(table)
    runs = cut_parts(counts[slice(*slices)], slices[0], about.slots, sort_bytes)
    ends = np.array([end for _, end in runs])
    with tempfile.TemporaryFile(dir=folder) as file:
        places = _Runs(file.fileno(), about, [int(counts[slice(*run)].sum()) for run in runs])
        for rows in reader.read_rows(table, slices, max_bytes=sort_bytes):
            of = np.searchsorted(ends, slices_of(rows.ids.numpy(), about.slice_size), side="right")
            for run in np.unique(of).tolist():
                which = torch.from_numpy(of == run)
                kept = {name: values[which] for name, values in rows.slots.items()}
                with named(folder):
                    places.append(run, Rows(rows.ids[which], kept))
        for run in range(len(runs)):
            rows = places.read(run)
            found = rows.ids.numpy()
            by_slice = np.lexsort((found, slices_of(found, about.slice_size)))
            order = torch.from_numpy(by_slice)
            ids = rows.ids[order]
            twice = ids[1:][ids[1:] == ids[:-1]]
            if len(twice):
                raise DamagedError(
                    reader.files.url, f"each id of table {table!r} once", f"{int(twice[0])} again"
                )
            if len(ids):
                yield Rows(ids, {name: values[order] for name, values in rows.slots.items()})


class _Runs:
    """Rows in a file, by runs; in a run by columns, so that they are read as they are wanted."""

    def __init__(self, handle: int, about: TableInfo, rows: list[int]) -> None:
        self._handle = handle
        # The ids are a column like any other.
        self._columns = (SlotInfo("", "I64", (), 0.0), *about.slots)
        self._rows = rows
        row_bytes = sum(column.row_bytes for column in self._columns)
        self._begin = [int(at) * row_bytes for at in np.cumsum([0, *rows])]
        self._done = [0] * len(rows)

    def append(self, run: int, rows: Rows) -> None:
        count = len(rows.ids)
        self._check(self._done[run] + count <= self._rows[run])
        for column, at in self._places(run):
            values = rows.slots[column.name] if column.name else rows.ids
            put(self._handle, bytes_of(values), at + self._done[run] * column.row_bytes)
        self._done[run] += count

    def read(self, run: int) -> Rows:
        self._check(self._done[run] == self._rows[run])
        found: dict[str, Tensor] = {}
        for column, at in self._places(run):
            values = torch.empty((self._rows[run], *column.shape), dtype=DTYPES[column.dtype])
            _get(self._handle, bytes_of(values), at)
            found[column.name] = values
        return Rows(found.pop(""), found)

    def _places(self, run: int) -> Iterator[tuple[SlotInfo, int]]:
        at = self._begin[run]
        for column in self._columns:
            yield column, at
            at += self._rows[run] * column.row_bytes

    def _check(self, good: bool) -> None:
        if not good:
            raise SnapshotError("the checkpoint was changed while it was read: import it again")


def _get(handle: int, buffer: Bytes, offset: int) -> None:
    """Fills a writable contiguous buffer with bytes of an open file."""
    view, done = buffer.data, 0
    while done < len(view):
        count = os.preadv(handle, [view[done:]], offset + done)
        if count == 0:
            raise OSError(f"a file ends at {offset + done} that was just written")
        done += count
