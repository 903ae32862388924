"""Rows of a chain of snapshots, merged: those of one table, in bounded memory."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recis import _engine
from recis._slices import Array
from recis._tensors import new_output
from recis.snapshot.header import DTYPES
from recis.snapshot.manifest import FileInfo, SlotInfo
from recis.snapshot.sparse_file import SparseFile, TensorStream

_RUN_BYTES = 2 << 20  # of rows that are read at once, so that small groups cost no call each


class Rows(NamedTuple):
    """Some rows of a table."""

    ids: Tensor
    """int64 `(n,)`, by slice, and by id in a slice."""
    slots: dict[str, Tensor]
    """By name, each `(n, *shape)`."""


class Source(NamedTuple):
    """The files of one snapshot of a chain."""

    rows: Sequence[FileInfo]
    deleted: Sequence[FileInfo]
    open: Callable[[FileInfo], SparseFile]


class _Part(NamedTuple):
    """Some slices of a file that take part in a merge."""

    file: SparseFile
    first: int  # rows [first, last) of the file
    last: int
    ids: Tensor
    held: dict[str, Tensor]  # slots of these rows that were read already
    streams: dict[str, TensorStream]  # where the others come from, in order


class Merge:
    """Rows of one table, out of all snapshots of a chain, the base first."""

    def __init__(
        self, sources: list[Source], slots: list[SlotInfo], slice_size: int, max_bytes: int
    ) -> None:
        self._slots = slots
        self._max_bytes = max_bytes
        self._row_bytes = 8 + sum(slot.row_bytes for slot in slots)
        self._slice_size = slice_size
        self._base = sources[0]
        # In the order in which they decide: a later snapshot after an earlier one; of one, rows
        # after deletions, since an id may have come back.
        self._infos = [
            (source.open, infos, [i.slice_begin for i in infos], [i.slice_end for i in infos])
            for source in sources
            for infos in (source.deleted, source.rows)
        ]

    def read(self, begin: int, end: int, pool: ThreadPoolExecutor, parallel: int) -> Iterator[Rows]:
        """The rows of slices `[begin, end)`, `parallel` windows of which are read ahead."""
        ahead: deque[tuple[Future[list[Rows]], int]] = deque()
        held = 0
        try:
            for low, high, total in self._windows(begin, end):
                small = total <= self._max_bytes
                taken = total if len(self._infos) == 2 else 2 * total  # and what is merged of it
                while ahead and (
                    not small or len(ahead) >= parallel or held + taken > self._max_bytes
                ):
                    future, size = ahead.popleft()
                    yield from future.result()
                    held -= size
                if small:
                    window = pool.submit(lambda *w: list(self._pieces(*w)), low, high, total)
                    ahead.append((window, taken))
                    held += taken
                else:
                    yield from self._pieces(low, high, total)
            while ahead:
                yield from ahead.popleft()[0].result()
        finally:
            for future, _ in ahead:
                future.cancel()

    def _windows(self, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Runs of slices to be merged at once, `(begin, end, bytes)`, cut between groups."""
        limit = min(_RUN_BYTES, self._max_bytes)
        for info in self._base.rows:
            if info.slice_end <= begin or end <= info.slice_begin:
                continue
            file = self._base.open(info)
            start = None
            for group in range(
                *file.groups_of(max(begin, info.slice_begin), min(end, info.slice_end))
            ):
                low, high = file.group_slices(group)
                low, high = max(low, begin), min(high, end)
                if start is not None and self._bytes(start, high) > limit:
                    yield start, low, self._bytes(start, low)
                    start = low
                start = low if start is None else start
            if start is not None:
                last = min(info.slice_end, end)
                yield start, last, self._bytes(start, last)

    def _files(self, begin: int, end: int) -> Iterator[SparseFile]:
        for open_file, infos, begins, ends in self._infos:
            for info in infos[bisect_right(ends, begin) : bisect_left(begins, end)]:
                yield open_file(info)

    def _bytes(self, begin: int, end: int) -> int:
        """What the groups with these slices take, at most."""
        total = 0
        for file in self._files(begin, end):
            groups = file.groups_of(
                max(begin, file.info.slice_begin), min(end, file.info.slice_end)
            )
            total += self._bytes_in(
                file, file.group_slices(groups[0])[0], file.group_slices(groups[1] - 1)[1]
            )
        return total

    def _bytes_in(self, file: SparseFile, begin: int, end: int) -> int:
        """What a file's rows of these slices take."""
        first, last = file.row_range(begin, end)
        return (last - first) * (8 if file.info.kind == "deleted" else self._row_bytes)

    def _pieces(self, begin: int, end: int, total: int) -> Iterator[Rows]:
        """The rows of a window."""
        files = list(self._files(begin, end))
        if total <= self._max_bytes:
            yield from self._merged([self._part(file, begin, end) for file in files])
            return
        # Groups that are too large to be held: read by slices, and verified once they end.
        streams = [self._streams(file, begin, end) for file in files]
        for low, high in self._runs(files, begin, end):
            parts = zip(files, streams, strict=True)
            yield from self._merged([_running_part(*part, low, high) for part in parts])
        for stream in [stream for of_file in streams for stream in of_file.values()]:
            stream.finish()

    def _runs(self, files: list[SparseFile], begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Slices to be read at once, cut between any two."""
        start, held = begin, 0
        for slice_ in range(begin, end):
            size = sum(self._bytes_in(file, slice_, slice_ + 1) for file in files)
            if slice_ > start and held + size > self._max_bytes:
                yield start, slice_
                start, held = slice_, 0
            held += size
        yield start, end

    def _merged(self, parts: list[_Part]) -> Iterator[Rows]:
        """The rows that count, of parts of the same slices."""
        parts = [part for part in parts if part.last > part.first]
        if not parts:
            return
        step = max(1, min(_RUN_BYTES, self._max_bytes) // self._row_bytes)
        if len(parts) == 1:
            part = parts[0]
            if part.file.info.kind == "deleted":
                return
            for first in range(0, len(part.ids), step):
                last = min(first + step, len(part.ids))
                slots = {slot.name: _column(part, slot, first, last) for slot in self._slots}
                yield Rows(part.ids[first:last], slots)
            return
        which, rows = self._winners(parts)
        for first in range(0, len(which), step):
            yield self._gather(parts, which[first : first + step], rows[first : first + step])

    def _columns(self, file: SparseFile) -> list[str]:
        """The tensors of the slots that are asked for, as far as a file has them."""
        known = file.columns()
        return [f"slot/{slot.name}" for slot in self._slots if f"slot/{slot.name}" in known]

    def _part(self, file: SparseFile, begin: int, end: int) -> _Part:
        """Reads and verifies what a file has of these slices."""
        begin, end = max(begin, file.info.slice_begin), min(end, file.info.slice_end)
        groups = file.groups_of(begin, end)
        start = file.row_range(*file.group_slices(groups[0]))[0]
        first, last = file.row_range(begin, end)
        cut = slice(first - start, last - start)
        ids = file.read_groups("ids", *groups)[cut]
        file.check_ids(ids.numpy(), first)
        held = {
            name.removeprefix("slot/"): file.read_groups(name, *groups)[cut]
            for name in self._columns(file)
        }
        return _Part(file, first, last, ids, held, {})

    def _streams(self, file: SparseFile, begin: int, end: int) -> dict[str, TensorStream]:
        """What a file has of the groups of these slices, by tensor."""
        begin, end = max(begin, file.info.slice_begin), min(end, file.info.slice_end)
        groups = file.groups_of(begin, end)
        return {name: file.stream(name, *groups) for name in ["ids", *self._columns(file)]}

    def _winners(self, parts: list[_Part]) -> tuple[Array, Array]:
        """The rows that count, by slice and id: of which part, and which of its rows."""
        count = sum(len(part.ids) for part in parts)
        which, rows = np.empty(count, np.int32), np.empty(count, np.int64)
        inputs = [(p.ids.data_ptr(), len(p.ids), p.file.info.kind == "deleted") for p in parts]
        kept = _engine.merge(inputs, self._slice_size, which.ctypes.data, rows.ctypes.data)
        return which[:kept], rows[:kept]

    def _gather(self, parts: list[_Part], which: Array, rows: Array) -> Rows:
        count = len(which)
        spans = []  # of each part, which only grow
        for index in range(len(parts)):
            taken = rows[which == index]
            spans.append((int(taken[0]), int(taken[-1]) + 1) if len(taken) else (0, 0))

        def gathered(columns: list[Tensor], row_bytes: int, out: Tensor) -> Tensor:
            sources = [(c.data_ptr(), first) for c, (first, _) in zip(columns, spans, strict=True)]
            _engine.gather_merged(
                sources, row_bytes, which.ctypes.data, rows.ctypes.data, count, out.data_ptr()
            )
            return out

        ids = gathered(
            [part.ids[first:last] for part, (first, last) in zip(parts, spans, strict=True)],
            8,
            torch.empty(count, dtype=torch.int64),
        )
        slots = {}
        for slot in self._slots:
            columns = [_column(p, slot, *span) for p, span in zip(parts, spans, strict=True)]
            out, _ = new_output((count, *slot.shape), DTYPES[slot.dtype])
            slots[slot.name] = gathered(columns, slot.row_bytes, out)
        return Rows(ids, slots)


def _running_part(
    file: SparseFile, streams: dict[str, TensorStream], begin: int, end: int
) -> _Part:
    """Reads the ids that a file has of these slices, behind those that were read before."""
    first, last = file.row_range(begin, end)
    ids = streams["ids"].read(first, last) if last > first else torch.empty(0, dtype=torch.int64)
    file.check_ids(ids.numpy(), first)
    return _Part(file, first, last, ids, {}, streams)


def _column(part: _Part, slot: SlotInfo, first: int, last: int) -> Tensor:
    """A slot of rows `[first, last)` of the part; of streams, behind those before."""
    if slot.name in part.held:
        return part.held[slot.name][first:last]
    stream = part.streams.get(f"slot/{slot.name}")
    if stream is not None and last > first:
        return stream.read(part.first + first, part.first + last)
    dtype = DTYPES[slot.dtype]
    initial = slot.initial if dtype.is_floating_point else int(slot.initial)
    return torch.full((last - first, *slot.shape), initial, dtype=dtype)
