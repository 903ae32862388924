"""Embeddings of a row's ids made into one: summed, averaged or side by side.

Sums are the engine's: over the ids in their order, for any number of threads and any processor
the same bits, but for the gradient of weights, which is torch's. Those of float16 and bfloat16
are kept in float32 until they are whole.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recis import _engine
from recis._tensors import (
    CODE_OF,
    accumulator_of,
    address_of,
    check_ids,
    for_engine,
    new_output,
    use_torch_threads,
)


def pool(
    embeddings: Tensor, inverse: Tensor, offsets: Tensor, weight: Tensor | None, *, mean: bool
) -> Tensor:
    """The weighted sum or mean of each row's embeddings.

    Args:
        embeddings: `(u, dim)`, of distinct ids; floating point.
        inverse: int64 `(n,)`, which of them each id has.
        offsets: int64 `(rows + 1,)`, where each row begins among the ids.
        weight: `(n,)`; None, one each. It takes a gradient if it asks for one.
        mean: whether to divide by the sum of the row's weights; where that is 0, the mean is 0.

    Returns:
        `(rows, dim)`; zeros for rows without ids.

    Raises:
        TypeError: the embeddings are integers, or inverse or offsets are not int64.
        IndexError: an id has none of the embeddings, or the offsets are not those of n ids.
    """
    if not embeddings.is_floating_point():
        raise TypeError(f"pooling: expected floating point embeddings, found {embeddings.dtype}")
    if weight is not None:
        weight = weight.to(accumulator_of(embeddings.dtype))
        if mean:
            total = torch.segment_reduce(weight, "sum", offsets=offsets)
            total = total.repeat_interleave(offsets.diff())
            weight = torch.where(total == 0, 0.0, weight / total.where(total != 0, 1.0))
    out: Tensor = _Pool.apply(embeddings, weight, inverse, offsets, mean and weight is None)
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
    ) -> Tensor:
        inverse = check_ids(inverse, "pooling: inverse")
        offsets = check_ids(offsets, "pooling: offsets")
        ctx.bags = _engine.Bags(
            inverse.data_ptr(),
            inverse.numel(),
            offsets.data_ptr(),
            offsets.numel() - 1,
            len(embeddings),
        )
        ctx.mean = mean
        ctx.save_for_backward(embeddings, weight, inverse, offsets)
        return _call(ctx.bags.sum, embeddings, weight, mean, offsets.numel() - 1, inverse.numel())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        embeddings, weight, inverse, offsets = ctx.saved_tensors
        of_embeddings = of_weight = None
        if ctx.needs_input_grad[0]:
            of_embeddings = _call(
                ctx.bags.spread, grad, weight, ctx.mean, len(embeddings), inverse.numel()
            )
        if ctx.needs_input_grad[1]:
            rows = grad.to(weight.dtype).repeat_interleave(offsets.diff(), 0)
            of_weight = (embeddings[inverse] * rows).sum(1)
        return of_embeddings, of_weight, None, None, None


def _call(
    sums: Any, values: Tensor, weight: Tensor | None, mean: bool, rows: int, ids: int
) -> Tensor:
    """`(rows, dim)` of the values' dtype."""
    dtype = values.dtype
    accumulator = accumulator_of(dtype)
    given = for_engine(values, dtype)
    weights = None if weight is None else for_engine(weight, accumulator)
    out, _ = new_output((rows, values.shape[1]), accumulator)
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
) -> Tensor:
    """The first `length` embeddings of each row side by side, zeros where it has fewer.

    Args:
        embeddings: `(u, dim)`, of distinct ids.
        inverse: int64 `(n,)`, which of them each id has.
        offsets: int64 `(rows + 1,)`, where each row begins among the ids.
        weight: `(n,)`; None, one each. Integers take none.
        length: how many.
        left_pad: whether zeros come before a row's embeddings, not after them.

    Returns:
        `(rows, length, dim)`.
    """
    counts = offsets.diff().clamp(max=length)
    place = torch.arange(length, device=offsets.device).expand(len(counts), length)
    if left_pad:
        place = place - (length - counts)[:, None]
    kept = (place >= 0) & (place < counts[:, None])
    taken = (offsets[:-1, None] + place)[kept]
    shape = (len(counts), length, embeddings.shape[-1])
    if not embeddings.is_floating_point():
        out = embeddings.new_zeros(shape)
        out[kept] = embeddings[inverse[taken]]
        return out
    filled = torch.zeros(kept.numel() + 1, dtype=torch.int64)  # each place is a row of one id
    torch.cumsum(kept.view(-1), 0, out=filled[1:])
    of_taken = None if weight is None else weight[taken]
    return pool(embeddings, inverse[taken], filled, of_taken, mean=False).view(shape)
