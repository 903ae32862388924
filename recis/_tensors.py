"""How tensors reach the engine: dtypes, addresses and output memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from recis import _engine

# Numbered as in engine/base/dtype.h.
DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int8,
    torch.int32,
    torch.int64,
)
CODE_OF = {dtype: code for code, dtype in enumerate(DTYPES)}

CPU = torch.device("cpu")

# Below this, torch's own allocator is as fast and its memory as warm.
_CACHED_OUTPUT_BYTES = 1 << 20
# Below this, an output is read back from the processor's cache sooner than from memory.
_STREAMED_OUTPUT_BYTES = 16 << 20
# Calls with fewer ids than this run on one thread anyway.
_PARALLEL_IDS = 1024


def accumulator_of(dtype: torch.dtype) -> torch.dtype:
    """The dtype gradients and optimizer state of a `dtype` table are kept in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def use_torch_threads(ids: int = _PARALLEL_IDS) -> None:
    """Lets the engine use as many threads as torch does, for a call with this many ids."""
    if ids >= _PARALLEL_IDS:
        _engine.set_thread_count(torch.get_num_threads())


def new_output(
    shape: Sequence[int], dtype: torch.dtype, device: torch.device = CPU
) -> tuple[Tensor, bool]:
    """An uninitialised tensor, and whether to write it past the processor's cache.

    Large ones on the CPU come from the engine's cache of buffers and return to it when the tensor
    dies, so that their pages are not given back to the system and faulted in again.
    """
    count = math.prod(shape)
    size = count * dtype.itemsize
    if size < _CACHED_OUTPUT_BYTES or device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device), False
    buffer = _engine.Buffer(size)
    tensor = torch.frombuffer(buffer, dtype=dtype, count=count).view(*shape)
    return tensor, buffer.warm and size >= _STREAMED_OUTPUT_BYTES


def for_engine(tensor: Tensor, dtype: torch.dtype, device: torch.device = CPU) -> Tensor:
    """The tensor as the engine reads it: contiguous, on its device, of this dtype."""
    return tensor.detach().to(device=device, dtype=dtype).contiguous()


def distinct(ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The distinct ones of ids, int64 `(n,)` on the CPU, in the order of first occurrence.

    Returns:
        The distinct ids int64 `(u,)`, for each of `ids` its place among them int64 `(n,)`, and
        how often each occurs int64 `(u,)`.
    """
    n = ids.numel()
    found, inverse = torch.empty((2, n), dtype=torch.int64)
    counts = torch.zeros(n, dtype=torch.int64)
    u = _engine.distinct(ids.data_ptr(), n, found.data_ptr(), inverse.data_ptr(), counts.data_ptr())
    return found[:u], inverse, counts[:u]


def address_of(tensor: Tensor | None) -> int:
    """Of a contiguous tensor's memory, as the engine takes it: 0 is none."""
    return 0 if tensor is None else tensor.data_ptr()


def check_ids(ids: Tensor, what: str, device: torch.device = CPU) -> Tensor:
    """Ids as the engine reads them: contiguous, on its device.

    Raises:
        TypeError: `ids` is not an int64 tensor.
    """
    if not isinstance(ids, Tensor):
        raise TypeError(f"{what}: expected an int64 tensor, found {type(ids).__name__}")
    if ids.dtype != torch.int64:
        raise TypeError(f"{what}: expected int64, found {ids.dtype}; convert with ids.long()")
    if ids.is_contiguous() and ids.device == device:
        return ids
    return ids.detach().to(device).contiguous()


def check_values(values: Tensor, count: int, shape: tuple[int, ...], what: str) -> Tensor:
    """`values`, if it is a tensor of `count` items of `shape`.

    Raises:
        TypeError: `values` is not a tensor.
        ValueError: its shape is another.
    """
    if not isinstance(values, Tensor):
        raise TypeError(f"{what}: expected a tensor, found {type(values).__name__}")
    if tuple(values.shape) != (count, *shape):
        raise ValueError(f"{what}: expected shape {(count, *shape)}, found {tuple(values.shape)}")
    return values
