"""The states of the random generators that training draws from."""

from __future__ import annotations

import random
import sys
from typing import Any, cast

import torch


def random_states() -> dict[str, Any]:
    """Those of Python, torch, its CUDA devices if in use, and numpy if imported."""
    states: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state_all()
    if "numpy" in sys.modules:
        import numpy as np

        name, keys, *rest = cast(tuple[Any, ...], np.random.get_state(legacy=True))
        states["numpy"] = (name, torch.from_numpy(keys.astype(np.int64)), *rest)
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Goes on from what `random_states` gave; a generator it did not know stays as it is."""
    random.setstate(states["python"])
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
    if "numpy" in states:
        import numpy as np

        name, keys, *rest = states["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
