"""`DynamicEmbedding`: a table over all workers, with rows of ids pooled."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from recis._collectives import host_group
from recis._slices import gen_slice
from recis._tensors import check_ids, check_values, for_engine
from recis.nn.functional import pool, tile
from recis.nn.hashtable_hook import AdmitHook, FilterHook
from recis.nn.initializers import BaseInitializer, ConstantInitializer
from recis.nn.modules._exchange import (
    Found,
    Wanted,
    group_rank,
    group_size,
    insert,
    look_up,
)
from recis.nn.modules.hashtable import HashTable
from recis.ragged.tensor import RaggedTensor
from recis.store import Store

COMBINERS = ("sum", "mean", "tile")


@dataclass
class EmbeddingOption:
    """How ids become embeddings.

    Attributes:
        embedding_dim: of one embedding.
        block_size: rows a block of the table holds.
        dtype: of the table. Embeddings of an int8 table come out as float32, or as float16.
        device: where hot rows live.
        trainable: whether the embeddings take gradients.
        pg: the process group; None, all workers.
        max_partition_num: how many slices the ids are cut into.
        shared_name: of the table.
        children: names of the tables in a coalesced one; default, `[shared_name]`.
        coalesced: whether ids carry their child's index.
        initializer: first embeddings; default, zeros.
        use_weight: whether weights of ragged ids count.
        combiner: "sum" or "mean" (`sum(w x) / sum(w)`) of a row's embeddings, or "tile": the first
            `combiner_kwargs["tile_len"]` of them side by side.
        combiner_kwargs: of the combiner.
        grad_reduce_by: "worker" divides the sum of an id's gradients by the number of workers, "id"
            by how often it occurs in the batches of all.
        filter_hook: which ids to evict when filtering runs.
        admit_hook: which unknown ids get a row while training; None, all of them.
        fp16_enabled: whether embeddings of an int8 table come out as float16.

    Raises:
        ValueError: a field is unusable; the message says which and why.
    """

    embedding_dim: int = 16
    block_size: int = 10240
    dtype: torch.dtype = torch.float32
    device: torch.device | str = torch.device("cpu")
    trainable: bool = True
    pg: dist.ProcessGroup | None = None
    max_partition_num: int = 65536
    shared_name: str = "embedding"
    children: list[str] = field(default_factory=list)
    coalesced: bool = False
    initializer: BaseInitializer | None = None
    use_weight: bool = True
    combiner: str = "sum"
    combiner_kwargs: dict[str, Any] | None = None
    grad_reduce_by: str = "worker"
    filter_hook: FilterHook | None = None
    admit_hook: AdmitHook | None = None
    fp16_enabled: bool = False

    def __post_init__(self) -> None:
        self.children = list(self.children) or [self.shared_name]
        if self.initializer is None:
            self.initializer = ConstantInitializer(init_val=0)
        what = f"EmbeddingOption {self.shared_name!r}"
        if self.combiner not in COMBINERS:
            raise ValueError(
                f"{what}: combiner must be one of {COMBINERS}, found {self.combiner!r}"
            )
        length = (self.combiner_kwargs or {}).get("tile_len")
        if self.combiner == "tile" and not (isinstance(length, int) and length > 0):
            raise ValueError(
                f"{what}: combiner 'tile' needs combiner_kwargs={{'tile_len': n}}, found "
                f"{self.combiner_kwargs}"
            )
        if self.fp16_enabled and self.dtype != torch.int8:
            raise ValueError(f"{what}: fp16_enabled is for int8 tables, not for {self.dtype}")

    @property
    def tile_len(self) -> int:
        """How many embeddings the combiner "tile" puts side by side."""
        assert self.combiner_kwargs is not None
        return int(self.combiner_kwargs["tile_len"])

    def coalesced_info(self) -> str:
        """What two tables must have in common to be one, as JSON."""
        return json.dumps(
            {
                "dim": self.embedding_dim,
                "dtype": str(self.dtype),
                "device": str(self.device),
                "max_partition_num": self.max_partition_num,
                "initializer": str(self.initializer),
                "grad_reduce_by": self.grad_reduce_by,
                "filter_hook": str(self.filter_hook),
            }
        )

    def runtime_info(self) -> str:
        """What two features must have in common to be looked up and pooled as one, as JSON."""
        return json.dumps(
            {
                "combiner": self.combiner,
                "use_weight": self.use_weight,
                "trainable": self.trainable,
                "admit_hook": str(self.admit_hook),
                "fp16_enabled": self.fp16_enabled,
            }
        )


class Rows(NamedTuple):
    """Ids in rows, from whatever form they came in."""

    ids: Tensor
    """int64 `(n,)` on the CPU."""
    offsets: Tensor
    """int64 `(rows + 1,)`."""
    weight: Tensor | None
    """`(n,)`, if they have any."""
    shape: tuple[int, ...]
    """Of which the rows are: `prod(shape)` many."""
    ragged: bool
    left_pad: bool
    device: torch.device


def rows_of(ids: Any, what: str) -> Rows:
    """Takes ids apart.

    Args:
        ids: a RaggedTensor or what `RaggedTensor.from_any` takes; or a tensor, whose last
            dimension is a row's: `(..., length)`. Of `(n,)`, each id is a row.
        what: for messages.

    Raises:
        TypeError: it is nothing of that, or sparse, or not int64.
        ValueError: rows of an outer ragged dimension differ in length, or a value is no single id.
    """
    if isinstance(ids, Tensor) and not ids.is_nested:
        if ids.layout != torch.strided:
            raise TypeError(f"{what}: expected a dense or ragged tensor, found {ids.layout}")
        flat = check_ids(ids, what).reshape(-1)
        length = ids.shape[-1] if ids.dim() > 1 else 1
        shape = tuple(ids.shape[:-1]) if ids.dim() > 1 else tuple(ids.shape)
        offsets = torch.arange(math.prod(shape) + 1) * length
        return Rows(flat, offsets, None, shape, False, False, ids.device)
    try:
        ragged = RaggedTensor.from_any(ids)
    except TypeError as error:
        raise TypeError(f"{what}: {error}") from None
    shape = ragged.real_shape(0, -1)
    offsets = ragged.offsets()[-1].to("cpu", torch.int64)
    if math.prod(shape) != offsets.numel() - 1:
        raise ValueError(
            f"{what}: {offsets.numel() - 1} rows do not fill {shape}: pad outer dimensions first"
        )
    flat = check_ids(ragged.values(), what).reshape(-1)
    if flat.numel() != len(ragged.values()):
        raise ValueError(f"{what}: expected values (n,), found {tuple(ragged.values().shape)}")
    sides = None if ragged.pad_info is None else ragged.pad_info.pad_sides
    left = sides is not None and bool(sides.view(-1)[0])
    return Rows(flat, offsets, ragged.weight(), shape, True, left, ragged.device)


def combine(rows: Rows, found: Found, option: EmbeddingOption, weight: Tensor | None) -> Tensor:
    """Embeddings of rows of ids, as an option combines them."""
    embeddings = found.rows
    if embeddings.dtype == torch.int8:
        embeddings = embeddings.to(torch.float16 if option.fp16_enabled else torch.float32)
    weight = weight.reshape(-1) if weight is not None and option.use_weight else None
    given = embeddings, found.inverse, rows.offsets, weight
    if option.combiner == "tile":
        return tile(*given, option.tile_len, rows.left_pad, place=found.place)
    return pool(*given, mean=option.combiner == "mean", place=found.place)


class DynamicEmbedding(torch.nn.Module):
    """Embeddings of any ids from a table whose slices the workers of a group share.

    Every worker calls it for its own batch, which may be empty, and all of them equally often,
    backward passes included: an `ExchangeError` if not, or if one is lost. Without
    `torch.distributed` one process holds the whole table.

    Args:
        emb_opt: the table, and how rows of ids are combined.
        pg: the process group; None, that of the option, or all workers.
        store: where rows go that memory has no room for; each worker has its own.
        device_bytes: how many bytes of rows the option's GPU holds of a table in a store.

    Example:
        >>> option = EmbeddingOption(embedding_dim=4, shared_name="dynamic_example")
        >>> embedding = DynamicEmbedding(option)
        >>> embedding(torch.tensor([[1, 2], [3, -4]])).shape
        torch.Size([2, 4])
        >>> embedding(RaggedTensor(torch.tensor([1, 2, 3]), torch.tensor([0, 2, 3]))).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        emb_opt: EmbeddingOption,
        pg: dist.ProcessGroup | None = None,
        *,
        store: Store | None = None,
        device_bytes: int | None = None,
    ) -> None:
        super().__init__()
        self._option = emb_opt
        self._group = host_group(pg if pg is not None else emb_opt.pg)
        self._hashtable = HashTable(
            [emb_opt.embedding_dim],
            block_size=emb_opt.block_size,
            dtype=emb_opt.dtype,
            device=emb_opt.device,
            coalesced=emb_opt.coalesced,
            children=emb_opt.children,
            slice=gen_slice(
                group_rank(self._group), group_size(self._group), emb_opt.max_partition_num
            ),
            initializer=emb_opt.initializer,
            name=emb_opt.shared_name,
            grad_reduce_by=emb_opt.grad_reduce_by,
            filter_hook=emb_opt.filter_hook,
            store=store,
            device_bytes=device_bytes,
        )

    @property
    def name(self) -> str:
        """Of the table."""
        return self._option.shared_name

    @property
    def hashtable(self) -> HashTable:
        """This worker's part of the table."""
        return self._hashtable

    def forward(self, input_ids: Any, input_weights: Tensor | None = None) -> Tensor:
        """Looks ids up and combines the embeddings of each row.

        Args:
            input_ids: int64. A tensor `(..., length)`, of which the last dimension is a row; of
                `(n,)` each id is one. Or a RaggedTensor, a jagged nested tensor, or what has values
                and lengths.
            input_weights: one for each id, as many as there are; default, those of a RaggedTensor.

        Returns:
            `(..., embedding_dim)`; `(rows, tile_len * embedding_dim)` of the combiner "tile".

        Raises:
            TypeError, ValueError: ids or weights are unusable; nothing has changed.
            ExchangeError: a worker is lost, or does something else.
        """
        what = f"embedding {self.name!r}"
        rows = rows_of(input_ids, f"{what}: ids")
        weight = rows.weight if input_weights is None else input_weights
        if weight is not None and weight.numel() != rows.ids.numel():
            raise ValueError(f"{what}: {rows.ids.numel()} ids and {weight.numel()} weights")
        wanted = Wanted(self._hashtable, rows.ids, self._option.admit_hook, self._option.trainable)
        (found,) = look_up([wanted], self._group)
        out = combine(rows, found, self._option, weight)
        if self._option.combiner == "tile":
            return out.flatten(1).to(rows.device)
        return out.view(*rows.shape, out.shape[-1]).to(rows.device)

    def insert(self, input_ids: Tensor, input_emb: Tensor) -> None:
        """Gives ids these embeddings, whoever holds them; every worker must call it.

        Args:
            input_ids: int64, `(n,)` or `(n, 1)`. Of repeated ids the last wins, and of workers that
                give the same one that of the highest rank.
            input_emb: `(n, embedding_dim)` of the table's dtype.

        Raises:
            TypeError, ValueError: a shape or dtype is wrong; nothing was inserted.
            ExchangeError: a worker is lost, or does something else.
        """
        what = f"embedding {self.name!r}: insert"
        ids = check_ids(input_ids, f"{what}: ids").reshape(-1)
        shape = (self._option.embedding_dim,)
        values = check_values(input_emb, ids.numel(), shape, f"{what}: embeddings")
        if values.dtype != self._option.dtype:
            raise ValueError(f"{what}: expected {self._option.dtype}, found {values.dtype}")
        insert(self._hashtable, ids, for_engine(values, values.dtype), self._group)
