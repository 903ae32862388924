"""A checkpoint that RecIS 1.0 itself has written, and all that is in it."""

import json
from pathlib import Path

import pytest
import torch

from recis import optim
from recis.nn import FilterHook, HashTable
from recis.nn.modules.hashtable import gen_slice
from recis.serialize import CheckpointReader, Loader

from ..helpers import by_id

GOLDEN = Path(__file__).parent.parent / "golden" / "upstream-1.0"
EXPECTED = json.loads(GOLDEN.with_name("upstream-1.0.json").read_text())
DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.float64, torch.float16,
                                          torch.bfloat16, torch.int8, torch.int64)}  # fmt: skip
PLAIN = [name for name, about in EXPECTED["tables_meta"].items() if not about["coalesced"]]


def expected(child, slot="embedding"):
    return {int(id): row[slot] for id, row in EXPECTED["tables"][child].items()}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("world", [1, 2, 5])
def test_a_table_is_loaded_into_any_number_of_shards(name, world):
    about = EXPECTED["tables_meta"][name]
    slots = next(iter(EXPECTED["tables"][name].values()), {"embedding": None})
    found = {slot: {} for slot in slots}
    for shard in range(world):
        part = gen_slice(shard, world)
        table = HashTable([about["dim"]], dtype=DTYPES[about["dtype"]], name=name, slice=part)
        Loader(GOLDEN, hashtables={name: table}).load()
        for slot in slots if len(table) else ():
            rows = by_id(table, slot)
            assert all(part.slice_begin <= id % 65536 < part.slice_end for id in rows)
            found[slot] |= rows
        del table
    assert found == {slot: expected(name, slot) if slots[slot] else {} for slot in slots}


def test_a_coalesced_table_takes_the_rows_of_its_children():
    hook = FilterHook("GlobalStepFilter", {"filter_step": 5})
    table = HashTable(
        [2], name="both", coalesced=True, children=["c1", "c0"], filter_hook=hook
    )  # in another order than they were saved in
    Loader(GOLDEN, hashtables={"both": table}).load()
    for slot in ("embedding", "step_filter"):
        encoded = {
            int(table.children_info().encode(torch.tensor([id]), child)): row
            for child in ("c0", "c1")
            for id, row in expected(child, slot).items()
        }
        assert by_id(table, slot) == encoded


def test_training_goes_on_with_the_optimizer_state():
    table = HashTable([3], name="user_emb")
    optimizer = optim.SparseAdamW({"user_emb": table.table})
    Loader(GOLDEN, hashtables={"user_emb": table}).load()
    assert by_id(table, "sparse_adamw_exp_avg_sq") == expected(
        "user_emb", "sparse_adamw_exp_avg_sq"
    )
    before = by_id(table)
    table(torch.tensor([7])).sum().backward()
    optimizer.step()
    changed = {id for id, row in by_id(table).items() if row != before[id]}
    assert changed == {7}


def test_dense_tensors_are_loaded():
    tensors = {
        name: torch.zeros(about["shape"], dtype=DTYPES[about["dtype"]])
        for name, about in EXPECTED["dense"].items()
    }
    Loader(GOLDEN, tensors=tensors).load()
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        name: about["value"] for name, about in EXPECTED["dense"].items()
    }


def test_the_reader_shows_single_tensors():
    reader = CheckpointReader(GOLDEN)
    slots = {
        f"{child}@{slot}"
        for child, rows in EXPECTED["tables"].items()
        for slot in ["id", *next(iter(rows.values()), {"embedding": None})]
    }
    assert set(reader.tensor_names()) == slots | EXPECTED["dense"].keys()
    # RecIS itself gives the rows of exp_avg_sq here, too.
    name = "user_emb@sparse_adamw_exp_avg"
    assert reader.tensor_shape(name) == [5, 3]
    assert reader.tensor_dtype(name) == torch.float32
    ids = reader.read_tensor("user_emb@id").tolist()
    found = dict(zip(ids, reader.read_tensor(name).tolist(), strict=True))
    assert found == expected("user_emb", "sparse_adamw_exp_avg")
    assert reader.read_tensor("empty_t@embedding").shape == (0, 2)
    assert reader.read_tensor("scalar_i64").item() == 12
    with pytest.raises(KeyError, match="no tensor"):
        reader.read_tensor("user_emb@sparse_adamw_exp")
