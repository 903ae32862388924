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
