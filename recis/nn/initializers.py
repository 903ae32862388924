"""First values of an embedding.

A value depends on (table seed, id, element) only: the same id starts with the same bits
whatever the order of arrival, the thread count, the shard or the world size. One instance may
serve many tables.

Source: names, arguments and defaults follow RecIS; gains and fans follow `torch.nn.init`, except
that an embedding of one dimension D counts as fan-in and fan-out D, since a growing vocabulary has
no other size.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from recis._engine import Distribution, Draw
from recis._tensors import CODE_OF


class Law(NamedTuple):
    """How one element is distributed: `shift + scale * draw`.

    The draw is 0 for a constant, uniform in (0, 1), or standard normal; a truncated normal is
    kept within `low` and `high`.
    """

    distribution: Distribution
    shift: float
    scale: float = 1.0
    low: float = 0.0
    high: float = 1.0


class BaseInitializer(ABC):
    """What every initializer does; subclasses name a distribution and its parameters."""

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self._seed = 0 if generator is None else generator.initial_seed()
        self._shape: tuple[int, ...] = ()
        self._dtype = torch.float32

    @abstractmethod
    def params(self) -> dict[str, float | str]:
        """The arguments this was made with."""

    @abstractmethod
    def law(self, shape: tuple[int, ...]) -> Law:
        """The distribution of one element of an embedding of this shape."""

    def draw(self, shape: Sequence[int], dtype: torch.dtype, seed: int) -> Draw:
        """What the engine draws first values with.

        Args:
            shape: of one embedding.
            dtype: of the table.
            seed: of the table; mixed with that of the `generator` given, if any.

        Raises:
            ValueError: a random initializer for an integer table.
        """
        law = self.law(tuple(shape))
        if law.distribution != Distribution.CONSTANT and not dtype.is_floating_point:
            raise ValueError(f"{self} needs a floating-point table, found {dtype}")
        return Draw(*law, (seed ^ self._seed) % (1 << 64))

    def set_shape(self, shape: Sequence[int]) -> None:
        """The shape `generate` gives: `[rows, *embedding]`."""
        self._shape = tuple(shape)

    def set_dtype(self, dtype: torch.dtype) -> None:
        """The dtype `generate` gives."""
        self._dtype = dtype

    def build(self) -> None:  # noqa: B027 - not abstract: there is nothing to build
        """Nothing to do; kept for code written for RecIS."""

    def generate(self) -> Tensor:
        """The first values of ids 0, 1, 2, ... of a table with seed 0, in `set_shape`'s shape."""
        out = torch.empty(self._shape, dtype=self._dtype)
        rows = self._shape[0] if self._shape else 0
        count = out.numel() // max(rows, 1)
        draw = self.draw(self._shape[1:], self._dtype, seed=0)
        for row in range(rows):
            draw.write(row, CODE_OF[self._dtype], count, out[row].data_ptr())
        return out

    def __str__(self) -> str:
        return f"{type(self).__name__}({json.dumps(self.params(), sort_keys=True)})"


class ConstantInitializer(BaseInitializer):
    """Every element is `init_val`."""

    def __init__(self, init_val: float = 0.0) -> None:
        super().__init__()
        self._init_val = init_val

    @override
    def params(self) -> dict[str, float | str]:
        return {"init_val": self._init_val}

    @override
    def law(self, shape: tuple[int, ...]) -> Law:
        return Law(Distribution.CONSTANT, float(self._init_val))


class UniformInitializer(BaseInitializer):
    """Uniform between `a` and `b`."""

    def __init__(
        self, a: float = 0.0, b: float = 1.0, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(generator)
        if not a <= b:
            raise ValueError(f"UniformInitializer: a must not exceed b, found a={a}, b={b}")
        self._a, self._b = a, b

    @override
    def params(self) -> dict[str, float | str]:
        return {"a": self._a, "b": self._b}

    @override
    def law(self, shape: tuple[int, ...]) -> Law:
        return _uniform(self._a, self._b)


class NormalInitializer(BaseInitializer):
    """Normal with `mean` and standard deviation `std`."""

    def __init__(
        self, mean: float = 0.0, std: float = 1.0, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(generator)
        _check_std(self, std)
        self._mean, self._std = mean, std

    @override
    def params(self) -> dict[str, float | str]:
        return {"mean": self._mean, "std": self._std}

    @override
    def law(self, shape: tuple[int, ...]) -> Law:
        return Law(Distribution.NORMAL, self._mean, self._std)


class TruncNormalInitializer(BaseInitializer):
    """Normal, restricted to `a` to `b` standard deviations from the mean."""

    def __init__(
        self,
        mean: float = 0.0,
        std: float = 1.0,
        a: float = -2.0,
        b: float = 2.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(generator)
        _check_std(self, std)
        if not a < b:
            raise ValueError(f"TruncNormalInitializer: a must be below b, found a={a}, b={b}")
        self._mean, self._std, self._a, self._b = mean, std, a, b

    @override
    def params(self) -> dict[str, float | str]:
        return {"mean": self._mean, "std": self._std, "a": self._a, "b": self._b}

    @override
    def law(self, shape: tuple[int, ...]) -> Law:
        return Law(Distribution.TRUNCATED_NORMAL, self._mean, self._std, self._a, self._b)


class _XavierInitializer(BaseInitializer):
    """What both Xavier initializers share: the standard deviation."""

    def __init__(self, gain: float = 1.0, generator: torch.Generator | None = None) -> None:
        super().__init__(generator)
        self._gain = gain

    @override
    def params(self) -> dict[str, float | str]:
        return {"gain": self._gain}

    def _std(self, shape: tuple[int, ...]) -> float:
        return self._gain * math.sqrt(2.0 / sum(_fans(shape)))


class XavierUniformInitializer(_XavierInitializer):
    """Uniform, scaled by fan-in and fan-out as `torch.nn.init.xavier_uniform_`."""

    @override
    def law(self, shape: tuple[int, ...]) -> Law:
        bound = math.sqrt(3.0) * self._std(shape)
        return _uniform(-bound, bound)


class XavierNormalInitializer(_XavierInitializer):
    """Normal, scaled by fan-in and fan-out as `torch.nn.init.xavier_normal_`."""

    @override
    def law(self, shape: tuple[int, ...]) -> Law:
        return Law(Distribution.NORMAL, 0.0, self._std(shape))


class _KaimingInitializer(BaseInitializer):
    """What both Kaiming initializers share: the standard deviation."""

    def __init__(
        self,
        a: float = 0.0,
        mode: str = "fan_in",
        nonlinearity: str = "leaky_relu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(generator)
        if mode not in ("fan_in", "fan_out"):
            raise ValueError(
                f"{type(self).__name__}: mode must be 'fan_in' or 'fan_out', found {mode!r}"
            )
        self._a, self._mode, self._nonlinearity = a, mode, nonlinearity
        self._gain = torch.nn.init.calculate_gain(nonlinearity, a)  # type: ignore[arg-type]

    @override
    def params(self) -> dict[str, float | str]:
        return {"a": self._a, "mode": self._mode, "nonlinearity": self._nonlinearity}

    def _std(self, shape: tuple[int, ...]) -> float:
        fan_in, fan_out = _fans(shape)
        return self._gain / math.sqrt(fan_in if self._mode == "fan_in" else fan_out)


class KaimingUniformInitializer(_KaimingInitializer):
    """Uniform, scaled as `torch.nn.init.kaiming_uniform_`."""

    @override
    def law(self, shape: tuple[int, ...]) -> Law:
        bound = math.sqrt(3.0) * self._std(shape)
        return _uniform(-bound, bound)


class KaimingNormalInitializer(_KaimingInitializer):
    """Normal, scaled as `torch.nn.init.kaiming_normal_`."""

    @override
    def law(self, shape: tuple[int, ...]) -> Law:
        return Law(Distribution.NORMAL, 0.0, self._std(shape))


def _uniform(low: float, high: float) -> Law:
    return Law(Distribution.UNIFORM, low, high - low)


def _check_std(initializer: BaseInitializer, std: float) -> None:
    if not std >= 0:
        raise ValueError(f"{type(initializer).__name__}: std must not be negative, found {std}")


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Fan-in and fan-out of one embedding."""
    if len(shape) < 2:
        size = math.prod(shape)
        return size, size
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field
