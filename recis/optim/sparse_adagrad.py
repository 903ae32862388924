"""Adagrad on the touched rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recis import _engine
from recis._table import Table
from recis.optim.sparse_optim import SparseOptimizer, check_range


class SparseAdagrad(SparseOptimizer):
    """Adagrad: `s += g**2`, `w -= lr g / (sqrt(s) + eps)`.

    Args:
        param_dict: tables by name, from `filter_out_sparse_param(model)`.
        lr: learning rate.
        lr_decay: divides it by `1 + (step - 1) * lr_decay`.
        weight_decay: times the weight, added to the gradient.
        initial_accumulator_value: what `s` starts at.
        eps: added to the denominator.

    Source: Duchi, Hazan and Singer, JMLR 12 (2011); the update is that of `torch.optim.Adagrad`.
    """

    def __init__(
        self,
        param_dict: Mapping[str, Table],
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
    ) -> None:
        check_range(self, "lr_decay", lr_decay, 0.0)
        check_range(self, "weight_decay", weight_decay, 0.0)
        check_range(self, "initial_accumulator_value", initial_accumulator_value, 0.0)
        check_range(self, "eps", eps, 0.0)
        self._initial = float(initial_accumulator_value)
        super().__init__(param_dict, lr=lr, lr_decay=lr_decay, weight_decay=weight_decay, eps=eps)

    def _add_slots(self, table: Table) -> list[int]:
        return [table.add_slot("sparse_adagrad_sum", initial=self._initial)]

    def _rule(self, hyper: Mapping[str, Any], step: int, divisor: float) -> _engine.RuleParams:
        return _engine.RuleParams(
            _engine.Rule.ADAGRAD,
            step_size=float(hyper["lr"]) / (1 + (step - 1) * hyper["lr_decay"]),
            weight_decay=hyper["weight_decay"],
            eps=hyper["eps"],
            divisor=divisor,
        )
