"""A training whose workers are killed: several of torchrun's, another number of them, or one alone.

torchrun runs this file; `KILLS` says where each launch ends. What the last one has is held against
the same training without stores and kills.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from recis import Store
from recis.framework import Saver
from recis.hooks import HashTableFilterHook
from recis.nn import EmbeddingEngine, EmbeddingOption
from recis.nn.hashtable_hook import FrequencyAdmitHook, GlobalStepFilterHook
from recis.nn.initializers import TruncNormalInitializer
from recis.nn.modules.hashtable import filter_out_sparse_param
from recis.optim import SparseAdam

STEPS, COMMIT_STEPS, SNAPSHOT_STEP = 12, 2, 8
# By launch: the worker that dies, and the step it dies in; in one that is committed, when all
# others have committed and it has not.
KILLS = [(3, 6), (0, 9)]
RESUMED = [None, 4, 8]  # by launch
TIMEOUT = timedelta(seconds=30)
SHARED = ("weight", "bias", "random")  # of a content: the same for all workers


class Loader:
    """Batches of all workers, drawn one after the other: none can be had out of turn."""

    def __init__(self) -> None:
        self.drawn = 0
        self._random = torch.Generator().manual_seed(5)

    def draw(self) -> Tensor:
        self.drawn += 1
        return torch.randint(0, 60, (10, 4), generator=self._random) * 65521

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.drawn, "random": self._random.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.drawn = state["drawn"]
        self._random.set_state(state["random"])


class Training:
    """A model of two features and a layer, with all that it takes to go on."""

    def __init__(self, store: Store | None = None) -> None:
        torch.manual_seed(1)
        grouped = dist.is_initialized()
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if grouped else (0, 1)
        # Of its two tables in a store, every other worker has a little on a device.
        on_device = store is not None and self.rank % 2 == 1
        common = {
            "device": "emulated" if on_device else "cpu",
            "embedding_dim": 3,
            "block_size": 4,
            "initializer": TruncNormalInitializer(std=1.0),
            "filter_hook": GlobalStepFilterHook(2),
        }
        options = {
            "user": EmbeddingOption(shared_name="user", **common),
            "items": EmbeddingOption(
                shared_name="items", admit_hook=FrequencyAdmitHook(2), **common
            ),
        }
        self.engine = EmbeddingEngine(options, store=store, device_bytes=500 if on_device else None)
        self.layer = torch.nn.Linear(6, 1)
        self._layer = self.layer
        if grouped:  # otherwise it puts gradients into another order after its first step
            self._layer = DistributedDataParallel(self.layer, find_unused_parameters=True)
        self.sparse = SparseAdam(filter_out_sparse_param(self.engine), lr=0.1)
        self.dense = torch.optim.Adam(self.layer.parameters(), lr=0.1)
        self.loader = Loader()
        self.filter = HashTableFilterHook(3)

    def step(self, dies: bool = False) -> None:
        batch = self.loader.draw()[self.rank :: self.world]
        out = self.engine({"user": batch[:, :1], "items": batch[:, 1:]})
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        logits = self._layer(torch.cat([out["user"], out["items"]], 1))
        # The mean over all workers' rows: gradients are divided by the number of workers.
        ((logits - 1).square().sum() / 10 * self.world).backward()
        for optimizer in (self.sparse, self.dense):
            optimizer.step()
            optimizer.zero_grad()
        self.filter.after_step(None, self.loader.drawn)

    def _parts(self) -> dict[str, Any]:
        """All that a store does not know by itself."""
        names = ("layer", "sparse", "dense", "loader", "filter")
        return {name: getattr(self, name) for name in names}

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def saver(self, folder: Path) -> Saver:
        model = torch.nn.ModuleList([self.engine, self.layer])
        saver = Saver(model, self.sparse, str(folder / "snapshots"))
        for name in ("dense", "loader", "filter"):
            saver.register_for_checkpointing(name, getattr(self, name))
        return saver

    def content(self) -> dict[str, Tensor]:
        """All that the model is, and where the loader is."""
        (table,) = filter_out_sparse_param(self.engine).values()
        ids, rows = table.ids_map()
        slots = {slot.name(): slot.read(rows) for slot in table.slot_group().slots()}
        random = self.loader.state_dict()["random"]
        return {"ids": ids, "rows": rows, **slots, **self.layer.state_dict(), "random": random}


def train() -> dict[str, Tensor]:
    """What the training comes to that nothing befalls."""
    training = Training()
    while training.loader.drawn < STEPS:
        training.step()
    return training.content()


def train_in_store(folder: Path, store: Store, victim: int, deadly: int) -> dict[str, Tensor]:
    """The same in stores, from their common commit on; a worker dies in a step."""
    training = Training(store)
    if store.step is not None:
        training.load_state_dict(store.state())
    dies = training.rank == victim
    while training.loader.drawn < STEPS:
        step = training.loader.drawn + 1
        commits = step % COMMIT_STEPS == 0
        training.step(dies=dies and step == deadly and not commits)
        if commits and step == deadly:
            if dies:
                dist.barrier()
                os.kill(os.getpid(), signal.SIGKILL)
            store.commit(step, training.state_dict())
            dist.barrier()
        elif commits:
            store.commit(step, training.state_dict())
        if step == SNAPSHOT_STEP:
            training.saver(folder).save(step)
    return training.content()


def go_on_elsewhere(folder: Path) -> None:
    """Another number of workers goes on from the snapshot."""
    dist.init_process_group("gloo", timeout=TIMEOUT)
    rank = dist.get_rank()
    with Store.open_common(folder / "stores" / str(rank)) as store:
        try:
            Training(store)
        except ValueError as error:
            assert "have those save a snapshot" in str(error), error
        else:
            raise AssertionError("stores of four workers were taken")
    training = Training()
    assert training.saver(folder).restore() == SNAPSHOT_STEP
    while training.loader.drawn < STEPS:
        training.step()
    save(folder, training.content())


def save(folder: Path, content: dict[str, Tensor]) -> None:
    torch.save(content, folder / f"{dist.get_rank()}-of-{dist.get_world_size()}.pt")


def main(folder: Path) -> None:
    dist.init_process_group("gloo", timeout=TIMEOUT)
    torch.set_num_threads(1)
    rank, launch = dist.get_rank(), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    with Store.open_common(folder / "stores" / str(rank), hot_bytes=2000) as store:
        (folder / f"launch-{launch}-{rank}").write_text(str(store.step))
        kill = KILLS[launch] if launch < len(KILLS) else (-1, -1)
        found = train_in_store(folder, store, *kill)
    gc.collect()  # the names of its tables are free again
    expected = train()
    different = [name for name in expected if not torch.equal(found[name], expected[name])]
    assert found.keys() == expected.keys() and not different, different
    save(folder, found)
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads may outlive the group, and abort an interpreter that ends


if __name__ == "__main__":
    main(Path(sys.argv[1]))
