"""Trains random engines on random batches: alone as the oracle, or as one of several workers."""

from __future__ import annotations

import gc
import random
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from recis._slices import gen_slice, shards_of
from recis.nn import EmbeddingEngine, EmbeddingOption
from recis.nn.hashtable_hook import FrequencyAdmitHook
from recis.nn.initializers import TruncNormalInitializer
from recis.nn.modules.hashtable import filter_out_sparse_param
from recis.optim import SparseAdam
from recis.ragged import RaggedTensor

from .tables import content

STEPS = 4


def options(seed: int) -> tuple[dict[str, EmbeddingOption], bool]:
    """Some features, and whether they share tables."""
    chance = random.Random(seed)
    coalesce = chance.random() < 0.5
    reduce_by = chance.choice(["worker", "id"])
    slices = 65536 if coalesce else chance.choice([65536, 1000])
    features = {}
    for k in range(chance.randint(1, 5)):
        combiner = chance.choice(["sum", "sum", "mean", "tile"])
        dim = chance.choice([2, 3])
        features[f"feature{k}"] = EmbeddingOption(
            embedding_dim=dim,
            block_size=8,
            dtype=chance.choice([torch.float32, torch.float32, torch.float64]),
            shared_name=f"shared{seed}_{k}",
            initializer=TruncNormalInitializer(std=1.0),
            combiner=combiner,
            combiner_kwargs={"tile_len": chance.randint(1, 3)} if combiner == "tile" else None,
            use_weight=chance.random() < 0.7,
            trainable=k == 0 or chance.random() < 0.8,
            grad_reduce_by=reduce_by,
            max_partition_num=slices,
            admit_hook=FrequencyAdmitHook(3) if chance.random() < 0.3 else None,
        )
    if chance.random() < 0.5:  # two features of one table
        first = features["feature0"]
        features["twin"] = EmbeddingOption(**{**vars(first), "combiner": "sum"})
    return features, coalesce


def batch(seed: int, step: int, world: int, rank: int, features, coalesce):
    """This worker's rows of a batch, which all workers draw alike, and how many all have."""
    chance = random.Random(f"{seed} {step}")
    rows = chance.randint(0, 9)
    # The rows of a batch are cut for six workers: whoever there are take some of them.
    cuts = sorted([0, *(chance.randint(0, rows) for _ in range(5)), rows])
    begin, end = cuts[rank * 6 // world], cuts[(rank + 1) * 6 // world]
    low, high = (0, 40) if coalesce else (-20, 20)
    drawn = {}
    for name in features:
        kind = chance.choice(["dense", "ragged", "weighted"])
        length = chance.randint(1, 3)
        ids, weights = [], []
        for _ in range(rows):
            n = length if kind == "dense" else chance.randint(0, 4)
            ids.append([chance.randint(low, high) * 7919 for _ in range(n)])
            weights.append([chance.choice([0.0, 0.5, 2.0]) for _ in range(n)])
        mine = [torch.tensor(each, dtype=torch.int64) for each in ids[begin:end]]
        flat = torch.cat([*mine, torch.empty(0, dtype=torch.int64)])
        if kind == "dense":
            drawn[name] = flat.view(len(mine), length)
            continue
        given = [torch.tensor(each) for each in weights[begin:end]]
        drawn[name] = RaggedTensor.from_lengths(
            flat,
            torch.tensor([len(each) for each in mine], dtype=torch.int64),
            torch.cat([*given, torch.empty(0)]) if kind == "weighted" else None,
        )
    return drawn, rows


def train(seed: int, world: int = 1, rank: int = 0):
    """What the tables of this worker hold after some steps, and its outputs."""
    gc.collect()  # torch may still hold the frame that made the optimizer before, and its tables
    features, coalesce = options(seed)
    if rank % 2 == 1:  # whose tables are on a device: nobody else can tell
        features = {name: replace(each, device="emulated") for name, each in features.items()}
    engine = EmbeddingEngine(features, coalesce=coalesce)
    optimizer = SparseAdam(filter_out_sparse_param(engine), lr=0.1)
    averaged = next(iter(features.values())).grad_reduce_by == "id"
    outputs = []
    for step in range(STEPS):
        drawn, rows = batch(seed, step, world, rank, features, coalesce)
        out = engine(drawn)
        outputs.append({name: each.detach().flatten(1).clone() for name, each in out.items()})
        loss = sum((each * each).sum() for each in out.values()) / max(rows, 1)
        # Of a mean over all workers' rows, "worker" expects each one's share times their number.
        (loss * (1 if averaged else world)).backward()
        optimizer.step()
        optimizer.zero_grad()
    tables = filter_out_sparse_param(engine)
    found = content(tables)
    for name, table in tables.items():
        held = shards_of(found[name]["ids"], world, table.slice.slice_size)
        assert (held == rank).all(), "of another worker's slices"
        assert table.slice == gen_slice(
            rank, world, next(iter(features.values())).max_partition_num
        )
    engine.eval()
    drawn, _ = batch(seed, STEPS, world, rank, features, coalesce)
    outputs.append({name: each.flatten(1) for name, each in engine(drawn).items()})
    return found, outputs


def main(first: int, last: int, folder: str) -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    rank, world = dist.get_rank(), dist.get_world_size()
    found = {seed: train(seed, world, rank) for seed in range(first, last)}
    torch.save(found, Path(folder) / f"{rank}.pt")
