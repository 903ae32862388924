"""Headers of safetensors files: composed, and parsed from files that nobody vouches for."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch

from recis.snapshot import strict_json
from recis.snapshot.errors import DamagedError

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The dtypes by their names in safetensors files."""

NAME_OF = {dtype: name for name, dtype in DTYPES.items()}
"""Those names by dtype."""

_LENGTH = struct.Struct("<Q")
# They are no paths, only keys; escapes could make a long text of a short one.
_NAME = re.compile(r"[ !#-\[\]-~]{1,1024}")
_METADATA = "__metadata__"


class TensorSpec(NamedTuple):
    """A tensor of a file."""

    dtype: str
    """As safetensors names it, such as "F32"."""
    shape: tuple[int, ...]
    """Its sizes."""
    begin: int
    """Where its bytes begin, counted from the payload's first."""
    end: int
    """Where they end."""


class Header(NamedTuple):
    """What a file says of itself."""

    tensors: dict[str, TensorSpec]
    """By name, in the order of their bytes."""
    metadata: dict[str, str]
    """What the writer says of the whole file."""
    data_offset: int
    """Where the payload begins in the file."""


def lay_out(tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> dict[str, TensorSpec]:
    """Contiguous places for `(name, dtype, shape)`, in this order."""
    found, at = {}, 0
    for name, dtype, shape in tensors:
        end = at + math.prod(shape) * DTYPES[dtype].itemsize
        found[name] = TensorSpec(dtype, shape, at, end)
        at = end
    return found


def compose(
    tensors: Mapping[str, TensorSpec], metadata: Mapping[str, str], align: int = 4096
) -> bytes:
    """The bytes before the payload; equal arguments give equal bytes.

    Args:
        tensors: by name, contiguous from 0.
        metadata: left out if empty.
        align: the length will be a multiple of this.

    Raises:
        ValueError: a name cannot be written, or there are too many.
    """
    for name in tensors:
        if not _NAME.fullmatch(name) or name == _METADATA:
            raise ValueError(
                f"a tensor's name must be 1 to 1024 printable ASCII letters without quotes and "
                f"backslashes, found {name!r}"
            )
    text: dict[str, Any] = {
        name: {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": (spec.begin, spec.end)}
        for name, spec in tensors.items()
    }
    if metadata:
        text[_METADATA] = dict(metadata)
    data = json.dumps(text, sort_keys=True, separators=(",", ":")).encode("ascii")
    try:
        strict_json.check_size(data, "a header")
    except DamagedError as error:
        raise ValueError(
            f"{len(tensors)} tensors are too many for a file: expected {error.expected}, found "
            f"{error.found}"
        ) from None
    length = -(-(_LENGTH.size + len(data)) // align) * align - _LENGTH.size
    return _LENGTH.pack(length) + data.ljust(length)


def parse(read: Callable[[int, int], bytes | bytearray], size: int, path: str) -> Header:
    """The header of a file.

    Args:
        read: `(offset, count)` -> that many bytes of it.
        size: bytes of the file.
        path: its path, for errors.

    Raises:
        DamagedError: it is no safetensors file, or its tensors do not exactly fill it.
    """
    if size < _LENGTH.size:
        raise DamagedError(path, "a safetensors file", f"{size} bytes")
    (length,) = _LENGTH.unpack(read(0, _LENGTH.size))
    limit = min(strict_json.MAX_BYTES, size - _LENGTH.size)
    if length > limit:
        raise DamagedError(path, f"a header of at most {limit} bytes", f"{length}")
    data = read(_LENGTH.size, length)
    if b"\\" in data:
        raise DamagedError(path, "a header without escapes", "a backslash")
    found = strict_json.load(data, path)
    metadata = found.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise DamagedError(path, "texts by name as metadata", "something else")
    specs = {name: _spec(name, entry, path) for name, entry in found.items()}
    tensors = dict(sorted(specs.items(), key=lambda item: item[1][2:]))
    data_offset = _LENGTH.size + length
    at = 0
    for name, spec in tensors.items():
        if spec.begin != at:
            raise DamagedError(path, f"its bytes from {at} on", f"from {spec.begin}", tensor=name)
        at = spec.end
    if at != size - data_offset:
        raise DamagedError(path, f"{data_offset + at} bytes", f"{size}")
    return Header(tensors, metadata, data_offset)


def _spec(name: str, entry: Any, path: str) -> TensorSpec:
    def damaged(expected: str, found: object) -> DamagedError:
        return DamagedError(path, expected, repr(found)[:200], tensor=name[:200])

    if not _NAME.fullmatch(name):
        raise damaged("a name of 1 to 1024 printable ASCII letters", name)
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise damaged("dtype, shape and data_offsets", entry)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise damaged(f"a dtype of {', '.join(DTYPES)}", dtype)
    if not _are_sizes(shape) or len(shape) > 64:
        raise damaged("a list of sizes as shape", shape)
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise damaged("[begin, end] as data_offsets", offsets)
    count = math.prod(shape) * DTYPES[dtype].itemsize
    if count != offsets[1] - offsets[0]:
        raise damaged(f"{count} bytes for {dtype} {shape}", offsets[1] - offsets[0])
    return TensorSpec(dtype, tuple(shape), offsets[0], offsets[1])


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 1 << 63
        for size in value
    )
