"""What `ragged[key]` asks for, dimension by dimension."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def spelled_out(key: Any, dim: int) -> tuple[Any, ...]:
    """Keys with a slice or int for each dimension."""
    keys = list(key) if isinstance(key, tuple) else [key]
    for i, each in enumerate(keys):
        if not (each is None or each is ... or isinstance(each, slice)):
            if not isinstance(each, int):
                raise TypeError(f"rows are taken by int or slice, not by {type(each).__name__}")
            if i > 0:
                raise IndexError("an int takes a row, and is the first key")
    missing = dim - sum(each is not None and each is not ... for each in keys)
    if missing < 0:
        raise IndexError(f"{dim - missing} keys for {dim} dimensions")
    at = keys.index(...) if ... in keys else len(keys)
    keys[at : at + 1] = [slice(None)] * missing
    if ... in keys:
        raise IndexError("'...' can be there once")
    return tuple(keys)


def parts_of(key: slice, lengths: Tensor) -> tuple[Tensor, Tensor, int]:
    """Where a slice of each row begins, how much of it there is, and in which steps."""
    step = 1 if key.step is None else key.step
    if step < 1:
        raise IndexError(f"rows are taken in positive steps, not of {step}")

    def place(end: int | None, default: Tensor) -> Tensor:
        if end is None:
            return default
        return (lengths + end).clamp(min=0) if end < 0 else lengths.clamp(max=end)

    first = place(key.start, torch.zeros_like(lengths))
    span = (place(key.stop, lengths) - first).clamp(min=0)
    return first, (span + step - 1) // step, step
