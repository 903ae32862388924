"""Adagrad with one state a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recis import _engine
from recis._table import Table
from recis.optim.sparse_optim import SparseOptimizer, check_range


class SparseRowWiseAdagrad(SparseOptimizer):
    """Row-wise Adagrad: `s += mean(g**2)`, `w -= lr g / (sqrt(s) + eps)`.

    One number of state a row instead of one an element.

    Args:
        param_dict: tables by name, from `filter_out_sparse_param(model)`.
        lr: learning rate.
        weight_decay: times the weight, added to the gradient.
        initial_accumulator_value: what `s` starts at.
        eps: added to the denominator.

    Source: the update is that of FBGEMM's exact row-wise Adagrad.
    """

    def __init__(
        self,
        param_dict: Mapping[str, Table],
        lr: float = 1e-2,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        check_range(self, "weight_decay", weight_decay, 0.0)
        check_range(self, "initial_accumulator_value", initial_accumulator_value, 0.0)
        check_range(self, "eps", eps, 0.0)
        self._initial = float(initial_accumulator_value)
        super().__init__(param_dict, lr=lr, weight_decay=weight_decay, eps=eps)

    def _add_slots(self, table: Table) -> list[int]:
        return [table.add_slot("sparse_row_wise_adagrad_sum", shape=(1,), initial=self._initial)]

    def _rule(self, hyper: Mapping[str, Any], step: int, divisor: float) -> _engine.RuleParams:
        return _engine.RuleParams(
            _engine.Rule.ROW_WISE_ADAGRAD,
            step_size=float(hyper["lr"]),
            weight_decay=hyper["weight_decay"],
            eps=hyper["eps"],
            divisor=divisor,
        )
