"""What a sparse optimizer keeps, where, and how it is taken up again."""

import pytest
import torch

from recis import optim
from recis.nn.initializers import UniformInitializer
from recis.nn.modules.hashtable import filter_out_sparse_param

from .helpers import bits, by_id, dump, long, train

OPTIMIZERS = {
    "adam": (optim.SparseAdam, {"amsgrad": True}),
    "adamw": (optim.SparseAdamW, {}),
    "adamw-tf": (optim.SparseAdamWTF, {"use_nesterov": True}),
    "sgd": (optim.SparseSGD, {"momentum": 0.9}),
    "adagrad": (optim.SparseAdagrad, {"lr_decay": 0.1}),
    "row-wise adagrad": (optim.SparseRowWiseAdagrad, {}),
}
every_optimizer = pytest.mark.parametrize(
    "optimizer, options", OPTIMIZERS.values(), ids=OPTIMIZERS.keys()
)


def batches(count, ids=20, dim=4):
    random = torch.Generator().manual_seed(0)
    for _ in range(count):
        batch = torch.randint(-ids // 2, ids // 2, (8,), generator=random)
        yield batch, torch.randn(8, dim, generator=random)


def attach(optimizer, *tables, **options):
    return optimizer({table.table.name: table.table for table in tables}, **options)


def copy_content(source, target):
    """Moves ids, embeddings and the other slots into a table that has none."""
    ids, rows = source.ids_map()
    target.insert(ids, source.embeddings())
    for slot in source.slot_group().slots():
        own = target.slot_group().slot_by_name(slot.name())
        own.write(target.table.rows_of(ids), slot.read(rows))


@every_optimizer
def test_training_goes_on_to_the_bit_after_state_is_restored(make_table, optimizer, options):
    options = {**options, "lr": 0.05}
    table, other = (make_table(initializer=UniformInitializer()) for _ in range(2))
    first = attach(optimizer, table, **options)
    first.set_grad_accum_steps(2)
    scheduler = torch.optim.lr_scheduler.StepLR(first, step_size=3, gamma=0.5)
    for ids, grad in batches(8):
        train(table, first, ids, grad)
        scheduler.step()

    second = attach(optimizer, other)
    saved = first.state_dict()
    (state,) = saved["state"].values()
    second.load_state_dict({**saved, "state": {other.table.name: state}})
    copy_content(table, other)
    for ids, grad in batches(9):
        train(table, first, ids, grad)
        train(other, second, ids, grad)
    for slot in table.slot_group().slots():
        assert by_id(other, slot.name()) == by_id(table, slot.name())


def test_accumulation_is_taken_up_where_it_was(make_table):
    table = make_table()
    first = attach(optim.SparseSGD, table, lr=1.0)
    first.set_grad_accum_steps(3)
    train(table, first, long(1), torch.ones(1, 4))
    second = attach(optim.SparseSGD, table)
    second.load_state_dict(first.state_dict())
    train(table, second, long(1), torch.ones(1, 4))
    assert by_id(table) == {1: [0.0] * 4}
    train(table, second, long(1), torch.ones(1, 4))
    assert by_id(table) == {1: [-1.0] * 4}


@every_optimizer
def test_it_may_be_attached_before_or_after_rows_exist(make_table, optimizer, options):
    tables = [make_table(initializer=UniformInitializer()) for _ in range(2)]
    for table, early in zip(tables, (True, False), strict=True):
        if early:
            attached = attach(optimizer, table, **options)
        table(torch.arange(-10, 10))
        if not early:
            attached = attach(optimizer, table, **options)
        for ids, grad in batches(5):
            train(table, attached, ids, grad)
    assert dump(tables[0]) == dump(tables[1])


@every_optimizer
def test_a_step_without_gradients_changes_nothing(make_table, optimizer, options):
    table = make_table(initializer=UniformInitializer())
    attached = attach(optimizer, table, **options)
    for ids, grad in batches(3):
        train(table, attached, ids, grad)
    before, steps = dump(table), attached.state_dict()["state"]
    attached.step()
    table(table.ids())  # looked up, but with no backward
    attached.step()
    assert dump(table) == before
    assert attached.state_dict()["state"] == steps


@every_optimizer
def test_an_evicted_id_starts_with_fresh_state(make_table, optimizer, options):
    table, fresh = (make_table() for _ in range(2))
    options = {**options, "lr": 0.1}
    # The step counts of the table, which it corrects a bias by, are not the row's.
    ids, grad = long(1, 2, 3), torch.ones(3, 4)
    attached = attach(optimizer, table, **options)
    train(table, attached, ids, grad)
    table.evict(ids)
    restarted = attach(optimizer, fresh, **options)
    for each, steps in ((table, attached), (fresh, restarted)):
        steps.load_state_dict({**steps.state_dict(), "state": {each.table.name: {"step": 7}}})
        train(each, steps, ids, grad)
    assert by_id(table) == by_id(fresh)
    for slot in table.slot_group().slots():
        assert by_id(table, slot.name()) == by_id(fresh, slot.name())


NAMES = {
    "adam": ["sparse_adam_exp_avg", "sparse_adam_exp_avg_sq", "sparse_adam_max_exp_avg_sq"],
    "adamw": ["sparse_adamw_exp_avg", "sparse_adamw_exp_avg_sq"],
    "adamw-tf": ["sparse_adamw_tf_exp_avg", "sparse_adamw_tf_exp_avg_sq"],
    "sgd": ["sparse_sgd_momentum"],
    "adagrad": ["sparse_adagrad_sum"],
    "row-wise adagrad": ["sparse_row_wise_adagrad_sum"],
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_state_lives_in_slots_of_these_names(make_table, kind):
    optimizer, options = OPTIMIZERS[kind]
    table = make_table()
    attach(optimizer, table, **options)
    assert [slot.name() for slot in table.slot_group().slots()] == ["embedding", *NAMES[kind]]


def test_plain_sgd_needs_no_state(make_table):
    table = make_table()
    attach(optim.SparseSGD, table)
    assert [slot.name() for slot in table.slot_group().slots()] == ["embedding"]


def test_row_wise_adagrad_keeps_one_number_a_row(make_table):
    table = make_table([3, 5])
    attach(optim.SparseRowWiseAdagrad, table)
    assert table.slot_group().slot_by_name("sparse_row_wise_adagrad_sum").flat_size() == 1


@pytest.mark.parametrize(
    "dtype, state",
    [
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
    ids=str,
)
def test_state_is_never_narrower_than_float32(make_table, dtype, state):
    table = make_table(dtype=dtype)
    attach(optim.SparseAdamW, table)
    assert [slot.dtype for slot in table.slot_group().slots()] == [dtype, state, state]


def test_one_optimizer_counts_the_steps_of_each_table(make_table):
    often, seldom = make_table(name="often"), make_table(name="seldom")
    both = attach(optim.SparseAdam, often, seldom)
    for step, (ids, grad) in enumerate(batches(6)):
        often(ids).backward(grad)
        if step % 3 == 0:
            seldom(ids).backward(grad)
        both.step()
        both.zero_grad()
    assert both.state_dict()["state"] == {"often": {"step": 6}, "seldom": {"step": 2}}


def test_tables_of_one_optimizer_train_as_if_alone(make_table):
    shared, alone = (
        [make_table(initializer=UniformInitializer()) for _ in range(2)] for _ in range(2)
    )
    both, each = attach(optim.SparseAdam, *shared), [attach(optim.SparseAdam, t) for t in alone]
    for ids, grad in batches(6):
        for table, delta in zip(shared, (0, 1), strict=True):
            table(ids + delta).backward(grad)
        both.step()
        both.zero_grad()
        for table, optimizer, delta in zip(alone, each, (0, 1), strict=True):
            train(table, optimizer, ids + delta, grad)
    assert [by_id(table) for table in shared] == [by_id(table) for table in alone]


def test_tables_may_be_added_later(make_table):
    first, second = make_table(name="first"), make_table(name="second")
    optimizer = attach(optim.SparseSGD, first, lr=1.0)
    optimizer.add_params({"second": second.table})
    for table in (first, second):
        table(long(1)).sum().backward()
    optimizer.step()
    assert by_id(first) == by_id(second) == {1: [-1.0] * 4}


def test_adding_a_table_again_keeps_its_step(make_table):
    table = make_table(name="again")
    optimizer = attach(optim.SparseAdam, table)
    train(table, optimizer, long(1), torch.ones(1, 4))
    optimizer.add_params({"again": table.table})
    assert optimizer.state_dict()["state"] == {"again": {"step": 1}}


def test_two_optimizers_do_not_touch_each_others_tables(make_table):
    one, two = make_table(), make_table()
    first, second = attach(optim.SparseSGD, one, lr=1.0), attach(optim.SparseAdam, two)
    for table in (one, two):
        table(long(1)).sum().backward()
    untouched = dump(two)
    first.step()
    first.zero_grad()
    assert dump(two) == untouched
    untouched = dump(one)
    second.step()
    assert dump(one) == untouched


def test_a_model_gives_its_tables_by_name(make_table):
    model = torch.nn.ModuleDict({"user": make_table(name="u"), "dense": torch.nn.Linear(4, 1)})
    params = filter_out_sparse_param(model)
    assert params == {"u": model["user"].table}
    assert optim.SparseAdamW(params).state_dict()["state"] == {"u": {"step": 0}}


def test_hyper_parameters_default_to_upstreams(make_table):
    adam = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "amsgrad": False}
    for optimizer, more in [
        (optim.SparseAdam, {"weight_decay": 0.0}),
        (optim.SparseAdamW, {"weight_decay": 1e-2}),
        (optim.SparseAdamWTF, {"weight_decay": 1e-2, "use_nesterov": False}),
    ]:
        (group,) = attach(optimizer, make_table()).state_dict()["param_groups"]
        assert group == {**adam, **more}


def test_state_dict_survives_torch_save(make_table, tmp_path):
    table = make_table()
    optimizer = attach(optim.SparseAdam, table, lr=0.5)
    train(table, optimizer, long(1), torch.ones(1, 4))
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    assert torch.load(tmp_path / "optimizer.pt", weights_only=True) == optimizer.state_dict()


@pytest.mark.parametrize("rows", [1, 3])
def test_reading_the_gradient_does_not_change_a_step(make_table, rows):
    tables = make_table(), make_table()
    for table in tables:
        optimizer = attach(optim.SparseAdam, table)
        table(torch.arange(rows)).sum().backward()
        if table is tables[0]:
            table.grad(acc_step=3)
        optimizer.step()
    assert bits(tables[0].embeddings()) == bits(tables[1].embeddings())
