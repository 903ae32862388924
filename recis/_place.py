"""Where tables live: in the CPU's memory, or in a device's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import torch

from recis import _engine
from recis._tensors import CPU

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    _Made = TypeVar("_Made", bound=_engine._Table | _engine._Bags)


class Place(NamedTuple):
    """Where a table lives."""

    name: str
    """As the user says it: "cpu", "cuda:0"."""
    device: torch.device
    """Of the tensors that the engine reads and writes."""

    @property
    def on_cpu(self) -> bool:
        """Whether it is a table in the host's memory or in a store, without a device."""
        return self.name == "cpu"

    def make_table(
        self,
        name: str,
        dtype: int,
        shape: Sequence[int],
        block_size: int,
        draw: _engine.Draw,
        store: _engine.Store | None,
        device_bytes: int | None,
    ) -> _engine._Table:
        """The engine's table of this place.

        device_bytes: of records there, of a table that is in a store too; else of no interest.
        """
        if self.on_cpu:
            return _engine.Table(name, dtype, list(shape), block_size, draw, store)
        gpu = self.device.index  # None on the emulated device
        table: _engine._Table
        if store is None:
            table = _engine.DeviceTable(name, dtype, list(shape), block_size, draw, gpu)
        else:
            assert device_bytes is not None
            table = _engine.CachedTable(
                name, dtype, list(shape), block_size, draw, gpu, store, device_bytes
            )
        return self._on_current_stream(table)

    def make_bags(self, inverse: Tensor, offsets: Tensor, distinct: int) -> _engine._Bags:
        """The engine's rows of ids, for sums of embeddings that lie here.

        Args:
            inverse: int64 `(n,)` on the CPU, which embedding each id has.
            offsets: int64 `(rows + 1,)` on the CPU, where each row begins among the ids.
            distinct: how many embeddings there are.

        Raises:
            IndexError: an id has none of the embeddings, or the offsets are not those of n ids.
        """
        rows = offsets.numel() - 1
        given = (inverse.data_ptr(), inverse.numel(), offsets.data_ptr(), rows, distinct)
        if self.on_cpu:
            return _engine.Bags(*given)
        if self.device.type == "cuda":
            _follow_torch(self.device)
        return self._on_current_stream(_engine.DeviceBags(*given, self.device.index))

    def _on_current_stream(self, made: _Made) -> _Made:
        if self.device.type != "cuda":
            return made
        return cast("_Made", _OnCurrentStream(made, self.device))


ON_CPU = Place("cpu", CPU)

# For tests: the code of tables on GPUs, run by the host in memory of its own. Tensors for it are
# the CPU's.
EMULATED = Place("emulated", CPU)


def place_of(device: torch.device | str) -> Place:
    """The place that a device stands for.

    Raises:
        RuntimeError: tables cannot live there; the message says why.
    """
    if device == EMULATED.name:
        return EMULATED
    device = torch.device(device)
    if device.type == "cpu":
        return ON_CPU
    if device.type != "cuda":
        raise RuntimeError("recis has tables on the CPU and on GPUs")
    _engine.check_cuda(device.index or 0)
    if not torch.cuda.is_available():
        raise RuntimeError("this torch has no CUDA: torch.cuda.is_available() is False")
    index = torch.cuda.current_device() if device.index is None else device.index
    return Place(f"cuda:{index}", torch.device("cuda", index))


def _follow_torch(gpu: torch.device) -> None:
    """What this thread asks the engine for from now on is done on torch's current stream."""
    _engine.use_stream(torch.cuda.current_stream(gpu).cuda_stream)


class _OnCurrentStream:
    """What lies on a GPU. What it is asked for is done on the stream that torch works on then."""

    def __init__(self, made: _engine._Table | _engine._Bags, device: torch.device) -> None:
        self._made = made
        self._device = device

    def __getattr__(self, name: str) -> Any:
        _follow_torch(self._device)
        return getattr(self._made, name)
