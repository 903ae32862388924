"""Snapshots that were written by this version and those before it can be read."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import recis
from recis.nn import HashTable
from recis.nn.modules.hashtable import gen_slice
from recis.serialize import CheckpointReader, Loader
from recis.snapshot.read import open_snapshot
from recis.snapshot.verify import verify

from ..golden.make_snapshot import ADMIT, FILTER, NAME, SLICES, content

GOLDEN = Path(__file__).parent.parent / "golden"
EXPECTED = json.loads((GOLDEN / f"{NAME}.json").read_text())


@pytest.mark.parametrize("expected", EXPECTED, ids=lambda expected: f"step {expected['step']}")
def test_it_holds_what_it_held(expected):
    path = GOLDEN / NAME / f"step-{expected['step']:012d}"
    table = HashTable([3], name="users", filter_hook=FILTER, slice=gen_slice(slice_size=SLICES))
    assert Loader(path, hashtables={"users": table}).load() == expected["step"]
    assert content(table) == expected["table"]
    assert table._filter_hook_impl.state()[0]["_global_step"].item() == expected["step"] // 10
    # Seen once by the first snapshot, twice and admitted by the second.
    table(torch.tensor([5000]), admit_hook=ADMIT)
    assert 5000 in table
    more = open_snapshot(path).dense("more")
    assert more == {"step": expected["step"], "nested": [{"lr": 0.1}, None, "é"]}
    reader = CheckpointReader(path)
    assert torch.equal(reader.read_tensor("weight"), torch.arange(expected["step"]) / 2)
    assert reader.read_tensor("count").item() == expected["step"]
    assert verify(path, "deep") == []
    served = recis.Snapshot(path).table("users")
    ids = [int(id) for id in expected["table"]]
    found = served.lookup(torch.tensor(ids))
    assert found.tolist() == [slots["embedding"] for slots in expected["table"].values()]
    assert len(served) == len(ids)


def test_stock_safetensors_opens_every_file():
    files = list((GOLDEN / NAME).rglob("*.safetensors"))
    assert len(files) == 6
    for path in files:
        with safe_open(path, "pt") as file:
            assert all(file.get_tensor(name) is not None for name in file.keys())  # noqa: SIM118
