"""Workers that do different things are told so, all of them, and nothing has changed."""

DISAGREE = """
import torch, torch.distributed as dist
from contextlib import nullcontext
from recis.nn import DynamicEmbedding, EmbeddingEngine, EmbeddingOption, ExchangeError
from recis.nn.hashtable_hook import FrequencyAdmitHook
from recis.nn.initializers import UniformInitializer

dist.init_process_group("gloo")
rank = dist.get_rank()
ids = torch.arange(50)

def option(name, **fields):
    return EmbeddingOption(**{"embedding_dim": 2, "shared_name": name, **fields})

def refused(call):
    try:
        call()
    except ExchangeError as error:
        assert "something else" in str(error), error
    else:
        raise AssertionError("one worker did something else")

left, right = DynamicEmbedding(option("left")), DynamicEmbedding(option("right"))

# Others: a table, what is done with it, whether it learns.
refused(lambda: left(ids) if rank else right(ids))
refused(lambda: left(ids) if rank else left.insert(ids, torch.ones(50, 2)))
left.train(rank == 0)
refused(lambda: left(ids))
with torch.no_grad():
    refused(lambda: left(ids))
left.train()
with torch.no_grad() if rank else nullcontext():
    refused(lambda: left(ids))

# The same table with an option that differs.
children = [f"child{k}" for k in range(7)]
for k, fields in enumerate(
    [
        {"dtype": torch.float64},
        {"embedding_dim": 3},
        {"max_partition_num": 1000},
        {"grad_reduce_by": "id"},
        {"initializer": UniformInitializer()},
        {"admit_hook": FrequencyAdmitHook(2)},
        {"trainable": False},
        {"coalesced": True, "children": [*children[:-2], *children[:-3:-1]]},
    ]
):
    common = {"coalesced": True, "children": children} if "coalesced" in fields else {}
    made = DynamicEmbedding(option(f"differs{k}", **(fields if rank else common)))
    refused(lambda: made(ids))
    assert len(made.hashtable) == 0

# The order of the options makes no difference to tables of their own, and numbers ids otherwise.
names = ["left", "right"] if rank else ["right", "left"]
options = {name: option(name + "s", embedding_dim=2 + len(name) % 2) for name in names}
engine = EmbeddingEngine(options, coalesce=False)
assert engine({"left": ids})["left"].shape == (50, 2)
engine = EmbeddingEngine({name: option(name + "ful") for name in names})
refused(lambda: engine({"left": ids}))
assert len(left.hashtable) == len(right.hashtable) == 0

# One leaves a backward pass out, and goes on with the next batch.
out = left(ids)
refused((lambda: left(ids)) if rank else out.sum().backward)
assert left.hashtable.grad().to_dense().count_nonzero() == 0

# They can go on together.
left(ids).sum().backward()
assert left.hashtable.grad().to_dense().count_nonzero() == 2 * len(left.hashtable)
"""


def test_workers_that_do_different_things_are_told(run_workers):
    run_workers(DISAGREE, 2)


GROUPS = """
import torch, torch.distributed as dist
from recis.nn import DynamicEmbedding, EmbeddingEngine, EmbeddingOption
from recis.nn.modules.hashtable import filter_out_sparse_param
from recis.optim import SparseSGD

dist.init_process_group("gloo")
rank = dist.get_rank()
pair, alone = dist.new_group([0, 2]), dist.new_group([1])
mine = alone if rank == 1 else pair
model = EmbeddingEngine(
    {name: EmbeddingOption(embedding_dim=1, pg=mine, shared_name=name) for name in ["a", "b"]}
)
optimizer = SparseSGD(filter_out_sparse_param(model), lr=1.0)
ids = torch.arange(10) * 7919  # of slices all over
model({"a": ids, "b": ids})["b"].sum().backward()
optimizer.step()
(table,) = filter_out_sparse_param(model).values()
assert len(table) == 20 or rank != 1
assert len(table) < 20 or rank == 1
assert table.slice.slice_size == 65536
# Two workers of two: of the sum, half. The third worker makes no difference.
assert model({"b": ids})["b"].flatten().tolist() == [-1] * 10
try:
    DynamicEmbedding(EmbeddingOption(shared_name="other"), pg=pair)
except ValueError as error:
    assert rank == 1 and "not in the process group" in str(error)
else:
    assert rank != 1
"""


def test_a_group_of_some_workers(run_workers):
    run_workers(GROUPS, 3)


HOST = """
from datetime import timedelta
import torch, torch.distributed as dist
from recis.nn import EmbeddingEngine, EmbeddingOption

dist.init_process_group("gloo", timeout=timedelta(seconds=77))
pair = dist.new_group([1, 2], timeout=timedelta(seconds=77))
exchange, used = dist.all_to_all_single, []

def recorded(*tensors, group, **options):
    used.append(group)
    return exchange(*tensors, group=group, **options)

dist.all_to_all_single = recorded
if dist.get_rank() > 0:
    config = dist.get_backend_config
    dist.get_backend_config = lambda group: "cuda:nccl" if group is pair else config(group)
    for name in ["one", "two"]:
        options = {"a": EmbeddingOption(pg=pair, shared_name=name)}
        model = EmbeddingEngine(options, coalesce=False)
        model({"a": torch.arange(10) * 7919})["a"].sum().backward()
    (group,) = set(used)  # one beside it, for both
    assert group is not pair and dist.get_process_group_ranks(group) == [1, 2]
    timeout = group._get_backend(torch.device("cpu")).options._timeout
    assert timeout == timedelta(seconds=77)
dist.barrier()  # the first worker has what the others meet at
"""


def test_ids_of_a_group_of_nccl_take_one_of_gloo(run_workers):
    run_workers(HOST, 3)
