"""Tables in a store: what a commit keeps, and that little memory changes no result."""

import gc
import threading
from functools import partial

import pytest
import torch

from recis import Store, optim
from recis.hooks import HashTableFilterHook
from recis.nn import AdmitHook, FilterHook
from recis.nn.hashtable_hook import FrequencyAdmitHook, GlobalStepFilterHook
from recis.nn.initializers import NormalInitializer
from recis.nn.modules.hashtable_hook_impl import (
    BaseAdmitHookImpl,
    BaseFilterHookImpl,
    HashtableHookFactory,
)

from .helpers import dump, long, train

OPTIMIZERS = {
    "adam": (optim.SparseAdam, {"amsgrad": True}),
    "adamw": (optim.SparseAdamW, {}),
    "adamw-tf": (optim.SparseAdamWTF, {"use_nesterov": True}),
    "sgd": (optim.SparseSGD, {"momentum": 0.9}),
    "adagrad": (optim.SparseAdagrad, {"lr_decay": 0.1}),
    "row-wise adagrad": (optim.SparseRowWiseAdagrad, {}),
}
RECORD_BYTES = 80  # of the widest here: four floats, three states of as many, and a stamp
SHAPE = [4]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def table_in(make_table_in):
    """Makes tables in stores; in none, one to compare with."""
    return partial(make_table_in, initializer=NormalInitializer(), seed=3)


def batches(seed, rounds, ids=60, size=40):
    random = torch.Generator().manual_seed(seed)
    for _ in range(rounds):
        yield (
            torch.randint(-ids // 2, ids // 2, (size,), generator=random),
            torch.randn(size, *SHAPE, generator=random),
        )


def content(table):
    """All that outlives a process: pending gradients do not."""
    return {name: value for name, value in dump(table).items() if "gradient" not in name}


# ---- commit and reopen ----


def test_a_table_comes_back_with_all_slots_rows_and_freed_rows(table_in, path):
    with Store(path, hot_bytes=RECORD_BYTES * 20) as store:
        table = table_in(store)
        optimizer = optim.SparseAdam({"t": table.table})
        for ids, grad in batches(0, 10):
            train(table, optimizer, ids, grad)
        table.evict(long(3, -5, 7, 11))
        store.commit(10, {"optimizer": optimizer.state_dict()})
        committed = content(table)
    del table, optimizer

    twin = table_in(None, "twin")
    optimizer = optim.SparseAdam({"t": twin.table})
    for ids, grad in batches(0, 10):
        train(twin, optimizer, ids, grad)
    twin.evict(long(3, -5, 7, 11))
    assert content(twin) == committed

    with Store(path) as store:
        table = table_in(store)
        assert content(table) == committed
        more = torch.arange(1000, 1010)  # the first take the freed rows
        assert torch.equal(table(more), twin(more))
        assert content(table) == content(twin)


@pytest.mark.parametrize(("optimizer", "options"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_training_goes_on_to_the_bit_after_a_restart(table_in, path, optimizer, options):
    twin = table_in(None, "twin")
    other = optimizer({"t": twin.table}, **options)
    with Store(path, hot_bytes=RECORD_BYTES * 8) as store:
        table = table_in(store)
        first = optimizer({"t": table.table}, **options)
        for ids, grad in batches(0, 6):
            train(table, first, ids, grad)
            train(twin, other, ids, grad)
        store.commit(6, {"optimizer": first.state_dict()})
        for ids, grad in batches(2, 2):  # lost
            train(table, first, ids, grad)
    del table, first
    with Store(path, hot_bytes=RECORD_BYTES * 8) as store:
        table = table_in(store)
        second = optimizer({"t": table.table})  # its options are part of the state
        second.load_state_dict(store.state()["optimizer"])
        for ids, grad in batches(1, 6):
            train(table, second, ids, grad)
            train(twin, other, ids, grad)
        assert content(table) == content(twin)


def test_a_new_store_has_no_epoch_and_no_state(path):
    with Store(path) as store:
        assert (store.epoch, store.step, store.state()) == (None, None, None)
        assert store.epochs() == []
        assert store.tables() == []


def test_the_last_two_epochs_can_be_opened(table_in, path):
    with Store(path) as store:
        table = table_in(store)
        for step in (10, 20, 30):
            table(torch.tensor([step]))
            assert store.commit(step, {"at": step}) == step // 10
            assert (store.epoch, store.step, store.state()) == (step // 10, step, {"at": step})
        assert [epoch[:2] for epoch in store.epochs()] == [(2, 20), (3, 30)]
        assert store.epochs()[0].time <= store.epochs()[1].time
    del table
    with Store(path, epoch=2, read_only=True) as store:
        assert (store.epoch, store.step, store.state()) == (2, 20, {"at": 20})
        assert table_in(store).ids().tolist() == [10, 20]
    with Store(path, epoch=2) as store:
        assert table_in(store).ids().tolist() == [10, 20]
    with Store(path) as store:  # to go on from an epoch drops what came later
        assert store.step == 20


def test_sizes_are_those_of_the_last_commit(table_in, path):
    with Store(path, hot_bytes=RECORD_BYTES * 20) as store:
        assert store.sizes() == {}
        table, other = table_in(store), table_in(store, "other", [9])
        assert {name: size.rows for name, size in store.sizes().items()} == {"t": 0, "other": 0}
        table(torch.arange(100))
        store.commit(1)
        committed = store.sizes()
        assert (committed["t"].rows, committed["other"]) == (100, (0, 0))
        table(torch.arange(90, 130))  # most of them are in the file, as rows that no commit has
        table.evict(torch.arange(7))
        other(torch.arange(3))
        assert store.sizes() == committed
        store.commit(2)
        sizes = store.sizes()
        assert (sizes["t"].rows, sizes["other"].rows) == (123, 3)
    del table, other
    with Store(path, read_only=True) as store:  # makes no table for it
        assert store.sizes() == sizes
        assert sum(size.live_bytes for size in sizes.values()) == store.stats()["live_bytes"]
    with Store(path, epoch=1) as store:
        assert store.sizes() == {"t": committed["t"], "other": (0, 0)}


def test_two_tables_share_a_budget_and_a_commit(table_in, path):
    budget = RECORD_BYTES * 40
    with Store(path, hot_bytes=budget) as store:
        tables = [table_in(store, name) for name in ("a", "b")]
        for table in tables:
            table(torch.arange(100))
        used = [table.stats()["hot_bytes"] for table in tables]
        assert sum(used) == store.stats()["hot_bytes"] <= budget
        assert min(used) > 0
        store.commit(1)
        tables[0](torch.arange(200))
        assert store.tables() == ["a", "b"]
        expected = [table.embeddings()[:100] for table in tables]
    del table, tables
    with Store(path, hot_bytes=budget) as store:
        for name, embeddings in zip("ab", expected, strict=True):
            assert torch.equal(table_in(store, name).embeddings(), embeddings)


def test_a_table_is_kept_while_its_store_lives(table_in, path):
    store = Store(path, hot_bytes=RECORD_BYTES * 10)
    table = table_in(store)
    table(torch.arange(30)).sum().backward()
    before = dump(table)
    del table
    assert dump(table_in(store)) == before


def test_tables_keep_their_store_and_the_last_one_closes_it(table_in, path):
    table = table_in(Store(path))
    gc.collect()
    table(long(1))
    assert len(table) == 1
    with pytest.raises(RuntimeError, match="open already"):
        Store(path)
    del table
    Store(path).close()


def test_values_are_copies_in_a_store(table_in, path):
    table = table_in(Store(path, hot_bytes=RECORD_BYTES * 5))
    table(torch.arange(12))
    slot = table.slot_group().slot_by_name("embedding")
    before = slot.value()
    blocks = slot.values()
    assert torch.equal(torch.cat(blocks), before)
    assert [block.shape[0] for block in blocks] == [5, 5, 5]
    blocks[0].zero_()
    assert torch.equal(slot.value(), before)


def test_clear_drops_what_is_in_the_store(table_in, path):
    hook = FrequencyAdmitHook(5)
    with Store(path, hot_bytes=RECORD_BYTES * 5) as store:
        table = table_in(store)
        table(torch.arange(50))
        table(long(100), admit_hook=hook)
        store.commit(1)
    del table
    with Store(path) as store:
        table = table_in(store)
        table.clear()
        store.commit(2)
    del table
    with Store(path) as store:
        table = table_in(store)
        assert len(table) == 0
        assert HashtableHookFactory().create_admit_hook(table, hook).sightings(100) == 0


# ---- little memory ----


@pytest.mark.parametrize("blocks", [1, 2, 4])
@pytest.mark.parametrize(("optimizer", "options"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_little_memory_changes_no_bit(table_in, path, optimizer, options, blocks):
    """Batches are larger than the budget, and rows spill between forward and step."""
    budget = RECORD_BYTES * 5 * blocks
    filter_hook = GlobalStepFilterHook(4)
    tables = [
        table_in(Store(path, hot_bytes=budget), "small", filter_hook=filter_hook),
        table_in(None, "large", filter_hook=filter_hook),
    ]
    optimizers = [optimizer({"t": table.table}, **options) for table in tables]
    runs = HashTableFilterHook(3)
    other = torch.arange(100, 130)
    for optimizer in optimizers:
        optimizer.set_grad_accum_steps(2)
    for step, (ids, grad) in enumerate(batches(0, 12), 1):
        for table, optimizer in zip(tables, optimizers, strict=True):
            out = table(ids, admit_hook=FrequencyAdmitHook(2))
            table(other)
            out.backward(grad)
            optimizer.step()
            optimizer.zero_grad()
            table.evict(ids[:3])
            table.insert(ids[5:9], grad[5:9])
        runs.after_step(None, step)
        assert dump(tables[0]) == dump(tables[1])
    stats = tables[0].stats()
    assert stats["hot_bytes"] <= budget
    assert stats["spills"] > 100
    assert stats["promotes"] > 100


def test_reading_changes_no_tier_and_no_hook(table_in, path):
    store = Store(path, hot_bytes=RECORD_BYTES * 10)
    table = table_in(store, filter_hook=FilterHook("FrequencyFilter"))
    table(torch.arange(40))
    table.eval()

    def counters():
        asked = ("lookups", "hits", "misses")
        return {name: value for name, value in table.stats().items() if name not in asked}

    held = dump(table)  # to read slots, what changed on a device is written back
    before = counters()
    out = table(torch.arange(-10, 60))
    assert torch.equal(out[10:50].flip(0), table.embeddings())  # the last new id has row 0
    assert counters() == before
    assert dump(table) == held


def test_counters_reconcile(table_in, path):
    store = Store(path, hot_bytes=RECORD_BYTES * 10)
    table = table_in(store)
    for ids, _ in batches(0, 8):
        table(ids)
        stats = table.stats()
        assert stats["rows"] == stats["hot_rows"] + stats["cold_rows"] == stats["admits"]
        assert stats["spills"] - stats["promotes"] == stats["cold_rows"]
        assert stats["hot_bytes"] <= store.stats()["hot_bytes"] <= RECORD_BYTES * 10
    store.commit(1)
    stats = store.stats()
    assert stats["commits"] == 1
    assert stats["queued_bytes"] == 0
    assert 0 < stats["live_bytes"] <= stats["block_bytes"] <= stats["bytes_written"]
    assert stats["commit_stall_seconds"] <= stats["commit_seconds"]


def test_prefetch_promotes_in_the_background(table_in, path):
    store = Store(path, hot_bytes=RECORD_BYTES * 20)
    table = table_in(store)
    ids = torch.arange(200)
    table(ids)
    wanted = ids[-8:]  # the first rows, spilled by the others
    before = table.stats()["promotes"]
    table.prefetch(wanted)
    done = threading.Event()
    for _ in range(500):
        if table.stats()["promotes"] == before + len(wanted):
            break
        done.wait(0.01)
    table(wanted)  # nothing is left to promote
    assert table.stats()["promotes"] == before + len(wanted)


def test_threads_train_read_and_commit_together(table_in, path):
    store = Store(path, hot_bytes=RECORD_BYTES * 50)
    table = table_in(store)
    optimizer = optim.SparseSGD({"t": table.table}, lr=1.0)
    rounds, batch = 40, 64
    errors, finished = [], threading.Event()

    def guarded(work):
        try:
            work()
        except BaseException as error:
            errors.append(error)

    def train_some():
        for i in range(rounds):
            table(torch.arange(i, i + batch)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        finished.set()

    def read():
        with torch.no_grad():
            while not finished.is_set():
                table.embeddings(), table.stats(), store.stats()

    def commit():
        step = 0
        while not finished.is_set():
            store.commit(step := step + 1, {"step": step})

    threads = [threading.Thread(target=guarded, args=(w,)) for w in (train_some, read, commit)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    twin = table_in(None, "twin")
    optimizer = optim.SparseSGD({"t": twin.table}, lr=1.0)
    for i in range(rounds):
        train(twin, optimizer, torch.arange(i, i + batch), torch.ones(batch, *SHAPE))
    assert content(table) == content(twin)


# ---- hooks ----


class Counting(BaseFilterHookImpl):
    """Remembers how many rows it saw, in a buffer of its own and one of a part."""

    def __init__(self, ht, name="counting"):
        super().__init__(ht, name)
        self.register_buffer("seen", torch.zeros(0, dtype=torch.int64))
        self.part = torch.nn.BatchNorm1d(1)

    def update(self, index):
        self.seen = torch.cat([self.seen, index])
        self.part.num_batches_tracked += 1

    def filter(self, ids, index):
        return ids[:0], index[:0]


class Every(BaseAdmitHookImpl):
    """Admits every `step`-th id it is asked about, over all calls."""

    def __init__(self, step):
        self.step, self.asked = step, 0

    def admit(self, ids, counts):
        numbers = torch.arange(self.asked, self.asked + len(ids))
        self.asked += len(ids)
        return numbers % self.step == 0

    def state(self):
        return (self.asked,)

    def load_state(self, asked):
        self.asked = asked


HashtableHookFactory().regist_filter("Counting", Counting)
HashtableHookFactory().regist_admit("Every", Every)


def test_the_step_of_a_filter_survives(table_in, path):
    def table_with(store, name="t"):
        return table_in(store, name, filter_hook=GlobalStepFilterHook(2))

    twin = table_with(None, "twin")
    with Store(path) as store:
        table = table_with(store)
        hook = HashTableFilterHook(1)
        for step in (1, 2, 3):
            table(long(step)), twin(long(step))
            hook.after_step(None, step)
        store.commit(3, {"hook": hook.state_dict()})
    del table
    with Store(path) as store:
        table = table_with(store)
        hook = HashTableFilterHook(1)
        hook.load_state_dict(store.state()["hook"])
        hook.after_step(None, 4)
        assert table.ids().tolist() == [3] == twin.ids().tolist()
        assert dump(table) == dump(twin)


def test_sightings_survive_by_hook_and_table_also_of_tables_not_made(table_in, path):
    third, fifth = FrequencyAdmitHook(3), FrequencyAdmitHook(5)
    with Store(path) as store:
        table, other = table_in(store), table_in(store, "other")
        table(long(7, 7, 8), admit_hook=third)
        other(long(7), admit_hook=third)
        other(long(7, 7), admit_hook=fifth)
        store.commit(1)
    del table, other
    with Store(path) as store:  # of neither, this time
        table = table_in(store)
        store.commit(2)
        store.commit(3)
    del table
    with Store(path) as store:
        table, other = table_in(store), table_in(store, "other")
        table(long(7, 8), admit_hook=third)
        assert table.ids().tolist() == [7]
        other(long(7), admit_hook=third)
        other(long(7, 7), admit_hook=fifth)
        assert len(other) == 0
        other(long(7), admit_hook=fifth)
        assert other.ids().tolist() == [7]


def test_ones_own_hooks_go_on_where_they_were(table_in, path):
    hook, options = AdmitHook("Every", {"step": 3}), {"filter_hook": FilterHook("Counting")}
    with Store(path) as store:
        table = table_in(store, **options)
        table(long(1, 2), admit_hook=hook)
        store.commit(1)
    del table
    with Store(path) as store:
        table = table_in(store, **options)
        buffers = dict(table.named_buffers())
        assert buffers["_filter_hook_impl.seen"].tolist() == [0]
        assert buffers["_filter_hook_impl.part.num_batches_tracked"] == 1
        table(long(3, 4), admit_hook=hook)
        assert table.ids().tolist() == [1, 4]


def test_what_hooks_learnt_outlives_their_table(table_in, path):
    store, hook = Store(path), FrequencyAdmitHook(2)
    table = table_in(store, filter_hook=FilterHook("Counting"))
    table(long(1))
    table(long(2), admit_hook=hook)
    del table
    table = table_in(store, filter_hook=FilterHook("Counting"))
    assert dict(table.named_buffers())["_filter_hook_impl.seen"].tolist() == [0]
    table(long(2), admit_hook=hook)
    assert table.ids().tolist() == [1, 2]


def test_a_filter_with_other_buffers_is_named(table_in, path):
    with Store(path) as store:
        table_in(store, filter_hook=FilterHook("Counting"))
        store.commit(1)
    with Store(path) as store:
        store.policies.collect()["t"]["filter Counting"][0]["more"] = torch.zeros(1)
        with pytest.raises(ValueError, match=r"'t'.*Counting.*more"):
            table_in(store, filter_hook=FilterHook("Counting"))
