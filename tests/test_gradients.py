"""Where gradients go: from outputs and callers to rows, and out again."""

import pytest
import torch

from recis.nn import AdmitHook
from recis.optim import SparseSGD

from .helpers import bits, by_id, dump, long

FLOATING = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def gradient_by_id(table, **options):
    """The pending gradient as id -> list."""
    grad = table.grad(**options)
    ids, rows = table.ids_map()
    id_of = dict(zip(rows.tolist(), ids.tolist(), strict=True))
    values = grad.values().tolist()
    return {
        id_of[row]: value for row, value in zip(grad.indices()[0].tolist(), values, strict=True)
    }


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_an_ids_gradient_is_the_sum_over_its_occurrences(make_table, dtype):
    table = make_table([2], dtype=dtype)
    grad = torch.tensor([[1, 2], [3, 4], [5, 6]], dtype=dtype)
    table(long(7, 8, 7)).backward(grad)
    assert gradient_by_id(table) == {7: [6, 8], 8: [3, 4]}
    assert table.grad().dtype == dtype


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_reduced_by_id_it_is_the_mean(make_table, dtype):
    table = make_table([2], dtype=dtype, grad_reduce_by="id")
    grad = torch.tensor([[1, 2], [3, 4], [5, 6]], dtype=dtype)
    table(long(7, 8, 7)).backward(grad)
    assert gradient_by_id(table) == {7: [3, 4], 8: [3, 4]}


@pytest.mark.parametrize("reduce, expected", [("worker", [2.0]), ("id", [4.0])])
def test_reduced_by_worker_it_is_divided_by_the_world_size(
    make_table, monkeypatch, reduce, expected
):
    monkeypatch.setenv("WORLD_SIZE", "4")
    table = make_table([1], grad_reduce_by=reduce)
    table(long(1, 1)).backward(torch.tensor([[3.0], [5.0]]))
    assert gradient_by_id(table) == {1: expected}


def test_calls_add_up(make_table):
    table = make_table([1], grad_reduce_by="id")
    for factor in (1.0, 10.0):
        (table(long(1, 1, 2)) * torch.tensor([[2.0], [4.0], [7.0]]) * factor).sum().backward()
    assert gradient_by_id(table) == {1: [33.0], 2: [77.0]}


def test_several_lookups_of_one_loss_add_up(make_table):
    table = make_table([1])
    first, second = table(long(1, 2)), table(long(2, 3))
    (first.sum() + 10 * second.sum()).backward()
    assert gradient_by_id(table) == {1: [1.0], 2: [11.0], 3: [10.0]}


def test_backward_twice_adds_twice(make_table):
    table = make_table([1])
    loss = table(long(1, 2)).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    assert gradient_by_id(table) == {1: [2.0], 2: [2.0]}


def test_gradients_flow_through_other_operations_and_shapes(make_table):
    table = make_table([2])
    weight = torch.nn.Parameter(torch.ones(2, 3))
    out = table(long(4, 5, 6, 7).view(2, 2))
    (out.transpose(0, 1) @ weight).sum().backward()
    assert weight.grad is not None
    assert gradient_by_id(table) == {id: [3.0, 3.0] for id in (4, 5, 6, 7)}


def test_an_unused_output_takes_no_gradient(make_table):
    table = make_table([1])
    table(long(1))
    table(long(2)).sum().backward()
    assert gradient_by_id(table) == {2: [1.0]}


def test_refused_ids_take_no_gradient(make_table):
    table = make_table([1])
    table(long(1))
    table(long(1, 2, 1), admit_hook=AdmitHook("ReadOnly")).sum().backward()
    assert gradient_by_id(table) == {1: [2.0]}


def test_an_empty_batch_has_a_gradient_of_nothing(make_table):
    table = make_table()
    table(long()).sum().backward()
    assert table.grad().values().shape == (0, 4)


# ---- grad ----


def test_grad_has_true_rows_ascending_and_coalesced(make_table):
    table = make_table([2], block_size=4)
    table(torch.arange(6))
    for ids in (long(0, 5), long(3, 0)):
        table(ids).sum().backward()
    grad = table.grad()
    assert grad.is_coalesced()
    assert grad.shape == (8, 2)
    rows = table.table.rows_of(long(5, 3, 0))
    assert grad.indices().tolist() == [sorted(rows.tolist())]
    dense = torch.zeros(8, 2)
    dense[rows] = torch.tensor([[1.0], [1.0], [2.0]]).expand(3, 2)
    assert torch.equal(grad.to_dense().cpu(), dense)


def test_grad_is_divided_by_acc_step_and_stays(make_table):
    table = make_table([1])
    table(long(1, 1, 1)).sum().backward()
    assert gradient_by_id(table, acc_step=2) == {1: [1.5]}
    assert gradient_by_id(table) == {1: [3.0]}


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_without_a_pending_gradient_grad_is_empty(make_table, dtype):
    table = make_table([2, 3], dtype=dtype)
    assert table.grad().shape == (0, 2, 3)
    table(torch.arange(3))
    grad = table.grad()
    assert grad.shape == (5, 2, 3)
    assert grad.values().shape == (0, 2, 3)
    assert grad.dtype == dtype


def test_clear_grad_drops_the_gradient_alone(make_table):
    table = make_table([1])
    table(long(1, 2))
    before = dump(table)
    table(long(1, 2)).sum().backward()
    table.clear_grad()
    assert dump(table) == before


def test_narrow_tables_sum_in_float32(make_table):
    """In float16 the sum would stick at 2048."""
    table = make_table([1], dtype=torch.float16)
    table(torch.ones(4096, dtype=torch.int64)).sum().backward()
    assert table.grad(acc_step=4096).values().tolist() == [[1.0]]


# ---- accept_grad ----


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_accept_grad_adds_to_rows_and_sums_repeats(make_table, dtype):
    table = make_table([2], dtype=dtype)
    table(long(10, 11, 12)).sum().backward()
    grad = torch.tensor([[1, 2], [3, 4], [5, 6]], dtype=dtype)
    table.accept_grad(table.table.rows_of(long(10, 12, 10)), grad)
    assert gradient_by_id(table) == {10: [7, 9], 11: [1, 1], 12: [4, 5]}


def test_accept_grad_is_not_divided(make_table, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    table = make_table([1])
    table(long(1))
    table.accept_grad(long(0), torch.tensor([[8.0]]))
    assert gradient_by_id(table) == {1: [8.0]}


def test_accept_grad_of_nothing_changes_nothing(make_table):
    table = make_table([2])
    before = dump(table)
    table.accept_grad(long(), torch.empty(0, 2))
    assert dump(table) == before


# ---- gradients and evictions ----


def test_evict_drops_the_pending_gradient_of_its_rows(make_table):
    table = make_table([1])
    table(long(1, 2, 3)).sum().backward()
    table.evict(long(2))
    assert gradient_by_id(table) == {1: [1.0], 3: [1.0]}
    table(long(4))  # takes the row of 2
    assert gradient_by_id(table) == {1: [1.0], 3: [1.0]}


def test_a_backward_after_eviction_does_not_reach_the_rows_new_owner(make_table):
    table = make_table([1])
    out = table(long(1, 2))
    row = table.table.rows_of(long(1))
    table.evict(long(1))
    table(long(3))
    assert torch.equal(table.table.rows_of(long(3)), row)
    out.sum().backward()
    assert gradient_by_id(table) == {2: [1.0]}


def test_a_backward_after_clear_goes_nowhere(make_table):
    table = make_table([1])
    out = table(long(1, 2))
    table.clear()
    out.sum().backward()
    assert table.grad().values().numel() == 0


def test_a_reused_row_starts_its_gradient_anew(make_table):
    table = make_table([1])
    table(long(1)).sum().backward()
    table.evict(long(1))
    table(long(2)).backward(torch.tensor([[5.0]]))
    assert gradient_by_id(table) == {2: [5.0]}


def test_inserting_keeps_the_pending_gradient(make_table):
    table = make_table([1])
    table(long(1)).sum().backward()
    table.insert(long(1), torch.tensor([[4.0]]))
    SparseSGD({"t": table.table}, lr=1.0).step()
    assert by_id(table) == {1: [3.0]}


def test_a_late_slot_keeps_the_pending_gradient(make_table):
    table = make_table([3])
    table(torch.arange(20)).backward(torch.arange(60.0).view(20, 3))
    before = bits(table.grad().values())
    table.table.add_slot("late")
    assert bits(table.grad().values()) == before
