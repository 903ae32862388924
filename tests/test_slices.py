"""Slices of the ids, and which shard has them."""

import pytest
import torch

from recis._slices import gen_slice, shards_of


@pytest.mark.parametrize("size", [8, 1000, 65536])
@pytest.mark.parametrize("shards", [1, 2, 3, 7, 8])
def test_each_slice_has_the_shard_that_holds_it(shards, size):
    ids = torch.arange(-size, size)
    owners = shards_of(ids, shards, size)
    for shard in range(shards):
        held = gen_slice(shard, shards, size)
        slices = torch.tensor([(id % 2**64) % size for id in ids[owners == shard].tolist()])
        assert sorted(set(slices.tolist())) == list(range(held.slice_begin, held.slice_end))
