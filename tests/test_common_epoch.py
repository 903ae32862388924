"""Stores of several workers go on from one step, or say why they cannot."""

import logging
import os
import re

import pytest
import torch

from recis import Store
from recis._common_epoch import common_epoch
from recis.nn import FilterHook
from recis.nn.modules.hashtable import gen_slice

FIRST = [(1, 10)]


@pytest.fixture
def agree(monkeypatch):
    """`agree(*commits)` is what each worker of a group chooses."""

    def run(*workers):
        monkeypatch.setattr("recis._common_epoch.gather", lambda mine, group: list(workers))
        return [common_epoch(f"store-{k}", mine, None) for k, mine in enumerate(workers)]

    return run


@pytest.mark.parametrize(
    ("workers", "epochs"),
    [
        ([[(3, 30), (4, 40)]] * 3, [4, 4, 4]),
        ([[(3, 30), (4, 40)], [(2, 20), (3, 30)]], [3, 3]),
        ([[(2, 20), (3, 30)], [(3, 30), (4, 40)], [(3, 30)]], [3, 3, 3]),
        ([[(3, 30), (4, 40)], [(4, 30), (5, 40)]], [4, 5]),  # one has failed to commit once
        ([[(3, 30), (4, 10)]] * 2, [4, 4]),  # steps begin anew
        ([[(3, 30), (4, 10)], [(3, 30)]], [3, 3]),
        ([[(3, 30), (4, 30)], [(3, 30)]], [4, 3]),  # one step twice: nobody can tell them apart
        ([[], []], [0, 0]),
        ([FIRST, []], [0, 0]),
        ([FIRST, FIRST], [1, 1]),
        ([[(1, 10), (2, 20)], FIRST], [1, 1]),
    ],
)
def test_the_newest_step_that_all_have(agree, workers, epochs):
    assert agree(*workers) == epochs


@pytest.mark.parametrize(
    ("workers", "words"),
    [
        ([[(1, 10), (2, 20)], [], [(1, 10), (2, 20)]],
         r"step 10 \(epoch 1\) and step 20 \(epoch 2\) of worker 0, 2; none of worker 1"),
        ([[(2, 20)], []], "none of worker 1"),  # after going back
        ([FIRST, [(2, 20), (3, 30)]], r"step 10 \(epoch 1\) of worker 0; step 20"),
    ],
)  # fmt: skip
def test_no_common_step(agree, workers, words):
    with pytest.raises(RuntimeError, match=f"store-0.*{words}.*restore a snapshot"):
        agree(*workers)


def test_a_store_that_one_worker_cannot_open(monkeypatch):
    gathered = [FIRST, "OSError: no disk"]
    monkeypatch.setattr("recis._common_epoch.gather", lambda mine, group: gathered)
    with pytest.raises(RuntimeError, match=r"'s' was closed again: worker 1: OSError: no disk"):
        common_epoch("s", FIRST, None)
    with pytest.raises(OSError, match="no disk"):
        common_epoch("s", OSError("no disk"), None)


@pytest.fixture
def make(make_table_in):
    """Makes the table of a worker."""

    def make(store, part=(0, 2), **options):
        return make_table_in(store, "common", [2], slice=gen_slice(*part), **options)

    return make


@pytest.fixture
def commit(make):
    """Trains and commits these steps of a worker."""

    def commit(path, *steps, part=(0, 2)):
        with Store(path) as store:
            table = make(store, part)
            for step in steps:
                table(torch.arange(step))
                store.commit(step, {"at": step})

    return commit


def test_what_came_later_is_dropped(commit, make, tmp_path, monkeypatch, caplog):
    commit(tmp_path / "s", 10, 20)
    other = [(1, 10)]
    monkeypatch.setattr("recis._common_epoch.gather", lambda mine, group: [mine, other])
    with caplog.at_level(logging.WARNING):
        store = Store.open_common(tmp_path / "s", hot_bytes="1MB")
    assert re.search(r"step 20, epoch 2, is dropped", caplog.text)
    with store:
        table = make(store)
        assert (store.step, store.state(), len(table)) == (10, {"at": 10}, 10)
        del table
        other[:] = []
    caplog.clear()
    with caplog.at_level(logging.WARNING), Store.open_common(tmp_path / "s") as store:
        assert (store.epoch, store.state(), store.epochs(), store.tables()) == (None, None, [], [])
        assert len(make(store)) == 0
        assert store.commit(10) == 1
    assert "step 10, epoch 1, is dropped" in caplog.text


def test_nothing_is_dropped_without_agreement(commit, tmp_path, monkeypatch):
    commit(tmp_path / "s", 10, 20)
    monkeypatch.setattr("recis._common_epoch.gather", lambda mine, group: [mine, [(7, 70)]])
    with pytest.raises(RuntimeError, match=r"epoch 7\) of worker 1"):
        Store.open_common(tmp_path / "s")
    with Store(tmp_path / "s") as store:  # it was closed
        assert [epoch.step for epoch in store.epochs()] == [10, 20]


def test_without_a_group_it_is_a_store(tmp_path):
    with Store.open_common(tmp_path / "s") as store:
        assert store.commit(5) == 1
    with pytest.raises(ValueError, match="hot_bytes"):
        Store.open_common(tmp_path / "s", hot_bytes="much")
    with Store.open_common(tmp_path / "s") as store:
        assert store.step == 5


def test_another_number_of_workers_is_refused(commit, make, tmp_path):
    commit(tmp_path / "s", 10, part=(1, 4))
    words = r"'common'.*Slice\(16384, 32768, 65536\).*Slice\(32768, 65536, 65536\).*snapshot"
    with Store(tmp_path / "s") as store:
        with pytest.raises(ValueError, match=words):
            make(store, (1, 2))
        assert store.tables() == ["common"]
        assert len(make(store, (1, 4))) == 10
        store.commit(20)
    with Store(tmp_path / "s") as store, pytest.raises(ValueError, match=words):
        make(store, (1, 2))


def test_a_table_that_could_not_be_made_leaves_no_slices(make, tmp_path):
    with Store(tmp_path / "s") as store:
        with pytest.raises((KeyError, ValueError), match="Nobody"):
            make(store, filter_hook=FilterHook("Nobody"))
        make(store, (1, 4))
        store.commit(1)


OPENED = """
import sys
import torch.distributed as dist
from recis import Store

dist.init_process_group("gloo")
rank = dist.get_rank()
path = f"{sys.argv[1]}/{rank}"
for _ in range(2):  # what one worker alone has committed is dropped
    with Store.open_common(path) as store:
        assert store.step is None
        if rank == 0:
            store.commit(10)
with Store.open_common(path) as store:
    store.commit(10)
    if rank == 0:
        store.commit(20)
with Store.open_common(path) as store:
    assert [epoch.step for epoch in store.epochs()] == [10]
try:
    Store.open_common(path, hot_bytes=-rank or None)
except (ValueError, RuntimeError) as error:
    assert rank or "worker 1: ValueError" in str(error), error
else:
    raise AssertionError
"""


def test_workers_agree(tmp_path, run_workers):
    run_workers(OPENED, 2, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["0", "1"]
