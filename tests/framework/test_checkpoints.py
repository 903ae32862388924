"""Whole training states: saved, restored, and gone on from bit for bit."""

import logging
import os
import random
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from recis import Store
from recis.framework import CheckpointManager, Saver
from recis.nn import AdmitHook, FilterHook, HashTable
from recis.nn.modules.hashtable import filter_out_sparse_param
from recis.optim import SparseAdamW
from recis.snapshot.errors import DamagedError, MismatchError
from recis.snapshot.publish import steps
from recis.snapshot.read import open_snapshot


class Position:
    """Where a loader is."""

    def __init__(self):
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


class Training:
    """A small model with all that can be saved."""

    def __init__(self, folder, store=None, device="cpu", **options):
        torch.manual_seed(1)
        random.seed(2)
        np.random.seed(3)
        hook = FilterHook("GlobalStepFilter", {"filter_step": 3})
        self.table = HashTable(
            [4],
            name="resumed",
            filter_hook=hook,
            store=store,
            device=device,
            device_bytes=None if store is None or device == "cpu" else 300,
        )
        self.model = torch.nn.ModuleDict({"table": self.table, "dense": torch.nn.Linear(4, 1)})
        sparse = SparseAdamW(filter_out_sparse_param(self.model))
        self.optimizers = [sparse, torch.optim.Adam(self.model["dense"].parameters())]
        self.optimizers[1].param_groups[0]["lr"] = 0.1
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(self.optimizers[1], 0.9)
        self.position = Position()
        self.saver = Saver(self.model, sparse, folder, **options)
        self.manager = CheckpointManager(self.saver, 3)
        self.manager.register_for_checkpointing("dense_optim", self.optimizers[1])
        self.manager.register_for_checkpointing("schedule", self.schedule)
        self.manager.register_for_checkpointing("position", self.position, per_worker=True)

    def step(self):
        ids = torch.randint(-6, 6, (5,)) + random.randint(0, 3) + int(np.random.randint(3))
        admit = AdmitHook("FrequencyAdmit", {"min_frequency": 2})
        out = self.model["dense"](self.table(ids + self.position.at // 4, admit_hook=admit))
        out.square().sum().backward()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.schedule.step()
        self.position.at += 1
        self.table._filter_hook_impl.update_step()
        if self.position.at % 4 == 0:
            self.table._filter_hook_impl.do_filter()
        self.manager.step()

    def state(self):
        ids, rows = self.table.ids_map()
        order = ids.argsort()
        slots = [slot.read(rows)[order] for slot in self.table.slot_group().slots()]
        dense = list(self.model["dense"].parameters())
        return [ids[order], *slots, *dense, torch.tensor(self.position.at), torch.rand(3)]


@pytest.fixture(autouse=True)
def _no_handler():
    """The handlers of managers do not outlive their test."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    "options", [{}, {"async_save": True}, {"deltas": 2}, {"deltas": 2, "async_save": True}]
)
def test_training_goes_on_bit_for_bit(tmp_path, device, options):
    options = {"device": device, "max_keep": 4, **options}
    training = Training(tmp_path, **options)
    for _ in range(20):
        training.step()
    expected = training.state()
    training.saver.wait()
    del training
    training = Training(tmp_path, **options)
    assert training.manager.restore() == 18
    assert training.manager.global_step == 18
    for _ in range(2):
        training.step()
    assert all(torch.equal(a, b) for a, b in zip(training.state(), expected, strict=True))
    assert steps(tmp_path)[-4:] == [9, 12, 15, 18]
    if options.get("deltas"):
        training.step()  # a delta to what was restored, or a full one
        training.saver.wait()
        expected = training.state()
        del training
        training = Training(tmp_path, **options)
        assert training.manager.restore() == 21
        assert all(torch.equal(a, b) for a, b in zip(training.state(), expected, strict=True))


RESUMED = """
import sys
sys.path.insert(0, sys.argv[1])
from test_checkpoints import Training, torch

training = Training(sys.argv[2])
assert training.manager.restore() == 6
for _ in range(2):
    training.step()
torch.save(training.state(), sys.argv[3])
"""


def test_another_process_goes_on_bit_for_bit(tmp_path):
    training = Training(tmp_path / "run")
    for _ in range(8):
        training.step()
    command = [sys.executable, "-c", RESUMED, Path(__file__).parent]
    arguments = [tmp_path / "run", tmp_path / "state.pt"]
    subprocess.run([*command, *arguments], check=True, cwd=tmp_path)  # not where the sources are
    found = torch.load(tmp_path / "state.pt")
    assert all(torch.equal(a, b) for a, b in zip(found, training.state(), strict=True))


def test_tables_in_a_store(tmp_path, device):
    """Memory has room for two of the blocks, a device for one; the same bits come of it."""
    training = Training(tmp_path / "memory")
    for _ in range(11):
        training.step()
    expected = training.state()
    del training
    for folder, count in [("a", 10), ("b", 2)]:
        with Store(tmp_path / folder, hot_bytes=600) as store:
            training = Training(tmp_path / "run", store, device, deltas=1, max_keep=9)
            assert training.manager.restore() == (9 if folder == "b" else None)
            for _ in range(count):
                training.step()
            assert training.table.stats()["spills"] > 0
            state = training.state()
            store.commit(training.manager.global_step)
            del training
    assert all(torch.equal(a, b) for a, b in zip(state, expected, strict=True))
    with Store(tmp_path / "b") as store:  # it goes its own way
        assert store.step == 11


def test_chains_do_not_grow_with_restores(tmp_path):
    for _ in range(3):
        training = Training(tmp_path, deltas=1, max_keep=9)
        training.manager.restore()
        for _ in range(6):
            training.step()
        del training
    found = [open_snapshot(tmp_path, step).manifest.parent for step in steps(tmp_path)]
    assert [None if parent is None else parent.step for parent in found] == [
        None, 3, None, 9, None, 15
    ]  # fmt: skip


def test_a_url(tmp_path):
    training = Training(f"memory://recis-framework{tmp_path}")
    for _ in range(6):
        training.step()
    assert training.manager.restore() == 6


class Modes(torch.nn.Module):
    """A module with state that is no tensor."""

    def __init__(self):
        super().__init__()
        self.mode = "warm"

    def get_extra_state(self):
        return {"mode": self.mode}

    def set_extra_state(self, state):
        self.mode = state["mode"]


def test_state_that_is_no_tensor(tmp_path):
    model = torch.nn.Sequential(Modes(), torch.nn.Linear(1, 1))
    saver = Saver(model, output_dir=tmp_path)
    model[0].mode = "hot"
    saver.save(1)
    model[0].mode = "cold"
    assert saver.restore() == 1
    assert model[0].mode == "hot"


def test_what_cannot_be_removed_is_told_of(tmp_path, monkeypatch, caplog):
    def fail(*_, **__):
        raise PermissionError("not yours")

    saver = Saver(torch.nn.Linear(1, 1), output_dir=tmp_path)
    monkeypatch.setattr("recis.framework.saver.collect_garbage", fail)
    with caplog.at_level(logging.WARNING):
        saver.save(1)
    assert "old snapshots stay: not yours" in caplog.text
    assert saver.restore() == 1


WORKER = """
import sys
sys.path.insert(0, sys.argv[1])
from test_checkpoints import HashTable, Position, Saver, os, torch
import torch.distributed as dist
from recis.serialize import Saver as ShardSaver
from recis.snapshot.errors import SnapshotError

rank = int(os.environ["RANK"])
table = HashTable([2], name="own")
saver = Saver(torch.nn.ModuleList([table]), output_dir=sys.argv[2], async_save=True, deltas=1)
shared, own = Position(), Position()
saver.register_for_checkpointing("shared", shared)
saver.register_for_checkpointing("own", own, per_worker=True)
if rank == 0:
    try:
        saver.save(0)
    except RuntimeError as error:
        assert "init_process_group" in str(error)
dist.init_process_group("gloo")
for step in range(1, 5):
    shared.at = own.at = 10 * step + rank
    torch.manual_seed(own.at)
    table(torch.arange(100 * step))
    saver.save(step)
    for _ in range(20):  # what training does meanwhile is not mixed up with it
        found = torch.tensor(rank + 1)
        dist.all_reduce(found)
        assert found == 3
saver.wait()
expected = torch.rand(3)
table.clear()
assert saver.restore() == 4
assert (shared.at, own.at) == (40, 40 + rank)
assert torch.equal(torch.rand(3), expected)
assert len(table) == 400

try:  # one that fails tells the others
    ShardSaver(rank, 2, path="/dev/null/no" if rank else sys.argv[2]).save(9)
except (NotADirectoryError, SnapshotError) as error:
    assert rank or "not published: shard 1: NotADirectoryError" in str(error), error
else:
    raise AssertionError
"""


def test_each_worker_has_what_is_its_own(tmp_path, caplog, run_workers):
    run_workers(WORKER, 2, Path(__file__).parent, tmp_path)
    # And now there is one.
    shared, own = Position(), Position()
    table = torch.nn.ModuleList([HashTable([2], name="own")])
    saver = Saver(table, output_dir=tmp_path)
    saver.register_for_checkpointing("shared", shared)
    torch.manual_seed(7)
    with caplog.at_level(logging.WARNING):
        assert saver.restore() == 4
    assert "nothing of a worker 0 of 1: random generators go on" in caplog.text
    assert shared.at == 40
    found = torch.rand(1)
    torch.manual_seed(7)
    assert torch.equal(found, torch.rand(1))
    assert len(table[0]) == 400
    saver.register_for_checkpointing("own", own, per_worker=True)
    table[0].clear()
    with pytest.raises(MismatchError, match=r"has no state of 'own' for worker 0 of 1"):
        saver.restore()
    assert len(table[0]) == 0


def test_an_earlier_step_is_restored(tmp_path, caplog):
    training = Training(tmp_path, max_keep=5)
    assert training.manager.restore() is None
    for _ in range(9):
        training.step()
    assert steps(tmp_path) == [3, 6, 9]
    with caplog.at_level(logging.WARNING):
        assert training.manager.restore(6) == 6
    assert "than 6 stay" in caplog.text
    assert "not wanted: step-000000000009" in caplog.text
    assert training.position.at == 6
    with pytest.raises(FileNotFoundError):
        training.manager.restore(7)


def test_max_keep_spares_what_is_needed(tmp_path):
    training = Training(tmp_path, max_keep=2, deltas=3)
    for _ in range(15):
        training.step()
    # 3 is full, and 6, 9 and 12 are its deltas; 15 is full again, 12 needs the others.
    assert steps(tmp_path) == [3, 6, 9, 12, 15]
    for _ in range(3):
        training.step()
    assert steps(tmp_path) == [15, 18]


def test_a_damaged_newest_one_is_told_of(tmp_path, caplog):
    training = Training(tmp_path, max_keep=3)
    for _ in range(6):
        training.step()
    (tmp_path / "step-000000000006" / "MANIFEST.json").write_text("{}")
    with pytest.raises(DamagedError):
        training.saver.restore(strict=True)
    assert training.position.at == 6
    with caplog.at_level(logging.WARNING):
        assert training.manager.restore() == 3
        assert "fell back to step-000000000003" in caplog.text
        for _ in range(3):
            training.step()  # as far as what was damaged
    assert "the damaged step-000000000006 is now damaged-step-000000000006-" in caplog.text
    assert training.manager.restore(strict=True) == 6
    assert len(list(tmp_path.glob("damaged-*"))) == 1


def test_mistakes(tmp_path):
    training = Training(tmp_path)
    with pytest.raises(ValueError, match="registered already"):
        training.manager.register_for_checkpointing("position", Position())
    with pytest.raises(TypeError, match="state_dict"):
        training.manager.register_for_checkpointing("other", object())
    with pytest.raises(ValueError, match="max_keep"):
        Saver(training.model, max_keep=0)
    with pytest.raises(ValueError, match="save_interval"):
        CheckpointManager(training.saver, 0)
    training.manager.save()
    training.manager.register_for_checkpointing("later", Position())
    with pytest.raises(MismatchError, match="no state of 'later'"):
        training.manager.restore()
    assert training.saver.output_dir == tmp_path.as_posix()


def test_what_nobody_registered_is_told_of(tmp_path, caplog):
    training = Training(tmp_path)
    training.manager.save()
    with caplog.at_level(logging.WARNING):
        assert Saver(training.model, output_dir=tmp_path).restore() == 0
    assert "nobody registered it: dense_optim, position, schedule" in caplog.text


CHILD = """
import os, signal, sys, time, torch, torch.distributed as dist
from recis import Store
from recis.framework import CheckpointManager, Saver

if len(sys.argv) > 2:
    dist.init_process_group("gloo")
signal.signal(signal.SIGTERM, lambda *_: os.write(1, b"earlier\\n"))
model = torch.nn.Linear(1, 1)
manager = CheckpointManager(Saver(model, output_dir=sys.argv[1]), 10**6)
print("ready", flush=True)
while True:
    model.bias.data.fill_(2 * manager.global_step)
    time.sleep(0.05)
    model.bias.data.add_(1)  # a signal lets the step end
    if manager.global_step == 0:
        print("stepping", flush=True)
    manager.step()
"""


def start(output, *arguments, **environment):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, *map(str, (output, *arguments))],
        cwd=output,  # not where the sources are
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
        text=True,
    )
    assert child.stdout.readline() == "ready\n"
    return child


def test_sigterm_ends_the_step_then_saves_and_exits(tmp_path):
    child = start(tmp_path)
    assert child.stdout.readline() == "stepping\n"
    child.terminate()
    out, errors = child.communicate(timeout=60)
    assert child.returncode == 143, errors
    assert out == "earlier\n"
    (step,) = steps(tmp_path)
    model = torch.nn.Linear(1, 1)
    assert Saver(model, output_dir=tmp_path).restore() == step
    assert model.bias.item() == 2 * (step - 1) + 1


def test_sigterm_of_one_worker_ends_all_after_the_same_step(tmp_path, group_of):
    group = group_of(2)
    with ThreadPoolExecutor() as pool:  # none is ready before the other is there
        started = [
            pool.submit(start, tmp_path, "group", **group, RANK=str(rank)) for rank in range(2)
        ]
        workers = [worker.result() for worker in started]
    assert workers[0].stdout.readline() == "stepping\n"
    workers[1].terminate()
    outputs = [worker.communicate(timeout=60) for worker in workers]
    assert [worker.returncode for worker in workers] == [143, 143], outputs
    (step,) = steps(tmp_path)
    assert open_snapshot(tmp_path).manifest.world_size == 2
    assert [name for name in open_snapshot(tmp_path).dense_names() if "worker" in name] == [
        "worker.00000-of-00002",
        "worker.00001-of-00002",
    ]
    assert step > 0
