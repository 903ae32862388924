"""Nested Python values as bytes and back, exactly and without pickle.

The bytes: the length of a JSON text, 8 bytes little-endian; that text, the structure; and a
safetensors file of its tensors, each named by its place, `state['model']['weight']`. In the text,
what JSON has no word for is an object of one tag: `{"dict": [[key, value], ...]}`,
`{"tuple": [...]}`, `{"int": hex}` beyond 64 bits, `{"float": "nan"}` and the infinities, and
`{"tensor": dtype, "shape": [...]}`. A dtype that not every safetensors release has is kept as the
uint8 tensor of its bytes.
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

_LENGTH = struct.Struct("<Q")
_NATIVE = {
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8,
}  # fmt: skip


def encode(value: Any, what: str) -> bytes:
    """The bytes of nested dicts (keys: str or int), lists, tuples, tensors and plain values.

    Tensors are copied to the CPU. What is an instance of a subclass comes back as its base.

    Raises:
        TypeError: something else is among them; the message names its place, `what` first.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_encode(value, what, tensors), allow_nan=False).encode()
    return _LENGTH.pack(len(text)) + text + save(_apart(tensors))


def decode(data: bytes, what: str) -> Any:
    """What `encode` made these bytes of, tensors on the CPU; `what` as it was then."""
    start = _LENGTH.size
    end = start + _LENGTH.unpack_from(data)[0]
    return _decode(json.loads(data[start:end]), what, load(data[end:]))


def _encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value) if value.bit_length() < 64 else {"int": hex(value)}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": str(float(value))}
    if isinstance(value, list | tuple):
        items = [_encode(item, f"{path}[{i}]", tensors) for i, item in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, dict):
        pairs = []
        for key, item in value.items():
            if isinstance(key, bool) or not isinstance(key, str | int):
                raise TypeError(f"{path}: a key must be a str or an int, found {key!r}")
            pairs.append([_encode(key, path, {}), _encode(item, f"{path}[{key!r}]", tensors)])
        return {"dict": pairs}
    if isinstance(value, Tensor):
        return _encode_tensor(value, path, tensors)
    raise TypeError(
        f"{path}: a {type(value).__name__} cannot be saved; expected a dict, list, tuple, tensor, "
        "number, bool, string or None (tables of a store are saved with it: keep them out of the "
        "state with split_sparse_dense_state_dict)"
    )


def _encode_tensor(tensor: Tensor, path: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        raise TypeError(
            f"{path}: expected a dense tensor with values, found one of {tensor.layout}, "
            f"{tensor.dtype} on {tensor.device}"
        )
    dense = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    native = dense.dtype in _NATIVE
    tensors[path] = dense if native else dense.reshape(-1).view(torch.uint8)
    return {"tensor": str(dense.dtype).removeprefix("torch."), "shape": list(dense.shape)}


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, those that share memory with an earlier one copied."""
    seen: set[int] = set()
    out = {}
    for path, tensor in tensors.items():
        address = tensor.untyped_storage().data_ptr()
        out[path] = tensor.clone() if address in seen else tensor
        seen.add(address)
    return out


def _decode(node: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, list):
        return [_decode(item, f"{path}[{i}]", tensors) for i, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    if "dict" in node:
        pairs = [(_decode(key, path, tensors), item) for key, item in node["dict"]]
        return {key: _decode(item, f"{path}[{key!r}]", tensors) for key, item in pairs}
    if "tuple" in node:
        return tuple(_decode(node["tuple"], path, tensors))
    if "int" in node:
        return int(node["int"], 16)
    if "float" in node:
        return float(node["float"])
    dtype: torch.dtype = getattr(torch, node["tensor"])
    return tensors[path].view(dtype).reshape(node["shape"])
