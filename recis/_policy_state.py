"""What the hooks of a store's tables have learnt, from commit to commit."""

from __future__ import annotations

import weakref
from typing import Any, Protocol


class Policy(Protocol):
    """A hook at work on a table."""

    def state(self) -> tuple[Any, ...]:
        """What must survive, as `Store.commit` can save it; empty if nothing."""

    def load_state(self, *state: Any) -> None:
        """Takes up what `state` gave."""


class PolicyStates:
    """The states of policies by table and hook, of tables that are not there included.

    A policy is handed what is known of it when it goes to work. What it has learnt is taken
    back at every commit, and when its table goes: another may be made of the same rows.
    """

    def __init__(self, states: dict[str, dict[str, tuple[Any, ...]]]) -> None:
        self._states = states
        self._live: dict[str, dict[str, Policy]] = {}  # those of tables that are there

    def attach(self, owner: object, table: str, hook: str, policy: Policy) -> None:
        """A policy goes to work on a table, for as long as `owner` lives."""
        state = self._states.get(table, {}).get(hook)
        if state is not None:
            policy.load_state(*state)
        if table not in self._live:
            self._live[table] = {}
            weakref.finalize(owner, self._detach, table).atexit = False
        self._live[table][hook] = policy

    def clear(self, table: str) -> None:
        """The table was cleared: what its policies knew of its ids is of no use."""
        self._states.pop(table, None)

    def collect(self) -> dict[str, dict[str, tuple[Any, ...]]]:
        """All states as of now."""
        for table in list(self._live):
            self._take(table)
        return self._states

    def of(self, table: str) -> dict[str, tuple[Any, ...]]:
        """The states of one table as of now, by hook."""
        if table in self._live:
            self._take(table)
        return dict(self._states.get(table, {}))

    def check(self, table: str, states: dict[str, tuple[Any, ...]]) -> None:
        """Raises what `load` would, and changes nothing."""
        for hook, policy in self._live.get(table, {}).items():
            if hook not in states:
                continue
            before = policy.state()
            try:
                policy.load_state(*states[hook])
            finally:
                if before:
                    policy.load_state(*before)

    def load(self, table: str, states: dict[str, tuple[Any, ...]]) -> None:
        """Replaces those of one table; policies at work take theirs up."""
        self._states[table] = dict(states)
        for hook, policy in self._live.get(table, {}).items():
            if hook in states:
                policy.load_state(*states[hook])

    def _detach(self, table: str) -> None:
        self._take(table)
        del self._live[table]

    def _take(self, table: str) -> None:
        states = {hook: policy.state() for hook, policy in list(self._live[table].items())}
        kept = {hook: state for hook, state in states.items() if state}
        if kept:
            self._states.setdefault(table, {}).update(kept)
