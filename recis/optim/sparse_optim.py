"""What every sparse optimizer does."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch

from recis import _engine
from recis._table import Table


class SparseOptimizer(torch.optim.Optimizer):
    """Base of the sparse optimizers.

    It updates the rows of its tables that have a pending gradient and leaves the others alone.
    Its state lives in slots of the tables, and so is saved, spilled and evicted with the rows;
    `state_dict` holds the rest: hyper-parameters and step counts.

    `param_groups[0]` holds the hyper-parameters, so that learning-rate schedulers work.
    """

    def __init__(self, param_dict: Mapping[str, Table], **hyper: Any) -> None:
        check_range(self, "lr", hyper["lr"], 0.0)
        super().__init__([{"params": [], **hyper}], defaults=hyper)
        self._tables: dict[str, Table] = {}
        self._slots: dict[str, list[int]] = {}
        self._steps: dict[str, int] = {}
        self._grad_accum_steps = 1
        self._local_step = 0
        self.add_params(param_dict)

    @abstractmethod
    def _add_slots(self, table: Table) -> list[int]:
        """Adds this optimizer's slots to a table and returns their indices."""

    @abstractmethod
    def _rule(self, hyper: Mapping[str, Any], step: int, divisor: float) -> _engine.RuleParams:
        """The engine's update for a table's `step`-th step, counted from 1."""

    def add_params(self, param_dict: Mapping[str, Table]) -> None:
        """Takes on more tables, given as `filter_out_sparse_param(model)`.

        Raises:
            TypeError: a value is not a table; none was taken on.
            ValueError: a table holds integers, or has slots of these names but another kind.
        """
        if not isinstance(param_dict, Mapping):
            raise TypeError(
                f"{type(self).__name__}: expected the dict of filter_out_sparse_param(model), "
                f"found {type(param_dict).__name__}"
            )
        for key, table in param_dict.items():
            if not isinstance(table, Table):
                raise TypeError(
                    f"{type(self).__name__}: {key!r} is a {type(table).__name__}, not a table: "
                    "pass filter_out_sparse_param(model); dense parameters belong to torch.optim"
                )
            if not table.dtype.is_floating_point:
                raise ValueError(
                    f"{type(self).__name__}: table {table.name!r} holds {table.dtype}, which "
                    "cannot be trained"
                )
        for table in param_dict.values():
            if table.name not in self._tables:
                self._slots[table.name] = self._add_slots(table)
                self._tables[table.name] = table
                self._steps.setdefault(table.name, 0)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Applies the pending gradients; every `grad_accum_steps`-th call, their mean.

        A table without a pending gradient is left as it is, its step count too.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._local_step += 1
        if self._local_step % self._grad_accum_steps:
            return loss
        hyper = self.param_groups[0]
        for name, table in self._tables.items():
            if not table.has_gradient:
                continue
            self._steps[name] += 1
            rule = self._rule(hyper, self._steps[name], float(self._grad_accum_steps))
            table.step(rule, self._slots[name])
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drops the pending gradients, unless steps are still being accumulated."""
        if self._local_step % self._grad_accum_steps == 0:
            for table in self._tables.values():
                table.clear_grad()

    def set_grad_accum_steps(self, steps: int) -> None:
        """Applies the mean gradient of every `steps` calls of `step`.

        Raises:
            ValueError: `steps` is not a positive int.
        """
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"grad_accum_steps must be a positive int, found {steps!r}")
        self._grad_accum_steps = steps

    def state_dict(self) -> dict[str, Any]:
        """Hyper-parameters and, by table name, step counts. Moments are slots of the tables."""
        groups = [{k: v for k, v in g.items() if k != "params"} for g in self.param_groups]
        return {
            "optimizer": type(self).__name__,
            "state": {name: {"step": step} for name, step in self._steps.items()},
            "param_groups": groups,
            "local_step": self._local_step,
            "grad_accum_steps": self._grad_accum_steps,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores exactly what `state_dict` gave.

        Raises:
            ValueError: it is another optimizer's or names tables this one lacks; nothing changed.
        """
        if state_dict.get("optimizer") != type(self).__name__:
            raise ValueError(
                f"expected the state of a {type(self).__name__}, found that of "
                f"{state_dict.get('optimizer')!r}"
            )
        missing = set(state_dict["state"]) - set(self._tables)
        if missing:
            raise ValueError(
                f"{type(self).__name__}: the state names tables that this optimizer does not have: "
                f"{', '.join(sorted(missing))}; add them first with add_params"
            )
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update(saved)
        # The saved hyper-parameters may ask for other slots: amsgrad, momentum.
        self._slots = {name: self._add_slots(table) for name, table in self._tables.items()}
        self._steps = dict.fromkeys(self._tables, 0)
        self._steps.update({name: s["step"] for name, s in state_dict["state"].items()})
        self._local_step = state_dict["local_step"]
        self._grad_accum_steps = state_dict["grad_accum_steps"]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(tables={list(self._tables)}, {self.state_dict()})"


def check_range(
    optimizer: object, name: str, value: float, low: float, below: float | None = None
) -> None:
    """Raises ValueError unless `low <= value` and, if given, `value < below`."""
    if not float(value) >= low or (below is not None and not float(value) < below):
        bound = f"at least {low}" if below is None else f"in [{low}, {below})"
        raise ValueError(f"{type(optimizer).__name__}: {name} must be {bound}, found {value!r}")
