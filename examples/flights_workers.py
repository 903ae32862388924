"""The year of flights once more, learned by several workers, one of which is killed.

Each worker holds its share of the table, in a store of its own, and learns from its share of the
flights; `torch.distributed` carries ids to the workers that hold them and rows back. The small
network is the same on all workers: `DistributedDataParallel` averages its gradients.

torchrun starts the workers. Half way one of them is killed, torchrun starts all of them again, and
they go on from the last commit that all stores have. In the end their model is, to the last bit,
that of workers who were left alone.

    python examples/flights_workers.py
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist
from flights import (
    EPS,
    KEEP_HOURS,
    LEARNING_RATE,
    MIN_SIGHTINGS,
    WIDTH,
    Training,
    check_same,
)
from flights_data import Flights, load_flights
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from recis import Store
from recis.nn import DynamicEmbedding, EmbeddingOption
from recis.nn.hashtable_hook import FrequencyAdmitHook, GlobalStepFilterHook
from recis.nn.initializers import NormalInitializer
from recis.nn.modules.hashtable import filter_out_sparse_param
from recis.optim import SparseAdagrad

Content = dict[str, Tensor]

HOT_BYTES = "1 MB"  # of each worker: a third of its rows


class SharedEmbedding(nn.Module):
    """The rows of `GrowingEmbedding`, shared out among the workers."""

    def __init__(self, store: Store | None = None) -> None:
        super().__init__()
        self.store = store
        option = EmbeddingOption(
            embedding_dim=WIDTH,
            block_size=64,
            shared_name="flights",
            initializer=NormalInitializer(std=0.05),
            admit_hook=FrequencyAdmitHook(MIN_SIGHTINGS),
            filter_hook=GlobalStepFilterHook(KEEP_HOURS),
        )
        self.shared = DynamicEmbedding(option, store=store)

    def forward(self, ids: Tensor) -> Tensor:
        rows: Tensor = self.shared(ids.flatten())  # each id by itself: nothing is summed
        return rows.view(*ids.shape, WIDTH)

    def optimizer(self) -> SparseAdagrad:
        return SparseAdagrad(filter_out_sparse_param(self), lr=LEARNING_RATE, eps=EPS)

    def stats(self) -> dict[str, float]:
        on_disk = {} if self.store is None else self.store.stats()
        return {**on_disk, **self.shared.hashtable.stats()}


class SharedTraining(Training):
    """A worker's part in it."""

    def __init__(self, name: str, flights: Flights, store: Store) -> None:
        super().__init__(name, SharedEmbedding(store), flights, seed=0)
        self.workers = dist.get_world_size()
        self.mine = slice(dist.get_rank(), None, self.workers)  # of any flights
        # Otherwise it puts gradients into another order after its first step: with more than two
        # workers, other bits would come of a restart.
        self.model.deep = DistributedDataParallel(self.model.deep, find_unused_parameters=True)

    def loss(self, landed: Tensor) -> Tensor:
        # Gradients are averaged over the workers, and the loss is a sum.
        return super().loss(landed[self.mine]) * self.workers

    def logits(self, departing: Tensor) -> Tensor:
        logits = torch.zeros(len(departing))
        logits[self.mine] = super().logits(departing[self.mine])
        dist.all_reduce(logits)
        return logits


def work(name: str, folder: Path, rows: int | None, kill_at: int | None) -> None:
    """What torchrun runs, as often as it takes."""
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    rank = dist.get_rank()
    again = os.environ["TORCHELASTIC_RESTART_COUNT"] != "0"
    if again or rank != dist.get_world_size() - 1:
        kill_at = None
    with Store.open_common(folder / f"{rank}.store", hot_bytes=HOT_BYTES) as store:
        training = SharedTraining(name, load_flights(rows), store)
        if store.step is not None:
            training.load_state_dict(store.state())
            print(f"All workers go on from hour {store.step:,}.", flush=True)
        training.replay(store, kill_at)
        torch.save(training.content(), folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def launch(args: argparse.Namespace, name: str, folder: Path, *more: str) -> list[Content]:
    """Runs all workers; what each of them has in the end."""
    folder.mkdir()
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts=1"),
        *(f"--nproc-per-node={args.workers}", "--local-ranks-filter=0", __file__),
        *(f"--name={name}", f"--folder={folder}", *more),
    ]
    if args.rows is not None:
        command.append(f"--rows={args.rows}")
    # The last one: torch 2.13 would have restarted workers look for those that are gone.
    settings = {
        "OMP_NUM_THREADS": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    subprocess.run(command, env=os.environ | settings, check=True)
    return [torch.load(folder / f"{rank}.pt") for rank in range(args.workers)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rows", type=int, help="of the year's flights only the first so many")
    for_workers = parser.add_argument_group("what workers are told")
    for_workers.add_argument("--name")
    for_workers.add_argument("--folder", type=Path)
    for_workers.add_argument("--kill-at", type=int)
    args = parser.parse_args()
    if args.folder is not None:
        work(args.name, args.folder, args.rows, args.kill_at)
        return
    kill_at = sum(1 for _ in load_flights(args.rows).hours()) * 3 // 4
    with TemporaryDirectory() as name:
        folder = Path(name)
        reference = launch(args, f"{args.workers} workers", folder / "alone")
        print(f"The last worker is killed in hour {kill_at:,}.", flush=True)
        killed = launch(args, "one killed", folder / "killed", f"--kill-at={kill_at}")
    for expected, found in zip(reference, killed, strict=True):
        check_same(expected, found)
    rows = " and ".join(f"{len(found['ids']):,}" for found in killed)
    print(f"The resumed model is the uninterrupted one, bit for bit, {rows} rows of it.")


if __name__ == "__main__":
    main()
