"""Will this flight be late? Online learning over ids that nobody counted beforehand.

The 2013 flights from New York are replayed hour by hour. Every flight is predicted at its
scheduled departure and learned from once it has landed. The ids (carriers, aircraft, routes,
dates and crosses of these: a million over the year) come as they come; a `HashTable` gives a
row to an id that is seen twice and takes it back when the id has not been seen for four weeks.

    python examples/flights.py --out flights.png
"""

import argparse
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from flights_data import FIELD_COUNT, Flights, load_flights
from flights_report import Run, draw, replay_progress, report
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from recis.hooks import HashTableFilterHook
from recis.nn import HashTable
from recis.nn.hashtable_hook import FrequencyAdmitHook, GlobalStepFilterHook
from recis.nn.initializers import NormalInitializer
from recis.nn.modules.hashtable import filter_out_sparse_param
from recis.optim import SparseAdagrad

FACTORS = 7
WIDTH = 1 + FACTORS  # a row: a weight of its own and the factors it shares
MIN_SIGHTINGS = 2  # of an id, before it gets a row
KEEP_HOURS = 28 * 24  # an id not learned from for so long loses its row
FILTER_HOURS = 7 * 24  # between two looks for such ids
LEARNING_RATE = 0.05
EPS = 1.0  # most ids are rare: with a small one, Adagrad's first steps leap


class GrowingEmbedding(nn.Module):
    """A row for every id worth one, whatever ids come."""

    def __init__(self, name: str, seed: int, *, pruned: bool) -> None:
        super().__init__()
        self.table = HashTable(
            [WIDTH],
            initializer=NormalInitializer(std=0.05),
            name=name,
            filter_hook=GlobalStepFilterHook(KEEP_HOURS) if pruned else None,
            seed=seed,
        )
        self.admit = FrequencyAdmitHook(MIN_SIGHTINGS) if pruned else None

    def forward(self, ids: Tensor) -> Tensor:
        rows: Tensor = self.table(ids, admit_hook=self.admit)
        return rows

    def optimizer(self) -> torch.optim.Optimizer:
        return SparseAdagrad(filter_out_sparse_param(self), lr=LEARNING_RATE, eps=EPS)

    def stats(self) -> dict[str, int]:
        stats: dict[str, int] = self.table.stats()
        return stats | {"bytes": stats["hot_bytes"] + stats["index_bytes"]}


class FixedEmbedding(nn.Module):
    """What plain PyTorch offers: a fixed number of rows, which colliding ids share."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__()
        row_bytes = 2 * 4 * WIDTH  # a weight and Adagrad's sum, in float32
        self.table = nn.Embedding(size_bytes // row_bytes, WIDTH, sparse=True)
        nn.init.normal_(self.table.weight, std=0.05)

    def forward(self, ids: Tensor) -> Tensor:
        rows: Tensor = self.table(ids % self.table.num_embeddings)
        return rows

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adagrad(self.parameters(), lr=LEARNING_RATE, eps=EPS)

    def stats(self) -> dict[str, int]:
        return {"rows": self.table.num_embeddings, "bytes": 2 * self.table.weight.nbytes}


Embedding = GrowingEmbedding | FixedEmbedding


class LateModel(nn.Module):
    """Logit of a late arrival: a sum over ids, over pairs of fields, and a small network.

    Source: DeepFM (Guo et al., IJCAI 2017).
    """

    def __init__(self, embedding: Embedding, ids_per_flight: int) -> None:
        super().__init__()
        self.embedding = embedding
        self.deep = nn.Sequential(
            nn.Linear(ids_per_flight * FACTORS, 32), nn.ReLU(), nn.Linear(32, 1)
        )

    def forward(self, ids: Tensor) -> Tensor:  # (flights, ids per flight) -> (flights,)
        rows: Tensor = self.embedding(ids)
        weights, factors = rows[..., 0], rows[..., 1:]
        fields = factors[:, :FIELD_COUNT]  # crosses are pairs already
        pairs = (fields.sum(1).square() - fields.square().sum(1)).sum(1) / 2
        deep: Tensor = self.deep(factors.flatten(1))
        return weights.sum(1) + pairs + deep.squeeze(1)


def replay(name: str, embedding: Embedding, flights: Flights) -> Run:
    """Lives through the year once: no flight is learned from before it has landed."""
    model = LateModel(embedding, flights.ids.shape[1])
    dense = torch.optim.Adam(model.deep.parameters(), lr=2e-3, fused=True)
    optimizers = [embedding.optimizer(), dense]
    step_filter = HashTableFilterHook(FILTER_HOURS)
    run = Run(name, flights)
    with replay_progress(run) as show:
        for hour, (landed, departing) in enumerate(flights.hours()):
            if len(landed):
                model.train()
                logits = model(flights.ids[landed])
                loss = binary_cross_entropy_with_logits(
                    logits, flights.late[landed], reduction="sum"
                )
                loss.backward()
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
            if len(departing):
                model.eval()  # only reads: an unknown id counts as zeros and stays unknown
                with torch.no_grad():
                    run.logits[departing] = model(flights.ids[departing])
            step_filter.after_step(None, hour)
            if hour % 24 == 0:
                show(hour, embedding.stats())
        show(hour, embedding.stats())
    return run


def compare(flights: Flights, seed: int) -> list[Run]:
    """Replays the year with recis, then with one thing changed at a time."""
    main = replay("recis", GrowingEmbedding("main", seed, pruned=True), flights)
    fixed = FixedEmbedding(max(day["bytes"] for day in main.days))
    fields = replace(flights, ids=flights.ids[:, :FIELD_COUNT].contiguous())
    no_delay = replace(flights, lands=flights.departs)
    return [
        main,
        replay("keep every id", GrowingEmbedding("all", seed, pruned=False), flights),
        replay("nn.Embedding, hashed", fixed, flights),
        replay("single fields only", GrowingEmbedding("fields", seed, pruned=True), fields),
        replay("outcome at departure", GrowingEmbedding("told", seed, pruned=True), no_delay),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build/flights.png"), help="the curves")
    parser.add_argument("--rows", type=int, help="of the year's flights only the first so many")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # an hour is about 40 flights: too few to share out
    warnings.filterwarnings("ignore", "Sparse invariant checks")  # of nn.Embedding's Adagrad
    runs = compare(load_flights(args.rows), args.seed)
    report(runs)
    draw(runs, args.out)


if __name__ == "__main__":
    main()
