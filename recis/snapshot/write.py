"""Writing the files of a draft: rows of a cut or of another snapshot, and states."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from recis import _engine
from recis._slices import Array, slices_of
from recis._state import encode
from recis._tensors import DTYPES as ENGINE_DTYPES
from recis.snapshot import header
from recis.snapshot.checksum import Xxh3, bytes_of, to_hex, xxh3
from recis.snapshot.errors import DamagedError
from recis.snapshot.files import Bytes
from recis.snapshot.manifest import FileInfo, SlotInfo, StateFile, TableInfo
from recis.snapshot.merge import Rows
from recis.snapshot.names import check_table, deleted_path, rows_path
from recis.snapshot.publish import Draft, named
from recis.snapshot.read import STATE, check_state
from recis.snapshot.sparse_file import (
    GROUP_SLICES,
    group_count,
    layout,
    metadata,
    payload_order,
)

PART_BYTES = 256 << 20
"""What a part is to take at most; a slice is never split."""


class Cut(Protocol):
    """The content of a table at one moment; see `_engine.Cut`."""

    def slots(self) -> list[_engine.Slot]:
        """Those of that moment."""

    def count_slices(self, slice_size: int, counts: int) -> None:
        """Rows per slice."""

    @property
    def deleted_rows(self) -> int:
        """Ids that are gone."""

    def deleted(self, capacity: int, ids: int) -> int:
        """Those ids."""

    def write_part(
        self, path: str, data_offset: int, slice_size: int, begin: int, end: int
    ) -> list[int]:
        """Writes a payload and returns the checksums of its tensors."""


def slots_of(cut: Cut) -> tuple[SlotInfo, ...]:
    """The slots of a cut as a manifest has them."""
    return tuple(
        SlotInfo(
            slot.name,
            header.NAME_OF[ENGINE_DTYPES[slot.dtype]],
            tuple(slot.shape),
            slot.initial,
        )
        for slot in cut.slots()
    )


def write_table(
    draft: Draft,
    cut: Cut,
    name: str,
    about: TableInfo,
    *,
    shard: int = 0,
    shards: int = 1,
    slices: tuple[int, int] | None = None,
    delta: bool = False,
    parallel: int = 4,
    part_bytes: int = PART_BYTES,
) -> TableInfo:
    """Writes the rows of a shard of a table, and for a delta the ids that are gone.

    Args:
        draft: what to write into.
        cut: the rows.
        name: of the table.
        about: slots, slice_size and all that is no file.
        shard: which one this is.
        shards: how many there are.
        slices: those of the shard; default, all.
        delta: whether the cut is one.
        parallel: how many parts are written at once.
        part_bytes: of a part.

    Returns:
        `about` with this shard's files and rows.

    Raises:
        OSError: they cannot be written.
        ValueError: a name cannot be part of a snapshot.
    """
    check_table(name)
    begin, end = (0, about.slice_size) if slices is None else slices
    counts = np.zeros(about.slice_size, np.int64)
    cut.count_slices(about.slice_size, counts.ctypes.data)
    parts = cut_parts(counts[begin:end], begin, about.slots, part_bytes)

    def write(part: int) -> FileInfo:
        low, high = parts[part]
        file = FileInfo(
            rows_path(name, shard, shards, part), 0, "rows", int(counts[low:high].sum()),
            shard, shards, part, low, high, {},
        )  # fmt: skip
        path = draft.path(file.path)
        tensors = layout(about.slots, file.rows, high - low)
        offset = len(_header(name, file, about.slice_size, tensors, [0] * len(tensors))[0])
        _remove(path)
        sums = cut.write_part(path, offset, about.slice_size, low, high)
        return _finish(path, name, file, about.slice_size, tensors, sums)

    if parallel == 1:  # by this thread, whose priority may be lower
        files = [write(part) for part in range(len(parts))]
    else:
        with ThreadPoolExecutor(parallel, "recis-write") as pool:
            files = list(pool.map(write, range(len(parts))))
    if delta:
        gone = torch.empty(cut.deleted_rows, dtype=torch.int64)
        gone = gone[: cut.deleted(gone.numel(), gone.data_ptr())]
        files.append(
            write_deleted(
                draft, name, gone, about.slice_size, shard=shard, shards=shards, slices=slices
            )
        )
    return collect(about, files)


def write_deleted(
    draft: Draft,
    name: str,
    ids: Tensor,
    slice_size: int,
    *,
    shard: int = 0,
    shards: int = 1,
    slices: tuple[int, int] | None = None,
) -> FileInfo:
    """Writes those of the distinct ids int64 `(n,)` that a shard lost since the parent."""
    begin, end = (0, slice_size) if slices is None else slices
    found = ids.numpy()
    of = slices_of(found, slice_size)
    inside = (of >= begin) & (of < end)
    found, of = found[inside], of[inside]
    order = np.lexsort((found, of))
    counts = np.bincount((of - np.uint64(begin)).astype(np.int64), minlength=end - begin)
    part = _PartWriter(
        draft,
        name,
        FileInfo(
            deleted_path(name, shard, shards), 0, "deleted", len(found),
            shard, shards, 0, begin, end, {},
        ),
        (),
        slice_size,
        counts,
    )  # fmt: skip
    with part:
        part.append(Rows(torch.from_numpy(found[order]), {}))
        return part.finish()


def write_rows(
    draft: Draft,
    rows: Iterable[Rows],
    counts: Array,
    name: str,
    about: TableInfo,
    *,
    shard: int = 0,
    shards: int = 1,
    slices: tuple[int, int] | None = None,
    part_bytes: int = PART_BYTES,
) -> TableInfo:
    """Writes rows that come from elsewhere, such as `SnapshotReader.read_rows`.

    Args:
        draft: what to write into.
        rows: with all slots, by slice, and by id in a slice.
        counts: int64 `(slice_size,)`, rows of each slice.
        name: of the table.
        about: slots, slice_size and all that is no file.
        shard: which one this is.
        shards: how many there are.
        slices: those of the shard, and of the rows; default, all.
        part_bytes: of a part.

    Returns:
        `about` with this shard's files and rows.

    Raises:
        OSError: they cannot be written.
        ValueError: there are other rows than `counts` says.
    """
    check_table(name)
    begin, end = (0, about.slice_size) if slices is None else slices
    files = []
    pending = iter(rows)
    rest: Rows | None = None
    for part, (low, high) in enumerate(
        cut_parts(counts[begin:end], begin, about.slots, part_bytes)
    ):
        wanted = int(counts[low:high].sum())
        file = FileInfo(
            rows_path(name, shard, shards, part), 0, "rows", wanted,
            shard, shards, part, low, high, {},
        )  # fmt: skip
        with _PartWriter(
            draft, name, file, about.slots, about.slice_size, counts[low:high]
        ) as writer:
            while wanted:
                piece = rest if rest is not None else next(pending, None)
                if piece is None:
                    raise ValueError(f"table {name!r}: {wanted} rows fewer than were counted")
                taken, rest = _split(piece, wanted)
                writer.append(taken)
                wanted -= taken.ids.numel()
            files.append(writer.finish())
    if rest is not None or next(pending, None) is not None:
        raise ValueError(f"table {name!r}: more rows than were counted")
    return collect(about, files)


def count_slices(rows: Iterable[Rows], slice_size: int) -> Array:
    """Rows of each slice, int64 `(slice_size,)`: what `write_rows` must know ahead."""
    counts = np.zeros(slice_size, np.int64)
    for piece in rows:
        of = slices_of(piece.ids.numpy(), slice_size).astype(np.int64)
        counts += np.bincount(of, minlength=slice_size)
    return counts


def write_state(
    draft: Draft, relative: str, value: Any, shard: int = 0, shards: int = 1
) -> StateFile:
    """Writes nested dicts, lists, tensors and plain values.

    Raises:
        TypeError: something else is among them; the message names its place.
        ValueError: there are too many of them; a tensor may be of any size.
    """
    data = encode(value, STATE)
    try:
        check_state(data, relative)
    except DamagedError as error:
        raise ValueError(
            f"{relative}: a state has too many values: put long lists into tensors. Expected "
            f"{error.expected}, found {error.found}"
        ) from None
    return write_file(draft, relative, [data], shard, shards)


def write_tensors(draft: Draft, relative: str, tensors: dict[str, Tensor]) -> StateFile:
    """Writes dense tensors as a safetensors file.

    Raises:
        ValueError: a name or dtype cannot be written; `write_state` can.
    """
    for name, tensor in tensors.items():
        if type(tensor.detach()) is not Tensor or tensor.layout != torch.strided:
            raise ValueError(
                f"tensor {name!r}: a {type(tensor).__name__} of {tensor.layout} cannot be saved as "
                "a dense tensor: save shards of dense tensors with torch.distributed.checkpoint"
            )
        if tensor.dtype not in header.NAME_OF:
            raise ValueError(
                f"tensor {name!r}: a {tensor.dtype} cannot be saved as a dense tensor; it can be "
                "as part of a state"
            )
    flat = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    # Those of the largest elements first, so that all are aligned.
    flat = dict(sorted(flat.items(), key=lambda item: -item[1].dtype.itemsize))
    specs = header.lay_out([(n, header.NAME_OF[t.dtype], tuple(t.shape)) for n, t in flat.items()])
    head = header.compose(specs, {"recis": "1", "kind": "dense"})
    return write_file(draft, relative, [head, *(bytes_of(t).data for t in flat.values())])


def collect(about: TableInfo, files: Sequence[FileInfo]) -> TableInfo:
    """A table with these files."""
    return replace(
        about,
        files=tuple(sorted(files, key=lambda file: (file.slice_begin, file.slice_end, file.kind))),
        rows=sum(file.rows for file in files if file.kind == "rows"),
        deleted=sum(file.rows for file in files if file.kind == "deleted"),
    )


def cut_parts(
    counts: Array, begin: int, slots: Sequence[SlotInfo], part_bytes: int
) -> list[tuple[int, int]]:
    """Ranges of slices that take `part_bytes` at most, at least one; a slice is never split."""
    row_bytes = 8 + sum(slot.row_bytes for slot in slots)
    ends = np.cumsum(counts) * row_bytes
    parts, at = [], 0
    while at < len(counts):
        before = int(ends[at - 1]) if at else 0
        past = int(np.searchsorted(ends, before + part_bytes, side="right"))
        past = min(max(past, at + 1), len(counts))
        parts.append((begin + at, begin + past))
        at = past
    return parts or [(begin, begin)]


class _ColumnSums:
    """The checksums of one column, group by group, of rows that come in order.

    Args:
        ends: the row after the last of each group.
    """

    def __init__(self, ends: list[int]) -> None:
        self._ends = ends
        self._sums: list[int] = []
        self._state = Xxh3()

    def add(self, data: Bytes, first: int, count: int) -> None:
        """Rows `[first, first + count)`, whose bytes these are."""
        row_bytes, at = len(data) // max(1, count), first
        while at < first + count:
            self._close(at)
            until = min(first + count, self._ends[len(self._sums)])
            self._state.update(data[(at - first) * row_bytes : (until - first) * row_bytes])
            at = until

    def finish(self) -> Array:
        """The checksums, uint64 `(groups,)`."""
        if self._ends:
            self._close(self._ends[-1])
        return np.array(self._sums, "<u8")

    def _close(self, row: int) -> None:
        """Ends the groups that have no row from this one on."""
        while len(self._sums) < len(self._ends) and self._ends[len(self._sums)] <= row:
            self._sums.append(self._state.digest())
            self._state = Xxh3()


class _PartWriter:
    """A file of rows that come in order, piece by piece."""

    def __init__(
        self,
        draft: Draft,
        table: str,
        file: FileInfo,
        slots: Sequence[SlotInfo],
        slice_size: int,
        counts: Array,
    ) -> None:
        self._path = draft.path(file.path)
        self._table = table
        self._file = file
        self._slots = payload_order(slots)
        self._slice_size = slice_size
        self._offsets = np.concatenate([[0], np.cumsum(counts)]).astype("<i8")
        self._tensors = layout(slots, file.rows, file.slice_end - file.slice_begin)
        zeros = [0] * len(self._tensors)
        self._data = len(_header(table, file, slice_size, self._tensors, zeros)[0])
        self._rows = 0
        last = len(self._offsets) - 1
        ends = [
            int(self._offsets[min((group + 1) * GROUP_SLICES, last)])
            for group in range(group_count(last))
        ]
        columns = ["ids", *(f"slot/{slot.name}" for slot in self._slots)]
        self._sums = {name: _ColumnSums(ends) for name in columns}
        self._handle = os.open(
            self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666
        )

    def append(self, rows: Rows) -> None:
        """Writes the next rows."""
        columns = {"ids": rows.ids}
        for slot in self._slots:
            columns[f"slot/{slot.name}"] = rows.slots[slot.name].contiguous()
        for name, values in columns.items():
            at = self._data + self._tensors[name].begin
            row_bytes = values.nbytes // max(1, len(values))
            data = bytes_of(values)
            with named(self._path):
                put(self._handle, data, at + self._rows * row_bytes)
            self._sums[name].add(data, self._rows, len(values))
        self._rows += len(rows.ids)

    def finish(self) -> FileInfo:
        """Writes all but the rows."""
        sums = np.stack([column.finish() for column in self._sums.values()], axis=1)
        of = {name: xxh3(np.ascontiguousarray(sums[:, i])) for i, name in enumerate(self._sums)}
        for name, values in [("slice_offsets", self._offsets), ("checksums", sums)]:
            with named(self._path):
                put(
                    self._handle,
                    values.reshape(-1).view(np.uint8),
                    self._data + self._tensors[name].begin,
                )
            of[name] = xxh3(values)
        return _finish(
            self._path,
            self._table,
            self._file,
            self._slice_size,
            self._tensors,
            [of[name] for name in self._tensors],
        )

    def __enter__(self) -> _PartWriter:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._handle)


def _header(
    table: str,
    file: FileInfo,
    slice_size: int,
    tensors: dict[str, header.TensorSpec],
    sums: Sequence[int],
) -> tuple[bytes, dict[str, str]]:
    """A file's header, as long whatever the checksums, and these as text."""
    texts = {name: to_hex(value) for name, value in zip(tensors, sums, strict=True)}
    return header.compose(tensors, metadata(table, file, slice_size, texts)), texts


def _finish(
    path: str,
    table: str,
    file: FileInfo,
    slice_size: int,
    tensors: dict[str, header.TensorSpec],
    sums: Sequence[int],
) -> FileInfo:
    head, texts = _header(table, file, slice_size, tensors, sums)
    end = len(head) + max(spec.end for spec in tensors.values())
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        with named(path):
            put(handle, np.frombuffer(head, np.uint8), 0)
            os.ftruncate(handle, end)
    finally:
        os.close(handle)
    return replace(file, bytes=end, xxh3=texts)


def write_file(
    draft: Draft, relative: str, pieces: Iterable[Any], shard: int = 0, shards: int = 1
) -> StateFile:
    """Writes a file of these bytes-like pieces."""
    state, path = Xxh3(), draft.path(relative)
    with named(path), open(path, "wb") as file:
        for piece in pieces:
            file.write(piece)
            state.update(piece)
        size = file.tell()
    return StateFile(relative, size, to_hex(state.digest()), shard, shards)


def _split(rows: Rows, count: int) -> tuple[Rows, Rows | None]:
    if rows.ids.numel() <= count:
        return rows, None
    halves = [slice(None, count), slice(count, None)]
    first, rest = (
        Rows(rows.ids[half], {name: values[half] for name, values in rows.slots.items()})
        for half in halves
    )
    return first, rest


def put(handle: int, data: Array, offset: int) -> None:
    """Writes bytes, uint8 `(n,)`, to an open file."""
    view, done = data.data, 0
    while done < len(view):
        done += os.pwrite(handle, view[done:], offset + done)


def _remove(path: str) -> None:
    """Of an earlier save that was cut short, in a draft that several processes share."""
    if os.path.lexists(path):
        os.unlink(path)
