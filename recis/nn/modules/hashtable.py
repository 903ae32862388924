"""`HashTable`: embeddings for a vocabulary that grows while training.

Source: names, arguments and defaults follow RecIS's documentation; what is ours is keyword-only.
"""

from __future__ import annotations

import gc
import json
import os
import re
from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import override

from recis import _engine
from recis._place import Place, place_of
from recis._singleton import Singleton
from recis._slices import Slice as Slice
from recis._slices import gen_slice as gen_slice
from recis._table import SlotGroup, Table
from recis._tensors import DTYPES, check_ids
from recis.nn.hashtable_hook import AdmitHook, FilterHook
from recis.nn.initializers import BaseInitializer, ConstantInitializer
from recis.nn.modules._children import ChildrenInfo
from recis.nn.modules.hashtable_hook_impl import BaseAdmitHookImpl, HashtableHookFactory
from recis.nn.modules.prefetched import Prefetched
from recis.store import Store

_NAME = re.compile(r"[A-Za-z0-9_.\-/]{1,255}")


class HashtableRegister(metaclass=Singleton):
    """The names of live tables and of their children. A singleton.

    A name is free again once its table is gone.
    """

    def __init__(self) -> None:
        self._infos: dict[str, str] = {}
        self._tables: WeakValueDictionary[str, Table] = WeakValueDictionary()
        self._reserved: set[str] = set()

    def register(self, name: str, info: str, ht: Table | None = None) -> None:
        """Takes a name for as long as `ht` lives; without one, for good.

        Raises:
            ValueError: a live table has it.
        """
        if name in self._tables:
            gc.collect()  # perhaps it is only held by a reference cycle that is garbage
        if name in self._tables or name in self._reserved:
            raise ValueError(
                f"a table is named {name!r} already, with {self._infos[name]}, asked for "
                f"{info}; delete it first or choose another name"
            )
        self._infos[name] = info
        if ht is None:
            self._reserved.add(name)
        else:
            self._tables[name] = ht

    def release(self, ht: Table) -> None:
        """Gives up the names that a table has."""
        for name in [name for name, owner in self._tables.items() if owner is ht]:
            del self._tables[name]

    def get_ht_by_child_name(self, name: str) -> Table:
        """The live table that has this name or child; KeyError if there is none."""
        return self._tables[name]


class HashTable(torch.nn.Module):
    """Embeddings of any int64 ids, with the optimizer state and counters that belong to them.

    In training, an id that has no row is admitted: it gets a row and its first embedding. In
    `eval()`, and for integer dtypes, the table is read-only and unknown ids read as zeros.

    Args:
        embedding_shape: sizes of one embedding, all positive.
        block_size: rows a block holds: the unit of memory, of `slot.values()` and of spilling.
        dtype: float32, float64, float16, bfloat16, int8, int32 or int64. float16 and bfloat16
            tables keep gradients and optimizer state in float32.
        device: where hot rows live: "cpu", or a GPU such as "cuda:0", whose memory then holds all
            of the table, or with a `store` those that are hottest. It works on the stream that is
            torch's current one.
        coalesced: whether several tables share this one; ids then carry their child's index,
            see `children_info().encode`.
        children: names of those tables; default, `[name]`.
        slice: which slices of the ids this table holds when it is saved and loaded.
        initializer: first embeddings, from `recis.nn.initializers`; default, zeros.
        name: unique among live tables.
        grad_reduce_by: "worker" sums an id's gradients over a call and divides by WORLD_SIZE;
            "id" averages them.
        filter_hook: which ids to evict when filtering runs.
        store: where rows go that memory has no room for, and what commits them. Made again with
            the same name in the same or a reopened store, the table has the rows it had there,
            its hooks what they had learnt. Default: a table in memory only.
        device_bytes: how many bytes of rows a GPU holds of a table that is in a store: at least
            one block. Results do not depend on it.
        seed: of the initializer; equal seeds give equal ids equal embeddings.

    Raises:
        TypeError, ValueError: an argument is unusable, or not that of the table of this name in
            the store; the message says which and why.
        RuntimeError: the device is not available, or the store is closed.

    Example:
        >>> table = HashTable(embedding_shape=[4], name="users_example")
        >>> table(torch.tensor([7, -1, 7])).shape
        torch.Size([3, 4])
        >>> len(table)
        2
    """

    def __init__(
        self,
        embedding_shape: Sequence[int],
        block_size: int = 5,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = torch.device("cpu"),
        coalesced: bool = False,
        children: Sequence[str] | None = None,
        slice: Slice = Slice(0, 65536, 65536),  # noqa: B008 - immutable in use
        initializer: BaseInitializer | None = None,
        name: str = "hashtable",
        grad_reduce_by: str = "worker",
        filter_hook: FilterHook | None = None,
        *,
        store: Store | None = None,
        device_bytes: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check_name(name)
        shape = _check_shape(name, embedding_shape)
        if dtype not in DTYPES:
            raise TypeError(f"table {name!r}: dtype must be one of {DTYPES}, found {dtype}")
        _check_kind(name, "block_size", block_size, int)
        _check_kind(name, "slice", slice, Slice)
        _check_kind(name, "initializer", initializer, BaseInitializer, type(None))
        _check_kind(name, "filter_hook", filter_hook, FilterHook, type(None))
        _check_kind(name, "store", store, Store, type(None))
        _check_kind(name, "seed", seed, int)
        if grad_reduce_by not in ("worker", "id"):
            raise ValueError(
                f"table {name!r}: grad_reduce_by must be 'worker' or 'id', found {grad_reduce_by!r}"
            )
        place = _check_device(name, device)
        _check_kind(name, "device_bytes", device_bytes, int, type(None))
        if (device_bytes is not None) != (store is not None and not place.on_cpu):
            raise ValueError(
                f"table {name!r}: device_bytes is for a table on a GPU and in a store, which needs "
                f"it: how many bytes of rows the GPU holds. Found {device_bytes}, a table on "
                f"{place.name} and {'no store' if store is None else store}"
            )
        self._children = ChildrenInfo(name, [name] if children is None else children, coalesced)
        self._initializer = ConstantInitializer() if initializer is None else initializer
        self._grad_mean = grad_reduce_by == "id"
        self._grad_divisor = float(os.environ.get("WORLD_SIZE", 1)) if not self._grad_mean else 1.0
        try:
            draw = self._initializer.draw(shape, dtype, seed)
        except ValueError as error:
            raise ValueError(f"table {name!r}: {error}") from None
        self._table = Table(
            name,
            dtype,
            shape,
            block_size,
            store,
            place=place,
            device_bytes=device_bytes,
            slice=slice,
            children=self._children.children(),
            coalesced=coalesced,
            info={
                "initializer": str(self._initializer),
                "seed": seed,
                "block_size": block_size,
                "grad_reduce_by": grad_reduce_by,
                "filter_hook": None if filter_hook is None else str(filter_hook),
            },
        )
        try:
            self._register_names()  # first: from then on no other table can open this one's
            self._table.open(draw)
            self._filter_hook_impl = (
                None
                if filter_hook is None
                else HashtableHookFactory().create_filter_hook(self, filter_hook)
            )
        except BaseException:
            HashtableRegister().release(self._table)
            self._table.undo_open()
            raise
        # Something for autograd to differentiate: the embeddings are no leaf of the graph.
        self._holder = torch.zeros((), requires_grad=True)
        self._register_state_dict_hook(_put_table)
        self.register_load_state_dict_post_hook(_accept_table)

    @classmethod
    def from_snapshot(
        cls,
        path: str | os.PathLike[str],
        name: str,
        *,
        device: torch.device | str = torch.device("cpu"),
        store: Store | None = None,
        device_bytes: int | None = None,
    ) -> HashTable:
        """A table of a snapshot, made as it was there and loaded, in `eval()`.

        It has no hooks and draws no embeddings: it is for evaluation. `recis.Snapshot` serves
        without loading; to train on, make the table as before and load it with
        `recis.serialize.Loader`.

        Args:
            path: a directory of snapshots, whose newest is taken, or one of them.
            name: of the table.
            device: where hot rows live, as of a `HashTable`. A snapshot can come from any other.
            store: where rows go that memory has no room for.
            device_bytes: how many bytes of rows a GPU holds of a table that is in a store.

        Raises:
            FileNotFoundError: there is no snapshot.
            ValueError: it has no such table, one of this name is alive, or `device_bytes` is given
                without a GPU and a store, or is missing with both.
            RuntimeError: it is damaged, a later version wrote it, or the device is not available.
        """
        from recis.serialize import Loader
        from recis.snapshot.header import DTYPES
        from recis.snapshot.read import open_snapshot

        reader = open_snapshot(path)
        about = reader.table(name)
        embedding = about.slots[0]
        table = cls(
            embedding.shape,
            block_size=about.info.get("block_size", 5),
            dtype=DTYPES[embedding.dtype],
            coalesced=about.coalesced,
            children=about.children or None,
            slice=gen_slice(slice_size=about.slice_size),
            name=name,
            device=device,
            store=store,
            device_bytes=device_bytes,
        )
        Loader(reader.files.url, hashtables={name: table}).load()
        return table.eval()

    def _register_names(self) -> None:
        table = self._table
        info = json.dumps(
            {
                "shape": list(table.shape),
                "dtype": str(table.dtype),
                "initializer": str(self._initializer),
            }
        )
        for child in self._children.children():
            _check_name(child)
            HashtableRegister().register(child, info, table)
        if not self._children.has_child(table.name):
            HashtableRegister().register(table.name, info, table)

    # ---- lookup ----

    def forward(self, ids: Tensor | Prefetched, admit_hook: AdmitHook | None = None) -> Tensor:
        """Looks up one embedding for each id.

        Args:
            ids: int64, any shape, any device; repeats allowed. Or what `prefetch` gave for them.
            admit_hook: which unknown ids get a row while training; None, all of them.

        Returns:
            `(*ids.shape, *embedding_shape)` on the ids' device, part of the autograd graph
            while training. Ids without a row read as zeros and take no gradient.

        Raises:
            TypeError: ids are not int64.
            ValueError: another table prefetched them.
            MemoryError, OverflowError: no room for new rows; the table has not changed.
        """
        table = self._table
        found = None
        if isinstance(ids, Prefetched):
            found, ids = ids.take_found(table), ids.ids
        flat = self._checked(ids, "ids")
        if not (self.training and table.dtype.is_floating_point):
            out = table.read(flat)
        else:
            admission = None if admit_hook is None else self._admission(admit_hook)
            out = _Lookup.apply(self._holder, self, flat, admission, found)
        return out if ids.device == out.device else out.to(ids.device)

    def _checked(self, ids: Tensor, what: str) -> Tensor:
        """Ids as the engine reads them, of children that are there."""
        ids = check_ids(ids, f"table {self._table.name!r}: {what}", self._table.device)
        self._children.check_encoded(ids)
        return ids

    def _admission(self, hook: AdmitHook) -> BaseAdmitHookImpl:
        if not isinstance(hook, AdmitHook):
            raise TypeError(
                f"table {self._table.name!r}: admit_hook must be an AdmitHook, found {hook!r}"
            )
        return HashtableHookFactory().create_admit_hook(self, hook)

    def _lookup(
        self,
        ids: Tensor,
        admission: BaseAdmitHookImpl | None,
        times: Tensor | None = None,
        found: _engine.Prefetched | None = None,
    ) -> tuple[Tensor, _engine._Batch]:
        """Embeddings of checked ids; hooks see each as so many occurrences, int32 `(n,)`.

        found: what a prefetch knows of these ids, where each stands for one.
        """
        policy = None if admission is None else admission.policy
        if admission is not None and policy is None:
            out, batch = self._table.lookup_asking(ids, admission.admit, times)
        elif found is not None:
            out, batch = self._table.lookup_prefetched(found, ids, policy)
        else:
            out, batch = self._table.lookup(ids, policy, times)
        self._observe(batch)
        return out, batch

    # What an exchange between workers needs: each id stands for its occurrences in their batches.

    def _admit(
        self, ids: Tensor, admit_hook: AdmitHook | None, times: Tensor
    ) -> tuple[Tensor, _engine._Batch]:
        admission = None if admit_hook is None else self._admission(admit_hook)
        return self._lookup(self._checked(ids, "ids"), admission, times)

    def _insert(self, ids: Tensor, embeddings: Tensor, times: Tensor) -> None:
        ids = self._checked(ids, "insert: ids")
        self._table.insert(ids, embeddings)
        self._observe(self._table.find(ids, times))

    def _accumulate(self, batch: _engine._Batch, grad: Tensor, workers: int) -> None:
        """Adds the workers' sums of an id's gradients, as `grad_reduce_by` says."""
        divisor = float(workers)
        if self._grad_mean:
            counts = torch.empty(batch.size, dtype=torch.int64)
            batch.counts(counts.data_ptr())
            by_id = counts.to(grad.device).view(-1, *[1] * (grad.dim() - 1))
            grad, divisor = grad / by_id, 1.0
        self._table.take_part()
        self._table.accumulate(batch, grad, False, divisor)

    def _observe(self, batch: _engine._Batch) -> None:
        """Tells the filter hook which rows were used."""
        if self._filter_hook_impl is None:
            return
        rows, counts = torch.empty((2, batch.count_distinct()), dtype=torch.int64)
        known = batch.known_rows(rows.data_ptr(), counts.data_ptr())
        self._filter_hook_impl.observe(rows[:known], counts[:known])

    def prefetch(self, ids: Tensor) -> Prefetched:
        """Starts promoting the rows of these ids in the background, as far as there is room.

        Call it with the next batch before you compute this one: the disk is read meanwhile, and
        the lookup that follows waits for what is still on its way. It changes no result and may be
        given up when there is more to do. A table without a store has all rows hot.

        On a GPU the rows also come to the GPU while it computes what was asked for before. Look up
        what this returns, in place of the ids, and the host need not wait for the GPU to say which
        of them it has: `ahead = table.prefetch(ids)` and, a batch later, `table(ahead)`.

        Raises:
            TypeError: ids are not int64.
            RuntimeError: the store is closed or read-only.
        """
        found = self._table.prefetch(self._checked(ids, "prefetch: ids"))
        return Prefetched(ids, self._table, found)

    # ---- change ----

    def insert(self, ids: Tensor, embeddings: Tensor) -> None:
        """Gives ids a row if they have none, and overwrites their embeddings.

        Other slots of ids that had a row stay; those of new ids are initial. The last of
        repeated ids wins.

        Args:
            ids: int64 `(n,)`.
            embeddings: `(n, *embedding_shape)` of the table's dtype.

        Raises:
            TypeError, ValueError: a shape or dtype is wrong; nothing was inserted.
        """
        self._observe(self._table.insert(self._checked(ids, "insert: ids"), embeddings))

    def evict(self, ids: Tensor) -> int:
        """Removes ids, int64 of any shape: rows, all slots and pending gradients.

        Returns:
            How many of them had a row.
        """
        return self._table.evict(ids)

    def clear(self) -> None:
        """Drops all ids, rows, gradients and sightings. The slots stay."""
        self._table.clear()
        for impl in HashtableHookFactory().admits_of(self):
            impl.clear()
        self._table.policies.clear(self._table.name)

    # ---- gradient ----

    def accept_grad(self, grad_index: Tensor, grad: Tensor) -> None:
        """Adds to the pending gradient.

        Args:
            grad_index: int64 `(n,)`, rows as `ids_map` gives them (not ids); repeats are summed.
            grad: floating point, `(n, *embedding_shape)`.

        Raises:
            IndexError: a row is not in use; nothing was added.
            TypeError, ValueError: a dtype or shape is wrong; nothing was added.
        """
        self._table.accept_grad(grad_index, grad)

    def grad(self, acc_step: int = 1) -> Tensor:
        """The pending gradient divided by `acc_step`; it stays pending.

        Returns:
            Sparse COO, `(capacity, *embedding_shape)`, coalesced: indices are rows, ascending.
        """
        return self._table.grad(acc_step)

    def clear_grad(self) -> None:
        """Drops the pending gradient."""
        self._table.clear_grad()

    # ---- content ----

    def ids(self) -> Tensor:
        """Every id, int64 `(R,)`, by ascending row, on the table's device."""
        return self._table.ids_map()[0]

    def embeddings(self) -> Tensor:
        """Every embedding, `(R, *embedding_shape)`: `embeddings()[i]` belongs to `ids()[i]`."""
        return self._table.get_slot("embedding").read(self._table.ids_map()[1])

    def ids_map(self) -> tuple[Tensor, Tensor]:
        """`(ids, rows)`, int64 `(R,)` each, by ascending row."""
        return self._table.ids_map()

    def slot_group(self) -> SlotGroup:
        """The slots: the embedding, optimizer state, counters."""
        return self._table.slot_group()

    def __len__(self) -> int:
        """Rows in use."""
        return len(self._table)

    def __contains__(self, ids: Tensor | int) -> Any:
        """Whether an id has a row; for a tensor of ids, the mask that `contains` gives."""
        if isinstance(ids, int):
            return bool(self.contains(torch.tensor([ids])).item())
        return self.contains(ids)

    def contains(self, ids: Tensor) -> Tensor:
        """Bool mask of the shape of ids, on their device: which have a row."""
        return self._table.contains(ids)

    def stats(self) -> dict[str, int]:
        """Counters since the table was made, or found in a store.

        `lookups` (ids asked for, repeats included) = `hits` (those that had a row) + `misses`;
        `rows` = `admits` - `evictions` and those found; `refusals` counts distinct ids an admit
        hook refused, a call at a time. `hot_bytes` and `index_bytes` are memory.

        `rows` = `hot_rows` + `cold_rows`. `promotes` counts rows that became hot again, `spills`
        those that became cold, `drops` those of them that needed no write. Without a store no
        row is ever cold.

        In a store and on a GPU, hot is what is in the host's memory. `device_rows` are on the GPU,
        within `device_bytes`; `device_promotes`, `device_spills` and `device_drops` count as their
        namesakes do, `write_backs` rows that went back changed.
        """
        return self._table.stats()

    # ---- what it is ----

    @property
    def table(self) -> Table:
        """What optimizers and hooks work on, and the state dict holds."""
        return self._table

    @property
    def device(self) -> torch.device:
        """Where hot rows live."""
        return self._table.device

    @property
    def slice(self) -> Slice:
        """Which slices of the ids this table holds when it is saved and loaded."""
        return self._table.slice

    @property
    def coalesce(self) -> bool:
        """Whether several tables share this one."""
        return self._children.is_coalesce()

    @property
    def children_hashtable(self) -> list[str]:
        """Names of the tables that share this one."""
        return self._children.children()

    def children_info(self) -> ChildrenInfo:
        """The children and the encoding of their ids."""
        return self._children

    def initializer(self) -> BaseInitializer:
        """What first embeddings are drawn with."""
        return self._initializer

    @override
    def extra_repr(self) -> str:
        table = self._table
        return f"{table.name!r}, {list(table.shape)}, dtype={table.dtype}, rows={len(table)}"


class _Lookup(torch.autograd.Function):
    """The lookup as a node of the autograd graph; its backward adds to the pending gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        holder: Tensor,
        module: HashTable,
        ids: Tensor,
        admission: BaseAdmitHookImpl | None,
        found: _engine.Prefetched | None,
    ) -> Tensor:
        out, ctx.batch = module._lookup(ids, admission, found=found)
        ctx.table = module._table
        ctx.mean = module._grad_mean
        ctx.divisor = module._grad_divisor
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None, None, None]:
        ctx.table.accumulate(ctx.batch, grad, ctx.mean, ctx.divisor)
        return None, None, None, None, None


def is_hashtable(obj: object) -> bool:
    """Whether this is what a `HashTable` puts into a state dict."""
    return hasattr(obj, "hashtable_tag")


def split_sparse_dense_state_dict(
    state_dict: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Moves the tables out of a state dict: `(tables, the rest)`.

    The rest is the dict given, which loses its tables.
    """
    sparse = {key: value for key, value in state_dict.items() if is_hashtable(value)}
    for key in sparse:
        del state_dict[key]
    return sparse, state_dict


def filter_out_sparse_param(model: torch.nn.Module) -> dict[str, Any]:
    """The tables of a model by name: what sparse optimizers are made with.

    Example:
        >>> from recis.optim import SparseAdamW
        >>> model = torch.nn.Sequential(HashTable([8], name="filter_out_example"))
        >>> sparse_params = filter_out_sparse_param(model)
        >>> sparse_optimizer = SparseAdamW(sparse_params, lr=0.001)
    """
    return split_sparse_dense_state_dict(model.state_dict())[0]


def _put_table(
    module: torch.nn.Module, state_dict: dict[str, Any], prefix: str, metadata: object
) -> None:
    assert isinstance(module, HashTable)
    state_dict[module.table.name] = module.table


def _accept_table(module: torch.nn.Module, incompatible: Any) -> None:
    """A state dict's tables are the live ones: nothing to load, and nothing unexpected."""
    assert isinstance(module, HashTable)
    if module.table.name in incompatible.unexpected_keys:
        incompatible.unexpected_keys.remove(module.table.name)


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or ".." in name or name[0] == "/":
        raise ValueError(
            f"a table's name must be 1 to 255 of A-Z a-z 0-9 _ . - / without '..' and not begin "
            f"with '/', found {name!r}: it becomes part of file names"
        )


def _check_shape(name: str, shape: object) -> tuple[int, ...]:
    if isinstance(shape, Sequence) and not isinstance(shape, str) and len(shape) > 0:
        sizes = tuple(shape)
        if all(isinstance(s, int) and not isinstance(s, bool) and s > 0 for s in sizes):
            return sizes
    raise ValueError(
        f"table {name!r}: embedding_shape must be a list of positive ints such as [64], "
        f"found {shape!r}"
    )


def _check_kind(name: str, argument: str, value: object, *kinds: type) -> None:
    if not isinstance(value, kinds) or isinstance(value, bool):
        wanted = " or ".join(kind.__name__ for kind in kinds).replace("NoneType", "None")
        raise TypeError(f"table {name!r}: {argument} must be {wanted}, found {value!r}")


def _check_device(name: str, device: torch.device | str) -> Place:
    try:
        return place_of(device)
    except RuntimeError as error:
        raise RuntimeError(
            f"table {name!r}: device {str(device)!r} is not available: {error}. A table with "
            "device='cpu' takes ids from any device; embeddings follow them."
        ) from None
