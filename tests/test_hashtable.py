"""What `HashTable` promises of lookups, changes and content."""

import math

import pytest
import torch

from recis.nn import AdmitHook, FilterHook
from recis.nn.initializers import ConstantInitializer, UniformInitializer
from recis.nn.modules.hashtable import HashTable, Slice, gen_slice

from .helpers import bits, by_id, dump, long

FLOATING = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
INTEGER = [torch.int8, torch.int32, torch.int64]
EDGES = long(0, -1, -2, -(2**63), 2**63 - 1, 2**52, 2**52 - 1, 2**52 + 1)


def test_arguments_default_to_upstreams():
    table = HashTable([4])
    slot = table.slot_group().slot_by_name("embedding")
    assert table.table.name == "hashtable"
    assert (slot.block_size(), slot.flat_size(), slot.dtype) == (5, 4, torch.float32)
    assert table.device == torch.device("cpu")
    assert table.slice == Slice(0, 65536, 65536)
    assert not table.coalesce
    assert table.children_hashtable == ["hashtable"]
    assert isinstance(table.initializer(), ConstantInitializer)


# ---- lookup ----


@pytest.mark.parametrize("shape", [[1], [7], [2, 3], [1, 4, 2]], ids=str)
@pytest.mark.parametrize("ids", [(), (0,), (5,), (2, 3), (2, 0), (2, 1, 3)], ids=str)
def test_the_output_has_the_shape_of_ids_and_embedding(make_table, ids, shape):
    table = make_table(shape)
    for mode in (True, False):
        out = table.train(mode)(torch.zeros(ids, dtype=torch.int64))
        assert out.shape == (*ids, *shape)
        assert out.dtype == torch.float32


def test_every_int64_is_an_ordinary_id(make_table):
    table = make_table(initializer=UniformInitializer())
    first = table(EDGES).detach()
    assert first.unique(dim=0).shape == first.shape
    assert torch.equal(table.eval()(EDGES.flip(0)), first.flip(0))
    assert sorted(table.ids().tolist()) == sorted(EDGES.tolist())


@pytest.mark.parametrize(
    "layout",
    [
        lambda ids: ids.view(2, 3).t(),
        lambda ids: ids.repeat_interleave(2)[::2],
        lambda ids: ids[0].expand(4),
        lambda ids: ids.view(1, 2, 3).permute(2, 0, 1),
    ],
    ids=["transposed", "strided", "expanded", "permuted"],
)
def test_the_strides_of_ids_do_not_matter(make_table, layout):
    table = make_table(initializer=UniformInitializer())
    ids = layout(torch.arange(6))
    assert not ids.is_contiguous()
    found = table(ids)
    assert torch.equal(found, table(ids.contiguous()))
    assert found.shape == (*ids.shape, 4)


def test_repeats_share_a_row(make_table):
    table = make_table(initializer=UniformInitializer())
    out = table(long(7, 8, 7, 7))
    assert len(table) == 2
    assert torch.equal(out[0], out[2])
    assert torch.equal(out[0], out[3])
    assert not torch.equal(out[0], out[1])


def test_new_ids_get_rows_in_descending_order_of_first_occurrence(make_table):
    table = make_table()
    table(long(10, 11, 10, 12))
    table(long(11, 20, 21, 12))
    ids, rows = table.ids_map()
    assert dict(zip(ids.tolist(), rows.tolist(), strict=True)) == {
        **{12: 0, 11: 1, 10: 2},
        **{21: 3, 20: 4},
    }


def test_freed_rows_are_reused_last_freed_first_before_the_table_grows(make_table):
    table = make_table()
    table(torch.arange(5))  # rows 4, 3, 2, 1, 0
    table.evict(long(1, 3))  # rows 3, then 1
    table(long(7, 8, 9))  # 9 first, then 8, then 7
    assert table.table.rows_of(long(9, 8, 7)).tolist() == [1, 3, 5]


@pytest.mark.parametrize("dtype", FLOATING + INTEGER, ids=str)
def test_unknown_ids_read_as_zeros_in_eval(make_table, dtype):
    table = make_table(dtype=dtype, initializer=ConstantInitializer(3)).eval()
    table.insert(long(1), torch.full((1, 4), 7).to(dtype))
    assert table(long(1, 2)).tolist() == [[7] * 4, [0] * 4]
    assert table.ids().tolist() == [1]


@pytest.mark.parametrize("hook", [None, AdmitHook("FrequencyAdmit", {"min_frequency": 3})])
@pytest.mark.parametrize("filter_hook", ["FrequencyFilter", "GlobalStepFilter"])
def test_eval_changes_nothing_but_counters(make_table, hook, filter_hook):
    table = make_table(initializer=UniformInitializer(), filter_hook=FilterHook(filter_hook))
    table(long(1, 2, 2, 3), admit_hook=hook).sum().backward()
    before = dump(table)
    out = table.eval()(long(1, 9, 9, 9), admit_hook=hook)
    assert not out.requires_grad
    assert dump(table) == before
    assert table.stats()["lookups"] == 8


@pytest.mark.parametrize("dtype", INTEGER, ids=str)
def test_integer_tables_are_read_only_in_training_too(make_table, dtype):
    table = make_table(dtype=dtype)
    out = table.train()(long(1, 2))
    assert out.dtype == dtype
    assert not out.requires_grad
    assert len(table) == 0


def test_without_grad_ids_are_admitted_and_no_graph_is_made(make_table):
    table = make_table()
    with torch.no_grad():
        assert not table(long(1, 2)).requires_grad
    assert table.ids().tolist() == [2, 1]


def test_an_output_is_a_copy(make_table):
    table = make_table()
    out = table.eval()(long(1))
    out += 1
    table.train()(long(1)).detach().add_(1)
    assert by_id(table) == {1: [0.0] * 4}


# ---- change ----


def test_the_last_of_repeated_ids_is_inserted(make_table):
    table = make_table([1])
    table.insert(long(1, 2, 1), torch.tensor([[10.0], [20.0], [30.0]]))
    assert by_id(table) == {1: [30.0], 2: [20.0]}


def test_insert_leaves_other_slots_of_old_ids_and_makes_them_initial_for_new(make_table):
    table = make_table([1])
    table(long(1))
    table.table.add_slot("count", torch.int64, (1,), initial=5)
    count = table.slot_group().slot_by_name("count")
    count.write(table.table.rows_of(long(1)), torch.tensor([[99]]))
    table.insert(long(1, 2), torch.ones(2, 1))
    assert by_id(table, "count") == {1: [99], 2: [5]}


def test_insert_takes_ids_in_any_layout(make_table):
    table = make_table([1])
    values = torch.arange(6.0).view(2, 3).t().reshape(6, 1)
    table.insert(torch.arange(6).view(2, 3).t(), values)
    assert by_id(table) == {id: [float(id)] for id in range(6)}


def test_insert_takes_values_that_are_not_contiguous(make_table):
    table = make_table([2])
    table.insert(long(1, 2), torch.tensor([[1.0, 2.0], [3.0, 4.0]]).t())
    assert by_id(table) == {1: [1.0, 3.0], 2: [2.0, 4.0]}


def test_evicted_ids_are_gone_and_start_fresh(make_table):
    table = make_table(initializer=UniformInitializer())
    first = table(long(1, 2)).detach()
    table.insert(long(1), torch.full((1, 4), 9.0))
    assert table.evict(long(1, 1, 5)) == 1
    assert table.contains(long(1, 2)).tolist() == [False, True]
    assert table.ids().tolist() == [2]
    assert torch.equal(table(long(1, 2)), first)


def test_evict_resets_every_slot(make_table):
    table = make_table([1])
    table(long(1))
    for name, dtype in [("a", torch.int64), ("b", torch.float64)]:
        table.table.add_slot(name, dtype, (2,), initial=3)
        slot = table.slot_group().slot_by_name(name)
        slot.write(long(0), torch.full((1, 2), 8).to(dtype))
    table.evict(long(1))
    assert all(not slot.value().any() for slot in table.slot_group().slots())
    table(long(2))  # the same row
    assert by_id(table, "a") == {2: [3, 3]}
    assert by_id(table, "b") == {2: [3.0, 3.0]}


def test_clear_drops_ids_rows_and_gradients_but_not_slots(make_table):
    table = make_table()
    table(torch.arange(7)).sum().backward()
    table.table.add_slot("late")
    table.clear()
    assert len(table) == 0
    assert table.ids().numel() == 0
    assert table.grad().shape == (0, 4)
    assert [slot.name() for slot in table.slot_group().slots()] == ["embedding", "late"]
    table(long(3))
    assert table.table.rows_of(long(3)).tolist() == [0]


# ---- content ----


def test_ids_and_embeddings_are_aligned_live_and_by_ascending_row(make_table):
    table = make_table([1], block_size=4)
    table.insert(torch.arange(6), torch.arange(6.0).view(6, 1) * 10)
    table.evict(long(2))
    ids, rows = table.ids_map()
    assert torch.equal(table.ids(), ids)
    assert rows.tolist() == sorted(rows.tolist())
    assert table.embeddings().tolist() == [[10.0 * id] for id in ids.tolist()]
    assert 2 not in ids.tolist()


def test_an_empty_table_has_empty_content(make_table):
    table = make_table([2, 3])
    assert table.ids().shape == (0,)
    assert table.embeddings().shape == (0, 2, 3)
    assert [part.shape for part in table.ids_map()] == [(0,), (0,)]
    assert table.slot_group().slot_by_index(0).values() == []


def test_len_contains_and_in_tell_which_ids_have_a_row(make_table):
    table = make_table()
    table(EDGES)
    assert len(table) == EDGES.numel()
    assert table.contains(EDGES.view(2, -1)).tolist() == [[True] * 4] * 2
    assert -(2**63) in table
    assert 17 not in table
    assert torch.tensor([17]) not in table


def test_prefetch_changes_nothing(make_table):
    table = make_table()
    before = dump(table)
    table.prefetch(EDGES)
    assert dump(table) == before


def test_counters_reconcile_with_what_was_asked(make_table):
    table = make_table()
    table(long(1, 2, 2))  # 3 misses, 2 admits
    table(long(2, 3), admit_hook=AdmitHook("ReadOnly"))  # 1 hit, 1 miss, 1 refusal
    table.eval()(long(1, 4))  # 1 hit, 1 miss
    table.insert(long(5), torch.ones(1, 4))  # 1 admit
    table.evict(long(1, 9))  # 1 eviction
    stats = table.stats()
    expected = {"lookups": 7, "hits": 2, "misses": 5, "refusals": 1}
    assert {name: stats[name] for name in expected} == expected
    assert (stats["admits"], stats["evictions"], stats["rows"]) == (3, 1, 2)
    assert stats["hot_rows"] == 2
    assert stats["cold_rows"] == stats["promotes"] == stats["spills"] == 0


# ---- slots ----


def test_slots_are_found_by_name_and_index(make_table):
    table = make_table([2, 3], dtype=torch.float64, block_size=7)
    table.table.add_slot("late", torch.int32, (5,))
    group = table.slot_group()
    assert [slot.name() for slot in group.slots()] == ["embedding", "late"]
    assert group.slot_by_index(1).name() == group.slot_by_name("late").name() == "late"
    sizes = [(slot.block_size(), slot.flat_size()) for slot in group.slots()]
    assert sizes == [(7, 6), (7, 5)]


def test_value_is_a_copy_of_whole_blocks_in_row_order(make_table):
    table = make_table([1], block_size=4)
    table.insert(torch.arange(6), torch.arange(6.0).view(6, 1) + 10)
    value = table.slot_group().slot_by_name("embedding").value()
    assert value.view(-1).tolist() == [15.0, 14.0, 13.0, 12.0, 11.0, 10.0, 0.0, 0.0]
    value += 1
    assert by_id(table)[0] == [10.0]


no_views = pytest.mark.only_on_cpu("blocks of tables on devices are copies")


@no_views
@pytest.mark.parametrize("shape, block_size", [([3], 4), ([2, 2], 1), ([1], 1000)])
def test_writing_into_a_block_writes_the_table(make_table, shape, block_size):
    table = make_table(shape, block_size=block_size)
    table(torch.arange(10))
    blocks = table.slot_group().slot_by_name("embedding").values()
    assert [block.shape for block in blocks] == [(block_size, *shape)] * math.ceil(10 / block_size)
    values = torch.arange(10.0 * math.prod(shape)).view(10, *shape)
    for number, block in enumerate(blocks):
        rows = values[number * block_size : (number + 1) * block_size]
        block[: len(rows)] = rows
    assert torch.equal(table.embeddings(), values)


@no_views
@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.float16], ids=str)
def test_blocks_of_any_slot_are_views(make_table, dtype):
    table = make_table([3], block_size=2)
    table(torch.arange(3))
    table.table.add_slot("late", dtype, (2, 3), initial=1)
    late = table.slot_group().slot_by_name("late")
    late.values()[1][0] = 7
    assert late.read(long(0, 1, 2))[:, 1, 2].tolist() == [1, 1, 7]


def test_a_view_outlives_its_table(make_table):
    table = make_table([2], block_size=3)
    table.insert(long(1), torch.tensor([[5.0, 6.0]]))
    (view,) = table.slot_group().slot_by_name("embedding").values()
    del table
    assert view[0].tolist() == [5.0, 6.0]


def test_a_slot_added_late_is_initial_in_every_row_and_disturbs_no_other(make_table):
    table = make_table(initializer=UniformInitializer(), block_size=3)
    table(torch.arange(10)).sum().backward()
    before = dump(table)
    assert table.table.add_slot("late", torch.float64, (2,), initial=0.25) == 1
    after = dump(table)
    assert {name: after[name] for name in before} == before
    late = table.slot_group().slot_by_name("late")
    assert bits(late.read(torch.arange(10))) == bits(torch.full((10, 2), 0.25).double())
    table(long(99))
    assert by_id(table, "late")[99] == [0.25, 0.25]


# ---- slices and children ----


@pytest.mark.parametrize("shards, size", [(1, 65536), (3, 8), (7, 65536), (8, 3)])
def test_slices_are_contiguous_and_the_first_take_the_rest(shards, size):
    slices = [gen_slice(shard, shards, size) for shard in range(shards)]
    ends = [0, *(each.slice_end for each in slices)]
    assert [each.slice_begin for each in slices] == ends[:-1]
    assert ends[-1] == size
    sizes = [each.slice_end - each.slice_begin for each in slices]
    assert sizes == [size // shards + (shard < size % shards) for shard in range(shards)]


def test_children_are_known_by_name_and_index(make_table):
    info = make_table(coalesced=True, children=["a", "b", "c"]).children_info()
    assert info.children() == ["a", "b", "c"]
    assert [info.child_index(name) for name in "abc"] == [0, 1, 2]
    assert [info.child_at(index) for index in range(3)] == ["a", "b", "c"]
    assert info.has_child("b")
    assert not info.has_child("d")
    assert info.is_coalesce()


@pytest.mark.parametrize("index", [0, 1, 2047, 2048, 4093])
def test_encoded_ids_carry_their_child_in_the_upper_bits(make_table, index):
    children = [f"encoded-{number}" for number in range(4094)]
    info = make_table(coalesced=True, children=children).children_info()
    ids = long(0, 1, 2**52 - 1)
    encoded = info.encode(ids, children[index])
    unsigned = [id % 2**64 for id in encoded.tolist()]
    assert unsigned == [id | index << 52 for id in ids.tolist()]
    back, child = info.decode(encoded)
    assert torch.equal(back, ids)
    assert child.tolist() == [index] * 3


def test_children_of_one_table_keep_their_ids_apart(make_table):
    table = make_table([1], coalesced=True, children=["left", "right"])
    info = table.children_info()
    table.insert(info.encode(long(1, 2), "left"), torch.tensor([[1.0], [2.0]]))
    table.insert(info.encode(long(1, 2), "right"), torch.tensor([[3.0], [4.0]]))
    assert table.eval()(info.encode(long(2, 1), "right")).view(-1).tolist() == [4.0, 3.0]
