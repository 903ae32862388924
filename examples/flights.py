"""Will this flight be late? Online learning over ids that nobody counted beforehand.

The 2013 flights from New York are replayed hour by hour. Every flight is predicted at its
scheduled departure and learned from once it has landed. The ids (carriers, aircraft, routes,
dates and crosses of these: a million over the year) come as they come; a `HashTable` gives a
row to an id that is seen twice and takes it back when the id has not been seen for four weeks.

The year is then lived through once more with memory for a quarter of the rows and the others in a
`Store`: the process is killed half way, another goes on from the last commit, and the final model
is the same to the last bit.

    python examples/flights.py --out flights.png
"""

import argparse
import os
import signal
import warnings
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import torch
from flights_data import FIELD_COUNT, Flights, load_flights
from flights_report import Run, draw, replay_progress, report
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from recis import Store
from recis.hooks import HashTableFilterHook
from recis.nn import HashTable
from recis.nn.hashtable_hook import FrequencyAdmitHook, GlobalStepFilterHook
from recis.nn.initializers import NormalInitializer
from recis.nn.modules.hashtable import filter_out_sparse_param, split_sparse_dense_state_dict
from recis.optim import SparseAdagrad

FACTORS = 7
WIDTH = 1 + FACTORS  # a row: a weight of its own and the factors it shares
ROW_BYTES = 80  # these, as much again of Adagrad's sums, and the hour it was last seen
MIN_SIGHTINGS = 2  # of an id, before it gets a row
KEEP_HOURS = 28 * 24  # an id not learned from for so long loses its row
FILTER_HOURS = 7 * 24  # between two looks for such ids
COMMIT_HOURS = 7 * 24  # between two commits: what a crash may cost
LEARNING_RATE = 0.05
EPS = 1.0  # most ids are rare: with a small one, Adagrad's first steps leap


class GrowingEmbedding(nn.Module):
    """A row for every id worth one, whatever ids come."""

    def __init__(self, name: str, seed: int, *, pruned: bool, store: Store | None = None) -> None:
        super().__init__()
        self.store = store
        self.table = HashTable(
            [WIDTH],
            initializer=NormalInitializer(std=0.05),
            name=name,
            filter_hook=GlobalStepFilterHook(KEEP_HOURS) if pruned else None,
            store=store,
            seed=seed,
        )
        self.admit = FrequencyAdmitHook(MIN_SIGHTINGS) if pruned else None

    def forward(self, ids: Tensor) -> Tensor:
        rows: Tensor = self.table(ids, admit_hook=self.admit)
        return rows

    def optimizer(self) -> torch.optim.Optimizer:
        return SparseAdagrad(filter_out_sparse_param(self), lr=LEARNING_RATE, eps=EPS)

    def stats(self) -> dict[str, float]:
        stats: dict[str, int] = self.table.stats()
        on_disk = {} if self.store is None else self.store.stats()
        return {**on_disk, **stats, "bytes": stats["hot_bytes"] + stats["index_bytes"]}


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

    def stats(self) -> dict[str, float]:
        return {"rows": self.table.num_embeddings, "bytes": 2 * self.table.weight.nbytes}


class Embedding(Protocol):
    """What a model needs of either."""

    def __call__(self, ids: Tensor) -> Tensor: ...
    def optimizer(self) -> torch.optim.Optimizer: ...
    def stats(self) -> dict[str, float]: ...


class LateModel(nn.Module):
    """Logit of a late arrival: a sum over ids, over pairs of fields, and a small network.

    Source: DeepFM (Guo et al., IJCAI 2017).
    """

    def __init__(self, embedding: Embedding, ids_per_flight: int) -> None:
        super().__init__()
        self.embedding = embedding
        self.deep: nn.Module = nn.Sequential(
            nn.Linear(ids_per_flight * FACTORS, 32), nn.ReLU(), nn.Linear(32, 1)
        )

    def forward(self, ids: Tensor) -> Tensor:  # (flights, ids per flight) -> (flights,)
        rows: Tensor = self.embedding(ids)
        weights, factors = rows[..., 0], rows[..., 1:]
        fields = factors[:, :FIELD_COUNT]  # crosses are pairs already
        pairs = (fields.sum(1).square() - fields.square().sum(1)).sum(1) / 2
        deep: Tensor = self.deep(factors.flatten(1))
        return weights.sum(1) + pairs + deep.squeeze(1)


class Training:
    """A model on its way through the year."""

    def __init__(self, name: str, embedding: Embedding, flights: Flights, seed: int) -> None:
        torch.manual_seed(seed)
        self.embedding, self.flights = embedding, flights
        self.model = LateModel(embedding, flights.ids.shape[1])
        dense = torch.optim.Adam(self.model.deep.parameters(), lr=2e-3, fused=True)
        self.optimizers = [embedding.optimizer(), dense]
        self.step_filter = HashTableFilterHook(FILTER_HOURS)
        self.next_hour = 0
        self.run = Run(name, flights)

    def replay(self, store: Store | None = None, kill_at: int | None = None) -> Run:
        """Lives through the year: no flight is learned from before it has landed."""
        with replay_progress(self.run) as show:
            for hour, (landed, departing) in enumerate(self.flights.hours()):
                if hour < self.next_hour:
                    continue
                if len(landed):
                    self.learn(landed)
                if hour == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                if len(departing):
                    self.predict(departing)
                self.step_filter.after_step(None, hour)
                self.next_hour = hour + 1
                if store is not None and self.next_hour % COMMIT_HOURS == 0:
                    store.commit(self.next_hour, self.state_dict())
                if hour % 24 == 0:
                    show(hour, self.embedding.stats())
            show(hour, self.embedding.stats())
        return self.run

    def learn(self, landed: Tensor) -> None:
        self.model.train()
        self.loss(landed).backward()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()

    def loss(self, landed: Tensor) -> Tensor:
        logits, late = self.model(self.flights.ids[landed]), self.flights.late[landed]
        return binary_cross_entropy_with_logits(logits, late, reduction="sum")

    def predict(self, departing: Tensor) -> None:
        self.model.eval()  # only reads: an unknown id counts as zeros and stays unknown
        with torch.no_grad():
            self.run.logits[departing] = self.logits(departing)

    def logits(self, departing: Tensor) -> Tensor:
        logits: Tensor = self.model(self.flights.ids[departing])
        return logits

    def state_dict(self) -> dict[str, Any]:
        """What it takes to go on, but for the table: that is in the store already."""
        return {
            "dense": split_sparse_dense_state_dict(self.model.state_dict())[1],
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step_filter": self.step_filter.state_dict(),
            "next_hour": self.next_hour,
            "predictions": self.run.logits,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["dense"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step_filter.load_state_dict(state["step_filter"])
        self.next_hour = state["next_hour"]
        self.run.logits = state["predictions"]

    def content(self) -> dict[str, Tensor]:
        """Every number of the model: rows with their optimizer state, layers, predictions."""
        (table,) = filter_out_sparse_param(self.model).values()
        ids, rows = table.ids_map()
        slots = {slot.name(): slot.read(rows) for slot in table.slot_group().slots()}
        layers = dict(self.model.deep.named_parameters())
        return {"ids": ids, "rows": rows, **slots, **layers, "predictions": self.run.logits}


def compare(main: Run, flights: Flights, seed: int) -> list[Run]:
    """Replays the year with one thing changed at a time."""
    fixed = FixedEmbedding(int(max(day["bytes"] for day in main.days)))
    fields = replace(flights, ids=flights.ids[:, :FIELD_COUNT].contiguous())
    no_delay = replace(flights, lands=flights.departs)
    variants: list[tuple[str, Embedding, Flights]] = [
        ("keep every id", GrowingEmbedding("all", seed, pruned=False), flights),
        ("nn.Embedding, hashed", fixed, flights),
        ("single fields only", GrowingEmbedding("fields", seed, pruned=True), fields),
        ("outcome at departure", GrowingEmbedding("told", seed, pruned=True), no_delay),
    ]
    return [Training(name, embedding, data, seed).replay() for name, embedding, data in variants]


def train_in_store(
    name: str, path: str, hot_bytes: int, rows: int | None, seed: int, kill_at: int | None = None
) -> dict[str, Tensor]:
    """Trains in a store, from its last commit if it has one; run in two processes."""
    torch.set_num_threads(1)
    with Store(path, hot_bytes=hot_bytes) as store:
        embedding = GrowingEmbedding("main", seed, pruned=True, store=store)
        training = Training(name, embedding, load_flights(rows), seed)
        if store.step is not None:
            training.load_state_dict(store.state())
        training.replay(store, kill_at)
        return training.content()


def survive(reference: dict[str, Tensor], hot_bytes: int, hours: int, *data: Any) -> None:
    """Kills a training half way, goes on with it and holds its outcome against another."""
    with TemporaryDirectory() as folder:
        path = str(Path(folder) / "flights.store")
        kill_at = hours // 2
        arguments = ("recis, a quarter hot", path, hot_bytes, *data, kill_at)
        victim = get_context("spawn").Process(target=train_in_store, args=arguments)
        victim.start()
        victim.join()
        assert victim.exitcode == -signal.SIGKILL
        with Store(path, read_only=True) as store:
            print(f"Killed in hour {kill_at:,}; the last commit is of hour {store.step:,}.")
        content = train_in_store("recis, resumed", path, hot_bytes, *data)
    check_same(reference, content)
    rows = len(content["ids"])
    print(f"The resumed model is the uninterrupted one, bit for bit, all {rows:,} rows of it.")


def check_same(reference: dict[str, Tensor], content: dict[str, Tensor]) -> None:
    different = [name for name, tensor in reference.items() if bits(tensor) != bits(content[name])]
    if different:
        raise SystemExit(f"The resumed model differs in {', '.join(different)}.")


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().numpy().tobytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build/flights.png"), help="the curves")
    parser.add_argument("--rows", type=int, help="of the year's flights only the first so many")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)  # an hour is about 40 flights: too few to share out
    warnings.filterwarnings("ignore", "Sparse invariant checks")  # of nn.Embedding's Adagrad
    flights = load_flights(args.rows)
    embedding = GrowingEmbedding("main", args.seed, pruned=True)
    training = Training("recis", embedding, flights, args.seed)
    run, reference, hours = training.replay(), training.content(), training.next_hour
    del training, embedding  # a filter hook runs the filters of all tables there are
    quarter = int(run.days[-1]["rows"]) * ROW_BYTES // 4
    survive(reference, quarter, hours, args.rows, args.seed)
    runs = [run, *compare(run, flights, args.seed)]
    report(runs)
    draw(runs, args.out)


if __name__ == "__main__":
    main()
