"""Embeddings of a row's ids made into one: summed, averaged or side by side.

Sums are the engine's: over the ids in their order, for any number of threads, any processor and any
device the same bits, but for the gradient of weights, which is torch's. Those of float16 and
bfloat16 are kept in float32 until they are whole.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recis._place import Place, place_of
from recis._tensors import (
    CODE_OF,
    CPU,
    accumulator_of,
    address_of,
    check_ids,
    check_values,
    for_engine,
    new_output,
    use_torch_threads,
)


def pool(
    embeddings: Tensor,
    inverse: Tensor,
    offsets: Tensor,
    weight: Tensor | None,
    *,
    mean: bool,
    place: Place | None = None,
) -> Tensor:
    """The weighted sum or mean of each row's embeddings, taken where these are.

    Inverse and offsets are read on the CPU.

    Args:
        embeddings: `(u, dim)`, of distinct ids; floating point.
        inverse: int64 `(n,)`, which of them each id has.
        offsets: int64 `(rows + 1,)`, where each row begins among the ids.
        weight: `(n,)`; None, one each. It takes a gradient if it asks for one.
        mean: whether to divide by the sum of the row's weights; where that is 0, the mean is 0.
        place: of the table that the embeddings are from; default, that of their device.

    Returns:
        `(rows, dim)` on the device of the embeddings; zeros for rows without ids.

    Raises:
        TypeError: the embeddings are integers, or inverse or offsets are not int64.
        ValueError: there are not n weights.
        IndexError: an id has none of the embeddings, or the offsets are not those of n ids.
        RuntimeError: the embeddings are on a device without tables, or it has no room.
    """
    if not embeddings.is_floating_point():
        raise TypeError(f"pooling: expected floating point embeddings, found {embeddings.dtype}")
    inverse = check_ids(inverse, "pooling: inverse")
    offsets = check_ids(offsets, "pooling: offsets")
    if weight is not None:
        weight = check_values(weight, inverse.numel(), (), "pooling: weight")
        weight = weight.to(accumulator_of(embeddings.dtype))
        if mean:  # on the CPU: torch sums in another order elsewhere
            weight = weight.to(CPU)
            total = torch.segment_reduce(weight, "sum", offsets=offsets)
            total = total.repeat_interleave(offsets.diff())
            weight = torch.where(total == 0, 0.0, weight / total.where(total != 0, 1.0))
        weight = weight.to(embeddings.device)
    place = place_of(embeddings.device) if place is None else place
    mean = mean and weight is None
    out: Tensor = _Pool.apply(embeddings, weight, inverse, offsets, mean, place)
    return out


class _Pool(torch.autograd.Function):
    """The sums, or means without weights, as a node of the autograd graph."""

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        weight: Tensor | None,
        inverse: Tensor,
        offsets: Tensor,
        mean: bool,
        place: Place,
    ) -> Tensor:
        ctx.bags = place.make_bags(inverse, offsets, len(embeddings))
        ctx.mean = mean
        ctx.save_for_backward(embeddings, weight, inverse, offsets)
        return _call(ctx.bags.sum, embeddings, weight, mean, offsets.numel() - 1, inverse.numel())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        embeddings, weight, inverse, offsets = ctx.saved_tensors
        of_embeddings = of_weight = None
        if ctx.needs_input_grad[0]:
            of_embeddings = _call(
                ctx.bags.spread, grad, weight, ctx.mean, len(embeddings), inverse.numel()
            )
        if ctx.needs_input_grad[1]:
            ids_of_rows = offsets.diff().to(grad.device)
            rows = grad.to(weight.dtype).repeat_interleave(ids_of_rows, 0)
            of_weight = (embeddings[inverse] * rows).sum(1)
        return of_embeddings, of_weight, None, None, None, None


def _call(
    sums: Any, values: Tensor, weight: Tensor | None, mean: bool, rows: int, ids: int
) -> Tensor:
    """`(rows, dim)` of the values' dtype, on their device."""
    dtype = values.dtype
    accumulator = accumulator_of(dtype)
    given = for_engine(values, dtype, values.device)
    weights = None if weight is None else for_engine(weight, accumulator, values.device)
    out, _ = new_output((rows, values.shape[1]), accumulator, values.device)
    use_torch_threads(ids)
    sums(
        given.data_ptr(), CODE_OF[dtype], values.shape[1], address_of(weights), mean, out.data_ptr()
    )
    return out.to(dtype)


def tile(
    embeddings: Tensor,
    inverse: Tensor,
    offsets: Tensor,
    weight: Tensor | None,
    length: int,
    left_pad: bool = False,
    *,
    place: Place | None = None,
) -> Tensor:
    """The first `length` embeddings of each row side by side, zeros where it has fewer.

    Args:
        embeddings: `(u, dim)`, of distinct ids.
        inverse: int64 `(n,)`, which of them each id has.
        offsets: int64 `(rows + 1,)`, where each row begins among the ids.
        weight: `(n,)`; None, one each. Integers take none.
        length: how many.
        left_pad: whether zeros come before a row's embeddings, not after them.
        place: of the table that the embeddings are from; default, that of their device.

    Returns:
        `(rows, length, dim)` on the device of the embeddings.
    """
    inverse = check_ids(inverse, "pooling: inverse")
    offsets = check_ids(offsets, "pooling: offsets")
    counts = offsets.diff().clamp(max=length)
    at = torch.arange(length).expand(len(counts), length)
    if left_pad:
        at = at - (length - counts)[:, None]
    kept = (at >= 0) & (at < counts[:, None])
    taken = (offsets[:-1, None] + at)[kept]
    shape = (len(counts), length, embeddings.shape[-1])
    if not embeddings.is_floating_point():
        out = embeddings.new_zeros(shape)
        out[kept] = embeddings[inverse[taken]]
        return out
    filled = torch.zeros(kept.numel() + 1, dtype=torch.int64)  # each place is a row of one id
    torch.cumsum(kept.view(-1), 0, out=filled[1:])
    of_taken = None if weight is None else weight[taken]
    pooled = pool(embeddings, inverse[taken], filled, of_taken, mean=False, place=place)
    return pooled.view(shape)
