"""The same trace gives the same bits, whatever the threads, the cut and the order of arrival."""

import json
from pathlib import Path

import pytest
import torch

from recis.nn.hashtable_hook import FrequencyAdmitHook, GlobalStepFilterHook
from recis.nn.initializers import NormalInitializer, TruncNormalInitializer, UniformInitializer
from recis.nn.modules.hashtable import filter_out_sparse_param
from recis.optim import SparseAdam, SparseRowWiseAdagrad

from .helpers import by_id, dump, long, train

GOLDEN = Path(__file__).parent / "golden" / "first_values.json"
INITIALIZERS = {
    "uniform": UniformInitializer(-1.0, 1.0),
    "normal": NormalInitializer(),
    "truncated": TruncNormalInitializer(std=0.5, a=-1.0, b=2.0),
}
GOLDEN_IDS = long(0, 1, -1, 2**63 - 1, -(2**63), 2**52)


@pytest.fixture
def threads():
    """Sets torch's threads, and puts them back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def trace(make_table, optimizer):
    """A table after a few steps of batches large enough for many threads."""
    torch.manual_seed(0)
    table = make_table(
        [20],
        initializer=NormalInitializer(std=0.1),
        filter_hook=GlobalStepFilterHook(2),
        grad_reduce_by="id",
        name="trace",
    )
    updater = optimizer(filter_out_sparse_param(table), lr=0.01)
    for step in range(5):
        ids = (torch.rand(30_000) ** 4 * 50_000).long() - 100 * step
        hook = FrequencyAdmitHook(2) if step % 2 else None
        train(table, updater, ids, torch.randn(30_000, 20), admit_hook=hook)
        table._filter_hook_impl.update_step()
        if step == 3:
            table._filter_hook_impl.do_filter()
    return dump(table)


@pytest.mark.parametrize("optimizer", [SparseAdam, SparseRowWiseAdagrad])
def test_thread_counts_give_the_same_bits(make_table, threads, optimizer):
    traces = []
    for count in (1, 2, 4):
        threads(count)
        traces.append(trace(make_table, optimizer))
    assert traces[0] == traces[1] == traces[2]


@pytest.mark.parametrize("name", INITIALIZERS)
def test_first_values_do_not_depend_on_how_ids_arrive(make_table, name):
    ids = torch.arange(-3000, 3000)
    at_once, one_by_one, backwards = (
        make_table([7], initializer=INITIALIZERS[name], block_size=size) for size in (5, 1, 1024)
    )
    at_once(ids)
    for part in ids.split(37):
        one_by_one(part)
    backwards(ids.flip(0))
    assert by_id(at_once) == by_id(one_by_one) == by_id(backwards)


def test_a_seed_gives_other_first_values(make_table):
    tables = [make_table([4], initializer=NormalInitializer(), seed=seed) for seed in (0, 0, 1)]
    first, same, other = (table(long(1, 2)) for table in tables)
    assert torch.equal(first, same)
    assert (first != other).all()


def test_longer_embeddings_begin_like_shorter_ones(make_table):
    short = make_table([3], initializer=NormalInitializer())(long(9))
    longer = make_table([130], initializer=NormalInitializer())(long(9))
    assert torch.equal(short, longer[:, :3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes_round_the_same_first_values(make_table, dtype):
    exact = make_table([9], initializer=NormalInitializer(), dtype=torch.float64)(GOLDEN_IDS)
    narrow = make_table([9], initializer=NormalInitializer(), dtype=dtype)(GOLDEN_IDS)
    assert torch.equal(exact.float().to(dtype), narrow)


@pytest.mark.parametrize("name", INITIALIZERS)
def test_first_values_are_those_of_every_release(make_table, name):
    """Red means that a seed now gives other values: models no longer repeat. Do not regenerate."""
    table = make_table([3], initializer=INITIALIZERS[name], dtype=torch.float64, seed=7)
    found = [[value.hex() for value in row] for row in table(GOLDEN_IDS).tolist()]
    assert found == json.loads(GOLDEN.read_text())[name]
