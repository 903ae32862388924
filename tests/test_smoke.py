"""The main road, to try a build against other releases of torch; needs torch and pytest only."""

import pytest
import torch

import recis
from recis.hooks import HashTableFilterHook
from recis.nn import HashTable
from recis.nn.hashtable_hook import FrequencyAdmitHook, GlobalStepFilterHook
from recis.nn.initializers import NormalInitializer
from recis.nn.modules.hashtable import filter_out_sparse_param
from recis.optim import (
    SparseAdagrad,
    SparseAdam,
    SparseAdamW,
    SparseAdamWTF,
    SparseRowWiseAdagrad,
    SparseSGD,
)

OPTIMIZERS = [
    SparseAdagrad,
    SparseAdam,
    SparseAdamW,
    SparseAdamWTF,
    SparseRowWiseAdagrad,
    SparseSGD,
]


def test_the_build_tells_what_it_is_made_of():
    assert recis.build_info()["version"] == recis.__version__
    assert "0.9.36" in recis.build_info()["lmdb"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_a_model_learns(optimizer, dtype):
    table = HashTable([8], dtype=dtype, initializer=NormalInitializer(std=0.1), name="learns")
    sparse = optimizer(filter_out_sparse_param(table), lr=0.05)
    ids = torch.tensor([[-(2**63), 0], [2**63 - 1, 0]])
    losses = []
    for _ in range(30):
        loss = (table(ids).float() - 1).pow(2).mean()
        loss.backward()
        sparse.step()
        sparse.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert len(table) == 3


def test_large_batches_agree_with_an_embedding():
    table = HashTable([32], initializer=NormalInitializer(), name="large")
    ids = torch.randint(-(2**63), 2**63 - 1, (20_000,))
    with torch.no_grad():
        first = table(ids)
    assert torch.equal(table.eval()(ids), first)
    assert torch.equal(table.ids().sort().values, ids.unique())


def test_hooks_admit_and_evict():
    table = HashTable([4], filter_hook=GlobalStepFilterHook(2), name="hooks")
    filtering = HashTableFilterHook(filter_interval=1)
    for step in range(1, 9):
        table(torch.tensor([step, step, 1000]), FrequencyAdmitHook(2))
        filtering.after_step(None, step)
    assert sorted(table.ids().tolist()) == [7, 8, 1000]


def test_a_models_state_dict_loads():
    model = torch.nn.Sequential(HashTable([4], name="loads"), torch.nn.Linear(4, 1))
    model(torch.tensor([1])).sum().backward()
    model.load_state_dict(model.state_dict())
    scheduler = torch.optim.lr_scheduler.StepLR(
        SparseAdam(filter_out_sparse_param(model), lr=1.0), step_size=1, gamma=0.5
    )
    scheduler.optimizer.step()
    scheduler.step()
    assert scheduler.get_last_lr() == [0.5]
