"""Adam with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recis._table import Table
from recis.optim.sparse_adam import SparseAdam


class SparseAdamW(SparseAdam):
    """AdamW: a touched row is first multiplied by `1 - lr * weight_decay`.

    Arguments and update as in `SparseAdam`, but for the decay.

    Source: Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019.
    """

    _PREFIX = "sparse_adamw"

    def __init__(
        self,
        param_dict: Mapping[str, Table],
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(param_dict, lr, beta1, beta2, eps, weight_decay, amsgrad)

    def _decay(self, hyper: Mapping[str, Any]) -> dict[str, float]:
        return {"decay": 1 - float(hyper["lr"]) * hyper["weight_decay"]}
