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


EMPTY = """
import torch, torch.distributed as dist
from recis.nn import DynamicEmbedding, EmbeddingOption
from recis.nn.modules.hashtable import filter_out_sparse_param
from recis.optim import SparseAdam

dist.init_process_group("gloo")
model = DynamicEmbedding(EmbeddingOption(embedding_dim=2, shared_name="empty"))
optimizer = SparseAdam(filter_out_sparse_param(model))
model(torch.tensor([1])).sum().backward()  # of the first worker's slices
optimizer.step()
assert len(model.hashtable) == (dist.get_rank() == 0)
assert optimizer.state_dict()["state"]["empty"]["step"] == 1
"""


def test_a_worker_without_gradients_counts_the_step(run_workers):
    run_workers(EMPTY, 2)
