"""One file of rows, or of ids that are gone: its layout, and reading it group by group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recis._slices import Array, slices_of
from recis._tensors import new_output
from recis.snapshot.checksum import Xxh3, bytes_of, to_hex, xxh3
from recis.snapshot.errors import DamagedError
from recis.snapshot.files import Bytes, Files
from recis.snapshot.header import DTYPES, TensorSpec, lay_out, parse
from recis.snapshot.manifest import FileInfo, SlotInfo

GROUP_SLICES = 256
"""Slices of a group, which has checksums of its own."""

_SKIP_BYTES = 1 << 20  # of rows that are read to be verified alone
_NO_IDS: Array = np.empty(0, np.int64)


def payload_order(slots: Sequence[SlotInfo]) -> list[SlotInfo]:
    """Slots in the order of their bytes: by falling size of their dtype."""
    return sorted(slots, key=lambda slot: -DTYPES[slot.dtype].itemsize)


def group_count(slices: int) -> int:
    """Groups of so many slices."""
    return -(-slices // GROUP_SLICES)


def layout(slots: Sequence[SlotInfo], rows: int, slices: int) -> dict[str, TensorSpec]:
    """The tensors of a file; `slots` are none in one of deleted ids."""
    return lay_out(
        [
            ("ids", "I64", (rows,)),
            ("slice_offsets", "I64", (slices + 1,)),
            ("checksums", "I64", (group_count(slices), 1 + len(slots))),
            *(
                (f"slot/{slot.name}", slot.dtype, (rows, *slot.shape))
                for slot in payload_order(slots)
            ),
        ]
    )


def metadata(
    table: str, file: FileInfo, slice_size: int, checksums: dict[str, str]
) -> dict[str, str]:
    """What a file says of itself."""
    return {
        "recis": "1",
        "kind": file.kind,
        "table": table,
        "shard": str(file.shard),
        "shards": str(file.shards),
        "part": str(file.part),
        "slice_begin": str(file.slice_begin),
        "slice_end": str(file.slice_end),
        "slice_size": str(slice_size),
        **{f"xxh3/{name}": checksum for name, checksum in checksums.items()},
    }


class SparseFile:
    """An open file. What it says of itself is held against the manifest; threads may share it.

    Args:
        files: of the snapshot.
        table: the table's name.
        info: what the manifest says of the file.
        slots: those of the table in this snapshot.
        slice_size: of the table.

    Raises:
        DamagedError: the file is not what the manifest says.
    """

    def __init__(
        self, files: Files, table: str, info: FileInfo, slots: Sequence[SlotInfo], slice_size: int
    ) -> None:
        self._files = files
        self.info = info
        self.name = files.name(info.path)
        self._slots = {slot.name: slot for slot in slots} if info.kind == "rows" else {}
        self._slice_size = slice_size
        header = self._open()
        self.begin = {
            name: header.data_offset + spec.begin for name, spec in header.tensors.items()
        }
        slices = info.slice_end - info.slice_begin
        expected = layout(list(self._slots.values()), info.rows, slices)
        if header.tensors != expected:
            raise DamagedError(self.name, f"tensors {_brief(expected)}", _brief(header.tensors))
        if info.xxh3.keys() != expected.keys():
            raise DamagedError(
                self.name, f"checksums of {sorted(expected)}", f"{sorted(info.xxh3)}"
            )
        said = metadata(table, info, slice_size, info.xxh3)
        if header.metadata != said:
            differs = {
                key
                for key in said.keys() | header.metadata.keys()
                if said.get(key) != header.metadata.get(key)
            }
            key = min(differs)
            raise DamagedError(
                self.name, f"metadata {key!r} {said.get(key)!r}", f"{header.metadata.get(key)!r}"
            )
        self.offsets: Array = self._whole("slice_offsets", slices + 1)
        """The first row of each slice, and the count of rows."""
        groups = group_count(slices)
        sums = self._whole("checksums", groups * (1 + len(self._slots)))
        self._sums = sums.view(np.uint64).reshape(groups, 1 + len(self._slots))
        self._check()

    def _open(self) -> Any:
        path = self.info.path
        try:
            size = self._files.size(path)
        except FileNotFoundError:
            raise DamagedError(self.name, f"{self.info.bytes} bytes", "no file") from None
        if size != self.info.bytes:
            raise DamagedError(self.name, f"{self.info.bytes} bytes", f"{size}")
        return parse(lambda offset, count: self._files.read(path, offset, count), size, self.name)

    def _whole(self, tensor: str, count: int) -> Array:
        data = self._files.read(self.info.path, self.begin[tensor], count * 8)
        self._compare(tensor, self.info.xxh3[tensor], to_hex(xxh3(data)), None)
        return np.frombuffer(data, "<i8")

    def _check(self) -> None:
        offsets, rows = self.offsets, self.info.rows
        if offsets[0] != 0 or offsets[-1] != rows or (offsets[1:] < offsets[:-1]).any():
            raise DamagedError(
                self.name,
                f"numbers that rise from 0 to {rows}",
                "others",
                tensor="slice_offsets",
            )
        for name, column in self.columns().items():
            found = to_hex(xxh3(np.ascontiguousarray(self._sums[:, column])))
            self._compare(name, self.info.xxh3[name], found, None)

    def columns(self) -> dict[str, int]:
        """The tensors that are checked by group, and their columns of `checksums`."""
        slots = payload_order(list(self._slots.values()))
        return {"ids": 0, **{f"slot/{slot.name}": 1 + i for i, slot in enumerate(slots)}}

    def groups(self) -> int:
        """How many there are."""
        return len(self._sums)

    def group_slices(self, group: int) -> tuple[int, int]:
        """The slices `(begin, end)` of a group."""
        begin = self.info.slice_begin + group * GROUP_SLICES
        return begin, min(begin + GROUP_SLICES, self.info.slice_end)

    def groups_of(self, begin: int, end: int) -> tuple[int, int]:
        """The groups `(first, past the last)` that hold slices `[begin, end)` of the file."""
        first = (begin - self.info.slice_begin) // GROUP_SLICES
        return first, group_count(end - self.info.slice_begin)

    def groups_of_ids(self, ids: Array) -> Array:
        """The groups of those of these ids, int64 `(n,)`, whose slices the file holds."""
        slices = slices_of(ids, self._slice_size).astype(np.int64)
        inside = (slices >= self.info.slice_begin) & (slices < self.info.slice_end)
        groups: Array = (slices[inside] - self.info.slice_begin) // GROUP_SLICES
        return groups

    def groups_of_rows(self, rows: Array) -> Array:
        """The groups of these rows of the file, int64 `(n,)`."""
        groups: Array = (np.searchsorted(self.offsets, rows, side="right") - 1) // GROUP_SLICES
        return groups

    def row_range(self, begin: int, end: int) -> tuple[int, int]:
        """The rows `(first, past the last)` of slices `[begin, end)`, cut to the file's."""
        at = self.info.slice_begin
        first, last = (min(max(place, at), self.info.slice_end) for place in (begin, end))
        return int(self.offsets[first - at]), int(self.offsets[last - at])

    def dtype(self, tensor: str) -> torch.dtype:
        """Of a tensor's elements."""
        return (
            torch.int64
            if tensor == "ids"
            else DTYPES[self._slots[tensor.removeprefix("slot/")].dtype]
        )

    def row_bytes(self, tensor: str) -> int:
        """Bytes a row takes in a tensor."""
        return 8 if tensor == "ids" else self._slots[tensor.removeprefix("slot/")].row_bytes

    def read_rows(self, tensor: str, first: int, last: int) -> Tensor:
        """Rows `[first, last)` of a tensor, not verified."""
        dtype, shape = torch.int64, tuple[int, ...]()
        if tensor != "ids":
            slot = self._slots[tensor.removeprefix("slot/")]
            dtype, shape = DTYPES[slot.dtype], slot.shape
        out, _ = new_output((last - first, *shape), dtype)
        if last > first:
            at = self.begin[tensor] + first * self.row_bytes(tensor)
            self._files.read_into(self.info.path, at, bytes_of(out))
        return out

    def read_groups(self, tensor: str, first: int, last: int) -> Tensor:
        """The rows of groups `[first, last)` of a tensor, verified.

        Raises:
            DamagedError: a group is not what was written.
        """
        begin, end = self.group_slices(first)[0], self.group_slices(last - 1)[1]
        row, past = self.row_range(begin, end)
        out = self.read_rows(tensor, row, past)
        for group in range(first, last):
            a, b = self.row_range(*self.group_slices(group))
            self.compare_group(tensor, group, xxh3(bytes_of(out[a - row : b - row])))
        return out

    def read_pieces(self, tensor: str, first: int, last: int) -> Iterator[tuple[int, Bytes]]:
        """The same as bytes, piece by piece, however large groups are.

        Yields:
            Where in the tensor a piece begins, and the piece, which is good only until the next.
            A group is verified once its last byte has come.
        """
        row_bytes = self.row_bytes(tensor)
        begin, end = self.group_slices(first)[0], self.group_slices(last - 1)[1]
        at, past = (row * row_bytes for row in self.row_range(begin, end))
        verifier = _Verifier(self, tensor, first, last)
        for piece in self._files.read_pieces(self.info.path, self.begin[tensor] + at, past - at):
            yield at, piece
            verifier.add(piece)
            at += len(piece)
        verifier.finish()

    def stream(self, tensor: str, first: int, last: int) -> TensorStream:
        """The rows of groups `[first, last)` of a tensor, to be read in their order."""
        return TensorStream(self, tensor, first, last)

    def verify_ids(self, first: int, last: int) -> None:
        """Verifies the ids of groups `[first, last)`, and that they are where they belong.

        Raises:
            DamagedError: they are not what was written, or are elsewhere.
        """
        misplaced: DamagedError | None = None
        before = _NO_IDS
        for at, piece in self.read_pieces("ids", first, last):
            ids = piece.view("<i8")
            try:
                self.check_ids(ids, at // 8, before)
            except DamagedError as error:  # the checksum, once it is known, may say more
                misplaced = misplaced or error
            before = ids[-1:].copy()
        if misplaced is not None:
            raise misplaced

    def check_ids(self, ids: Array, first: int, before: Array = _NO_IDS) -> None:
        """Raises DamagedError unless these ids of rows from `first` on are where they belong.

        Args:
            ids: int64 `(n,)`.
            first: the row of the first.
            before: the ids of rows just before them, if they were read.
        """
        ids, first = np.concatenate([before, ids]), first - len(before)
        low = int(np.searchsorted(self.offsets, first, side="right")) - 1
        high = int(np.searchsorted(self.offsets, first + len(ids)))
        counts = np.diff(self.offsets[low : high + 1].clip(first, first + len(ids)))
        at = self.info.slice_begin
        expected = np.repeat(np.arange(at + low, at + high, dtype=np.uint64), counts)
        misplaced = slices_of(ids, self._slice_size) != expected
        same_slice = expected[1:] == expected[:-1]
        misplaced[1:] |= same_slice & (ids[1:] <= ids[:-1])
        if misplaced.any():
            row = int(misplaced.argmax())
            slice_ = int(expected[row])
            raise DamagedError(
                self.name,
                "ids by slice, and by id in a slice",
                f"id {ids[row]} in row {first + row}",
                tensor="ids",
                slices=(slice_, slice_ + 1),
            )

    def check_group(self, tensor: str, group: int, whole: Bytes) -> None:
        """Raises DamagedError unless a group is as it was written, `whole` being all the file."""
        first, last = self.row_range(*self.group_slices(group))
        begin, row_bytes = self.begin[tensor], self.row_bytes(tensor)
        values = whole[begin + first * row_bytes : begin + last * row_bytes]
        self.compare_group(tensor, group, xxh3(values))
        if tensor == "ids":
            self.check_ids(np.frombuffer(values, "<i8"), first)

    def compare_group(self, tensor: str, group: int, found: int) -> None:
        """Raises DamagedError unless this is the checksum of a group of a tensor."""
        expected = int(self._sums[group, self.columns()[tensor]])
        self._compare(tensor, to_hex(expected), to_hex(found), self.group_slices(group))

    def _compare(
        self, tensor: str, expected: str, found: str, slices: tuple[int, int] | None
    ) -> None:
        if found != expected:
            raise DamagedError(
                self.name, f"checksum {expected}", found, tensor=tensor, slices=slices
            )


class _Verifier:
    """Verifies groups `[first, last)` of a tensor, whose bytes come in order, as each ends."""

    def __init__(self, file: SparseFile, tensor: str, first: int, last: int) -> None:
        self._file = file
        self._tensor = tensor
        self._group = first
        self._last = last
        self._state = Xxh3()
        self._left = self._bytes()

    def add(self, data: Bytes) -> None:
        """Takes the next bytes."""
        done = 0
        while done < len(data):
            self._close()
            rest = data[done : done + self._left]
            self._state.update(rest)
            done += len(rest)
            self._left -= len(rest)
        self._close()

    def finish(self) -> None:
        """All bytes have come."""
        self._close()

    def _bytes(self) -> int:
        if self._group == self._last:
            return -1
        first, last = self._file.row_range(*self._file.group_slices(self._group))
        return (last - first) * self._file.row_bytes(self._tensor)

    def _close(self) -> None:
        while self._left == 0:
            self._file.compare_group(self._tensor, self._group, self._state.digest())
            self._group, self._state = self._group + 1, Xxh3()
            self._left = self._bytes()


class TensorStream:
    """A tensor of groups `[first, last)`, of which every byte is read once, and then verified."""

    def __init__(self, file: SparseFile, tensor: str, first: int, last: int) -> None:
        self._file = file
        self._tensor = tensor
        self._verifier = _Verifier(file, tensor, first, last)
        begin, end = file.group_slices(first)[0], file.group_slices(last - 1)[1]
        self._next, self._end = file.row_range(begin, end)

    def read(self, first: int, last: int) -> Tensor:
        """Rows `[first, last)` of the file, behind those that were read before.

        Raises:
            DamagedError: a group that ends before is not what was written. Of the last one it is
                not known yet.
        """
        self._skip(first)
        out = self._file.read_rows(self._tensor, first, last)
        self._verifier.add(bytes_of(out))
        self._next = last
        return out

    def finish(self) -> None:
        """Reads the rest; all that was read is verified once this returns.

        Raises:
            DamagedError: a group is not what was written.
        """
        self._skip(self._end)
        self._verifier.finish()

    def _skip(self, row: int) -> None:
        step = max(1, _SKIP_BYTES // self._file.row_bytes(self._tensor))
        while self._next < row:
            last = min(self._next + step, row)
            self._verifier.add(bytes_of(self._file.read_rows(self._tensor, self._next, last)))
            self._next = last


def _brief(tensors: dict[str, TensorSpec]) -> str:
    return ", ".join(f"{name} {spec.dtype}{list(spec.shape)}" for name, spec in tensors.items())[
        :500
    ]
