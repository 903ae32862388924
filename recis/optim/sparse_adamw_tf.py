"""AdamW as TensorFlow does it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recis._table import Table
from recis.optim.sparse_adam import SparseAdam


class SparseAdamWTF(SparseAdam):
    """AdamW whose decay is not scaled by the learning rate: `w *= 1 - weight_decay`.

    Arguments and update as in `SparseAdam`, but for the decay, and:

    Args:
        use_nesterov: step along `beta1 m + (1 - beta1) g` instead of `m`.
    """

    _PREFIX = "sparse_adamw_tf"

    def __init__(
        self,
        param_dict: Mapping[str, Table],
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        use_nesterov: bool = False,
    ) -> None:
        super().__init__(
            param_dict,
            lr,
            beta1,
            beta2,
            eps,
            weight_decay,
            amsgrad,
            use_nesterov=bool(use_nesterov),
        )

    def _decay(self, hyper: Mapping[str, Any]) -> dict[str, float]:
        return {"decay": 1 - hyper["weight_decay"]}
