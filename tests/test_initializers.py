"""First values: their distributions, bounds and errors."""

import math

import pytest
import torch

from recis.nn.initializers import (
    ConstantInitializer,
    KaimingNormalInitializer,
    KaimingUniformInitializer,
    NormalInitializer,
    TruncNormalInitializer,
    UniformInitializer,
    XavierNormalInitializer,
    XavierUniformInitializer,
)


def draws(make_table, initializer, shape=(64,), count=4000):
    """All first values of `count` ids, sorted, in float64."""
    table = make_table(shape, initializer=initializer, dtype=torch.float64)
    return table(torch.arange(count)).detach().flatten().sort().values


def distance(values, distribution):
    """The largest gap between the values' distribution and this one (Kolmogorov-Smirnov)."""
    steps = torch.arange(1, len(values) + 1, dtype=torch.float64) / len(values)
    return (distribution(values) - steps).abs().max().item()


def normal(values):
    return 0.5 * torch.erfc(-values / math.sqrt(2))


# 256,000 draws stay within 1.95 / sqrt(n) of their distribution in 999 of 1,000 seeds.
CLOSE = 1.95 / math.sqrt(256_000)


def test_uniform_draws_are_uniform(make_table):
    values = draws(make_table, UniformInitializer(-2.0, 6.0))
    assert values[0] >= -2 and values[-1] <= 6
    assert distance(values, lambda v: (v + 2) / 8) < CLOSE


def test_normal_draws_are_normal(make_table):
    values = draws(make_table, NormalInitializer(mean=3.0, std=0.5))
    assert distance(values, lambda v: normal((v - 3) / 0.5)) < CLOSE


def test_truncated_draws_are_normal_between_the_bounds(make_table):
    values = draws(make_table, TruncNormalInitializer(mean=1.0, std=0.02, a=-1.0, b=2.0))
    low, high = (normal(torch.tensor(z, dtype=torch.float64)) for z in (-1.0, 2.0))
    assert values[0] >= 1 - 0.02 and values[-1] <= 1 + 0.04
    assert distance(values, lambda v: (normal((v - 1) / 0.02) - low) / (high - low)) < CLOSE


def test_elements_and_ids_are_independent(make_table):
    table = make_table([64], initializer=NormalInitializer(), dtype=torch.float64)
    values = table(torch.arange(4000)).detach()
    correlation = torch.corrcoef(values.T) - torch.eye(64)
    assert correlation.abs().max() < 5 / math.sqrt(4000)
    assert torch.corrcoef(torch.stack([values[:-1, 0], values[1:, 0]]))[0, 1].abs() < 0.08


@pytest.mark.parametrize(
    ("initializer", "torchs"),
    [
        (XavierUniformInitializer(2.0), lambda w: torch.nn.init.xavier_uniform_(w, 2.0)),
        (XavierNormalInitializer(2.0), lambda w: torch.nn.init.xavier_normal_(w, 2.0)),
        (KaimingUniformInitializer(0.5), lambda w: torch.nn.init.kaiming_uniform_(w, 0.5)),
        (
            KaimingNormalInitializer(0.5, "fan_out", "relu"),
            lambda w: torch.nn.init.kaiming_normal_(w, 0.5, "fan_out", "relu"),
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_fans_are_those_of_torch_for_the_embeddings_shape(make_table, initializer, torchs):
    torch.manual_seed(0)
    expected = torch.stack([torchs(torch.empty(8, 24)) for _ in range(1000)])
    values = draws(make_table, initializer, (8, 24), 1000)
    assert math.isclose(values.std().item(), expected.std().item(), rel_tol=0.01)


def test_block_size_is_no_fan(make_table):
    first, second = (
        make_table([16], initializer=XavierUniformInitializer(), block_size=size)
        for size in (5, 100)
    )
    ids = torch.arange(20)
    assert torch.equal(first(ids), second(ids))


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float64, torch.float16, torch.bfloat16],
)
def test_constants_fill_floating_tables(make_table, dtype):
    table = make_table([3], initializer=ConstantInitializer(1.5), dtype=dtype)
    assert torch.equal(table(torch.arange(9)), torch.full((9, 3), 1.5, dtype=dtype))


def test_a_random_integer_table_is_refused(make_table):
    with pytest.raises(ValueError, match=r"NormalInitializer.*floating-point.*torch\.int8"):
        make_table([3], initializer=NormalInitializer(), dtype=torch.int8)


@pytest.mark.parametrize(
    "make",
    [
        lambda: UniformInitializer(2.0, 1.0),
        lambda: NormalInitializer(std=-1.0),
        lambda: TruncNormalInitializer(a=1.0, b=1.0),
        lambda: KaimingNormalInitializer(mode="fan"),
    ],
)
def test_impossible_parameters_are_refused(make):
    with pytest.raises(ValueError, match="Initializer"):
        make()


def test_one_instance_serves_many_tables(make_table):
    initializer = XavierNormalInitializer()
    wide = make_table([32], initializer=initializer)
    narrow = make_table([2], initializer=initializer, dtype=torch.float64)
    again = make_table([32], initializer=XavierNormalInitializer())
    narrow(torch.arange(3))
    assert torch.equal(wide(torch.arange(3)), again(torch.arange(3)))


def test_generate_gives_the_first_rows_of_a_table(make_table):
    initializer = TruncNormalInitializer(mean=0.0, std=0.02, a=-2.0, b=2.0)
    initializer.set_shape([512, 256])
    initializer.build()
    values = initializer.generate()
    table = make_table([256], initializer=initializer)
    assert torch.equal(values, table(torch.arange(512)))
    assert values.abs().max() <= 0.04


def test_a_generator_gives_its_seed(make_table):
    seeded = NormalInitializer(generator=torch.Generator().manual_seed(5))
    assert torch.equal(
        make_table([4], initializer=seeded)(torch.arange(3)),
        make_table([4], initializer=NormalInitializer(), seed=5)(torch.arange(3)),
    )
