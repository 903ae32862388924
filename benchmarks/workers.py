"""What does a training step cost when several workers share the tables?

Each feature has a table and sums four ids a row; loss = (embeddings * w).sum(). All workers
together train the same 65,536 ids. recis and ddp, which is `nn.EmbeddingBag`
with sparse gradients in `DistributedDataParallel`, run Adam; torchrec FBGEMM's row-wise Adagrad,
with a third of the state, its tables sharded by rows.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
import torch.distributed as dist
from common import BATCH_IDS, Homes, Report, Spread, Vocabulary, arguments, ratio
from peers import installed, random_rows
from torch import Tensor, nn

from recis.nn import EmbeddingEngine, EmbeddingOption
from recis.nn.modules.hashtable import filter_out_sparse_param
from recis.optim import SparseAdam

BAG_IDS = 4
LR = 1e-3


class Model(NamedTuple):
    """How a library trains the tables of one worker."""

    forward: Callable[[list[Tensor]], Tensor]
    """Of bags `(n, BAG_IDS)` of each feature, `(n, features * dim)`."""
    step: Callable[[], None]
    hashes: bool = False
    """Whether it takes ids, not rows."""


class Step(NamedTuple):
    """What one costs a worker, in seconds."""

    wall: float
    cpu: float


def main() -> None:
    parser = arguments(
        __doc__, rows=1_000_000, dims=[64], threads=[1], rounds=5, peers=["ddp", "torchrec"]
    )
    parser.add_argument("--features", type=int, default=8, help="tables")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="how many")
    options = parser.parse_args()
    names = [f"{who} {count}" for who in installed(options.peers) for count in options.workers]
    setting = f"{options.rows:,} rows in {options.features} tables, {BATCH_IDS:,} ids a step"
    report = Report(__doc__, f"{setting}, Zipf 1.05")
    for dim, threads in product(options.dims, options.threads):
        with (
            TemporaryDirectory() as folder,
            Homes(_turn, threads, options.rows, dim, options.features, folder, keep=True) as homes,
        ):
            turns = report.interleave(
                lambda name, homes=homes: _together(homes, name), names, options
            )
        _add(report, dim, threads, turns)
    report.finish(options.json)


def _together(homes: Homes[Step], name: str) -> Step:
    """What a step costs all workers: the slowest one's time, and the processors' of all."""
    workers = int(name.split()[1])
    steps = homes.together([f"{name} {rank}" for rank in range(workers)])
    return Step(max(step.wall for step in steps), sum(step.cpu for step in steps))


def _turn(name: str, threads: int, rows: int, dim: int, features: int, folder: str) -> Step:
    """Trains some batches as one worker; runs in its process."""
    who, workers, rank = name.split()
    torch.set_num_threads(threads)
    model, batches = _prepared(who, int(workers), int(rank), rows, dim, features, folder)
    _train(model, batches[:2], dim)
    return _train(model, batches, dim)


@cache
def _prepared(
    who: str, workers: int, rank: int, rows: int, dim: int, features: int, folder: str
) -> tuple[Model, list[list[Tensor]]]:
    """The model, and this worker's bags of each feature, batch by batch."""
    if workers > 1:
        meeting = Path(folder) / f"{who}-{workers}"
        dist.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=workers
        )
    vocabulary = Vocabulary(rows // features)
    model = MODELS[who](vocabulary, dim, features)
    drawn = vocabulary.zipf(size=BATCH_IDS)
    batches = [(batch.ids if model.hashes else batch.rows) for batch in drawn]
    bags = [batch.view(features, -1, BAG_IDS).tensor_split(workers, 1)[rank] for batch in batches]
    return model, [[each.contiguous() for each in bag] for bag in bags]


def _train(model: Model, batches: list[list[Tensor]], dim: int) -> Step:
    weights = random_rows(len(batches[0][0]), dim * len(batches[0]))
    walls, cpus = [], []
    for bags in batches:
        wall, cpu = time.perf_counter(), time.process_time()
        torch.autograd.backward((model.forward(bags) * weights).sum())
        model.step()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return Step(statistics.median(walls), statistics.median(cpus))


def _recis(vocabulary: Vocabulary, dim: int, features: int) -> Model:
    names = [f"feature{k}" for k in range(features)]
    engine = EmbeddingEngine(
        {name: EmbeddingOption(embedding_dim=dim, shared_name=name) for name in names},
        coalesce=False,
    )
    tables = filter_out_sparse_param(engine)
    optimizer = SparseAdam(tables, lr=LR)
    ids = vocabulary.ids()
    with torch.no_grad():
        for part in ids.split(BATCH_IDS):
            engine(dict.fromkeys(names, part))

    def step() -> None:
        optimizer.step()
        optimizer.zero_grad()

    def forward(bags: list[Tensor]) -> Tensor:
        return torch.cat(list(engine(dict(zip(names, bags, strict=True))).values()), 1)

    return Model(forward, step, hashes=True)


def _ddp(vocabulary: Vocabulary, dim: int, features: int) -> Model:
    class Bags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tables = nn.ModuleList(
                nn.EmbeddingBag(vocabulary.rows, dim, mode="sum", sparse=True)
                for _ in range(features)
            )

        def forward(self, bags: list[Tensor]) -> Tensor:
            return torch.cat([table(bag) for table, bag in zip(self.tables, bags, strict=True)], 1)

    module = Bags()
    optimizer = torch.optim.SparseAdam(list(module.parameters()), lr=LR)

    def step() -> None:
        optimizer.step()
        optimizer.zero_grad()

    grouped = dist.is_initialized()
    return Model(nn.parallel.DistributedDataParallel(module) if grouped else module, step)


def _torchrec(vocabulary: Vocabulary, dim: int, features: int) -> Model:
    import logging

    from torchrec.distributed import DistributedModelParallel
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
    from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
    from torchrec.distributed.types import ShardingEnv, ShardingPlan
    from torchrec.modules.embedding_configs import EmbeddingBagConfig
    from torchrec.modules.embedding_modules import EmbeddingBagCollection
    from torchrec.optim import RowWiseAdagrad
    from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    logging.disable()  # an error for each table, of telemetry that is not there
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    group, workers = dist.group.WORLD, dist.get_world_size()
    names = [f"feature{k}" for k in range(features)]
    collection = EmbeddingBagCollection(
        device=torch.device("meta"),
        tables=[
            EmbeddingBagConfig(
                name=name, embedding_dim=dim, num_embeddings=vocabulary.rows, feature_names=[name]
            )
            for name in names
        ],
    )
    apply_optimizer_in_backward(RowWiseAdagrad, collection.parameters(), {"lr": LR})
    sharder = EmbeddingBagCollectionSharder()
    plan = construct_module_sharding_plan(
        collection,
        {name: row_wise(compute_kernel="fused") for name in names},
        sharder=sharder,
        local_size=workers,
        world_size=workers,
        device_type="cpu",
    )
    model = DistributedModelParallel(
        collection,
        env=ShardingEnv.from_process_group(group),
        device=torch.device("cpu"),
        plan=ShardingPlan({"": plan}),
        sharders=[sharder],
    )

    def forward(bags: list[Tensor]) -> Tensor:
        lengths = torch.full((features * len(bags[0]),), BAG_IDS)
        values = torch.cat([bag.view(-1) for bag in bags])
        return model(KeyedJaggedTensor(names, values, lengths=lengths)).wait().values()

    return Model(forward, lambda: None)


MODELS = {"recis": _recis, "ddp": _ddp, "torchrec": _torchrec}


def _add(report: Report, dim: int, threads: int, turns: dict[str, list[Step]]) -> None:
    walls = {name: [step.wall for step in steps] for name, steps in turns.items()}
    for name, steps in turns.items():
        who, workers = name.split()
        alone = next(other for other in turns if other.startswith(f"{who} "))
        report.rows.append(
            {
                "dim": dim,
                "threads": threads,
                "who": who,
                "workers": int(workers),
                "ms a step": Spread.of([wall * 1e3 for wall in walls[name]]),
                "cpu ms of all": Spread.of([step.cpu * 1e3 for step in steps]),
                f"time / {alone.split()[1]} worker": ratio(walls[name], walls[alone]),
                "time / recis": ratio(walls[name], walls[f"recis {workers}"]),
            }
        )


if __name__ == "__main__":
    main()
