"""Workers together do what one alone does with all their rows."""

from pathlib import Path

import pytest
import torch

from . import training
from .tables import joined

WORKER = """
import sys
sys.path.insert(0, sys.argv[1])
from distributed import training
training.main(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
"""


@pytest.mark.parametrize("world", [2, 3])
def test_any_engine_of_several_workers_is_that_of_one(tmp_path, run_workers, world):
    seeds = range(100 * world, 100 * world + 25)
    run_workers(WORKER, world, Path(__file__).parents[1], seeds.start, seeds.stop, tmp_path)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(world)]
    for seed in seeds:
        tables, outputs = training.train(seed)
        whole = joined([each[seed][0] for each in found])
        torch.testing.assert_close(whole, tables, rtol=2e-6, atol=2e-6)
        for step, expected in enumerate(outputs):
            for name, value in expected.items():
                parts = [each[seed][1][step][name] for each in found]
                torch.testing.assert_close(torch.cat(parts), value, rtol=2e-6, atol=2e-6)


COUNTED = """
import sys
import torch, torch.distributed as dist
from recis.nn import EmbeddingEngine, EmbeddingOption

dist.init_process_group("gloo")
calls, numbers = [], []
exchange = dist.all_to_all_single

def counted(out, given, *sizes, **options):
    calls.append(given.dtype)
    numbers.append(given.numel())
    return exchange(out, given, *sizes, **options)

dist.all_to_all_single = counted
for features in [2, 20]:
    engine = EmbeddingEngine(
        {
            f"{k}": EmbeddingOption(embedding_dim=4 + 4 * (k % 2), shared_name=f"{features}_{k}")
            for k in range(features)
        },
        coalesce=False,
    )
    calls.clear(); numbers.clear()
    ids = torch.arange(10).repeat(3, 1)  # each three times
    out = engine({f"{k}": ids for k in range(features)})
    sum(each.sum() for each in out.values()).backward()
    # To agree, ids, and rows of two widths there; to agree, and gradients of two widths back.
    assert calls == [torch.int64] * 2 + [torch.float32] * 2 + [torch.int64] + [torch.float32] * 2
    distinct = 10 * features
    assert numbers[1] == 2 * distinct + 2 * features  # an id and its count; how many of a table
    returned = sum(numbers[2:4])  # rows that others asked this worker for
    asked = sum(numbers[5:])
    assert asked == 10 * features // 2 * (4 + 8), asked
    total = torch.tensor(returned)
    dist.all_reduce(total)
    assert total == 2 * asked
"""


def test_collectives_do_not_grow_with_features_nor_bytes_with_repeats(run_workers):
    run_workers(COUNTED, 2)
