"""How admission and filtering are done: built-in policies, and the place to add your own."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from typing_extensions import override

from recis import _engine
from recis._policy_state import Policy
from recis._singleton import Singleton
from recis._table import Table
from recis._tensors import check_ids, check_values
from recis.nn.hashtable_hook import AdmitHook, BaseHook, FilterHook

logger = logging.getLogger(__name__)


class TableOwner(Protocol):
    """What hooks are attached to: a `HashTable`."""

    @property
    def table(self) -> Table:
        """What hooks work on."""


class BaseAdmitHookImpl:
    """An admission policy of one table. Override `admit`, and register the class.

    A subclass is made with the hook's parameters as keyword arguments.
    """

    policy: _engine.AdmissionPolicy | None = None
    """For built-in policies, what the engine runs instead of `admit`."""

    def __init__(self, **kwargs: Any) -> None:
        """Takes whatever parameters the hook has."""

    def admit(self, ids: Tensor, counts: Tensor) -> Tensor:
        """Which new ids get a row.

        Args:
            ids: int64 `(n,)` on the CPU, distinct, none of which has a row.
            counts: int64 `(n,)` on the CPU, how often each occurs in this call.

        Returns:
            A bool mask `(n,)`. The others read as zeros and take no gradient.
        """
        raise NotImplementedError(f"{type(self).__name__} must define admit(ids, counts)")

    def clear(self) -> None:
        """Forgets what was learnt about ids: the table was cleared."""

    def state(self) -> tuple[Any, ...]:
        """What must outlive the process: the arguments of `load_state`, nothing if empty.

        A store saves it with each commit; it may hold what `Store.commit` takes as state.
        """
        return ()

    def load_state(self, *state: Any) -> None:
        """Takes up what `state` gave when the store was committed."""

    @classmethod
    def merge_states(
        cls, states: Sequence[tuple[Any, ...]], keep: Callable[[Tensor], Tensor]
    ) -> tuple[Any, ...]:
        """One state of those that the shards of a snapshot had.

        Args:
            states: what `state` gave in each, in the order of the shards.
            keep: of ids int64 `(n,)`, a bool mask: which ones the table will hold.

        Returns:
            The first one; override it in a policy that knows ids.
        """
        return states[0]


class ReadOnlyHookImpl(BaseAdmitHookImpl):
    """No new id gets a row."""

    def __init__(self) -> None:
        self.policy = _engine.AdmitNone()


class FrequencyAdmitHookImpl(BaseAdmitHookImpl):
    """An id gets a row at its `min_frequency`-th sighting."""

    def __init__(self, min_frequency: int, max_candidates: int = 1 << 22) -> None:
        _check_at_least("FrequencyAdmit", "min_frequency", min_frequency, 1)
        _check_at_least("FrequencyAdmit", "max_candidates", max_candidates, 2)
        self._frequency = _engine.FrequencyAdmission(min_frequency, max_candidates)
        self.policy = self._frequency

    def sightings(self, id: int) -> int:
        """How often an id without a row was seen; 0 once it has one."""
        return self._frequency.sightings(id)

    @override
    def state(self) -> tuple[Tensor, Tensor]:
        """`(ids, counts)`, int64 `(n,)` each: every id seen but not admitted yet."""
        room = len(self._frequency)
        ids, counts = torch.empty((2, room), dtype=torch.int64)
        known = self._frequency.dump(room, ids.data_ptr(), counts.data_ptr())
        return ids[:known], counts[:known]

    @override
    def load_state(self, *state: Any) -> None:
        """Replaces the sightings by these, as `state` gave them."""
        ids, counts = state
        ids = check_ids(ids, "FrequencyAdmit: ids")
        counts = check_values(check_ids(counts, "counts"), ids.numel(), (), "counts")
        self._frequency.restore(ids.data_ptr(), counts.data_ptr(), ids.numel())

    @override
    @classmethod
    def merge_states(
        cls, states: Sequence[tuple[Any, ...]], keep: Callable[[Tensor], Tensor]
    ) -> tuple[Any, ...]:
        """The sightings of all shards, of the ids that are kept."""
        ids, counts = (torch.cat(parts) for parts in zip(*states, strict=True))
        kept = keep(ids)
        return ids[kept], counts[kept]

    @override
    def clear(self) -> None:
        self._frequency.clear()


class BaseFilterHookImpl(torch.nn.Module):
    """A filter policy of one table. Override `update` and `filter`, and register the class.

    A subclass is made with the table as its first argument and the hook's parameters as keyword
    arguments. It is a submodule of the table, so its buffers are saved with the model, and with
    each commit of the table's store.
    """

    def __init__(self, ht: TableOwner, name: str | None = None, **kwargs: Any) -> None:
        super().__init__()
        self._ht = ht.table
        self._name = name

    def update(self, index: Tensor) -> None:
        """Called at each training lookup and insert with the rows it touched.

        Args:
            index: int64 `(n,)`, on the CPU.
        """

    def observe(self, rows: Tensor, counts: Tensor) -> None:
        """`update` with how often each row occurred, int64 `(n,)`; override one of the two."""
        self.update(rows)

    def update_step(self, step_size: int = 1) -> None:
        """Called after each training step; override it in a filter that goes by steps."""

    def filter(self, ids: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Which ids to evict.

        Args:
            ids: int64 `(n,)`, every id of the table, on its device.
            index: int64 `(n,)`, their rows, there too.

        Returns:
            The ids to evict and their rows.
        """
        raise NotImplementedError(f"{type(self).__name__} must define filter(ids, rows)")

    def do_filter(self) -> None:
        """Runs the filter over the whole table and evicts what it names."""
        ids, index = self._ht.ids_map()
        delete_ids, delete_index = self.filter(ids, index)
        self._ht.delete(delete_ids, delete_index, self._name)
        self.after_filter(ids, delete_ids)

    def after_filter(self, ids: Tensor, delete_ids: Tensor) -> None:
        """Called after a run with all ids there were and those that went."""
        logger.info(
            "%s of table %r: %d of %d ids evicted",
            type(self).__name__,
            self._ht.name,
            delete_ids.numel(),
            ids.numel(),
        )

    def state(self) -> tuple[Any, ...]:
        """The buffers, by name: what a store saves with each commit."""
        buffers = dict(self.named_buffers())
        return (buffers,) if buffers else ()

    def load_state(self, *state: Any) -> None:
        """Takes up buffers as `state` gave them.

        Raises:
            ValueError: this class has others; nothing was taken up.
        """
        (saved,) = state
        buffers = dict(self.named_buffers())
        if saved.keys() != buffers.keys():
            raise ValueError(
                f"table {self._ht.name!r}: its store was committed with a {type(self).__name__} "
                f"that had the buffers {sorted(saved)}; it has {sorted(buffers)}"
            )
        for name, buffer in buffers.items():
            owner, _, leaf = name.rpartition(".")
            setattr(self.get_submodule(owner), leaf, saved[name].to(buffer.device))

    @classmethod
    def merge_states(
        cls, states: Sequence[tuple[Any, ...]], keep: Callable[[Tensor], Tensor]
    ) -> tuple[Any, ...]:
        """One state of those that the shards of a snapshot had: the first one.

        Args:
            states: what `state` gave in each, in the order of the shards.
            keep: of ids int64 `(n,)`, a bool mask: which ones the table will hold.
        """
        return states[0]

    def forward(self, index: Tensor) -> None:
        """`update`, for code that calls the hook as a module."""
        self.update(index)

    @override
    def extra_repr(self) -> str:
        return f"name={self._name!r}, table={self._ht.name!r}"


class GlobalStepFilterHookImpl(BaseFilterHookImpl):
    """Evicts a row when `global step - stamp > filter_step`, the stamp being its last use."""

    _global_step: Tensor

    def __init__(self, ht: TableOwner, name: str = "step_filter", filter_step: int = 100) -> None:
        super().__init__(ht, name)
        _check_at_least("GlobalStepFilter", "filter_step", filter_step, 1)
        self._filter_step = filter_step
        self.register_buffer("_global_step", torch.zeros(1, dtype=torch.int64))
        self._ht.add_slot(name, torch.int64, (1,))

    @override
    def update_step(self, step_size: int = 1) -> None:
        """Advances the global step."""
        self._global_step += step_size

    @override
    def update(self, index: Tensor) -> None:
        stamp = self._global_step.expand(index.numel(), 1)
        self._ht.get_slot(str(self._name)).write(index, stamp)

    @override
    def filter(self, ids: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        stamps = self._ht.get_slot(str(self._name)).read(index).view(-1)
        stale = self._global_step.to(stamps.device) - stamps > self._filter_step
        return ids[stale], index[stale]


class FrequencyFilterHookImpl(BaseFilterHookImpl):
    """Evicts ids seen fewer than `min_frequency` times since admission, new ones spared once."""

    def __init__(
        self, ht: TableOwner, name: str = "frequency_filter", min_frequency: int = 2
    ) -> None:
        super().__init__(ht, name)
        _check_at_least("FrequencyFilter", "min_frequency", min_frequency, 1)
        self._min_frequency = min_frequency
        self._ht.add_slot(name, torch.int64, (1,))
        self._ht.add_slot(f"{name}_spared", torch.int8, (1,), initial=1)

    @override
    def observe(self, rows: Tensor, counts: Tensor) -> None:
        self._ht.get_slot(str(self._name)).add(rows, counts.view(-1, 1))

    @override
    def filter(self, ids: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        spared = self._ht.get_slot(f"{self._name}_spared")
        new = spared.read(index).view(-1).bool()
        spared.write(index[new], torch.zeros(int(new.sum()), 1, dtype=torch.int8))
        seen = self._ht.get_slot(str(self._name)).read(index).view(-1)
        rare = ~new & (seen < self._min_frequency)
        return ids[rare], index[rare]


class HashtableHookFactory(metaclass=Singleton):
    """The registry of policies, and of those at work on live tables. A singleton.

    Example:
        >>> class EvenIds(BaseAdmitHookImpl):
        ...     def admit(self, ids, counts):
        ...         return ids % 2 == 0
        >>> HashtableHookFactory().regist_admit("EvenIds", EvenIds)
        >>> import torch
        >>> from recis.nn import AdmitHook, HashTable
        >>> table = HashTable(embedding_shape=[4], name="even_ids_example")
        >>> _ = table(torch.tensor([1, 2, 3, 4]), admit_hook=AdmitHook("EvenIds"))
        >>> sorted(table.ids().tolist())
        [2, 4]
    """

    def __init__(self) -> None:
        self._filter_classes: dict[str, type[BaseFilterHookImpl]] = {}
        self._admit_classes: dict[str, type[BaseAdmitHookImpl]] = {}
        self._filters: dict[str, WeakKeyDictionary[TableOwner, BaseFilterHookImpl]] = {}
        self._admits: dict[str, WeakKeyDictionary[TableOwner, BaseAdmitHookImpl]] = {}

    def regist_filter(self, name: str, filter_hook_impl: type[BaseFilterHookImpl]) -> None:
        """Registers a filter policy.

        Raises:
            ValueError: the name is taken.
        """
        if name in self._filter_classes:
            raise ValueError(f"filter hook {name!r} is registered already")
        self._filter_classes[name] = filter_hook_impl

    def regist_admit(self, name: str, admit_hook_impl: type[BaseAdmitHookImpl]) -> None:
        """Registers an admission policy.

        Raises:
            ValueError: the name is taken.
        """
        if name in self._admit_classes:
            raise ValueError(f"admit hook {name!r} is registered already")
        self._admit_classes[name] = admit_hook_impl

    def get_filters(self) -> Mapping[str, Mapping[TableOwner, BaseFilterHookImpl]]:
        """Filters at work: by name, then by table. Tables that are gone are not listed."""
        return self._filters

    def get_admits(self) -> Mapping[str, Mapping[TableOwner, BaseAdmitHookImpl]]:
        """Admission policies at work: by hook, `str(AdmitHook(...))`, then by table."""
        return self._admits

    def create_filter_hook(self, ht: TableOwner, hook: FilterHook) -> BaseFilterHookImpl:
        """The policy of `hook` for a table.

        Raises:
            ValueError: no such policy, parameters it does not take, or the table has it already.
        """
        tables = self._filters.setdefault(hook.name, WeakKeyDictionary())
        if ht in tables:
            raise ValueError(f"table {ht.table.name!r} has filter hook {hook.name!r} already")
        impl: BaseFilterHookImpl = _make(self._filter_classes, hook, ht.table.name, ht)
        # By name: with other parameters it goes on from the same step.
        _attach(ht, f"filter {hook.name}", impl)
        tables[ht] = impl
        return impl

    def create_admit_hook(self, ht: TableOwner, hook: AdmitHook) -> BaseAdmitHookImpl:
        """The policy of `hook` for a table: one for each table and set of parameters.

        Raises:
            ValueError: no such policy, or parameters it does not take.
        """
        tables = self._admits.get(str(hook))
        impl = None if tables is None else tables.get(ht)
        if impl is None:
            impl = _make(self._admit_classes, hook, ht.table.name)
            _attach(ht, f"admit {hook}", impl)
            self._admits.setdefault(str(hook), WeakKeyDictionary())[ht] = impl
        return impl

    def merge_states(
        self,
        shards: Sequence[Mapping[str, tuple[Any, ...]]],
        keep: Callable[[Tensor], Tensor],
    ) -> dict[str, tuple[Any, ...]]:
        """The states of a table's policies, out of those that each shard of a snapshot had.

        Args:
            shards: states by hook, as `PolicyStates` names them.
            keep: of ids int64 `(n,)`, a bool mask: which ones the table will hold.

        Raises:
            ValueError: a policy of that name is not registered.
        """
        merged = {}
        for hook in dict.fromkeys(hook for shard in shards for hook in shard):
            states = [shard[hook] for shard in shards if hook in shard]
            merged[hook] = self._class_of(hook).merge_states(states, keep)
        return merged

    def _class_of(self, hook: str) -> type[BaseFilterHookImpl] | type[BaseAdmitHookImpl]:
        kind, _, rest = hook.partition(" ")
        name = rest if kind == "filter" else json.loads(rest)["name"]
        classes: Mapping[str, type[Any]] = (
            self._filter_classes if kind == "filter" else self._admit_classes
        )
        if name not in classes:
            raise ValueError(
                f"the state of a {kind} hook {name!r} cannot be loaded: none of that name is "
                "registered. Register it with HashtableHookFactory() first"
            )
        found: type[BaseFilterHookImpl] | type[BaseAdmitHookImpl] = classes[name]
        return found

    def admits_of(self, ht: TableOwner) -> list[BaseAdmitHookImpl]:
        """The admission policies that have been used on a table."""
        return [tables[ht] for tables in self._admits.values() if ht in tables]


def _attach(ht: TableOwner, hook: str, impl: Policy) -> None:
    """Lets a policy go on from what it had learnt, if that was saved."""
    ht.table.policies.attach(ht, ht.table.name, hook, impl)


def _make(classes: Mapping[str, type[Any]], hook: BaseHook, table: str, *args: TableOwner) -> Any:
    if hook.name not in classes:
        raise ValueError(
            f"table {table!r}: no {type(hook).__name__} is registered as {hook.name!r}; there are: "
            f"{', '.join(sorted(classes))}. Add yours with HashtableHookFactory()."
        )
    signature = inspect.signature(classes[hook.name])
    try:
        signature.bind(*args, **hook.params)
    except TypeError as error:
        raise ValueError(
            f"table {table!r}: hook {hook.name!r} cannot take params {hook.params}: {error}; "
            f"it is {hook.name}{signature}"
        ) from None
    return classes[hook.name](*args, **hook.params)


def _check_at_least(hook: str, name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{hook}: {name} must be an int of at least {least}, found {value!r}")


HashtableHookFactory().regist_admit("ReadOnly", ReadOnlyHookImpl)
HashtableHookFactory().regist_admit("FrequencyAdmit", FrequencyAdmitHookImpl)
HashtableHookFactory().regist_filter("GlobalStepFilter", GlobalStepFilterHookImpl)
HashtableHookFactory().regist_filter("FrequencyFilter", FrequencyFilterHookImpl)
