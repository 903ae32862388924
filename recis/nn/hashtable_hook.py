"""Which ids get a row, and which lose it: the descriptions that models are written with.

A hook names a policy and its parameters. The policy itself is an implementation registered with
`recis.nn.modules.hashtable_hook_impl.HashtableHookFactory`, one for each table.
"""

from __future__ import annotations

import json
from typing import Any


class BaseHook:
    """A policy's name and parameters. Equal hooks are one hook; other parameters, another."""

    def __init__(self, name: str, params: dict[str, Any] | None = None) -> None:
        if not isinstance(name, str) or not name:
            raise TypeError(f"{type(self).__name__}: name must be a non-empty string, not {name!r}")
        if params is not None and not isinstance(params, dict):
            raise TypeError(f"{type(self).__name__}: params must be a dict or None, not {params!r}")
        self._name = name
        self._params = dict(params or {})
        self._key = json.dumps({"name": name, "params": self._params}, sort_keys=True, default=repr)

    @property
    def name(self) -> str:
        """The policy's registered name."""
        return self._name

    @property
    def params(self) -> dict[str, Any]:
        """The policy's parameters."""
        return self._params

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BaseHook) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __str__(self) -> str:
        return self._key

    __repr__ = __str__


class AdmitHook(BaseHook):
    """Chooses which new ids get a row; passed to `HashTable.forward`.

    Args:
        name: "ReadOnly", "FrequencyAdmit", or one registered with `HashtableHookFactory`.
        params: the policy's parameters.

    Example:
        >>> import torch
        >>> from recis.nn import HashTable
        >>> table = HashTable(embedding_shape=[8], name="admit_hook_example")
        >>> table(torch.tensor([1, 2]), admit_hook=AdmitHook("ReadOnly")).abs().sum().item()
        0.0
        >>> len(table)
        0
    """


class FilterHook(BaseHook):
    """Chooses which ids to evict, whenever filtering runs; given to `HashTable`.

    Args:
        name: "GlobalStepFilter", "FrequencyFilter", or one registered with
            `HashtableHookFactory`.
        params: the policy's parameters, such as `{"filter_step": 100}`.
    """


class ReadOnlyAdmitHook(AdmitHook):
    """No new id gets a row: unknown ids read as zeros, known ones train."""

    def __init__(self) -> None:
        super().__init__("ReadOnly")


class FrequencyAdmitHook(AdmitHook):
    """An id gets its row at its `min_frequency`-th sighting; before, it reads as zeros.

    Every occurrence counts, repeats in a call too.

    Args:
        min_frequency: sightings needed, at least 1.
        max_candidates: ids without a row whose sightings are remembered, about 25 bytes each.
            Past it the ones not seen for longest are forgotten.
    """

    def __init__(self, min_frequency: int, *, max_candidates: int = 1 << 22) -> None:
        super().__init__(
            "FrequencyAdmit", {"min_frequency": min_frequency, "max_candidates": max_candidates}
        )


class FrequencyFilterHook(FilterHook):
    """Evicts ids seen fewer than `min_frequency` times since their admission.

    Ids admitted since the previous run are spared once.
    """

    def __init__(self, min_frequency: int) -> None:
        super().__init__("FrequencyFilter", {"min_frequency": min_frequency})


class GlobalStepFilterHook(FilterHook):
    """Evicts ids that have not been looked up in training for more than `filter_step` steps."""

    def __init__(self, filter_step: int = 100) -> None:
        super().__init__("GlobalStepFilter", {"filter_step": filter_step})
