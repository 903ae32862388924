"""Workers in a process group save one checkpoint in RecIS 1.0's layout, or none."""

WORKER = """
import os, sys, torch, torch.distributed as dist
from recis.nn import HashTable
from recis.nn.modules.hashtable import gen_slice
from recis.serialize import Loader, Saver

dist.init_process_group("gloo")
rank, folder = dist.get_rank(), sys.argv[1]
table = HashTable([2], name="sharded", slice=gen_slice(rank, 2))
ids = torch.arange(-50, 50) * 65536 + rank * 40000
values = ids.float().repeat(2, 1).T.contiguous() + 1
table.insert(ids, values)
saver = Saver(
    rank, 2, path=folder + "/up", hashtables={"sharded": table},
    tensors={"w": torch.ones(3)}, format="recis-1.0",
)
assert saver.save() == folder + "/up"
dist.barrier()
table.clear()
Loader(folder + "/up", hashtables={"sharded": table}).load()
found = table.ids().argsort()
assert torch.equal(table.ids()[found], ids)
assert torch.equal(table.embeddings()[found], values)
# A name that only the process that publishes sees.
bad = Saver(
    rank, 2, path=folder + "/bad", hashtables={"sharded": table},
    tensors={"a@b": torch.ones(1)}, format="recis-1.0",
)
try:
    bad.save()
except RuntimeError as error:
    assert "'a@b'" in str(error), error
else:
    raise AssertionError("saved")
dist.barrier()
assert os.listdir(folder) == ["up"]
"""


def test_workers_save_together(tmp_path, run_workers):
    run_workers(WORKER, 2, tmp_path)
