"""Tables in `torch.distributed.checkpoint`, and dense tensors of snapshots read by it."""

import pytest
import torch
import torch.distributed.checkpoint as dcp

from recis.framework import Saver
from recis.nn import AdmitHook, FilterHook, HashTable
from recis.nn.modules.hashtable import filter_out_sparse_param
from recis.optim import SparseAdam
from recis.snapshot.errors import DamagedError, MismatchError

IDS = torch.tensor([5, -1, 2**60, 65536 * 3, 7])


@pytest.fixture(autouse=True)
def _alone(recwarn):
    """Torch warns that there is no process group: none is needed."""


def make(**options):
    """A model and the optimizer of its table."""
    hook = FilterHook("GlobalStepFilter", {"filter_step": 3})
    table = HashTable([3], name="users", filter_hook=hook, **options)
    model = torch.nn.ModuleDict({"table": table, "dense": torch.nn.Linear(3, 1)})
    return model, SparseAdam(filter_out_sparse_param(model))


def train(model, optimizer, ids=IDS):
    admit = AdmitHook("FrequencyAdmit", {"min_frequency": 2})
    out = model["dense"](model["table"](torch.cat([ids, ids, -ids - 9]), admit_hook=admit))
    out.square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        for parameter in model["dense"].parameters():
            parameter.add_(0.5)


def state(model):
    ids, rows = model["table"].ids_map()
    order = ids.argsort()
    slots = {s.name(): s.read(rows)[order].cpu() for s in model["table"].slot_group().slots()}
    return {"ids": ids[order].cpu(), **slots, **dict(model["dense"].named_parameters())}


def same(found, expected):
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], expected[name]) for name in expected
    )


def load(model, folder):
    loaded = model.state_dict()
    dcp.load(loaded, checkpoint_id=folder, no_dist=True)
    model.load_state_dict(loaded)


def test_tables_are_saved_and_loaded_in_the_state_dict(tmp_path, place_options):
    model, optimizer = make(**place_options())
    train(model, optimizer)
    expected = {name: value.clone() for name, value in state(model).items()}
    dcp.save(model.state_dict(), checkpoint_id=tmp_path, no_dist=True)
    train(model, optimizer, IDS + 1)
    train(model, optimizer)
    load(model, tmp_path)
    assert same(state(model), expected)
    del model, optimizer
    model = make()[0]  # on the CPU: a state goes to any place
    load(model, tmp_path)
    assert same(state(model), expected)
    del model
    model = make(**place_options())[0]
    load(model, tmp_path)
    assert same(state(model), expected)
    # Ids were seen once before the save: the second sighting admits them.
    known = len(model["table"])
    model["table"](-IDS - 9, admit_hook=AdmitHook("FrequencyAdmit", {"min_frequency": 2}))
    assert len(model["table"]) == known + len(IDS)


def test_a_nested_state_dict_is_refused_and_says_what_to_do(tmp_path):
    model, _ = make()
    with pytest.raises(dcp.CheckpointException, match=r"must not be nested"):
        dcp.save({"model": model}, checkpoint_id=tmp_path, no_dist=True)


def test_what_does_not_fit_changes_nothing(place_options):
    model, optimizer = make(**place_options())
    train(model, optimizer)
    table = model["table"].table
    saved = table.state_dict()
    ((key, data),) = saved.items()
    expected = {name: value.clone() for name, value in state(model).items()}
    with pytest.raises(MismatchError, match=r"'00000-65536-of-65536'.*found '0'"):
        table.load_state_dict({"0": data})
    for damaged in [data[:-1], data[: len(data) // 2], b"", data[8:]]:
        with pytest.raises(DamagedError, match="users"):
            table.load_state_dict({key: damaged})
    assert same(state(model), expected)
    del model, optimizer, table
    other = HashTable([4], name="users", **place_options())
    other.insert(IDS, torch.ones(5, 4))
    with pytest.raises(MismatchError, match="embedding"):
        other.table.load_state_dict(saved)
    assert len(other) == 5


WORKER = """
import sys, torch, torch.distributed as dist
import torch.distributed.checkpoint as dcp
from recis.nn import HashTable
from recis.nn.modules.hashtable import gen_slice

dist.init_process_group("gloo")
rank, folder = dist.get_rank(), sys.argv[1]
table = HashTable([2], name="sharded", slice=gen_slice(rank, 2))
ids = torch.arange(100) * 65536 + rank * 40000
table.insert(ids, ids.float().repeat(2, 1).T + 1)
dcp.save({"sharded": table.table}, checkpoint_id=folder)
table.clear()
dcp.load({"sharded": table.table}, checkpoint_id=folder)
found = table.ids().argsort()
assert torch.equal(table.ids()[found], ids)
assert torch.equal(table.embeddings()[found], ids.float().repeat(2, 1).T + 1)
"""


def test_workers_save_their_slices(tmp_path, run_workers):
    run_workers(WORKER, 2, tmp_path)


def test_the_dense_tensors_of_a_snapshot_are_read_by_torch(tmp_path):
    reader = pytest.importorskip("torch.distributed.checkpoint.hf_storage", reason="an older torch")
    model, optimizer = make()
    train(model, optimizer)
    Saver(model, optimizer, str(tmp_path)).save(3)
    names = ["dense.weight", "dense.bias"]
    found = {name: torch.zeros_like(model.state_dict()[name]) for name in names}
    files = reader.HuggingFaceStorageReader(str(tmp_path / "step-000000000003" / "dense"))
    dcp.load(found, storage_reader=files, no_dist=True)
    assert all(torch.equal(found[name], model.state_dict()[name]) for name in names)
