"""Does a store survive being killed? `python tools/soak.py --minutes 10 --seed 1`.

A child trains two tables in a store, with a random budget of hot rows, and commits now and then;
sooner or later it is killed. The next one must find exactly what the same calls give in memory, up
to the commit that the store says is its last, which is the last one that was acknowledged or the
one that was under way. Ends with 1 at the first difference.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from recis import Store, optim
from recis.nn import HashTable
from recis.nn.initializers import NormalInitializer

DIM, IDS, BATCH = 16, 20_000, 1_000
# Of hot rows, embedding and two states; a table has at least a block.
BLOCK_ROWS, RECORD_BYTES = 64, 3 * DIM * 4
NAMES = ("users", "items")
DIFFERENT = 3  # exit status


class Training:
    """Steps that follow from a seed and their number, whatever holds the tables."""

    def __init__(self, seed: int, store: Store | None = None) -> None:
        self.seed = seed
        self.tables = {}
        for name in NAMES:
            self.tables[name] = HashTable(
                [DIM],
                name=name if store else f"{name}.twin",
                block_size=BLOCK_ROWS,
                initializer=NormalInitializer(),
                seed=seed,
                store=store,
            )
        dicts = {name: table.table for name, table in self.tables.items()}
        self.optimizer = optim.SparseAdam(dicts, lr=0.01)

    def step(self, number: int) -> None:
        """Trains each table on a skewed batch, and evicts now and then."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        for table in self.tables.values():
            skewed = torch.rand(BATCH, generator=generator) ** 3
            ids = (skewed * IDS).long() + number % 50
            table(ids).backward(torch.randn(BATCH, DIM, generator=generator))
        self.optimizer.step()
        self.optimizer.zero_grad()
        if number % 7 == 0:
            for table in self.tables.values():
                table.evict(torch.randint(0, IDS, (IDS // 50,), generator=generator))

    def differences(self, other: Training) -> list[str]:
        """What these tables hold otherwise than those, by table and slot."""
        found = []
        for name, table in self.tables.items():
            twin = other.tables[name]
            (ids, rows), expected = table.ids_map(), twin.ids_map()
            if not (torch.equal(ids, expected[0]) and torch.equal(rows, expected[1])):
                found.append(f"{name}: ids")
                continue
            for slot in table.slot_group().slots():
                values = twin.slot_group().slot_by_name(slot.name()).read(rows)
                if not torch.equal(slot.read(rows).view(torch.int32), values.view(torch.int32)):
                    found.append(f"{name}: {slot.name()}")
        return found


def child(path: Path, seed: int, life: int) -> int:
    """Opens the store, checks it and trains until it is killed."""
    dice = random.Random(seed * 1_000_003 + life)
    blocks = dice.choice([2, 4, 16, 64, 1000])
    with Store(path / "store", hot_bytes=blocks * BLOCK_ROWS * RECORD_BYTES) as store:
        done = store.step or 0
        acknowledged = int((path / "acknowledged").read_text())
        training, twin = Training(seed, store), Training(seed)
        if done:
            state = store.state()
            training.optimizer.load_state_dict(state["optimizer"])
        for number in range(1, done + 1):
            twin.step(number)
        wrong = training.differences(twin)
        if not acknowledged <= done or (done and state["step"] != done):
            wrong.append(f"step {done}, acknowledged {acknowledged}")
        print(f"life {life}: {blocks} blocks, step {done}, {wrong or 'right'}", flush=True)
        if wrong:
            return DIFFERENT
        while True:
            done += 1
            training.step(done)
            if dice.random() < 0.2:
                state = {"step": done, "optimizer": training.optimizer.state_dict()}
                store.commit(done, state)
                # A file of its own: the child may be killed right here.
                new = path / "acknowledged.new"
                new.write_text(str(done))
                new.replace(path / "acknowledged")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", default=None, help="where the store is made; default: /tmp")
    parser.add_argument("--steps", type=int, default=600, help="then a new store is begun")
    parser.add_argument("--life", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.life:
        return child(Path(options.folder), *options.life)
    dice = random.Random(options.seed)
    end = time.monotonic() + options.minutes * 60
    lives = stores = steps = 0
    while time.monotonic() < end:
        stores += 1
        seed = options.seed * 1000 + stores
        with tempfile.TemporaryDirectory(prefix="recis-soak-", dir=options.folder) as folder:
            acknowledged = Path(folder, "acknowledged")
            acknowledged.write_text("0")
            while time.monotonic() < end and int(acknowledged.read_text()) < options.steps:
                lives += 1
                command = [sys.executable, __file__, "--folder", folder]
                life = subprocess.Popen(
                    [*command, "--life", str(seed), str(lives)], stdout=subprocess.PIPE, text=True
                )
                assert life.stdout is not None
                # Most are killed after they have found their store to be right.
                if dice.random() < 0.8:
                    print(life.stdout.readline(), end="", flush=True)
                try:
                    life.wait(dice.uniform(0, 3))
                except subprocess.TimeoutExpired:
                    life.send_signal(signal.SIGKILL)
                    life.wait()
                if life.returncode != -signal.SIGKILL:
                    print(f"MISMATCH or failure: store {seed}, life {lives}: {life.returncode}")
                    return 1
            steps += int(acknowledged.read_text())
    print(f"{stores} stores, {lives} lives, {steps} steps committed, no difference")
    return 0


if __name__ == "__main__":
    sys.exit(main())
