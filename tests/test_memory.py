"""Memory comes back: outputs to the cache of buffers, tables to the system."""

import gc
import weakref

import pytest
import torch

from recis import _engine, clear_idle_buffers
from recis.nn.hashtable_hook import FrequencyAdmitHook, GlobalStepFilterHook
from recis.optim import SparseAdam

OUTPUT_BYTES = 20_000 * 32 * 4


def resident_bytes():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096


@pytest.fixture
def empty_cache():
    """No buffer is idle when a test begins."""
    gc.collect()
    clear_idle_buffers()


torchs_memory = pytest.mark.only_on_cpu("outputs on a GPU are torch's")


@torchs_memory
def test_a_large_output_returns_to_the_cache_and_is_used_again(make_table, empty_cache):
    table = make_table([32]).eval()
    ids = torch.arange(20_000)
    output = table(ids)
    before = _engine.idle_buffer_bytes()
    address = output.data_ptr()
    view = output[5:7]
    del output
    assert _engine.idle_buffer_bytes() == before
    del view
    assert _engine.idle_buffer_bytes() >= before + OUTPUT_BYTES
    assert table(ids).data_ptr() == address


def test_an_output_is_not_written_again_while_it_is_used(make_table, empty_cache):
    table = make_table([32])
    ids = torch.arange(20_000)
    table.insert(ids, torch.ones(20_000, 32))
    first = table.eval()(ids)
    table.insert(ids, torch.zeros(20_000, 32))
    second = table(ids)
    assert first.min() == 1
    assert second.max() == 0


@torchs_memory
def test_idle_buffers_are_bounded(make_table, empty_cache):
    table = make_table([64]).eval()
    outputs = [table(torch.arange(200_000)) for _ in range(8)]
    del outputs
    assert _engine.idle_buffer_bytes() <= 256 << 20
    clear_idle_buffers()
    assert _engine.idle_buffer_bytes() == 0


def one_life(make_table):
    """All that makes a table hold on to memory."""
    table = make_table([16], filter_hook=GlobalStepFilterHook(2), name="one-life")
    optimizer = SparseAdam({"table": table.table})
    ids = torch.arange(2_000)
    table(ids, FrequencyAdmitHook(1)).sum().backward()
    optimizer.step()
    views = table.slot_group().slot_by_index(0).values()
    table.evict(ids[::2])
    return weakref.ref(table.table), views[0]


def test_a_table_dies_with_its_last_reference(make_table):
    gc.disable()
    try:
        table, _ = one_life(make_table)
        assert table() is None
    finally:
        gc.enable()


def test_tables_that_come_and_go_leave_no_memory_behind(make_table):
    for _ in range(50):
        one_life(make_table)
    before = resident_bytes()
    for _ in range(200):
        one_life(make_table)
    # A life touches 0.7 MB: a twentieth of it leaking would show.
    assert resident_bytes() - before < 7 << 20


def test_steps_leave_no_memory_behind(make_table):
    table = make_table([64])
    optimizer = SparseAdam({"table": table.table})
    ids = torch.arange(10_000)
    sizes = []
    for step in range(120):
        table(ids).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 60 == 59:
            sizes.append(resident_bytes())
    assert sizes[1] - sizes[0] < 8 << 20
