"""Contestants: how each library looks ids up, and how it trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import count
from tempfile import TemporaryDirectory
from typing import Any

import torch
from common import Batch, Vocabulary, contestants
from torch import Tensor, nn

import recis
from recis import Store
from recis.nn import HashTable
from recis.nn.initializers import BaseInitializer
from recis.nn.modules.hashtable import filter_out_sparse_param
from recis.optim import SparseAdam

INSERT_ROWS = 1 << 20
_table_numbers = count()

PACKAGES = {
    "fbgemm": "fbgemm_gpu",
    "mch": "torchrec",
    "torchrec": "torchrec",
    "rocksdb": "rocksdict",
}

Lookup = Callable[[Batch], Tensor]


@dataclass(frozen=True)
class Trainer:
    """What a library does in a training step before and after the loss's backward pass."""

    forward: Callable[[Batch], Tensor]
    step: Callable[[], None]
    keep: object = None
    """What must live as long."""


def installed(names: list[str]) -> list[str]:
    """Returns recis and those of the named peers that can be imported; says which cannot."""
    present = []
    for name in contestants(names):
        package = PACKAGES.get(name, "torch")
        if find_spec(package) is None:
            print(f"{name} skipped: {package} is not installed")
        else:
            present.append(name)
    return present


def is_recis(name: str) -> bool:
    return name.startswith("recis")


def random_rows(rows: int, dim: int) -> Tensor:
    return torch.empty(rows, dim).uniform_(-0.1, 0.1)


def _recis_lookup(vocabulary: Vocabulary, weight: Tensor, *, large_pages: bool = False) -> Lookup:
    table = recis_table(weight.shape[1], large_pages)
    ids = vocabulary.ids()
    for first in range(0, vocabulary.rows, INSERT_ROWS):
        part = slice(first, first + INSERT_ROWS)
        table.insert(ids[part], weight[part])
    table.eval()
    return lambda batch: table(batch.ids)


def _torch_lookup(_vocabulary: Vocabulary, weight: Tensor) -> Lookup:
    table = _embedding(weight)
    return lambda batch: table(batch.rows)


def _unique_lookup(_vocabulary: Vocabulary, weight: Tensor) -> Lookup:
    table = _embedding(weight)

    def lookup(batch: Batch) -> Tensor:
        distinct, inverse = torch.unique(batch.rows, return_inverse=True)
        found: Tensor = table(distinct)[inverse]
        return found

    return lookup


def _dict_lookup(vocabulary: Vocabulary, weight: Tensor) -> Lookup:
    table = _embedding(weight)
    row_of = {an_id: row for row, an_id in enumerate(vocabulary.ids().tolist())}
    return lambda batch: table(torch.tensor([row_of[an_id] for an_id in batch.ids.tolist()]))


def _fbgemm_lookup(vocabulary: Vocabulary, weight: Tensor) -> Lookup:
    table = _fbgemm_table(vocabulary.rows, weight.shape[1])
    table.weights_host.data = weight.view(-1)
    return lambda batch: table(batch.rows, torch.arange(len(batch.rows) + 1))


def _mch_lookup(vocabulary: Vocabulary, weight: Tensor) -> Lookup:
    """torchrec's managed collisions: a binary search in the sorted ids, then nn.Embedding."""
    modules = import_module("torchrec.modules.mc_modules")
    jagged = import_module("torchrec.sparse.jagged_tensor").JaggedTensor
    remap = modules.MCHManagedCollisionModule(
        zch_size=vocabulary.rows + 1,  # the last place is where misses go
        device=torch.device("cpu"),
        eviction_policy=modules.DistanceLFU_EvictionPolicy(),
        eviction_interval=1 << 30,
    ).eval()
    remap._mch_sorted_raw_ids[:-1], remap._mch_remapped_ids_mapping[:-1] = vocabulary.ids().sort()
    table = _embedding(weight)

    def lookup(batch: Batch) -> Tensor:
        lengths = torch.ones(len(batch.ids), dtype=torch.int64)
        rows = remap({"ids": jagged(values=batch.ids, lengths=lengths)})["ids"].values()
        found: Tensor = table(rows)
        return found

    return lookup


def _recis_trainer(
    vocabulary: Vocabulary, dim: int, *, large_pages: bool = False, in_store: bool = False
) -> Trainer:
    folder = TemporaryDirectory() if in_store else None
    store = Store(folder.name) if folder is not None else None
    table = recis_table(dim, large_pages, store=store)
    optimizer = recis_adam(table)
    ids = vocabulary.ids()
    for first in range(0, vocabulary.rows, INSERT_ROWS):
        part = ids[first : first + INSERT_ROWS]
        table.insert(part, random_rows(len(part), dim))

    def step() -> None:
        optimizer.step()
        optimizer.zero_grad()

    return Trainer(lambda batch: table(batch.ids), step, folder)


def _torch_trainer(vocabulary: Vocabulary, dim: int) -> Trainer:
    table = _embedding(random_rows(vocabulary.rows, dim), sparse=True)
    optimizer: torch.optim.Optimizer = torch.optim.SparseAdam([table.weight])

    def step() -> None:
        optimizer.step()
        optimizer.zero_grad()

    return Trainer(lambda batch: table(batch.rows), step)


def _fbgemm_trainer(vocabulary: Vocabulary, dim: int) -> Trainer:
    """Row-wise Adagrad, fused into the backward pass: FBGEMM has no Adam for CPUs."""
    table = _fbgemm_table(vocabulary.rows, dim)
    table.init_embedding_weights_uniform(-0.1, 0.1)
    return Trainer(lambda batch: table(batch.rows, torch.arange(len(batch.rows) + 1)), lambda: None)


def _floor_trainer(_vocabulary: Vocabulary, dim: int) -> Trainer:
    """The loss alone, on a leaf that no table stands behind: what no engine can save."""
    leaf = torch.empty(0, dim)

    def forward(batch: Batch) -> Tensor:
        nonlocal leaf
        if len(leaf) != len(batch.ids):
            leaf = random_rows(len(batch.ids), dim).requires_grad_()
        return leaf

    def step() -> None:
        leaf.grad = None

    return Trainer(forward, step)


def recis_table(
    dim: int,
    large_pages: bool,
    initializer: BaseInitializer | None = None,
    store: Store | None = None,
) -> HashTable:
    recis.set_large_pages(large_pages)
    name = f"table{next(_table_numbers)}"  # two live tables may not share one
    return HashTable([dim], block_size=1024, initializer=initializer, name=name, store=store)


def recis_adam(table: HashTable) -> SparseAdam:
    return SparseAdam(filter_out_sparse_param(table))


def _embedding(weight: Tensor, *, sparse: bool = False) -> nn.Embedding:
    rows, dim = weight.shape
    return nn.Embedding(rows, dim, sparse=sparse, _weight=weight)


def _fbgemm_table(rows: int, dim: int) -> Any:
    """Sums over bags of one id: the same result as no pooling, and two to three times as fast."""
    training = import_module("fbgemm_gpu.split_table_batched_embeddings_ops_training")
    options = import_module("fbgemm_gpu.split_table_batched_embeddings_ops_common")
    optimizers = import_module("fbgemm_gpu.split_embedding_configs").EmbOptimType
    place = (options.EmbeddingLocation.HOST, training.ComputeDevice.CPU)
    return training.SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, dim, *place)],
        optimizer=optimizers.EXACT_ROWWISE_ADAGRAD,
        pooling_mode=options.PoolingMode.SUM,
    )


LOOKUPS: dict[str, Callable[[Vocabulary, Tensor], Lookup]] = {
    "recis": _recis_lookup,
    "recis-large": partial(_recis_lookup, large_pages=True),
    "torch": _torch_lookup,
    "fbgemm": _fbgemm_lookup,
    "unique": _unique_lookup,
    "mch": _mch_lookup,
    "dict": _dict_lookup,
}

TRAINERS: dict[str, Callable[[Vocabulary, int], Trainer]] = {
    "recis": _recis_trainer,
    "recis-large": partial(_recis_trainer, large_pages=True),
    "recis-store": partial(_recis_trainer, in_store=True),
    "torch": _torch_trainer,
    "fbgemm": _fbgemm_trainer,
    "floor": _floor_trainer,
}
