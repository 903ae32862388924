"""Tables to snapshots and back."""

import errno
import os
import signal
import threading

import fsspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import recis
from recis.nn import AdmitHook, FilterHook, HashTable
from recis.nn.hashtable_hook import FrequencyAdmitHook
from recis.nn.modules.hashtable import gen_slice
from recis.optim import SparseAdam
from recis.serialize import CheckpointReader, Loader, Saver, saver
from recis.serialize.shards import Shards
from recis.snapshot.errors import DamagedError, MismatchError
from recis.snapshot.manifest import Manifest
from recis.snapshot.publish import Draft, steps
from recis.snapshot.verify import verify

from . import reference
from .reference import Content

IDS = st.lists(
    st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-4, 4), st.just(65536 * 7)),
    max_size=40,
    unique=True,
)


def content(table):
    """{id: {slot: list}}"""
    ids, rows = table.ids_map()
    slots = table.slot_group().slots()
    values = {slot.name(): slot.read(rows).tolist() for slot in slots}
    return {
        id: {name: column[i] for name, column in values.items()}
        for i, id in enumerate(ids.tolist())
    }


def trained(table, ids, seed=0):
    """The table after some steps on these ids."""
    ids = torch.tensor(ids, dtype=torch.int64)
    optimizer = SparseAdam({table.table.name: table.table})
    torch.manual_seed(seed)
    table.insert(ids, torch.randn(len(ids), *table.table.shape).to(table.table.dtype))
    (table(ids).float() * torch.randn(len(ids), *table.table.shape)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return table


def save(root, table, step=None, **options):
    return Saver(path=root, hashtables={"t": table}, **options).save(step)


def load(root, table, **options):
    Loader(root, hashtables={"t": table}, **options).load()
    return table


@pytest.fixture
def table(make_table):
    """A new table `t`; those before are gone."""
    return lambda shape=(3,), **options: make_table(list(shape), name="t", **options)


@given(
    ids=IDS,
    shards=st.integers(1, 16),
    workers=st.integers(1, 5),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.float64]),
    shape=st.sampled_from([(1,), (5,), (2, 3)]),
)
def test_any_number_of_shards_loads_into_any(
    tmp_path_factory, make_table, ids, shards, workers, dtype, shape
):
    root = tmp_path_factory.mktemp("saved")
    table = trained(make_table(shape, name="t", dtype=dtype), ids)
    expected = content(table)
    for shard in range(shards):
        save(root, table, 7, shard_index=shard, shard_num=shards)
    assert verify(root, "deep") == []
    del table
    found = {}
    for worker in range(workers):
        elsewhere = {"device": "cpu"} if worker % 2 else {}  # a snapshot goes to any place
        slice = gen_slice(worker, workers)
        part = make_table(shape, name="t", dtype=dtype, slice=slice, **elsewhere)
        load(root, part)
        some = content(part)
        assert not found.keys() & some.keys()
        found.update(some)
        del part
    assert found == expected


@pytest.mark.parametrize("again", [(1,), (0, 1)])
def test_a_shard_that_could_not_publish_is_saved_again(tmp_path, monkeypatch, table, again):
    """Alone, as only its process had an error, or with the others, which may have other rows."""
    saved = trained(table(), [1, 2, 40000])

    def fail(self):
        raise OSError(errno.ENOSPC, "no space", "somewhere")

    monkeypatch.setattr(Draft, "_rename", fail)
    save(tmp_path, saved, 7, shard_index=0, shard_num=2)
    with pytest.raises(OSError, match="no space"):
        save(tmp_path, saved, 7, shard_index=1, shard_num=2)
    monkeypatch.undo()
    if len(again) > 1:
        trained(saved, [3, 50000], seed=1)
    for shard in again:
        assert steps(tmp_path) == []
        save(tmp_path, saved, 7, shard_index=shard, shard_num=2)
    expected = content(saved)
    del saved
    assert content(load(tmp_path, table())) == expected
    assert [name for name in os.listdir(tmp_path) if name.startswith(".tmp-")] == []


@given(st.data())
def test_a_base_and_its_deltas_are_what_a_full_snapshot_is(tmp_path_factory, make_table, data):
    root = tmp_path_factory.mktemp("chain")
    other = tmp_path_factory.mktemp("full")
    some = st.lists(st.integers(-5, 15), unique=True)
    table = trained(make_table([2], name="t"), data.draw(some))
    parent = save(root, table, track=True)
    for seed in range(data.draw(st.integers(1, 3))):
        table.evict(torch.tensor(data.draw(some), dtype=torch.int64))
        if ids := data.draw(some):
            trained(table, ids, seed)
        if data.draw(st.integers(0, 5)) == 0:
            table.clear()
        parent = save(root, table, parent=parent)
    save(other, table, 99)
    expected = content(table)
    assert verify(root, "deep") == []
    served = recis.Snapshot(root).table("t")
    assert len(served) == len(expected)
    del table
    table = make_table([2], name="t")
    assert content(load(root, table)) == expected
    del table
    table = make_table([2], name="t", device="cpu")
    assert content(load(other, table)) == expected


def test_equal_content_gives_equal_bytes(tmp_path, table):
    for place, ids in [("a", [5, -7, 65541]), ("b", [65541, 5, -7])]:
        made = table()
        for id in ids:
            made.insert(torch.tensor([id]), torch.full((1, 3), float(id)))
        save(tmp_path / place, made, 1)
        del made
    files = [
        {
            p.relative_to(tmp_path / x): p.read_bytes()
            for p in (tmp_path / x).rglob("*")
            if p.is_file()
        }
        for x in "ab"
    ]
    assert files[0] == files[1]
    assert len(files[0]) == 5


@pytest.mark.parametrize("hot_blocks", [None, 2])
def test_training_goes_on_while_it_is_saved(tmp_path, table, device, hot_blocks):
    store, options = None, {}
    if hot_blocks is not None:
        block_bytes = 5 * 48
        store = recis.Store(tmp_path / "store", hot_bytes=hot_blocks * block_bytes)
        options = {"store": store, "device_bytes": None if device == "cpu" else block_bytes}
    ids = list(range(-200, 200))
    made = trained(table(**options), ids)
    expected = content(made)
    saver = Saver(path=tmp_path / "saved", hashtables={"t": made}, pool_bytes=1000)
    handle = saver.save_async(3)
    for seed in range(5):
        trained(made, ids[seed * 20 :], seed)
        made.evict(torch.tensor(ids[seed * 7 : seed * 9 + 1]))
    assert handle.wait().endswith("step-000000000003")
    assert handle.done()
    assert content(made) != expected
    del made, saver, handle
    assert content(load(tmp_path / "saved", table())) == expected
    if store is not None:
        store.close()


def test_what_was_not_saved_is_in_the_next_delta(tmp_path, table, monkeypatch):
    made = trained(table(), [1, 2, 3])
    parent = save(tmp_path, made, 1, track=True)
    made.insert(torch.tensor([2]), torch.ones(1, 3))
    made.evict(torch.tensor([3]))
    with pytest.raises(FileExistsError, match="step 1"):
        Saver(path=tmp_path, hashtables={"t": made}).save(1)
    monkeypatch.setattr("recis.serialize.saver.write_table", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(tmp_path, made, 2, parent=parent)
    monkeypatch.undo()
    save(tmp_path, made, 2, parent=parent)
    expected = content(made)
    del made
    assert content(load(tmp_path, table())) == expected
    assert not [name for name in tmp_path.iterdir() if name.name.startswith(".tmp")]


def test_a_delta_follows_what_its_tables_know(tmp_path, table):
    made = trained(table(), [1, 2, 3])
    first = save(tmp_path, made, 1)
    with pytest.raises(MismatchError, match="not known"):
        save(tmp_path, made, 2, parent=first)
    second = save(tmp_path, made, 2, track=True)
    with pytest.raises(MismatchError, match="not known"):
        save(tmp_path, made, 3, parent=first)
    with pytest.raises(ValueError, match="later step"):
        save(tmp_path, made, 2, parent=second)
    del made
    loaded = load(tmp_path, table(), track=True)
    loaded.insert(torch.tensor([9]), torch.ones(1, 3))
    save(tmp_path, loaded, 3, parent=second)
    expected = content(loaded)
    del loaded
    assert content(load(tmp_path, table())) == expected


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 0, 2]])
def test_shards_are_saved_in_any_order(tmp_path, table, order):
    made = trained(table(), list(range(50)))
    save(tmp_path, made, 1, shard_index=order[0], shard_num=3)  # and then it was cut short
    trained(made, list(range(-50, 90)))
    for shard in order:
        assert steps(tmp_path) == []
        save(tmp_path, made, 1, shard_index=shard, shard_num=3)
    assert verify(tmp_path, "deep") == []
    expected = content(made)
    del made
    assert content(load(tmp_path, table())) == expected


def test_a_dense_tensor_that_is_sharded_is_refused(tmp_path):
    class Sharded(torch.Tensor):
        pass

    for odd in [torch.ones(2).as_subclass(Sharded), torch.ones(2).to_sparse()]:
        with pytest.raises(ValueError, match=r"'w'.*torch.distributed.checkpoint"):
            Saver(path=tmp_path, tensors={"w": odd}).save(1)
    assert steps(tmp_path) == []


def test_a_report_of_a_save_cut_short_counts_no_more(tmp_path):
    def write(draft):
        return Manifest(step=1, tables={}, world_size=2)

    def write_while_another_ends(draft):
        assert Shards(1, 2).save(tmp_path, 1, write)[1] == ""  # this one is not done
        return write(draft)

    Shards(0, 2).save(tmp_path, 1, write)
    assert Shards(0, 2).save(tmp_path, 1, write_while_another_ends)[1] != ""
    assert steps(tmp_path) == [1]


def test_what_hooks_have_learnt_is_saved_and_resharded(tmp_path, table):
    hook = AdmitHook("FrequencyAdmit", {"min_frequency": 3})
    options = {"filter_hook": FilterHook("GlobalStepFilter", {"filter_step": 2})}
    made = table(**options)
    made(torch.tensor([1, 1, -1, 7, 7, 7]), admit_hook=hook)
    made._filter_hook_impl.update_step(5)
    for shard in range(3):
        save(tmp_path, made, 1, shard_index=shard, shard_num=3)
    del made
    seen = []
    for worker in range(2):
        part = load(tmp_path, table(slice=gen_slice(worker, 2), **options))
        assert part._filter_hook_impl.state()[0]["_global_step"].item() == 5
        part(torch.tensor([1, -1]), admit_hook=hook)
        seen.append(sorted(part.ids().tolist()))
        del part
    assert seen == [[1, 7], []]  # -1 is of the last slice, and was seen twice by now


def test_mismatches_change_nothing(tmp_path, table):
    save(tmp_path, trained(table(), [1, 2]), 1)
    for options, message in [
        ({"shape": (4,)}, r"F32 \[3\], in the table torch.float32 \[4\]"),
        ({"dtype": torch.float64}, "torch.float64"),
        ({"slice": gen_slice(0, 1, 100)}, "65536 slices, the table 100"),
        ({"coalesced": True, "children": ["a", "b"]}, "children"),
    ]:
        other = table(**options)
        with pytest.raises(MismatchError, match=message):
            load(tmp_path, other)
        assert len(other) == 0
        assert len(other.slot_group().slots()) == 1
        del other
    other = table()
    other.table.add_slot("more")
    with pytest.raises(MismatchError, match="no slot 'more'"):
        load(tmp_path, other)
    with pytest.raises(MismatchError, match="no dense tensor 'w'"):
        Loader(tmp_path, tensors={"w": torch.ones(1)}).load()
    with pytest.raises(TypeError, match="not a table"):
        Saver(path=tmp_path, hashtables={"t": torch.ones(1)})
    with pytest.raises(FileNotFoundError):
        Loader(tmp_path / "nothing").load()


@pytest.mark.parametrize("state", [(), ("no tensors", 1), (torch.ones(2), torch.ones(2))])
def test_states_that_a_hook_cannot_take_change_nothing(tmp_path, table, state):
    hook = FrequencyAdmitHook(3)
    made = table()
    made(torch.tensor([1, 1, 1, 2]), admit_hook=hook)
    made.table.policies.of = lambda _: {f"admit {hook}": state}
    save(tmp_path, made, 1)
    del made
    other = table()
    other(torch.tensor([8, 8]), admit_hook=hook)
    with pytest.raises(MismatchError, match="hooks cannot take up"):
        load(tmp_path, other)
    assert len(other) == 0
    other(torch.tensor([8]), admit_hook=hook)  # what it had learnt is still known
    assert other.ids().tolist() == [8]


@pytest.mark.parametrize("filled", [False, True])
def test_damage_changes_nothing(tmp_path, table, filled):
    made = trained(table(), list(range(1000)))
    save(tmp_path, made, 1)
    del made
    (file,) = tmp_path.rglob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    other = table()
    if filled:
        other.insert(torch.tensor([5]), torch.ones(1, 3))
    before = content(other)
    with pytest.raises(DamagedError, match="sparse_adam_exp_avg_sq"):
        load(tmp_path, other)
    assert content(other).keys() == before.keys()
    if filled:
        assert content(other) == before


def test_who_waits_for_a_full_pool_can_be_interrupted(table):
    made = table()
    made.insert(torch.tensor([1, 2]), torch.ones(2, 3))
    cut = made.table.cut(pool_bytes=0)  # which nobody writes
    made.insert(torch.tensor([1]), torch.zeros(1, 3))  # fills the pool
    rung, done = [], threading.Event()

    def ring(*_):
        rung.append(1)
        if len(rung) > 4:  # the first may come before it waits
            raise KeyboardInterrupt

    def ringing():
        while not done.wait(0.01):
            os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, ring)
    bell = threading.Thread(target=ringing)
    try:
        bell.start()
        with pytest.raises(KeyboardInterrupt):
            made.insert(torch.tensor([2]), torch.zeros(1, 3))
    finally:
        done.set()
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        bell.join()
        signal.signal(signal.SIGUSR1, before)
        cut.abandon()
    assert made(torch.tensor([2])).tolist() == [[1.0, 1.0, 1.0]]
    made.insert(torch.tensor([2]), torch.zeros(1, 3))
    assert made(torch.tensor([2])).tolist() == [[0.0, 0.0, 0.0]]


def test_rows_that_are_there_stay_unless_cleared(tmp_path, table):
    save(tmp_path, trained(table(), [1, 2]), 1)
    other = trained(table(), [2, 3], seed=9)
    load(tmp_path, other)
    assert sorted(other.ids().tolist()) == [1, 2, 3]
    load(tmp_path, other, clear=True)
    assert sorted(other.ids().tolist()) == [1, 2]


def test_dense_tensors_and_single_ones(tmp_path, table):
    made = trained(table(), [1, 2, -9])
    weights = {"w": torch.randn(2, 3), "n": torch.tensor(4), "b": torch.tensor([True])}
    Saver(
        path=tmp_path, hashtables={"t": made}, tensors=weights, states={"more": {"x": (1,)}}
    ).save()
    reader = CheckpointReader(tmp_path)
    assert reader.tensor_names() == sorted(
        ["b", "n", "w", "t@embedding", "t@id", "t@sparse_adam_exp_avg", "t@sparse_adam_exp_avg_sq"]
    )
    assert reader.tensor_shape("t@embedding") == [3, 3]
    assert reader.tensor_dtype("t@id") == torch.int64
    ids, values = reader.read_tensor("t@id"), reader.read_tensor("t@embedding")
    assert dict(zip(ids.tolist(), values.tolist(), strict=True)) == {
        id: slots["embedding"] for id, slots in content(made).items()
    }
    assert torch.equal(reader.read_tensor("w"), weights["w"])
    with pytest.raises(KeyError, match="t@sparse_adam_exp"):
        reader.read_tensor("t@sparse_adam_exp")
    into = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    Loader(tmp_path, tensors=into).load()
    assert all(torch.equal(into[name], weights[name]) for name in weights)


def test_filter_func_leaves_out_what_it_does_not_return(tmp_path, table):
    made = trained(table(), [1])
    weights = {"w": torch.ones(1), "v": torch.ones(1)}
    saver = Saver(
        path=tmp_path,
        hashtables={"t": made},
        tensors=weights,
        filter_func=lambda blocks: [b for b in blocks if b.tensor_name() == "v"],
    )
    saver.save(1)
    assert CheckpointReader(tmp_path).tensor_names() == ["v"]
    with pytest.raises(ValueError, match="'sparse_adam_exp_avg'"):
        save(tmp_path, made, 2, filter_func=lambda blocks: blocks[:1])


def damage(root, value, table="t"):
    """Makes a byte of the last slot another."""
    path = sorted(root.glob(f"step-*/sparse/{table}/*"))[-1]
    data = bytearray(path.read_bytes())
    data[-1] ^= value
    path.write_bytes(data)


@pytest.mark.parametrize("state", ["new", "tracked", "filled"])
def test_a_damaged_snapshot_changes_nothing(tmp_path, table, state):
    save(tmp_path, trained(table(), list(range(500))), 1)
    damage(tmp_path, 1)
    users = table()
    if state == "tracked":
        save(tmp_path / "other", users, 1, track=True)
    if state == "filled":
        users(torch.arange(4000, 4010))
    before = content(users), [slot.name() for slot in users.slot_group().slots()]
    with pytest.raises(DamagedError):
        load(tmp_path, users)
    assert (content(users), [slot.name() for slot in users.slot_group().slots()]) == before
    if state == "tracked":
        users(torch.arange(3))
        save(tmp_path / "other", users, 2, parent=tmp_path / "other")


def test_ids_out_of_place_change_no_table_that_holds_rows(tmp_path, table):
    users = Content([("embedding", "F32", (3,), 0.0)], [1, 2, 9], {"embedding": np.ones((3, 3))})
    users.ids = users.ids[[0, 2, 1]]
    reference.write(tmp_path, 1, {"t": users})
    into = table()
    into(torch.tensor([5]))
    before = content(into)
    with pytest.raises(DamagedError, match="id 9 in row 1"):
        load(tmp_path, into)
    assert content(into) == before


def test_urls(table):
    url = "memory://recis-serialize"
    made = trained(table(), list(range(300)))
    save(url, made, 4)
    expected = content(made)
    del made
    assert content(load(url, table())) == expected
    fsspec.filesystem("memory").rm("/recis-serialize", recursive=True)


def test_shards_at_a_url_need_a_process_group(table):
    made = trained(table(), [1, 2])
    with pytest.raises(ValueError, match="init_process_group"):
        save("memory://recis-apart", made, 1, shard_index=0, shard_num=2)
    assert len(made) == 2
    save("memory://recis-apart", made, 1)  # nothing holds the table
    fsspec.filesystem("memory").rm("/recis-apart", recursive=True)


def test_many_parts(tmp_path, table, monkeypatch):
    monkeypatch.setattr("recis.snapshot.write.PART_BYTES", 1000)
    made = trained(table(), np.arange(500).tolist())
    save(tmp_path, made, 1)
    expected = content(made)
    del made
    assert content(load(tmp_path, table())) == expected


def test_a_table_is_made_from_a_snapshot(tmp_path, table, device, place_options):
    made = trained(table((2, 3), coalesced=True, children=["a", "b"]), [1, (1 << 52) + 5])
    save(tmp_path, made, 1)
    expected = content(made)
    del made
    options = place_options()
    loaded = HashTable.from_snapshot(tmp_path, "t", **options)
    assert not loaded.training
    assert loaded.table.place.name.startswith(device)
    assert ("device_rows" in loaded.stats()) == ("device_bytes" in options)
    assert loaded.children_hashtable == ["a", "b"]
    assert content(loaded) == expected
    with pytest.raises(MismatchError, match="no table 'other'"):
        HashTable.from_snapshot(tmp_path, "other")


def test_an_asynchronous_save_gives_way_to_training(tmp_path, make_table, monkeypatch):
    def priority():
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    found, write_table = [], saver.write_table

    def noted(*arguments, **options):
        found.append((priority(), options["parallel"]))
        return write_table(*arguments, **options)

    monkeypatch.setattr(saver, "write_table", noted)
    table = make_table()
    table(torch.arange(10))
    save = Saver(path=tmp_path, hashtables={"t": table})
    save.save_async(1).wait()
    save.save(2)
    assert found == [(min(priority() + 10, 19), 1), (priority(), 2)]
