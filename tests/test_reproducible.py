"""The same trace gives the same bits, whatever the threads, the cut and the order of arrival."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recis.nn.hashtable_hook import FrequencyAdmitHook, GlobalStepFilterHook
from recis.nn.initializers import NormalInitializer, TruncNormalInitializer, UniformInitializer
from recis.nn.modules.hashtable import filter_out_sparse_param
from recis.optim import SparseAdam, SparseAdamWTF, SparseRowWiseAdagrad, SparseSGD

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


def trace(make_table, optimizer, dtype=torch.float32, reduce="id"):
    """A table after a few steps of batches large enough for many threads."""
    torch.manual_seed(0)
    table = make_table(
        [20],
        dtype=dtype,
        initializer=NormalInitializer(std=0.1),
        filter_hook=GlobalStepFilterHook(2),
        grad_reduce_by=reduce,
        name="trace",
    )
    updater = optimizer(filter_out_sparse_param(table), lr=0.01)
    for step in range(5):
        ids = (torch.rand(30_000) ** 4 * 50_000).long() - 100 * step
        hook = FrequencyAdmitHook(2) if step % 2 else None
        train(table, updater, ids, torch.randn(30_000, 20).to(dtype), admit_hook=hook)
        table._filter_hook_impl.update_step()
        if step == 3:
            table._filter_hook_impl.do_filter()
            table.evict(ids[::7])
            table.table.add_slot("late", torch.float64, (3,), initial=2)
    return dump(table)


@pytest.mark.parametrize("optimizer", [SparseAdam, SparseAdamWTF, SparseRowWiseAdagrad])
def test_thread_counts_give_the_same_bits(make_table, threads, optimizer):
    traces = []
    for count in (1, 2, 4):
        threads(count)
        traces.append(trace(make_table, optimizer))
    assert traces[0] == traces[1] == traces[2]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_thread_counts_give_the_same_bits_for_every_dtype(make_table, threads, dtype):
    traces = []
    for count in (1, 3):
        threads(count)
        traces.append(trace(make_table, SparseSGD, dtype, reduce="worker"))
    assert traces[0] == traces[1]


def test_the_instruction_set_does_not_matter(tmp_path):
    program = """if True:
        import torch
        from recis.nn import HashTable
        from recis.nn.initializers import NormalInitializer
        from recis.optim import SparseAdamW
        table = HashTable([19], initializer=NormalInitializer(), name="t")
        optimizer = SparseAdamW({"t": table.table})
        random = torch.Generator().manual_seed(0)
        for _ in range(3):
            ids = torch.randint(-50, 50, (500,), generator=random)
            table(ids).backward(torch.randn(500, 19, generator=random))
            optimizer.step()
        for slot in table.slot_group().slots():
            print(slot.value().view(torch.int32).tolist())
        """

    def run(**environment):
        # Elsewhere, so that the installed package is imported and not the sources here.
        return subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env={**os.environ, **environment},
            check=True,
            capture_output=True,
        ).stdout

    assert run(RECIS_SIMD="baseline") == run()


@pytest.mark.parametrize("name", INITIALIZERS)
def test_first_values_do_not_depend_on_how_ids_arrive(make_table, name):
    ids = torch.arange(-3000, 3000)
    at_once, one_by_one, backwards = (
        make_table([7], initializer=INITIALIZERS[name], block_size=size) for size in (5, 1, 200)
    )
    at_once(ids)
    for part in ids.split(37):
        one_by_one(part)
    backwards(ids.flip(0))
    assert by_id(at_once) == by_id(one_by_one) == by_id(backwards)


def test_first_values_do_not_depend_on_other_slots_or_hooks(make_table):
    plain, hooked = (
        make_table([5], initializer=UniformInitializer(), filter_hook=hook)
        for hook in (None, GlobalStepFilterHook(2))
    )
    SparseAdam({"t": hooked.table})
    ids = torch.arange(20)
    for _ in range(2):
        hooked(ids, admit_hook=FrequencyAdmitHook(2))
    plain(ids)
    assert by_id(hooked) == by_id(plain)


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
