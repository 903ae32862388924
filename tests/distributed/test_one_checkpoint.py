"""One checkpoint of several workers: for any number of them, or not there at all."""

import pytest
import torch

from recis.nn import DynamicEmbedding, EmbeddingOption
from recis.serialize import Loader
from recis.snapshot.publish import steps

RESHARD = """
import sys
import torch, torch.distributed as dist
from recis.nn import DynamicEmbedding, EmbeddingOption
from recis.nn.initializers import TruncNormalInitializer
from recis.nn.modules.hashtable import filter_out_sparse_param
from recis.optim import SparseAdam
from recis.serialize import Loader, Saver

dist.init_process_group("gloo")
step, folder = int(sys.argv[1]), sys.argv[2]
option = EmbeddingOption(
    embedding_dim=3, shared_name="resharded", initializer=TruncNormalInitializer(std=1.0)
)
model = DynamicEmbedding(option)
tables = filter_out_sparse_param(model)
optimizer = SparseAdam(tables)
if step > 1:
    Loader(folder, hashtables=tables).load()
else:
    model(torch.arange(-500, 500) * 7919).square().sum().backward()
    optimizer.step()
held = len(model.hashtable)
assert abs(held - 1000 / dist.get_world_size()) < 100, held
Saver(dist.get_rank(), dist.get_world_size(), path=folder, hashtables=tables).save(step)
"""


def content(folder, step):
    """Every slot by id of a snapshot."""
    option = EmbeddingOption(embedding_dim=3, shared_name="resharded")
    table = DynamicEmbedding(option).hashtable.table
    for moment in ["sparse_adam_exp_avg", "sparse_adam_exp_avg_sq"]:
        table.add_slot(moment)
    Loader(f"{folder}/step-{step:012d}", hashtables={"resharded": table}).load()
    ids, rows = table.ids_map()
    order = ids.argsort()
    slots = {slot.name(): slot.read(rows[order]) for slot in table.slot_group().slots()}
    return ids[order], slots


def test_any_number_of_workers_goes_on_from_any_other(tmp_path, run_workers):
    for step, count in enumerate([1, 4, 3, 1], 1):
        run_workers(RESHARD, count, step, tmp_path)
    ids, slots = content(tmp_path, 1)
    assert len(ids) == 1000 and slots["sparse_adam_exp_avg_sq"].count_nonzero() == 3000
    for step in [2, 3, 4]:
        found_ids, found = content(tmp_path, step)
        assert torch.equal(found_ids, ids)
        assert all(torch.equal(found[name], slots[name]) for name in slots), step


LOST = """
import os, signal, sys, time
from datetime import timedelta
import torch, torch.distributed as dist
from recis.nn import DynamicEmbedding, EmbeddingOption
from recis.nn.modules.hashtable import filter_out_sparse_param
from recis.serialize import Saver
import recis.serialize.saver as saver

dist.init_process_group("gloo", timeout=timedelta(seconds=5))
how, folder = sys.argv[1:]
rank = dist.get_rank()
model = DynamicEmbedding(EmbeddingOption(embedding_dim=2, shared_name="lost"))
model(torch.arange(100))
save = Saver(rank, 2, path=folder, hashtables=filter_out_sparse_param(model))
pids = [None] * 2
dist.all_gather_object(pids, os.getpid())
if rank == 1:
    write_table = saver.write_table
    def lose(*arguments, **options):
        os.kill(os.getpid(), getattr(signal, how))
        return write_table(*arguments, **options)
    saver.write_table = lose
    save.save(1)
    os._exit(0)
try:
    save.save(1)
except RuntimeError as error:
    pass
else:
    raise AssertionError("saved")
os.kill(pids[1], signal.SIGKILL)
os._exit(0)
"""


@pytest.mark.parametrize("how", ["SIGKILL", "SIGSTOP"])
def test_a_lost_worker_ends_the_save_of_the_others(tmp_path, run_workers, how):
    run_workers(LOST, 2, how, tmp_path, ends=-9)
    assert steps(tmp_path) == []
