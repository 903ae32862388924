"""Whole training states: saved, restored, and gone on from bit for bit."""

import logging
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from recis.framework import CheckpointManager, Saver
from recis.nn import AdmitHook, FilterHook, HashTable
from recis.nn.modules.hashtable import filter_out_sparse_param
from recis.optim import SparseAdamW
from recis.snapshot.errors import DamagedError, MismatchError
from recis.snapshot.publish import steps


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

    def __init__(self, folder, **options):
        torch.manual_seed(1)
        random.seed(2)
        np.random.seed(3)
        hook = FilterHook("GlobalStepFilter", {"filter_step": 3})
        self.table = HashTable([4], name="resumed", filter_hook=hook)
        self.model = torch.nn.ModuleDict({"table": self.table, "dense": torch.nn.Linear(4, 1)})
        sparse = SparseAdamW(filter_out_sparse_param(self.model))
        self.optimizers = [sparse, torch.optim.Adam(self.model["dense"].parameters())]
        self.position = Position()
        self.saver = Saver(self.model, sparse, folder, **options)
        self.manager = CheckpointManager(self.saver, 3)
        self.manager.register_for_checkpointing("dense_optim", self.optimizers[1])
        self.manager.register_for_checkpointing("position", self.position)

    def step(self):
        ids = torch.randint(-6, 6, (5,)) + random.randint(0, 3) + int(np.random.randint(3))
        admit = AdmitHook("FrequencyAdmit", {"min_frequency": 2})
        out = self.model["dense"](self.table(ids + self.position.at // 4, admit_hook=admit))
        out.square().sum().backward()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
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
def test_training_goes_on_bit_for_bit(tmp_path, options):
    training = Training(tmp_path, max_keep=4, **options)
    for _ in range(20):
        training.step()
    expected = training.state()
    training.saver.wait()
    del training
    training = Training(tmp_path, max_keep=4, **options)
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
        training = Training(tmp_path, max_keep=4, **options)
        assert training.manager.restore() == 21
        assert all(torch.equal(a, b) for a, b in zip(training.state(), expected, strict=True))


def test_an_earlier_step_is_restored(tmp_path):
    training = Training(tmp_path, max_keep=5)
    assert training.manager.restore() is None
    for _ in range(9):
        training.step()
    assert steps(tmp_path) == [3, 6, 9]
    assert training.manager.restore(6) == 6
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
    with pytest.raises(MismatchError, match="no state of later"):
        training.manager.restore()
    shutil.rmtree(tmp_path)
    assert training.saver.output_dir == str(tmp_path)


CHILD = """
import sys, time, torch
from recis.framework import CheckpointManager, Saver
model = torch.nn.Linear(1, 1)
manager = CheckpointManager(Saver(model, output_dir=sys.argv[1]), 10**6)
print("ready", flush=True)
while True:
    time.sleep(0.01)
    manager.step()
"""


def test_sigterm_saves_and_exits(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
    )
    assert child.stdout.readline() == b"ready\n"
    time.sleep(0.1)
    child.terminate()
    assert child.wait() == 143
    child.stdout.close()
    (step,) = steps(tmp_path)
    assert step > 0
