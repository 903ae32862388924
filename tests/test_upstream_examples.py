"""Code written for RecIS runs with nothing changed but the install.

Each example is what RecIS's documentation shows for the API named, on the CPU.
"""

import torch

from .helpers import long


def test_hashtable():
    from recis.nn.modules.hashtable import HashTable

    hashtable = HashTable(
        embedding_shape=[64],
        block_size=1024,
        dtype=torch.float32,
        device=torch.device("cpu"),
        name="user_embedding",
    )
    ids = torch.tensor([1, 2, 3, 100, 1000])
    embeddings = hashtable(ids)
    assert embeddings.shape == (5, 64)


def test_hashtable_with_hooks():
    from recis.nn.hashtable_hook import FrequencyAdmitHook, FrequencyFilterHook
    from recis.nn.modules.hashtable import HashTable

    filter_hook = FrequencyFilterHook(min_frequency=5)
    hashtable = HashTable(
        embedding_shape=[128],
        block_size=2048,
        filter_hook=filter_hook,
        grad_reduce_by="id",
    )
    ids = torch.tensor([1, 2, 3, 2, 1])
    embeddings = hashtable(ids)
    assert embeddings.shape == (5, 128)
    admit_hook = FrequencyAdmitHook(min_frequency=3)
    embeddings = hashtable(long(9), admit_hook)
    assert embeddings.abs().max() == 0


def test_slices():
    from recis.nn.modules.hashtable import Slice, gen_slice

    slice_config = gen_slice(shard_index=1, shard_num=4, slice_size=65536)
    assert (slice_config.slice_begin, slice_config.slice_end) == (16384, 32768)
    assert Slice(0, 16384, 65536) == gen_slice(0, 4)


def test_read_only_admission():
    from recis.nn import HashTable
    from recis.nn.hashtable_hook import AdmitHook

    ht = HashTable(embedding_shape=[8])
    ro_hook = AdmitHook("ReadOnly")
    ids = torch.LongTensor([1, 2, 3, 4])
    emb_r = ht(ids, admit_hook=ro_hook)
    assert torch.equal(emb_r, torch.zeros(4, 8))


def test_global_step_filter():
    from recis.nn.hashtable_hook import FilterHook
    from recis.nn.modules.hashtable import HashTable

    filter_hook = FilterHook(name="GlobalStepFilter", params={"filter_step": 200})
    hashtable = HashTable(embedding_shape=[64], filter_hook=filter_hook)
    hashtable(long(1))
    for step in range(301):
        hook_impl = hashtable._filter_hook_impl
        if hasattr(hook_impl, "update_step"):
            hook_impl.update_step()
        if step % 100 == 0:
            hook_impl.do_filter()
    assert hashtable.ids().numel() == 0
    hook_impl.update_step(5)
    assert hook_impl._global_step.item() == 306


def test_filter_hook_in_a_training_loop():
    from recis.hooks import HashTableFilterHook
    from recis.nn import HashTable
    from recis.nn.hashtable_hook import FilterHook
    from recis.nn.modules.hashtable import filter_out_sparse_param
    from recis.optim import SparseAdamW

    model = torch.nn.Sequential(
        HashTable(
            embedding_shape=[16],
            name="filtered",
            filter_hook=FilterHook("GlobalStepFilter", {"filter_step": 10}),
        ),
        torch.nn.Linear(16, 1),
    )
    sparse_params = filter_out_sparse_param(model)
    sparse_optimizer = SparseAdamW(sparse_params, lr=0.001)
    dense_optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)
    filter_hook = HashTableFilterHook(filter_interval=20)
    for global_step in range(60):
        loss = model(long(0, 100 + global_step)).sum()
        loss.backward()
        sparse_optimizer.step()
        dense_optimizer.step()
        sparse_optimizer.zero_grad()
        dense_optimizer.zero_grad()
        filter_hook.after_step(None, global_step)
    # The last run was after step 40: rows used in the ten steps before it and since are left.
    assert sorted(model[0].ids().tolist()) == [0, *range(131, 160)]


def test_a_filter_of_ones_own():
    from recis.nn import HashTable
    from recis.nn.hashtable_hook import FilterHook
    from recis.nn.modules.hashtable_hook_impl import BaseFilterHookImpl, HashtableHookFactory

    class CountingFilter(BaseFilterHookImpl):
        def __init__(self, ht, name="counting_filter", min_frequency=10):
            super().__init__(ht, name)
            self.min_frequency = min_frequency
            self.frequency_counter = {}

        def update(self, index):
            for idx in index:
                count = self.frequency_counter.get(idx.item(), 0)
                self.frequency_counter[idx.item()] = count + 1

        def filter(self, ids, index):
            mask = torch.tensor(
                [self.frequency_counter.get(idx.item(), 0) < self.min_frequency for idx in index]
            )
            return torch.masked_select(ids, mask), torch.masked_select(index, mask)

    factory = HashtableHookFactory()
    factory.regist_filter("CountingFilter", CountingFilter)
    table = HashTable([4], filter_hook=FilterHook("CountingFilter", {"min_frequency": 2}))
    table(long(1, 2))
    table(long(2))
    factory.get_filters()["CountingFilter"][table].do_filter()
    assert table.ids().tolist() == [2]


def test_separate_parameters():
    from recis.nn import HashTable
    from recis.nn.modules.hashtable import filter_out_sparse_param, split_sparse_dense_state_dict

    model = torch.nn.ModuleDict(
        {"emb": HashTable([8], name="emb_table"), "fc": torch.nn.Linear(8, 1)}
    )
    sparse_params = filter_out_sparse_param(model)
    assert list(sparse_params) == ["emb_table"]
    sparse, dense = split_sparse_dense_state_dict(model.state_dict())
    assert list(sparse) == ["emb_table"]
    assert list(dense) == ["fc.weight", "fc.bias"]


def test_register():
    from recis.nn.modules.hashtable import HashtableRegister

    register = HashtableRegister()
    register.register("item_embedding", '{"shape": [128], "dtype": "float32"}')
    assert HashtableRegister() is register


def test_gradient_accumulation():
    from recis.nn import HashTable
    from recis.optim import SparseAdam

    table = HashTable([4], name="accumulated")
    optimizer = SparseAdam(
        param_dict={"accumulated": table.state_dict()["accumulated"]},
        lr=0.001,
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        weight_decay=0.0,
    )
    optimizer.set_grad_accum_steps(4)
    for step in range(8):
        table(long(1)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert (table.embeddings() == 0).all().item() == (step < 3)
