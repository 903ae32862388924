"""`RaggedTensor`: rows of different lengths, as values and where each row begins."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recis.ragged._keys import parts_of, spelled_out


@dataclass
class RaggedPadInfo:
    """What padding did to a ragged tensor."""

    drop_nums: list[Tensor] | None = None
    pad_nums: list[Tensor] | None = None
    drop_sides: Tensor | None = None
    pad_sides: Tensor | None = None


class RaggedTensor:
    """Values of rows that differ in length, one dimension or several deep.

    Args:
        values: `(n, ...)`, of all rows one after the other.
        offsets: for each ragged dimension, from the outermost, integers `(rows + 1,)`: where each
            row begins among those of the next, and at last among the values. A tensor stands for
            a list of one.
        weight: `(n,)`, one for each value.
        dense_shape: of the tensor that `to_dense` gives, but for what each value has, and -1 where
            it is not known; default, as long as the longest row in each dimension.

    Raises:
        ValueError: offsets do not begin at 0, decrease, or end elsewhere than what they cut; or
            there are more or fewer weights or dimensions.

    Example:
        >>> ragged = RaggedTensor(torch.tensor([1, 2, 3]), torch.tensor([0, 2, 2, 3]))
        >>> ragged.shape
        (3, 2)
        >>> ragged.to_dense()
        tensor([[1, 2],
                [0, 0],
                [3, 0]])
    """

    def __init__(
        self,
        values: Tensor,
        offsets: Tensor | Sequence[Tensor],
        weight: Tensor | None = None,
        dense_shape: Sequence[int] | None = None,
    ) -> None:
        self._values = values
        self._offsets = [offsets] if isinstance(offsets, Tensor) else list(offsets)
        self._weight = weight
        self._pad_info: RaggedPadInfo | None = None
        self._dense_shape = (
            (-1,) * (len(self._offsets) + 1) if dense_shape is None else tuple(dense_shape)
        )
        self._check()

    def _check(self) -> None:
        if not self._offsets:
            raise ValueError("a RaggedTensor needs offsets of at least one dimension")
        cut = [offsets.numel() - 1 for offsets in self._offsets[1:]] + [len(self._values)]
        for i, (offsets, length) in enumerate(zip(self._offsets, cut, strict=True)):
            what = f"RaggedTensor: offsets of dimension {i}"
            if offsets.dim() != 1 or not offsets.numel() or offsets.dtype.is_floating_point:
                raise ValueError(
                    f"{what}: expected integers (rows + 1,), found {offsets.dtype} "
                    f"{tuple(offsets.shape)}"
                )
            if int(offsets[0]) != 0 or int(offsets[-1]) != length:
                ends = f"{int(offsets[0])} to {int(offsets[-1])}"
                raise ValueError(f"{what} go from {ends}: expected 0 to {length}")
            if bool((offsets[1:] < offsets[:-1]).any()):
                raise ValueError(f"{what} decrease")
        if self._weight is not None and self._weight.numel() != len(self._values):
            raise ValueError(
                f"RaggedTensor: {len(self._values)} values and {self._weight.numel()} weights"
            )
        if len(self._dense_shape) != len(self._offsets) + 1:
            raise ValueError(
                f"RaggedTensor: expected a dense_shape of {len(self._offsets) + 1} dimensions, "
                f"found {self._dense_shape}"
            )

    # ---- made from others ----

    @classmethod
    def from_numpy(cls, values: Any, offsets: Any) -> RaggedTensor:
        """Of numpy arrays, whose memory it shares."""
        parts = [offsets] if isinstance(offsets, np.ndarray) else offsets
        return cls(torch.from_numpy(values), [torch.from_numpy(part) for part in parts])

    @classmethod
    def from_dense(
        cls, dense: Tensor, check_invalid: bool = False, invalid_value: int = 0
    ) -> RaggedTensor:
        """Of a tensor `(..., length)` of two dimensions at least.

        Args:
            dense: the values.
            check_invalid: whether to leave `invalid_value`s at the ends of rows out.
            invalid_value: what rows are padded with.
        """
        length = dense.shape[-1]
        lengths = torch.full((math.prod(dense.shape[:-1]),), length, device=dense.device)
        values = dense.reshape(-1, length) if length else dense.reshape(len(lengths), 0)
        if check_invalid and length:
            valid = values != invalid_value
            # Up to the last one that is valid.
            lengths = (valid * torch.arange(1, length + 1, device=dense.device)).amax(1)
        kept = torch.arange(length, device=dense.device) < lengths[:, None]
        offsets = [_offsets_of(lengths)]
        for level in range(dense.dim() - 2, 0, -1):
            rows = math.prod(dense.shape[:level])
            offsets.insert(0, torch.arange(rows + 1, device=dense.device) * dense.shape[level])
        return cls(values[kept], offsets, dense_shape=dense.shape)

    @classmethod
    def from_lengths(
        cls, values: Tensor, lengths: Tensor, weight: Tensor | None = None
    ) -> RaggedTensor:
        """Of values and how many of them each row has, integers `(rows,)`."""
        return cls(values, _offsets_of(lengths), weight)

    @classmethod
    def from_offsets(
        cls,
        values: Tensor | RaggedTensor,
        offsets: Tensor | Sequence[Tensor],
        weight: Tensor | None = None,
    ) -> RaggedTensor:
        """Of values that offsets cut into rows; of a RaggedTensor, whose rows they group."""
        if isinstance(values, RaggedTensor):
            outer = [offsets] if isinstance(offsets, Tensor) else list(offsets)
            return cls(values.values(), [*outer, *values.offsets()], values.weight())
        return cls(values, offsets, weight)

    @classmethod
    def from_any(cls, what: Any) -> RaggedTensor:
        """Of a RaggedTensor, a jagged nested tensor of torch, or what has values and lengths.

        The latter is an object with `values()`, `lengths()` or `offsets()`, and perhaps
        `weights_or_none()`, such as TorchRec's JaggedTensor; or a pair `(values, lengths)`.

        Raises:
            TypeError: it is none of these.
        """
        if isinstance(what, RaggedTensor):
            return what
        if isinstance(what, tuple) and len(what) == 2 and all(isinstance(t, Tensor) for t in what):
            return cls.from_lengths(*what)
        if isinstance(what, Tensor) and what.is_nested and what.layout == torch.jagged:
            what = what.contiguous()  # there may be gaps between its rows
            if what.dim() > 2 and isinstance(what.shape[1], int):
                raise TypeError("expected a jagged tensor whose second dimension is ragged")
            return cls(what.values(), what.offsets())
        if isinstance(what, Tensor) or not all(
            hasattr(what, name) for name in ["values", "lengths"]
        ):
            raise TypeError(
                "expected a RaggedTensor, a jagged nested tensor, (values, lengths) or a "
                f"JaggedTensor, found {type(what).__name__}"
            )
        weights = what.weights_or_none() if hasattr(what, "weights_or_none") else None
        return cls.from_lengths(what.values(), what.lengths(), weights)

    # ---- what it is ----

    def values(self) -> Tensor:
        """`(n, ...)`, of all rows one after the other."""
        return self._values

    def offsets(self) -> list[Tensor]:
        """For each ragged dimension, where its rows begin."""
        return self._offsets

    def weight(self) -> Tensor | None:
        """`(n,)`, or None."""
        return self._weight

    def set_values(self, values: Tensor) -> None:
        """Replaces the values by as many others."""
        if len(values) != len(self._values):
            raise ValueError(f"expected {len(self._values)} values, found {len(values)}")
        self._values = values

    def set_weight(self, weight: Tensor) -> None:
        """Gives each value a weight."""
        if weight.numel() != len(self._values):
            raise ValueError(f"expected {len(self._values)} weights, found {weight.numel()}")
        self._weight = weight

    @property
    def dim(self) -> int:
        """How many dimensions it has."""
        return len(self._dense_shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor that `to_dense` gives, but for what each value has."""
        return self.real_shape()

    def size(self) -> tuple[int, ...]:
        """The shape."""
        return self.real_shape()

    @property
    def max_length(self) -> int:
        """The length of the innermost dimension."""
        return self.get_shape(-1)

    @property
    def dtype(self) -> torch.dtype:
        """Of the values."""
        return self._values.dtype

    @property
    def device(self) -> torch.device:
        """Of the values."""
        return self._values.device

    def real_shape(self, start: int = 0, end: int | None = None) -> tuple[int, ...]:
        """The shape of dimensions `[start, end)`."""
        return tuple(self.get_shape(i) for i in range(*slice(start, end).indices(self.dim)))

    def get_shape(self, dim: int) -> int:
        """The size of a dimension: of ragged ones the longest row, unless it is given."""
        dim = range(self.dim)[dim]
        if self._dense_shape[dim] != -1:
            return self._dense_shape[dim]
        if dim == 0:
            return self._offsets[0].numel() - 1
        lengths = self._offsets[dim - 1].diff()
        return int(lengths.max()) if lengths.numel() else 0

    def set_dim_by_rank(self, dim: int, rank: int) -> None:
        """Declares the size of dimension `rank` to be `dim`."""
        shape = list(self._dense_shape)
        shape[rank] = dim
        self._dense_shape = tuple(shape)

    @property
    def pad_info(self) -> RaggedPadInfo | None:
        """What padding did to it, if it was padded."""
        return self._pad_info

    def set_pad_info(self, pad_info: RaggedPadInfo) -> None:
        """Notes what padding did to it."""
        self._pad_info = pad_info

    def __len__(self) -> int:
        return self._offsets[0].numel() - 1

    def __repr__(self) -> str:
        return (
            f"RaggedTensor(values={self._values}, offsets={self._offsets}, weight={self._weight}, "
            f"dense_shape={self.shape}, dtype={self.dtype}, device={self.device})"
        )

    # ---- made into others ----

    def to_dense(self, default_value: float = 0.0) -> Tensor:
        """`(*shape, ...)`: rows filled up with the default value."""
        dense = self._values
        for level in range(len(self._offsets) - 1, -1, -1):
            offsets, length = self._offsets[level], self.get_shape(level + 1)
            lengths = offsets.diff()
            if lengths.numel() and int(lengths.max()) > length:
                raise ValueError(
                    f"dimension {level + 1} has rows of {int(lengths.max())}, more than {length}"
                )
            rows = dense.new_full((len(lengths), length, *dense.shape[1:]), default_value)
            rows[torch.arange(length, device=self.device) < lengths[:, None]] = dense
            dense = rows
        return dense

    def to_sparse(self) -> Tensor:
        """A sparse COO tensor of the same shape, with the values where they are."""
        indices: list[Tensor] = []
        for offsets in self._offsets:
            lengths = offsets.diff()
            rows = torch.repeat_interleave(torch.arange(len(lengths), device=self.device), lengths)
            places = torch.arange(len(rows), device=self.device) - offsets[:-1][rows]
            indices = [index[rows] for index in indices] if indices else [rows]
            indices.append(places)
        shape = (*self.shape, *self._values.shape[1:])
        return torch.sparse_coo_tensor(
            torch.stack(indices), self._values, shape, check_invariants=False
        )

    def to(self, *args: Any, **kwargs: Any) -> RaggedTensor:
        """Of another device or dtype; a dtype is that of the values alone."""
        values = self._values.to(*args, **kwargs)
        weight = None if self._weight is None else self._weight.to(values.device)
        return self._like(values, [offsets.to(values.device) for offsets in self._offsets], weight)

    def cuda(self) -> RaggedTensor:
        """The same on the current GPU."""
        return self.to("cuda")

    def pin_memory(self) -> RaggedTensor:
        """A copy in pinned memory."""
        weight = None if self._weight is None else self._weight.pin_memory()
        return self._like(
            self._values.pin_memory(), [o.pin_memory() for o in self._offsets], weight
        )

    def clone(self) -> RaggedTensor:
        """Another RaggedTensor of the same tensors."""
        return self._like(self._values, list(self._offsets), self._weight)

    def _like(self, values: Tensor, offsets: list[Tensor], weight: Tensor | None) -> RaggedTensor:
        made = RaggedTensor(values, offsets, weight, self._dense_shape)
        made._pad_info = self._pad_info
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> RaggedTensor:
        weight = None if self._weight is None else self._weight.clone()
        made = self._like(self._values.clone(), [o.clone() for o in self._offsets], weight)
        made._pad_info = copy.deepcopy(self._pad_info, memo)
        return made

    def __getitem__(self, key: Any) -> Any:
        """Rows, or a part of each.

        Args:
            key: a slice of the rows, or of several dimensions in a tuple: those after the first
                take a part of each row, however long it is. `None` adds a dimension of length 1,
                `...` stands for whole dimensions. An int, as the first key alone, is one row.

        Returns:
            A RaggedTensor; of one row of one ragged dimension, a tensor.

        Raises:
            IndexError: there is no such row or dimension, or a step is not positive.
            TypeError: it is no such key.
        """
        keys = spelled_out(key, self.dim)
        if not isinstance(keys[0], int):
            return self._cut(keys)
        row, count = keys[0], len(self)
        if not -count <= row < count:
            raise IndexError(f"row {row} of {count}")
        row %= count
        taken = self._cut((slice(row, row + 1), *[slice(None)] * (self.dim - 1)))
        if self.dim > 2:
            return RaggedTensor(taken._values, taken._offsets[1:], taken._weight)[keys[1:]]
        return taken._values[keys[1:]]

    def _cut(self, keys: Sequence[Any]) -> RaggedTensor:
        """Slices of all dimensions, with new ones where `None` is among them."""
        # The rows are those of a dimension outside, which has but one.
        levels = [torch.tensor([0, len(self)], device=self.device), *self._offsets]
        kept: list[Tensor] = []
        rows = torch.zeros(1, dtype=torch.int64, device=self.device)
        for key in keys:
            if key is None:
                kept.append(torch.arange(len(rows) + 1, device=self.device))
                continue
            offsets = levels.pop(0)
            first, lengths, step = parts_of(key, offsets.diff()[rows])
            kept.append(_offsets_of(lengths).to(offsets.dtype))
            within = torch.arange(int(lengths.sum()), device=self.device)
            within -= torch.repeat_interleave(kept[-1][:-1], lengths)
            rows = torch.repeat_interleave(offsets[:-1][rows] + first, lengths) + within * step
        weight = None if self._weight is None else self._weight[rows]
        return RaggedTensor(self._values[rows], kept[1:], weight)


def _offsets_of(lengths: Tensor) -> Tensor:
    offsets = torch.zeros(lengths.numel() + 1, dtype=torch.int64, device=lengths.device)
    torch.cumsum(lengths, 0, out=offsets[1:])
    return offsets
