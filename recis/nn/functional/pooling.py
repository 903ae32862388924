"""Embeddings of a row's ids made into one: summed, averaged or side by side."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag


def pool(
    embeddings: Tensor, inverse: Tensor, offsets: Tensor, weight: Tensor | None, *, mean: bool
) -> Tensor:
    """The weighted sum or mean of each row's embeddings.

    Args:
        embeddings: `(u, dim)`, of distinct ids.
        inverse: int64 `(n,)`, which of them each id has.
        offsets: int64 `(rows + 1,)`, where each row begins among the ids.
        weight: `(n,)`; None, one each. It takes a gradient if it asks for one.
        mean: whether to divide by the sum of the row's weights; where that is 0, the mean is 0.

    Returns:
        `(rows, dim)`; zeros for rows without ids.
    """
    if mean and weight is None:
        return embedding_bag(inverse, embeddings, offsets, mode="mean", include_last_offset=True)
    if weight is not None:
        weight = weight.to(embeddings.dtype)
    out = embedding_bag(
        inverse,
        embeddings,
        offsets,
        mode="sum",
        per_sample_weights=weight,
        include_last_offset=True,
    )
    if not mean or weight is None:
        return out
    total = torch.segment_reduce(weight, "sum", offsets=offsets)
    return torch.where(total[:, None] == 0, 0.0, out / total.where(total != 0, 1.0)[:, None])


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
        weight: `(n,)`; None, one each.
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
    rows = embeddings[inverse[taken]]
    if weight is not None:
        rows = rows * weight[taken, None].to(rows.dtype)
    out = rows.new_zeros((len(counts), length, embeddings.shape[-1]))
    return out.masked_scatter(kept[:, :, None], rows)
