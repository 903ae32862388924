"""As few collectives and bytes travel as can be."""

import pytest

TRAFFIC = """
import torch, torch.distributed as dist
from recis._slices import shards_of
from recis.nn import EmbeddingEngine, EmbeddingOption

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
calls, sent = [], []
exchange = dist.all_to_all_single

def counted(out, given, arriving=None, leaving=None, **options):
    leaving = leaving or [len(given) // world] * world
    calls.append(given.dtype)
    sent.append(given.nbytes - given.split(leaving)[rank].nbytes)
    return exchange(out, given, arriving, leaving, **options)

dist.all_to_all_single = counted
for features in [2, 20]:
    widths = [4 + 4 * (k % 2) for k in range(features)]
    engine = EmbeddingEngine(
        {
            f"{k}": EmbeddingOption(embedding_dim=widths[k], shared_name=f"{features}_{k}")
            for k in range(features)
        },
        coalesce=False,
    )
    torch.manual_seed(rank)
    ids = [torch.randint(0, 40, (30 + rank, 3)) * 7919 for _ in range(features)]  # with repeats
    calls.clear(); sent.clear()
    out = engine({f"{k}": each for k, each in enumerate(ids)})
    sum(each.sum() for each in out.values()).backward()

    # To agree, ids, and rows of two widths there; to agree, and gradients of two widths back.
    assert calls == [torch.int64] * 2 + [torch.float32] * 2 + [torch.int64] + [torch.float32] * 2

    # A distinct id that another worker holds goes there with its count, its row comes, its
    # gradient goes: so much for it and no more, however often it occurs.
    least = 0
    for width, each in zip(widths, ids):
        remote = (shards_of(each.unique(), world) != rank).sum().item()
        least += remote * (8 + 4 * width) * 2
    found = torch.tensor([least, sum(sent)])
    dist.all_reduce(found)
    least, sent_by_all = found.tolist()
    assert least > 1000
    # And between each two workers: twice a digest with a number, and how many ids of each table.
    assert sent_by_all == least + world * (world - 1) * (2 * 16 + 8 * features)
"""


@pytest.mark.parametrize("world", [2, 3])
def test_collectives_are_few_and_bytes_are_needed(run_workers, world):
    run_workers(TRAFFIC, world)
