"""The engine's table behind a face that takes and gives tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, cast

import torch
from torch import Tensor

from recis import _engine
from recis._counters import table_requests
from recis._place import ON_CPU, Place
from recis._policy_state import PolicyStates
from recis._slices import ALL_SLICES, Slice
from recis._tensors import (
    CODE_OF,
    DTYPES,
    accumulator_of,
    address_of,
    check_ids,
    check_values,
    for_engine,
    new_output,
    use_torch_threads,
)

if TYPE_CHECKING:
    from recis.store import Store

AskAdmission = Callable[[Tensor, Tensor], Tensor]
"""`(ids, counts) -> mask`, each `(n,)`: which of these new ids get a row."""


class Slot:
    """A named column of every row of a table: the embedding, an optimizer's state, a counter."""

    def __init__(self, table: Table, index: int) -> None:
        self._table = table
        self._index = index
        spec = table.engine.slots()[index]
        self._name = spec.name
        self.dtype = DTYPES[spec.dtype]
        self.shape = tuple(spec.shape)

    def name(self) -> str:
        """The slot's name, unique in its table."""
        return self._name

    @property
    def index(self) -> int:
        """Its place among the table's slots."""
        return self._index

    def block_size(self) -> int:
        """Rows a block holds."""
        return self._table.block_size

    def flat_size(self) -> int:
        """Elements one row holds."""
        return math.prod(self.shape)

    def value(self) -> Tensor:
        """A copy in row order, `(capacity, *shape)`; rows that hold no id are zeros."""
        capacity = self._table.engine.capacity()
        out, _ = new_output((capacity, *self.shape), self.dtype, self._table.device)
        self._table.engine.read_whole_slot(self._index, capacity, out.data_ptr())
        return out

    def values(self) -> list[Tensor]:
        """One tensor a block, `(block_size, *shape)`: copies for a table in a store or on a GPU.

        Else they are live views: writing into one writes the table. A view stays valid memory
        for ever, but shows the table only until a slot is added or the table is cleared: ask
        again then.
        """
        engine = self._table.engine
        if self._table.store is not None or not isinstance(engine, _engine.Table):
            rows = self.value()
            blocks = len(rows) // self.block_size()
            return list(rows.view(blocks, self.block_size(), *self.shape).unbind())
        return [
            self._view(engine.block(self._index, block)) for block in range(self._table.blocks())
        ]

    def read(self, rows: Tensor) -> Tensor:
        """A copy for these rows, int64 `(n,)`, as `(n, *shape)`.

        Raises:
            IndexError: a row is not in use.
        """
        rows = check_ids(rows, f"{self}: rows", self._table.device)
        out, _ = new_output((rows.numel(), *self.shape), self.dtype, self._table.device)
        self._table.engine.read_slot(self._index, rows.data_ptr(), rows.numel(), out.data_ptr())
        return out

    def write(self, rows: Tensor, values: Tensor) -> None:
        """Overwrites these rows, int64 `(n,)`, with `(n, *shape)`; the last of repeats wins.

        Raises:
            IndexError: a row is not in use; nothing was written.
        """
        rows = check_ids(rows, f"{self}: rows", self._table.device)
        values = check_values(values, rows.numel(), self.shape, f"{self}: values")
        values = for_engine(values, self.dtype, self._table.device)
        self._table.engine.write_slot(self._index, rows.data_ptr(), rows.numel(), values.data_ptr())

    def add(self, rows: Tensor, values: Tensor) -> None:
        """Adds int64 `(n, *shape)` to these rows of an int64 slot, int64 `(n,)`, repeats summed.

        Unlike a `read` and a `write`, nothing that another thread adds meanwhile is lost.

        Raises:
            IndexError: a row is not in use; nothing was added.
            ValueError: the slot is not int64.
        """
        rows = check_ids(rows, f"{self}: rows", self._table.device)
        values = check_values(values, rows.numel(), self.shape, f"{self}: values")
        values = check_ids(values, f"{self}: values", self._table.device)
        self._table.engine.add_to_slot(
            self._index, rows.data_ptr(), rows.numel(), values.data_ptr()
        )

    def _view(self, memory: _engine.Block) -> Tensor:
        strides = [math.prod(self.shape[i + 1 :]) for i in range(len(self.shape))]
        return torch.frombuffer(memory, dtype=self.dtype).as_strided(
            (self.block_size(), *self.shape),
            (memory.row_stride_bytes // self.dtype.itemsize, *strides),
        )

    def __repr__(self) -> str:
        return f"slot {self._name!r} of table {self._table.name!r}"


class SlotGroup:
    """The slots of one table."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def slots(self) -> list[Slot]:
        """Every slot; the embedding is the first."""
        return [Slot(self._table, index) for index in range(len(self._table.engine.slots()))]

    def slot_by_index(self, index: int) -> Slot:
        """The slot at this place.

        Raises:
            IndexError: there are fewer.
        """
        return self.slots()[index]

    def slot_by_name(self, name: str) -> Slot:
        """The slot of this name.

        Raises:
            KeyError: there is none; the message lists those there are.
        """
        for slot in self.slots():
            if slot.name() == name:
                return slot
        known = ", ".join(slot.name() for slot in self.slots())
        raise KeyError(f"table {self._table.name!r} has no slot {name!r}; it has {known}")


class Table:
    """Ids, embeddings and all that belongs to them: what a `HashTable` puts into its state dict.

    Optimizers and hooks work on this object; models use `HashTable`. Rows, int64 from 0, are
    the table's own numbering of its ids.
    """

    hashtable_tag = True

    def __init__(
        self,
        name: str,
        dtype: torch.dtype,
        shape: tuple[int, ...],
        block_size: int,
        store: Store | None = None,
        *,
        place: Place = ON_CPU,
        device_bytes: int | None = None,
        slice: Slice = ALL_SLICES,
        children: Sequence[str] = (),
        coalesced: bool = False,
        info: dict[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.dtype = dtype
        self.shape = shape
        self.block_size = block_size
        self.store = store
        self.place = place
        self.device = place.device
        self.device_bytes = device_bytes
        self.slice = slice
        self.children = list(children) or [name]
        self._takes_part = False
        self.coalesced = coalesced
        self.info = info or {}
        """What snapshots say of the table besides: JSON."""
        self.policies = PolicyStates({}) if store is None else store.policies
        """What its hooks have learnt."""
        self.known_since: str | None = None
        """The checksum of the snapshot since which it is known what changed."""
        self._joined = False
        self.requests = table_requests()
        """What this worker has looked up, if several hold the table."""

    def open(self, draw: _engine.Draw) -> None:
        """Makes the table, or finds it in its store. Before that it is of no use.

        Raises:
            ValueError: the store has it with other slices or another schema.
        """
        store = None if self.store is None else self.store.engine
        if self.store is not None:
            held = self.store.slices.get(self.name, self.slice)
            if held != self.slice:
                raise ValueError(
                    f"table {self.name!r}: {self.store!r} holds its {held}, asked for "
                    f"{self.slice}: a store serves as many workers as made it, each its own. For "
                    "another number, have those save a snapshot, load it, and use new stores"
                )
        there = store is not None and store.joined(self.name)
        self.engine = self.place.make_table(
            self.name,
            CODE_OF[self.dtype],
            self.shape,
            self.block_size,
            draw,
            store,
            self.device_bytes,
        )
        self._joined = store is not None and not there
        if self.store is not None:
            self.store.slices[self.name] = self.slice

    def undo_open(self) -> None:
        """Leaves the store as it was before `open`, if that made this table a part of it."""
        if self.store is not None and self._joined:
            self.store.engine.leave(self.name)
            del self.store.slices[self.name]

    # ---- lookup ----

    def read(self, ids: Tensor) -> Tensor:
        """Embeddings of ids of any shape; those without a row read as zeros. Changes nothing.

        Here and below, ids are on the table's device.
        """
        count = ids.numel()
        use_torch_threads(count)
        out, stream = new_output((*ids.shape, *self.shape), self.dtype, self.device)
        self.engine.read(ids.data_ptr(), count, out.data_ptr(), stream)
        return out

    def lookup(
        self, ids: Tensor, policy: _engine.AdmissionPolicy | None, times: Tensor | None = None
    ) -> tuple[Tensor, _engine._Batch]:
        """Embeddings of ids, admitting new ones as `policy` says (None: all).

        times: int32 of the shape of ids, on the CPU: occurrences that each stands for; None, one.
        """
        count = ids.numel()
        use_torch_threads(count)
        out, stream = new_output((*ids.shape, *self.shape), self.dtype, self.device)
        batch = self.engine.lookup(
            ids.data_ptr(), count, policy, out.data_ptr(), stream, address_of(times)
        )
        return out, batch

    def lookup_prefetched(
        self, found: _engine.Prefetched, ids: Tensor, policy: _engine.AdmissionPolicy | None
    ) -> tuple[Tensor, _engine._Batch]:
        """`lookup` of ids of which `prefetch` gave this."""
        use_torch_threads(ids.numel())
        out, _ = new_output((*ids.shape, *self.shape), self.dtype, self.device)
        cached = cast("_engine.CachedTable", self.engine)
        return out, cached.lookup_prefetched(found, policy, out.data_ptr())

    def lookup_asking(
        self, ids: Tensor, ask: AskAdmission, times: Tensor | None = None
    ) -> tuple[Tensor, _engine._Batch]:
        """The same with a policy in Python, which runs while the table is not locked."""
        batch = self.find(ids, times)
        distinct = batch.count_distinct()
        positions, new_ids, counts = torch.empty((3, distinct), dtype=torch.int64)
        found = batch.unknown(positions.data_ptr(), new_ids.data_ptr(), counts.data_ptr())
        if found:
            answer = ask(new_ids[:found], counts[:found])
            expected = f"table {self.name!r}: an admit hook must return a bool mask of {(found,)}"
            if not isinstance(answer, Tensor):
                raise TypeError(f"{expected}, found {type(answer).__name__}")
            if answer.dtype != torch.bool or answer.shape != (found,):
                raise ValueError(f"{expected}, found {answer.dtype} {tuple(answer.shape)}")
            admit = torch.zeros(distinct, dtype=torch.bool)
            admit[positions[:found]] = answer.cpu()
            self.engine.admit(batch, admit.data_ptr())
        out, stream = new_output((*ids.shape, *self.shape), self.dtype, self.device)
        self.engine.gather(batch, out.data_ptr(), stream)
        return out, batch

    def find(self, ids: Tensor, times: Tensor | None) -> _engine._Batch:
        """Which rows ids have, admitting none; `times` as for `lookup`."""
        use_torch_threads(ids.numel())
        return self.engine.find(ids.data_ptr(), ids.numel(), address_of(times))

    def contains(self, ids: Tensor) -> Tensor:
        """Bool mask of the shape of ids, on their device: which have a row."""
        given = check_ids(ids, f"table {self.name!r}: ids", self.device)
        out = torch.empty(ids.shape, dtype=torch.bool, device=self.device)
        self.engine.contains(given.data_ptr(), given.numel(), out.data_ptr())
        return out.to(ids.device)

    def rows_of(self, ids: Tensor) -> Tensor:
        """Rows of the shape of ids, on their device; -1 for an id that has none."""
        given = check_ids(ids, f"table {self.name!r}: ids", self.device)
        out = torch.empty(ids.shape, dtype=torch.int64, device=self.device)
        self.engine.rows(given.data_ptr(), given.numel(), out.data_ptr())
        return out.to(ids.device)

    def prefetch(self, ids: Tensor) -> _engine.Prefetched | None:
        """Starts promoting the rows of these ids; see `HashTable.prefetch`.

        Returns:
            For `lookup_prefetched`, of a table in a store with rows on a device.
        """
        if self.store is None:
            return None
        stored = cast("_engine._StoredTable", self.engine)
        return stored.prefetch(ids.data_ptr(), ids.numel())

    # ---- change ----

    def insert(self, ids: Tensor, embeddings: Tensor) -> _engine._Batch:
        """Admits ids `(n,)` and overwrites their embeddings; see `HashTable.insert`."""
        what = f"table {self.name!r}: insert"
        ids = check_ids(ids, f"{what}: ids", self.device).reshape(-1)
        embeddings = check_values(embeddings, ids.numel(), self.shape, f"{what}: embeddings")
        if embeddings.dtype != self.dtype:
            raise ValueError(f"{what}: expected {self.dtype}, found {embeddings.dtype}")
        use_torch_threads(ids.numel())
        embeddings = for_engine(embeddings, self.dtype, self.device)
        return self.engine.insert(ids.data_ptr(), ids.numel(), embeddings.data_ptr())

    def evict(self, ids: Tensor) -> int:
        """Removes ids and all that belongs to them; returns how many had a row."""
        ids = check_ids(ids, f"table {self.name!r}: evict: ids", self.device)
        use_torch_threads(ids.numel())
        return self.engine.evict(ids.data_ptr(), ids.numel())

    def delete(self, ids: Tensor, rows: Tensor, name: str | None = None) -> None:
        """`evict`, as filter hooks call it: rows and the hook's name are not needed."""
        self.evict(ids)

    def clear(self) -> None:
        """Drops ids, rows and gradients; the slots stay."""
        self.engine.clear()

    def restore(self, ids: Tensor, values: dict[str, Tensor]) -> None:
        """Gives distinct ids, int64 `(n,)`, these values, `(n, *shape)` by slot.

        Ids that have no row get one. Slots that are not named keep their values, or are initial.

        Raises:
            TypeError, ValueError, KeyError: ids, a slot's name, shape or dtype is wrong, or ids
                repeat; nothing has changed.
        """
        what = f"table {self.name!r}: restore"
        ids = check_ids(ids, f"{what}: ids", self.device).reshape(-1)
        slots, kept = [], []
        for name, value in values.items():
            slot = self.get_slot(name)
            value = check_values(value, ids.numel(), slot.shape, f"{what}: {name}")
            if value.dtype != slot.dtype:
                raise ValueError(f"{what}: {name}: expected {slot.dtype}, found {value.dtype}")
            slots.append(slot.index)
            kept.append(for_engine(value, slot.dtype, self.device))
        use_torch_threads(ids.numel())
        addresses = [value.data_ptr() for value in kept]
        self.engine.restore(ids.data_ptr(), ids.numel(), slots, addresses)

    def track(self, on: bool = True) -> None:
        """Starts, or stops, to remember which rows change: what `cut(delta=True)` needs."""
        self.engine.track(on)

    def cut(self, *, delta: bool = False, pool_bytes: int = 1 << 28) -> _engine.Cut:
        """The table as of now, to be written while it goes on being changed.

        Args:
            delta: only rows that changed since the last cut that was closed, or since `track`.
            pool_bytes: memory for copies of records that are changed meanwhile; when it is full,
                changes wait for the writer.

        Raises:
            RuntimeError: there is a cut of this table already.
            ValueError: a delta of a table that is not tracked.
        """
        return self.engine.cut(delta, pool_bytes)

    # ---- gradient ----

    def accumulate(self, batch: _engine._Batch, grad: Tensor, mean: bool, divisor: float) -> None:
        """Adds the gradient of a lookup's output."""
        grad = for_engine(grad, self.dtype, self.device)
        use_torch_threads(batch.size)
        self.engine.accumulate(batch, grad.data_ptr(), CODE_OF[self.dtype], mean, divisor)

    def accept_grad(self, grad_index: Tensor, grad: Tensor) -> None:
        """Adds to the pending gradient of rows; see `HashTable.accept_grad`."""
        what = f"table {self.name!r}: accept_grad"
        self._check_trainable(what)
        rows = check_ids(grad_index, f"{what}: grad_index", self.device).reshape(-1)
        grad = check_values(grad, rows.numel(), self.shape, f"{what}: grad")
        if not grad.is_floating_point():
            raise TypeError(f"{what}: expected a floating-point grad, found {grad.dtype}")
        grad = for_engine(grad, accumulator_of(self.dtype), self.device)
        self.engine.accumulate_rows(
            rows.data_ptr(), rows.numel(), grad.data_ptr(), CODE_OF[grad.dtype]
        )

    def grad(self, acc_step: int = 1) -> Tensor:
        """The pending gradient; see `HashTable.grad`."""
        if acc_step <= 0:
            raise ValueError(f"table {self.name!r}: acc_step must be positive, is {acc_step}")
        room = self.engine.gradient_rows()
        rows = torch.empty(room, dtype=torch.int64, device=self.device)
        accumulator = accumulator_of(self.dtype)
        values = torch.empty((room, *self.shape), dtype=accumulator, device=self.device)
        count = self.engine.read_gradient(room, acc_step, rows.data_ptr(), values.data_ptr())
        size = (self.engine.capacity(), *self.shape)
        return torch.sparse_coo_tensor(
            rows[:count].unsqueeze(0),
            values[:count].to(self.dtype),
            size,
            check_invariants=False,
            is_coalesced=True,
        )

    def clear_grad(self) -> None:
        """Drops the pending gradient."""
        self.engine.clear_gradient()
        self._takes_part = False

    def take_part(self) -> None:
        """Notes that the workers that share this table had a gradient for it, here or elsewhere."""
        self._takes_part = True

    @property
    def has_gradient(self) -> bool:
        """Whether a step would count: all workers' tables count the same ones."""
        return self._takes_part or self.engine.has_gradient()

    def step(self, params: _engine.RuleParams, states: list[int]) -> None:
        """Applies the pending gradient to the rows it belongs to."""
        use_torch_threads()
        self.engine.step(params, states)

    # ---- slots ----

    def slot_group(self) -> SlotGroup:
        """The table's slots."""
        return SlotGroup(self)

    def get_slot(self, name: str) -> Slot:
        """The slot of this name; KeyError if there is none."""
        return self.slot_group().slot_by_name(name)

    def add_slot(
        self,
        name: str,
        dtype: torch.dtype | None = None,
        shape: tuple[int, ...] | None = None,
        initial: float = 0.0,
    ) -> int:
        """Adds a slot to every row, present and future, and returns its index.

        Args:
            name: unique in the table; an equal slot of that name is found instead.
            dtype: default, what optimizer state of this table is kept in.
            shape: default, that of an embedding.
            initial: every element of a row that has not been written yet.

        Raises:
            ValueError: a slot of that name but another dtype, shape or initial value exists.
        """
        code = CODE_OF[dtype if dtype is not None else accumulator_of(self.dtype)]
        return self.engine.add_slot(
            name, code, list(self.shape if shape is None else shape), initial
        )

    # ---- whole table ----

    def state_dict(self) -> dict[str, bytes]:
        """The rows of this table's slices, all slots of them, and what its hooks have learnt.

        With `load_state_dict` it makes a table a `Stateful` of `torch.distributed.checkpoint`,
        which saves and loads `model.state_dict()` with the tables in it. The content is in memory
        as a whole, and again while it is written: `recis.serialize` saves larger tables.

        Returns:
            One value, whose key names the slices.
        """
        from recis.serialize.table_state import table_state

        return table_state(self)

    def load_state_dict(self, state_dict: dict[str, bytes]) -> None:
        """Replaces the content by what `state_dict` gave.

        Raises:
            ValueError: it is of other slices, or lacks a slot, or has another dtype, shape or
                slice_size; nothing has changed.
            RuntimeError: it is damaged; nothing has changed.
        """
        from recis.serialize.table_state import load_table_state

        load_table_state(self, state_dict)

    def ids_map(self) -> tuple[Tensor, Tensor]:
        """`(ids, rows)`, int64 `(R,)` each on the table's device, rows ascending."""
        room = self.engine.size()
        ids, rows = torch.empty((2, room), dtype=torch.int64, device=self.device)
        count = self.engine.ids_map(room, ids.data_ptr(), rows.data_ptr())
        return ids[:count], rows[:count]

    def blocks(self) -> int:
        """Blocks that hold a row."""
        return self.engine.capacity() // self.block_size

    def stats(self) -> dict[str, int]:
        """Counters; see `HashTable.stats`."""
        stats = self.engine.stats()
        if self.store is not None and not self.place.on_cpu:
            stats |= cast("_engine.CachedTable", self.engine).cache_stats()
        return stats

    def __len__(self) -> int:
        return self.engine.size()

    def _check_trainable(self, what: str) -> None:
        if not self.dtype.is_floating_point:
            raise ValueError(f"{what}: the table holds {self.dtype}, which takes no gradient")

    def __repr__(self) -> str:
        return f"Table({self.name!r}, {self.dtype}, {list(self.shape)}, rows={len(self)})"

    def _refuse_copy(self, how: str) -> NoReturn:
        raise TypeError(
            f"table {self.name!r} cannot be {how}: it may be larger than memory. Save it with "
            "recis.serialize or recis.framework, or move its content with "
            "HashTable.insert(other.ids(), other.embeddings()), and keep it out of the dict with "
            "split_sparse_dense_state_dict(state_dict). torch.distributed.checkpoint takes it in "
            "model.state_dict(), which must not be nested: save(model.state_dict(), ...)"
        )

    def __deepcopy__(self, memo: object) -> NoReturn:
        self._refuse_copy("copied")

    def __reduce__(self) -> NoReturn:
        self._refuse_copy("pickled")
