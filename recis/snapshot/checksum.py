"""Checksums: XXH3 with 64 bits, seed 0."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from recis import _engine


def xxh3(data: Any) -> int:
    """The checksum of what a bytes-like object holds, contiguous."""
    view = np.frombuffer(data, np.uint8)
    return int(_engine.xxh3(view.ctypes.data, view.size))


class Xxh3:
    """The checksum of bytes that come piece by piece."""

    def __init__(self) -> None:
        self._state = _engine.Xxh3()

    def update(self, data: Any) -> None:
        """Adds what a contiguous bytes-like object holds."""
        view = np.frombuffer(data, np.uint8)
        self._state.update(view.ctypes.data, view.size)

    def digest(self) -> int:
        """Of all pieces so far."""
        return self._state.digest()


def to_hex(checksum: int) -> str:
    """As it stands in text: 16 hexadecimal digits."""
    return f"{checksum:016x}"


def to_signed(checksum: int) -> int:
    """As it stands in an I64 tensor."""
    return checksum - (1 << 64) if checksum >> 63 else checksum


def bytes_of(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A contiguous CPU tensor's memory, writable."""
    # numpy gives arrays of one element any stride.
    flat = tensor.as_strided((tensor.numel(),), (1,))
    return flat.view(torch.uint8).numpy()
