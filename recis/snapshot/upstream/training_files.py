"""Pickled files that RecIS 1.0's framework puts beside a checkpoint, read without their code."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recis._state import encode
from recis.snapshot.errors import MismatchError
from recis.snapshot.files import Files
from recis.snapshot.read import STATE

MODEL_FILE = "model.pt"
EXTRA_FILE = "extra.pt"
_IO_STATE = re.compile(r"io_state_(\d{1,9})\.pt", re.ASCII)
_GLOBAL_STEP = "global_step"


class TrainingFiles(NamedTuple):
    """What they hold."""

    tensors: dict[str, Tensor]
    """Of the dense model."""
    states: dict[str, Any]
    """By name: `extra`, `io_state_<shard>`, and `model_rest`, what of the model is no tensor."""
    step: int | None
    """Of training."""


def read_training_files(files: Files) -> TrainingFiles:
    """Reads `model.pt`, `extra.pt` and `io_state_<shard>.pt`, those that are there.

    Raises:
        MismatchError: one cannot be read without running what it contains, or holds something
            that a snapshot cannot; the message names it.
    """
    tensors: dict[str, Tensor] = {}
    states: dict[str, Any] = {}
    names = files.list()
    if MODEL_FILE in names:
        found = _load(files, MODEL_FILE)
        if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
            raise _refused(files, MODEL_FILE, "it holds no state dict")
        tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
        rest = {name: value for name, value in found.items() if name not in tensors}
        if rest:
            states["model_rest"] = rest
    if EXTRA_FILE in names:
        states["extra"] = _load(files, EXTRA_FILE)
    for name in names:
        if _IO_STATE.fullmatch(name):
            states[name.removesuffix(".pt")] = _load(files, name)
    return TrainingFiles(tensors, states, _step_in(states.get("extra")))


def _load(files: Files, name: str) -> Any:
    size = files.size(name)
    data = io.BytesIO(files.read(name, 0, size))
    try:
        found = torch.load(data, map_location="cpu", weights_only=True)
        for tensor in _tensors_in(found):
            if tensor.nbytes > size:  # strides may make much of little
                raise ValueError(f"a tensor of {tensor.nbytes} bytes in a file of {size}")
        encode(found, STATE)
    except Exception as error:  # the bytes are not trusted: anything may come of them
        # Of torch's page of advice, the sentence that says what is wrong.
        why = str(error).partition("WeightsUnpickler error: ")[2].partition(". ")[0]
        raise _refused(files, name, why or f"{type(error).__name__}: {error}") from None
    return found


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors_in(item)


def _refused(files: Files, name: str, why: str) -> MismatchError:
    return MismatchError(
        f"{files.name(name)} is not taken: only tensors and plain values are read, and no code in "
        f"a pickle is run ({' '.join(why.split())[:300]}). If you trust the file, load it with "
        "torch.load(..., weights_only=False) and torch.save the tensors and plain values in it; or "
        "move it away to import the rest"
    )


def _step_in(extra: Any) -> int | None:
    found = extra.get(_GLOBAL_STEP) if isinstance(extra, dict) else None
    if isinstance(found, Tensor) and found.numel() == 1 and not found.is_floating_point():
        found = int(found)
    return found if type(found) is int and found >= 0 else None
