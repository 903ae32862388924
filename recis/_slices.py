"""Slices of the ids: what a table holds of them, and the unit of saving and sharding."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, np.dtype[Any]]
"""Of numpy, any shape and dtype."""


class Slice:
    """The part `[slice_begin, slice_end)` of `slice_size` slices that a table holds.

    An id belongs to slice `uint64(id) % slice_size`.
    """

    def __init__(self, slice_beg: int, slice_end: int, slice_size: int) -> None:
        if not 0 <= slice_beg <= slice_end <= slice_size or slice_size == 0:
            raise ValueError(
                "expected 0 <= slice_beg <= slice_end <= slice_size and slice_size > 0, found "
                f"[{slice_beg}, {slice_end}) of {slice_size}"
            )
        self.slice_begin = slice_beg
        self.slice_end = slice_end
        self.slice_size = slice_size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slice) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self.slice_begin, self.slice_end, self.slice_size))

    def __repr__(self) -> str:
        return f"Slice({self.slice_begin}, {self.slice_end}, {self.slice_size})"


def gen_slice(shard_index: int = 0, shard_num: int = 1, slice_size: int = 65536) -> Slice:
    """The contiguous slice of one of `shard_num` shards; earlier shards take the remainder.

    Example:
        >>> gen_slice(1, 3, 8)
        Slice(3, 6, 8)
    """
    if shard_num <= 0 or not 0 <= shard_index < shard_num:
        raise ValueError(f"there is no shard {shard_index} of {shard_num}")
    size, rest = divmod(slice_size, shard_num)
    begin = shard_index * size + min(shard_index, rest)
    return Slice(begin, begin + size + (shard_index < rest), slice_size)


def slices_of(ids: Array, slice_size: int) -> Array:
    """The slice of each id, uint64, of int64 ids."""
    return ids.view(np.uint64) % np.uint64(slice_size)


def shards_of(ids: Tensor, shard_num: int, slice_size: int = 65536) -> Tensor:
    """Which of `shard_num` shards has the slice of each id: int64, of the shape of ids.

    Args:
        ids: int64 on the CPU.
        shard_num: how many shards `gen_slice` cuts the slices into.
        slice_size: how many slices there are.
    """
    return torch.from_numpy(
        _shard_of_slice(shard_num, slice_size)[slices_of(ids.numpy(), slice_size)]
    )


@cache
def _shard_of_slice(shard_num: int, slice_size: int) -> Array:
    held = [gen_slice(shard, shard_num, slice_size) for shard in range(shard_num)]
    return np.repeat(np.arange(shard_num), [part.slice_end - part.slice_begin for part in held])


ALL_SLICES = gen_slice()
"""Those of a table that holds every id."""
