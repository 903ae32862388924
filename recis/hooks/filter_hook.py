"""Running the filter hooks of all live tables from a training loop."""

from __future__ import annotations

from typing import Any

from recis.hooks.hook import Hook
from recis.nn.modules.hashtable_hook_impl import HashtableHookFactory


class HashTableFilterHook(Hook):
    """Advances the step of every filter, and runs them every `filter_interval` steps.

    Args:
        filter_interval: steps between runs; None, never.

    Example:
        >>> filter_hook = HashTableFilterHook(filter_interval=200)
        >>> for global_step in range(3):
        ...     filter_hook.after_step(None, global_step)
    """

    def __init__(self, filter_interval: int | None = 100) -> None:
        self.reset_filter_interval(filter_interval)
        self._last_run = 0

    def reset_filter_interval(self, filter_interval: int | None) -> None:
        """Changes the interval.

        Raises:
            ValueError: it is not positive.
        """
        if filter_interval is not None and filter_interval <= 0:
            raise ValueError(f"filter_interval must be positive or None, found {filter_interval}")
        self.filter_interval = filter_interval

    def state_dict(self) -> dict[str, int]:
        """When it ran last, for the state that a training goes on from."""
        return {"last_run": self._last_run}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Takes up what `state_dict` gave."""
        self._last_run = state_dict["last_run"]

    def after_step(self, _: Any = None, global_step: int = 0) -> None:
        """Call it after each training step, with the number of the step."""
        filters = [
            impl
            for tables in HashtableHookFactory().get_filters().values()
            for impl in list(tables.values())
        ]
        for impl in filters:
            impl.update_step()
        if self.filter_interval is None or global_step - self._last_run < self.filter_interval:
            return
        self._last_run = global_step
        for impl in filters:
            impl.do_filter()
