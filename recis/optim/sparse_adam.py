"""Adam on the touched rows, and what its variants share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recis import _engine
from recis._table import Table
from recis.optim.sparse_optim import SparseOptimizer, check_range


class SparseAdam(SparseOptimizer):
    """Adam.

    For each row with a gradient `g`, with B1 and B2 the powers of the betas at the table's step:
    `m = beta1 m + (1 - beta1) g`, `v = beta2 v + (1 - beta2) g**2`,
    `w -= lr sqrt(1 - B2) / (1 - B1) m / (sqrt(v) + eps)`.

    Args:
        param_dict: tables by name, from `filter_out_sparse_param(model)`.
        lr: learning rate.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        eps: added to the denominator.
        weight_decay: times the weight, added to the gradient.
        amsgrad: divide by the largest second moment so far.

    Source: Kingma and Ba, "Adam", ICLR 2015; the update is that of `torch.optim.SparseAdam`.
    """

    _PREFIX = "sparse_adam"

    def __init__(
        self,
        param_dict: Mapping[str, Table],
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        **more: Any,
    ) -> None:
        check_range(self, "beta1", beta1, 0.0, 1.0)
        check_range(self, "beta2", beta2, 0.0, 1.0)
        check_range(self, "eps", eps, 0.0)
        check_range(self, "weight_decay", weight_decay, 0.0)
        super().__init__(
            param_dict,
            lr=lr,
            beta1=beta1,
            beta2=beta2,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=bool(amsgrad),
            **more,
        )

    def _add_slots(self, table: Table) -> list[int]:
        # Fixed here, since a table without the slot cannot follow a later change.
        self._amsgrad = bool(self.param_groups[0]["amsgrad"])
        names = ["exp_avg", "exp_avg_sq"] + ["max_exp_avg_sq"] * self._amsgrad
        return [table.add_slot(f"{self._PREFIX}_{name}") for name in names]

    def _decay(self, hyper: Mapping[str, Any]) -> dict[str, float]:
        """How this variant uses `weight_decay`."""
        return {"weight_decay": hyper["weight_decay"]}

    def _rule(self, hyper: Mapping[str, Any], step: int, divisor: float) -> _engine.RuleParams:
        beta1, beta2 = hyper["beta1"], hyper["beta2"]
        bias1, bias2 = 1 - beta1**step, 1 - beta2**step
        return _engine.RuleParams(
            _engine.Rule.ADAM,
            step_size=float(hyper["lr"]) * bias2**0.5 / bias1,
            beta1=beta1,
            beta2=beta2,
            eps=hyper["eps"],
            divisor=divisor,
            amsgrad=self._amsgrad,
            nesterov=hyper.get("use_nesterov", False),
            **self._decay(hyper),
        )
