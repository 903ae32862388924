"""Tables on devices: what they have in common with those in memory and in stores, and what not."""

import time
from types import SimpleNamespace

import pytest
import torch

from recis import Store, _engine, optim
from recis._place import Place, _OnCurrentStream
from recis.nn import FilterHook, HashTable
from recis.nn.hashtable_hook import FrequencyAdmitHook
from recis.nn.initializers import NormalInitializer
from recis.serialize import Loader, Saver

from .helpers import by_id, dump, long, train

OPTIMIZERS = {
    "sgd": (optim.SparseSGD, {}),
    "nesterov": (optim.SparseSGD, {"momentum": 0.9, "nesterov": True}),
    "adagrad": (optim.SparseAdagrad, {"lr_decay": 0.1}),
    "row-wise adagrad": (optim.SparseRowWiseAdagrad, {"weight_decay": 0.1}),
    "adam": (optim.SparseAdam, {"amsgrad": True, "weight_decay": 0.1}),
    "adamw": (optim.SparseAdamW, {}),
    "adamw-tf": (optim.SparseAdamWTF, {"use_nesterov": True}),
}
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def trained(make_table, optimizer, options, **more):
    """A table after some steps, with hooks, evictions and accumulation."""
    table = make_table(
        [7], initializer=NormalInitializer(), filter_hook=FilterHook("FrequencyFilter"), **more
    )
    updater = optimizer({"t": table.table}, **{"lr": 0.05, **options})
    updater.set_grad_accum_steps(2)
    random = torch.Generator().manual_seed(0)
    for step in range(12):
        ids = torch.randint(-40, 40, (3, 11), generator=random)
        grad = torch.randn(3, 11, 7, generator=random).to(table.table.dtype)
        hook = FrequencyAdmitHook(3) if step % 3 else None
        train(table, updater, ids, grad, admit_hook=hook)
        if step % 4 == 3:
            table._filter_hook_impl.do_filter()
            table.evict(ids[0])
    table(ids).sum().backward()  # a gradient stays
    return table


@pytest.mark.parametrize("reduce", ["worker", "id"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("optimizer, options", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_training_has_the_bits_of_a_table_in_memory(make_table, optimizer, options, dtype, reduce):
    here, there = (
        trained(make_table, optimizer, options, dtype=dtype, grad_reduce_by=reduce, **where)
        for where in ({"device": "cpu"}, {})
    )
    assert dump(there) == dump(here)
    counters = ["rows", "lookups", "hits", "admits", "refusals", "evictions", "gradient_rows"]
    assert [there.stats()[name] for name in counters] == [here.stats()[name] for name in counters]


def test_content_moves_between_devices(make_table):
    here, there = make_table(device="cpu"), make_table(initializer=NormalInitializer())
    there(torch.arange(-5, 5))
    here.insert(there.ids(), there.embeddings())
    assert by_id(here) == by_id(there)


def test_answers_come_to_the_ids(make_table):
    table = make_table()
    ids = long(1, 2)
    assert table(ids).device == table.eval()(ids).device == ids.device
    assert table.contains(ids).device == table.table.rows_of(ids).device == ids.device
    for content in (table.ids(), table.embeddings(), table.grad()):
        assert content.device == table.device


@pytest.mark.in_no_store("it is in one of its own")
@pytest.mark.parametrize("device_bytes", [1, 1500, 1 << 20])
@pytest.mark.parametrize("optimizer", ["nesterov", "row-wise adagrad", "adam"])
def test_a_table_in_a_store_has_those_bits_whatever_a_device_holds(
    make_table, device, tmp_path, optimizer, device_bytes
):
    if device == "cpu":
        pytest.skip("a device alone holds a part of a table")
    here = trained(make_table, *OPTIMIZERS[optimizer], device="cpu")
    with Store(tmp_path / "store", hot_bytes=3000) as store:
        there = trained(
            make_table, *OPTIMIZERS[optimizer], name="t", store=store, device_bytes=device_bytes
        )
        assert dump(there) == dump(here)
        assert there.stats()["device_promotes"] > 0
        Saver(path=tmp_path / "snapshots", hashtables={"t": there}).save(1)
        store.commit(1)
        held = there.stats()["device_rows"]
        assert 0 < held <= max(5, there.stats()["device_bytes"] // 16)
        of_store = by_id(there)
    del there
    with Store(tmp_path / "store") as store:  # whose file knows of no device
        assert by_id(make_table([7], device="cpu", name="t", store=store)) == of_store
    loaded = make_table([7], device="cpu", name="t", filter_hook=FilterHook("FrequencyFilter"))
    OPTIMIZERS[optimizer][0]({"t": loaded.table}, **OPTIMIZERS[optimizer][1])
    Loader(tmp_path / "snapshots", hashtables={"t": loaded}).load()
    assert by_id(loaded) == of_store


@pytest.mark.in_no_store("it is in one of its own")
def test_prefetched_rows_come_to_the_device_before_they_are_looked_up(make_table, device, tmp_path):
    if device == "cpu":
        pytest.skip("there they come to memory: test_store.py")
    ids = torch.arange(50, device=make_table().device)
    with Store(tmp_path) as store:
        table = make_table(name="t", store=store, device_bytes=1 << 20)
        before = table(ids).detach()
        store.commit(1)
    del table
    with Store(tmp_path) as store:
        table = make_table(name="t", store=store, device_bytes=1 << 20)
        table.prefetch(ids)
        until = time.monotonic() + 60
        while table.stats()["device_rows"] < 50 and time.monotonic() < until:
            time.sleep(0.01)
        assert table.stats()["device_promotes"] == 50
        assert torch.equal(table(ids), before)
        assert table.stats()["device_promotes"] == 50


def test_prefetched_batches_train_as_their_ids_do(make_table, tmp_path):
    batches = [torch.randint(0, 60, (n,)) for n in (40, 1, 0, 40, 30, 40)]
    contents = []
    for ahead in (True, False):
        table = make_table(name=f"t{ahead}", grad_reduce_by="id")
        optimizer = OPTIMIZERS["adam"][0]({"t": table.table}, **OPTIMIZERS["adam"][1])
        coming = [ids.to(table.device) for ids in batches]
        if ahead:
            coming[0] = table.prefetch(coming[0])
        for k, batch in enumerate(coming):
            if ahead and k + 1 < len(coming):
                coming[k + 1] = table.prefetch(coming[k + 1])
            out = table(batch, admit_hook=FrequencyAdmitHook(2))
            (out * out).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        contents.append(by_id(table))
    assert contents[0] == contents[1]


def test_what_was_prefetched_can_be_looked_up_again(make_table):
    table = make_table()
    ids = torch.arange(12, device=table.device).view(3, 4)
    ahead = table.prefetch(ids)
    assert ahead.ids is ids
    assert torch.equal(table(ahead), table(ids))
    assert torch.equal(table(ahead), table(ids))
    assert torch.equal(table.eval()(ahead), table(ids))


def test_only_the_table_that_prefetched_ids_takes_them(make_table):
    one, two = make_table(name="one"), make_table(name="two")
    ahead = one.prefetch(torch.arange(3, device=one.device))
    with pytest.raises(ValueError, match=r"table 'two': ids that table 'one' prefetched"):
        two(ahead)
    assert len(two) == 0
    assert one(ahead).shape[0] == 3


def test_what_a_device_holds_is_said_of_a_table_in_a_store_alone(device, tmp_path):
    with Store(tmp_path) as store:
        wrong = {"device_bytes": 1 << 20} if device == "cpu" else {}
        with pytest.raises(ValueError, match=f"device_bytes is for .* on {device} and .*"):
            HashTable([4], device=device, store=store, **wrong)
    with pytest.raises(ValueError, match=r"device_bytes is for .* and no store"):
        HashTable([4], device=device, device_bytes=1 << 20)


def test_a_snapshot_has_the_bytes_of_that_of_a_table_in_memory(make_table, tmp_path):
    for place, where in (("here", {"device": "cpu"}), ("there", {})):
        table = trained(make_table, *OPTIMIZERS["adam"], name="t", **where)
        Saver(path=tmp_path / place, hashtables={"t": table}).save(1)
        del table
    here, there = (sorted((tmp_path / place).rglob("*.safetensors")) for place in ("here", "there"))
    assert here
    assert [file.read_bytes() for file in there] == [file.read_bytes() for file in here]


@pytest.mark.in_no_store("there a lookup waits for the device")
def test_an_evaluation_can_be_captured_in_a_cuda_graph(make_table, device):
    if device != "cuda":
        pytest.skip("graphs are CUDA's")
    table = make_table(initializer=NormalInitializer())
    ids = torch.arange(10, device="cuda")
    table(ids)
    table.eval()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        table(ids)  # the table is on the stream before it is captured
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        out = table(ids)
    ids += 5
    graph.replay()
    assert torch.equal(out, table(ids))


def test_what_is_on_a_gpu_works_on_the_stream_that_is_torchs_at_each_call(monkeypatch):
    used, current = [], SimpleNamespace(cuda_stream=7)
    monkeypatch.setattr(_engine, "use_stream", used.append)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    table = _OnCurrentStream(SimpleNamespace(clear=lambda: used.append("clear")), "cuda:1")
    table.clear()
    current.cuda_stream = 8
    table.clear()
    assert used == [7, "clear", 8, "clear"]

    def made(*given):
        used.append(f"made on {given[-1]}")
        return SimpleNamespace(sum=lambda: used.append("sum"))

    used.clear()
    monkeypatch.setattr(_engine, "DeviceBags", made)
    bags = Place("cuda:1", torch.device("cuda", 1)).make_bags(long(0), long(0, 1), 1)
    current.cuda_stream = 9
    bags.sum()
    assert used == [8, "made on 1", 9, "sum"]
