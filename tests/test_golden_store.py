"""Stores that were written by this version and those before it can be opened."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from recis import Store
from recis.nn import HashTable

from .golden.make_store import NAME, content

GOLDEN = Path(__file__).parent / "golden"
EXPECTED = json.loads((GOLDEN / f"{NAME}.json").read_text())


@pytest.fixture
def path(tmp_path):
    return shutil.copytree(GOLDEN / NAME, tmp_path / "store")


@pytest.mark.parametrize("expected", EXPECTED, ids=lambda expected: f"epoch {expected['epoch']}")
@pytest.mark.parametrize("read_only", [True, False])
def test_both_epochs_hold_what_they_held(make_table_in, path, expected, read_only):
    with Store(path, epoch=expected["epoch"], read_only=read_only) as store:
        assert store.step == expected["step"]
        state = store.state()
        assert state["dense"].tolist() == list(range(expected["step"]))
        assert (state["step"], state["nested"]) == (expected["step"], [{"lr": 0.1}, None, "é"])
        assert store.tables() == ["users"]
        assert store.sizes()["users"].rows == len(expected["table"]["ids"])
        assert content(make_table_in(store, "users", [3])) == expected["table"]


def test_freed_rows_come_back_in_the_same_order_and_the_store_goes_on(make_table_in, path):
    fresh = torch.arange(1000, 1030)
    with Store(path, hot_bytes=1024) as store:
        table = make_table_in(store, "users", [3])
        table(fresh)
        assert table.table.rows_of(fresh).tolist() == EXPECTED[-1]["next rows"]
        assert store.commit(30) == EXPECTED[-1]["epoch"] + 1
        trained = content(table)
        del table
    with Store(path) as store:
        assert content(HashTable([3], name="users", store=store)) == trained
