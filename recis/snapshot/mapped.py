"""A file of rows, mapped: its rows are read where they lie."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recis import _engine
from recis._slices import Array
from recis.snapshot.errors import DamagedError
from recis.snapshot.files import LocalFiles
from recis.snapshot.manifest import FileInfo, SlotInfo
from recis.snapshot.sparse_file import SparseFile


class MappedFile:
    """A file of a local snapshot; threads may share it.

    Its header, slice offsets and size are checked when it is opened, its rows only if that is
    asked for. It stays readable when it is deleted; one that is cut short
    while it is mapped ends the process, as with any mapped file.

    Args:
        files: of the snapshot.
        table: the table's name.
        info: what the manifest says of the file.
        slots: those of the table in this snapshot.
        slice_size: of the table.
        check: whether groups of rows are verified when they are first touched.

    Raises:
        DamagedError: the file is not what the manifest says; `find` and `gather` raise it, too,
            if rows are checked.
    """

    def __init__(
        self,
        files: LocalFiles,
        table: str,
        info: FileInfo,
        slots: Sequence[SlotInfo],
        slice_size: int,
        check: bool = False,
    ) -> None:
        self.info = info
        self._slice_size = slice_size
        file = SparseFile(files, table, info, slots, slice_size)
        self._file = file
        self._begin = file.begin
        self._check = check
        # Which groups of each tensor are verified.
        self._verified = {name: np.zeros(file.groups(), bool) for name in file.columns()}
        self._offsets = np.ascontiguousarray(file.offsets)
        with files.open(info.path) as handle:
            size = os.fstat(handle).st_size
            if size != info.bytes:
                raise DamagedError(file.name, f"{info.bytes} bytes", f"{size}")
            # Shared by all processes that serve it.
            self._map = np.frombuffer(
                mmap.mmap(handle, size, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED), np.uint8
            )

    def ids(self, first: int, last: int) -> Tensor:
        """The ids of rows `[first, last)`, int64."""
        if self._check:
            self._verify("ids", self._file.groups_of_rows(np.arange(first, last)))
        begin = self._begin["ids"]
        return torch.from_numpy(
            self._map[begin + first * 8 : begin + last * 8].view(np.int64).copy()
        )

    def find(self, ids: Tensor) -> Tensor:
        """The rows of ids int64 `(n,)` in this file, int64 `(n,)`; -1 for one that is not in it."""
        if self._check:
            self._verify("ids", self._file.groups_of_ids(ids.numpy()))
        rows = torch.empty_like(ids)
        _engine.find_sorted(
            ids.data_ptr(),
            ids.numel(),
            self._slice_size,
            self.info.slice_begin,
            self.info.slice_end,
            self._offsets.ctypes.data,
            self._map.ctypes.data + self._begin["ids"],
            self.info.rows,
            rows.data_ptr(),
        )
        return rows

    def gather(self, slot: str, rows: Tensor, out: Tensor) -> None:
        """Copies rows int64 `(n,)` to a contiguous `(n, *shape)`, where -1 leaves it as it is."""
        if self._check:
            self._verify(f"slot/{slot}", self._file.groups_of_rows(rows[rows >= 0].numpy()))
        source = self._map.ctypes.data + self._begin[f"slot/{slot}"]
        row_bytes = out.nbytes // max(out.shape[0], 1)
        _engine.gather_rows(source, row_bytes, rows.data_ptr(), rows.numel(), out.data_ptr())

    def _verify(self, tensor: str, touched: Array) -> None:
        """Verifies these groups of a tensor, those that were before excepted."""
        verified = self._verified[tensor]
        for group in np.unique(touched[~verified[touched]]).tolist():
            self._file.check_group(tensor, group, self._map)
            verified[group] = True
