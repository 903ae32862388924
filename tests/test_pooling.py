"""Combining embeddings: values, gradients, and the same bits everywhere."""

import os
import subprocess
import sys
from itertools import pairwise

import pytest
import torch

from recis import _engine
from recis._place import place_of
from recis.nn.functional import pool, tile

from .helpers import bits

OFFSETS = torch.tensor([0, 3, 3, 4, 9])
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
INVERSE = torch.tensor([1, 0, 1, 4, 2, 2, 2, 0, 1])


def example(dtype, dim=5, seed=0):
    """Embeddings of five distinct ids, of which one is nowhere, and weights of their uses."""
    made = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(5, dim, dtype=torch.float64, generator=made).to(dtype)
    return embeddings, torch.rand(9, dtype=torch.float64, generator=made) + 0.5


def by_hand(embeddings, weight, mean):
    rows = []
    for begin, end in pairwise(OFFSETS):
        weights = torch.ones(end - begin) if weight is None else weight[begin:end]
        total = (embeddings[INVERSE[begin:end]] * weights[:, None]).sum(0)
        rows.append(total / weights.sum() if mean and end > begin else total)
    return torch.stack(rows)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("mean", [False, True])
def test_sums_and_means_and_their_gradients(dtype, weighted, mean):
    embeddings, weight = example(dtype)
    weight = weight if weighted else None
    ours, exact = embeddings.clone().requires_grad_(), embeddings.double().requires_grad_()
    out = pool(ours, INVERSE, OFFSETS, weight, mean=mean)
    expected = by_hand(exact, weight, mean)
    tolerance = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 4 * torch.finfo(dtype).eps}
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), expected, **tolerance)
    grad = torch.arange(20, dtype=torch.float64).view(4, 5) / 20
    out.backward(grad.to(dtype))
    expected.backward(grad.to(dtype).double())
    assert ours.grad.dtype == dtype
    torch.testing.assert_close(ours.grad.double(), exact.grad, **tolerance)
    assert ours.grad[3].tolist() == [0] * 5


@pytest.mark.parametrize("mean", [False, True])
def test_gradients_are_true_to_the_function(mean):
    embeddings, weight = example(torch.float64)
    inputs = embeddings.requires_grad_(), weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda e, w: pool(e, INVERSE, OFFSETS, w, mean=mean), inputs)


def test_sums_of_bfloat16_are_rounded_once():
    count = 1000  # rounded after each term, the sums would end at 4
    small = torch.full((1, 1), 0.01, dtype=torch.bfloat16, requires_grad=True)
    inverse = torch.zeros(count, dtype=torch.int64)
    out = pool(small, inverse, torch.tensor([0, count]), None, mean=False)
    assert abs(out.item() - count * small.item()) < 0.05
    apart = pool(small, inverse, torch.arange(count + 1), None, mean=False)
    apart.backward(torch.full_like(apart, 0.01))
    assert abs(small.grad.item() - count * small.item()) < 0.05


def test_side_by_side():
    embeddings, weight = example(torch.float32)
    embeddings.requires_grad_()
    out = tile(embeddings, INVERSE, OFFSETS, weight, 2)
    expected = torch.zeros(4, 2, 5)
    for row, first in [(0, 0), (2, 3), (3, 4)]:
        for place in range(min(2, int(OFFSETS[row + 1]) - first)):
            at = first + place
            expected[row, place] = embeddings[INVERSE[at]] * weight[at].float()
    assert torch.equal(out, expected)
    out.sum().backward()
    used = torch.zeros(5)
    used.index_add_(0, INVERSE[[0, 1, 3, 4, 5]], weight[[0, 1, 3, 4, 5]].float())
    torch.testing.assert_close(embeddings.grad, used[:, None].expand(5, 5))


def test_integers_side_by_side():
    out = tile(torch.arange(10).view(5, 2), INVERSE, OFFSETS, None, 2, left_pad=True)
    assert out.tolist() == [[[2, 3], [0, 1]], [[0, 0], [0, 0]], [[0, 0], [8, 9]], [[4, 5], [4, 5]]]
    with pytest.raises(TypeError, match=r"torch\.int64"):
        pool(torch.arange(10).view(5, 2), INVERSE, OFFSETS, None, mean=False)


def test_places_that_are_not_there_are_refused(device):
    place = place_of(device)
    embeddings = example(torch.float32)[0].to(place.device)
    for inverse, offsets in [
        (INVERSE + 1, OFFSETS),
        (INVERSE, OFFSETS[:-1]),
        (INVERSE, OFFSETS + 1),
    ]:
        with pytest.raises(IndexError, match=r"\[0, 5\).*rise from 0 to 9"):
            pool(embeddings, inverse, offsets, None, mean=False, place=place)


@pytest.mark.parametrize("mean", [False, True])
def test_each_id_has_a_weight(device, mean):
    place = place_of(device)
    embeddings = example(torch.float32)[0].to(place.device)
    for weight in (torch.ones(8), torch.ones(9, 1)):
        with pytest.raises(ValueError, match=r"pooling: weight: expected shape \(9,\)"):
            pool(embeddings, INVERSE, OFFSETS, weight, mean=mean, place=place)


SAME = """
import hashlib, torch
from recis.nn.functional import pool
made = torch.Generator().manual_seed(0)
def numbers(*shape):  # not drawn by torch's own vector code
    return torch.randint(-9999, 9999, shape, generator=made).double() / 3333
inverse = torch.randint(0, 3000, (40000,), generator=made)
offsets = torch.arange(0, 40001, 8)
digest = hashlib.sha256()
for dtype in [torch.float32, torch.float64, torch.bfloat16]:
    values, weight, grad = numbers(3000, 37).to(dtype), numbers(40000), numbers(5000, 37).to(dtype)
    for threads in [1, 2, 5]:
        torch.set_num_threads(threads)
        found = []
        for given, mean in [(None, False), (None, True), (weight, False)]:
            embeddings = values.clone().requires_grad_()
            out = pool(embeddings, inverse, offsets, given, mean=mean)
            out.backward(grad)
            found += [out.detach(), embeddings.grad]
        if threads == 1:
            first = found
        assert all(map(torch.equal, found, first))
    for each in first:
        digest.update(each.view(torch.uint8).numpy())
print(digest.hexdigest())
"""


def test_same_bits_for_any_threads_and_instructions(tmp_path):
    """Unlike `embedding_bag`, whose gradients of means and weighted sums differ by processor."""

    def output(**environment):
        command = [sys.executable, "-c", SAME]
        return subprocess.check_output(command, env={**os.environ, **environment}, cwd=tmp_path)

    assert output() == output(RECIS_SIMD="baseline", ATEN_CPU_CAPABILITY="default")


def test_nothing_to_combine(device):
    place = place_of(device)
    rows, offsets = torch.empty(0, 3, device=place.device), torch.tensor([0, 0, 0])
    out = pool(rows, torch.empty(0).long(), offsets, None, mean=True, place=place)
    assert bits(out.cpu()) == bits(torch.zeros(2, 3))


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_device_has_the_same_bits(device, dtype):
    made = torch.Generator().manual_seed(0)
    counts = torch.tensor([0, 3, 500, 1, 0, 70, *torch.randint(0, 9, (90,), generator=made)])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    count = int(offsets[-1])
    inverse = (torch.rand(count, generator=made).square() * 40).long()
    values = torch.randn(50, 19, generator=made).to(dtype)
    weight = torch.rand(count, dtype=torch.float64, generator=made) - 0.3
    of_sums = torch.randn(len(counts), 19, generator=made).to(dtype)
    of_tiles = torch.randn(len(counts), 4, 19, generator=made).to(dtype)

    def found(device):
        place = place_of(device)
        out = []
        for given in (None, weight, weight.to(place.device)):
            embeddings = values.to(place.device).requires_grad_()
            rows = embeddings, inverse, offsets, given
            sums, means = (pool(*rows, mean=mean, place=place) for mean in (False, True))
            tiles = tile(*rows, 4, left_pad=True, place=place)
            for each, grad in [(sums, of_sums), (means, of_sums), (tiles, of_tiles)]:
                (spread,) = torch.autograd.grad(each, embeddings, grad.to(place.device))
                assert each.device == spread.device == place.device
                out += [bits(each.detach().cpu()), bits(spread.cpu())]
        return out

    assert found(device) == found("cpu")


def test_weights_take_gradients_wherever_they_are(device):
    place = place_of(device)
    embeddings, weight = example(torch.float64)
    for weight_device in ("cpu", place.device):
        grads = []
        for of, here in [(weight, "cpu"), (weight.to(weight_device), device)]:
            given = of.detach().requires_grad_()
            rows = embeddings.to(place_of(here).device)
            out = pool(rows, INVERSE, OFFSETS, given, mean=True, place=place_of(here))
            out.square().sum().backward()
            grads.append(given.grad)
        assert grads[1].device == given.device
        torch.testing.assert_close(grads[1].cpu(), grads[0])


def test_sums_are_taken_where_the_place_says(device, monkeypatch):
    made = []
    for kind in (_engine.Bags, _engine.DeviceBags):
        here = lambda *given, kind=kind: made.append(kind) or kind(*given)  # noqa: E731
        monkeypatch.setattr(_engine, kind.__name__, here)
    place = place_of(device)
    rows = torch.ones(5, 2, device=place.device)
    pool(rows, INVERSE, OFFSETS, None, mean=False, place=place)
    assert [kind.__name__ for kind in made] == ["Bags" if device == "cpu" else "DeviceBags"]
