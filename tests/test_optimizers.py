"""The sparse optimizers against torch's."""

from functools import partial

import pytest
import torch

from recis import optim
from recis.nn.initializers import NormalInitializer

from .helpers import long

ROWS, DIM, STEPS = 12, 5, 100
IDS = long(*range(-6, 6)) * 2**40  # id of each row of the dense weight


def gradients(touched, dtype=torch.float32, steps=STEPS):
    """`(rows, gradient)` of each step; `touched` rows at a time, away from zero."""
    random = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randperm(ROWS, generator=random)[:touched]
        size = torch.rand(touched, DIM, generator=random, dtype=torch.float64) + 0.5
        sign = torch.randint(0, 2, size.shape, generator=random) * 2 - 1
        yield rows, (size * sign).to(dtype)


def start(make_table, dtype=torch.float32):
    """A dense weight, and a table with the same rows."""
    weight = torch.linspace(-2, 2, ROWS * DIM, dtype=torch.float64).view(ROWS, DIM).to(dtype)
    table = make_table([DIM], dtype=dtype)
    table.insert(IDS, weight)
    return torch.nn.Parameter(weight.clone()), table


def attach(optimizer, *tables, **options):
    return optimizer({table.table.name: table.table for table in tables}, **options)


def train(table, optimizer, rows, grad):
    table(IDS[rows]).backward(grad)
    optimizer.step()
    optimizer.zero_grad()


def train_dense(weight, optimizer, rows, grad, sparse=False):
    with torch.sparse.check_sparse_tensor_invariants():
        grad = torch.sparse_coo_tensor(rows[None], grad, weight.shape)
        weight.grad = grad if sparse else grad.to_dense()
        optimizer.step()


def assert_agree(table, weight, tolerance=1e-6):
    found = table(IDS).detach()
    torch.testing.assert_close(found, weight.detach(), rtol=tolerance, atol=tolerance)


DENSE = {
    "adam": (optim.SparseAdam, torch.optim.Adam, {}),
    "adam with decay": (optim.SparseAdam, torch.optim.Adam, {"weight_decay": 0.1}),
    "adam with amsgrad": (optim.SparseAdam, torch.optim.Adam, {"amsgrad": True}),
    "adamw": (optim.SparseAdamW, torch.optim.AdamW, {}),
    "adamw with more decay": (optim.SparseAdamW, torch.optim.AdamW, {"weight_decay": 0.5}),
    "adamw with amsgrad": (optim.SparseAdamW, torch.optim.AdamW, {"amsgrad": True}),
    "sgd": (optim.SparseSGD, torch.optim.SGD, {}),
    "sgd with decay": (optim.SparseSGD, torch.optim.SGD, {"weight_decay": 0.1}),
    "momentum": (optim.SparseSGD, torch.optim.SGD, {"momentum": 0.9}),
    "nesterov": (optim.SparseSGD, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adagrad": (optim.SparseAdagrad, torch.optim.Adagrad, {}),
    "adagrad with decays": (
        optim.SparseAdagrad,
        torch.optim.Adagrad,
        {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5},
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("sparse, dense, options", DENSE.values(), ids=DENSE)
def test_where_every_row_is_touched_it_is_the_dense_optimizer(
    make_table, sparse, dense, options, dtype
):
    weight, table = start(make_table, dtype)
    optimizer, reference = attach(sparse, table, **options), dense([weight], **options)
    for rows, grad in gradients(ROWS, dtype):
        train(table, optimizer, rows, grad)
        train_dense(weight, reference, rows, grad)
    assert_agree(table, weight)


@pytest.mark.parametrize("touched", [1, 5, ROWS])
@pytest.mark.parametrize(
    "sparse, dense, options",
    [
        (optim.SparseAdam, torch.optim.SparseAdam, {}),
        (optim.SparseAdagrad, torch.optim.Adagrad, {"lr_decay": 0.01}),
        (optim.SparseSGD, torch.optim.SGD, {}),
    ],
    ids=["adam", "adagrad", "sgd"],
)
def test_where_some_rows_are_touched_it_is_torchs_sparse_update(
    make_table, sparse, dense, options, touched
):
    weight, table = start(make_table)
    optimizer, reference = attach(sparse, table, **options), dense([weight], **options)
    for rows, grad in gradients(touched):
        train(table, optimizer, rows, grad)
        train_dense(weight, reference, rows, grad, sparse=True)
    assert_agree(table, weight)


def test_repeated_ids_train_as_in_a_sparse_embedding(make_table):
    weight, table = start(make_table)
    embedding = torch.nn.Embedding(ROWS, DIM, sparse=True, _weight=weight.detach().clone())
    optimizer = attach(optim.SparseAdam, table)
    reference = torch.optim.SparseAdam(embedding.parameters())
    random = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        rows = torch.randint(0, ROWS, (3, 7), generator=random)
        factor = torch.rand(3, 7, DIM, generator=random) + 0.5
        (table(IDS[rows]) * factor).sum().backward()
        (embedding(rows) * factor).sum().backward()
        for each in (optimizer, reference):
            each.step()
            each.zero_grad()
    assert_agree(table, embedding.weight)


def test_rows_that_take_no_gradient_do_not_move(make_table):
    weight, table = start(make_table)
    optimizer = attach(optim.SparseAdamW, table, weight_decay=0.5)
    for _, grad in gradients(1):
        train(table, optimizer, long(3), grad)
    still = [row for row in range(ROWS) if row != 3]
    assert torch.equal(table(IDS[still]), weight[still])
    assert not torch.equal(table(IDS[3]), weight[3])


def test_adamw_tf_decays_apart_from_the_learning_rate(make_table):
    weight, table = start(make_table)
    optimizer = attach(optim.SparseAdamWTF, table, lr=0.0, weight_decay=0.25)
    train(table, optimizer, torch.arange(ROWS), torch.ones(ROWS, DIM))
    assert_agree(table, weight * 0.75)


@pytest.mark.parametrize("nesterov", [False, True])
def test_adamw_tf_is_its_formula(make_table, nesterov):
    weight, table = start(make_table, torch.float64)
    optimizer = attach(optim.SparseAdamWTF, table, weight_decay=1e-3, use_nesterov=nesterov)
    w, m, v = weight.detach().clone(), torch.zeros(ROWS, DIM), torch.zeros(ROWS, DIM)
    for step, (rows, grad) in enumerate(gradients(ROWS, torch.float64), start=1):
        train(table, optimizer, rows, grad)
        g = torch.empty_like(grad)
        g[rows] = grad
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        rate = 1e-3 * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step)
        direction = 0.9 * m + 0.1 * g if nesterov else m
        w = w * (1 - 1e-3) - rate * direction / (v.sqrt() + 1e-8)
    assert_agree(table, w, tolerance=1e-12)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_row_wise_adagrad_keeps_the_mean_square_of_a_row(make_table, weight_decay):
    weight, table = start(make_table)
    options = {"lr": 0.1, "weight_decay": weight_decay, "initial_accumulator_value": 0.5}
    optimizer = attach(optim.SparseRowWiseAdagrad, table, **options)
    w, total = weight.detach().double(), torch.full((ROWS, 1), 0.5, dtype=torch.float64)
    for rows, grad in gradients(5):
        train(table, optimizer, rows, grad)
        g = grad + weight_decay * w[rows]
        total[rows] += g.square().mean(dim=1, keepdim=True)
        w[rows] -= 0.1 * g / (total[rows].sqrt() + 1e-8)
    assert_agree(table, w.float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_narrow_tables_keep_their_state_in_float32(make_table, dtype):
    weight, table = start(make_table, dtype)
    optimizer = attach(optim.SparseAdam, table, lr=0.05)
    w, m, v = weight.detach().clone(), torch.zeros(ROWS, DIM), torch.zeros(ROWS, DIM)
    for step, (rows, grad) in enumerate(gradients(ROWS, dtype), start=1):
        train(table, optimizer, rows, grad)
        g = torch.empty(ROWS, DIM)
        g[rows] = grad.float()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        rate = 0.05 * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step)
        w = (w.float() - rate * m / (v.sqrt() + 1e-8)).to(dtype)
    spacing = torch.finfo(dtype).eps  # one rounding may tip over
    assert_agree(table, w, tolerance=spacing)
    state = table.slot_group().slot_by_name("sparse_adam_exp_avg_sq")
    found = state.read(table.table.rows_of(IDS)).cpu()
    torch.testing.assert_close(found, v, rtol=1e-5, atol=0)


def test_accumulated_steps_apply_their_mean_once(make_table):
    weight, table = start(make_table)
    options = {"lr": 0.01, "momentum": 0.9}
    optimizer = attach(optim.SparseSGD, table, **options)
    reference = torch.optim.SGD([weight], **options)
    optimizer.set_grad_accum_steps(4)
    batches = list(gradients(ROWS))
    for first in range(0, STEPS, 4):
        mean = torch.zeros(ROWS, DIM)
        for rows, grad in batches[first : first + 4]:
            train(table, optimizer, rows, grad)
            mean[rows] += grad / 4
        train_dense(weight, reference, torch.arange(ROWS), mean)
    assert_agree(table, weight)


def test_between_accumulated_steps_nothing_moves_and_nothing_is_dropped(make_table):
    weight, table = start(make_table)
    optimizer = attach(optim.SparseSGD, table, lr=1.0)
    optimizer.set_grad_accum_steps(3)
    for pending in (1, 2):
        train(table, optimizer, torch.arange(ROWS), torch.ones(ROWS, DIM))
        assert torch.equal(table(IDS), weight)
        assert table.grad().values().tolist() == [[float(pending)] * DIM] * ROWS
    train(table, optimizer, torch.arange(ROWS), torch.ones(ROWS, DIM))
    assert torch.equal(table(IDS), weight - 1)
    assert table.grad().values().numel() == 0


SCHEDULERS = {
    "step": partial(torch.optim.lr_scheduler.StepLR, step_size=10, gamma=0.5),
    "lambda": partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda epoch: 0.95**epoch),
    "cosine": partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=30),
    "one cycle": partial(
        torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=STEPS + 1, cycle_momentum=False
    ),
}


@pytest.mark.parametrize("schedule", SCHEDULERS.values(), ids=SCHEDULERS)
def test_learning_rate_schedulers_drive_it(make_table, schedule):
    weight, table = start(make_table)
    optimizer, reference = attach(optim.SparseAdamW, table), torch.optim.AdamW([weight])
    schedules = [schedule(optimizer), schedule(reference)]
    for rows, grad in gradients(ROWS):
        train(table, optimizer, rows, grad)
        train_dense(weight, reference, rows, grad)
        for each in schedules:
            each.step()
        assert optimizer.param_groups[0]["lr"] == reference.param_groups[0]["lr"]
    assert_agree(table, weight)


def test_one_cycle_drives_the_momentum_too(make_table):
    weight, table = start(make_table)
    options = {"lr": 0.01, "momentum": 0.9}
    optimizer = attach(optim.SparseSGD, table, **options)
    reference = torch.optim.SGD([weight], **options)
    schedule = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=STEPS + 1)
    schedules = [schedule(optimizer), schedule(reference)]
    for rows, grad in gradients(ROWS):
        train(table, optimizer, rows, grad)
        train_dense(weight, reference, rows, grad)
        for each in schedules:
            each.step()
    assert_agree(table, weight)


@pytest.mark.parametrize("option", ["closure", "no closure"])
def test_step_returns_what_its_closure_does(make_table, option):
    weight, table = start(make_table)
    optimizer = attach(optim.SparseSGD, table, lr=1.0)

    def closure():
        loss = table(IDS).sum()
        loss.backward()
        return loss

    if option == "closure":
        torch.testing.assert_close(optimizer.step(closure), weight.sum())
    else:
        closure()
        assert optimizer.step() is None
    assert torch.equal(table(IDS), weight - 1)


def test_a_new_id_trains_as_one_that_was_there(make_table):
    early, late = (
        make_table([DIM], initializer=NormalInitializer(), seed=3, name=name) for name in "ab"
    )
    early(IDS)
    for table in (early, late):
        optimizer = attach(optim.SparseAdam, table)
        for rows, grad in gradients(ROWS, steps=5):
            train(table, optimizer, rows, grad)
    assert torch.equal(early(IDS), late(IDS))
