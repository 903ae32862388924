"""Stochastic gradient descent on the touched rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recis import _engine
from recis._table import Table
from recis.optim.sparse_optim import SparseOptimizer, check_range


class SparseSGD(SparseOptimizer):
    """SGD: `w -= lr g`, or with momentum `b = momentum b + g`, `w -= lr b`.

    The momentum of a row decays at its own steps only.

    Args:
        param_dict: tables by name, from `filter_out_sparse_param(model)`.
        lr: learning rate.
        momentum: 0 needs no state.
        weight_decay: times the weight, added to the gradient.
        nesterov: step along `g + momentum b`.
    """

    def __init__(
        self,
        param_dict: Mapping[str, Table],
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        check_range(self, "momentum", momentum, 0.0)
        check_range(self, "weight_decay", weight_decay, 0.0)
        if nesterov and momentum == 0:
            raise ValueError("SparseSGD: nesterov needs a momentum above 0")
        super().__init__(
            param_dict, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=bool(nesterov)
        )

    def _add_slots(self, table: Table) -> list[int]:
        # Fixed here, since a table without the slot cannot follow a later change.
        self._has_momentum = self.param_groups[0]["momentum"] != 0
        return [table.add_slot("sparse_sgd_momentum")] if self._has_momentum else []

    def _rule(self, hyper: Mapping[str, Any], step: int, divisor: float) -> _engine.RuleParams:
        return _engine.RuleParams(
            _engine.Rule.SGD,
            step_size=float(hyper["lr"]),
            momentum=hyper["momentum"] if self._has_momentum else 0.0,
            weight_decay=hyper["weight_decay"],
            nesterov=hyper["nesterov"],
            divisor=divisor,
        )
