"""Mistakes with a store get an error that helps, and a failure leaves the last commit."""

import logging
import os
import resource
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from functools import partial

import pytest
import torch

from recis import Store
from recis.nn import FilterHook, HashTable
from recis.optim import SparseAdam
from recis.store import _bytes

from .helpers import dump, long


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def committed(path):
    """The path of a store with three rows, closed."""
    with Store(path) as store:
        HashTable([4], name="t", store=store)(long(1, 2, 3))
        store.commit(7, "seven")
    return path


def in_a_child(code, *arguments, device="cpu"):
    """Runs Python that knows `path` and `where`, in a process of its own."""
    where = {} if device == "cpu" else {"device": device, "device_bytes": 300}
    script = f"import sys\npath = sys.argv[1]\nwhere = {where}\nfrom recis import Store\n{code}"
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=os.sep,  # not where the sources are
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


# ---- opening ----


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (123, 123),
        ("1 B", 1),
        ("2GiB", 2 << 30),
        ("512 MiB", 512 << 20),
        ("1.5GB", 1_500_000_000),
        ("64kib", 65536),
        ("3TB", 3 * 10**12),
    ],
)
def test_a_budget_may_be_a_text(text, size):
    assert _bytes("p", text) == size


@pytest.mark.parametrize(
    "text", ["", "2", "GiB", "2 giga", "-1GiB", "1e3B", 0, -5, 1.5, True, "0B", 2**63]
)
def test_a_budget_that_is_none_is_shown(path, text):
    with pytest.raises(ValueError, match="2GiB") as error:
        Store(path, hot_bytes=text)
    assert repr(text) in str(error.value)
    assert not path.exists()


def test_durability_has_two_values(path):
    with pytest.raises(ValueError, match="'commit' or 'scratch', found 'maybe'"):
        Store(path, durability="maybe")


def test_a_path_must_be_one():
    with pytest.raises(TypeError):
        Store(3)


def test_an_epoch_that_is_gone_is_named(committed):
    with pytest.raises((ValueError, KeyError), match="5"):
        Store(committed, epoch=5)
    assert Store(committed).epoch == 1


def test_reading_what_is_not_there_makes_nothing(path):
    with pytest.raises(OSError, match=str(path)):
        Store(path, read_only=True)
    assert not path.exists()


def test_a_second_process_is_told_who_has_the_store(committed):
    with Store(committed):
        run = in_a_child("Store(path)", committed)
    assert run.returncode == 1
    assert f"pid {os.getpid()}" in run.stderr
    assert f"host {socket.gethostname()}" in run.stderr
    assert "read-only" in run.stderr


def test_a_state_of_a_later_version_is_refused(path):
    with Store(path) as store:
        store.engine.commit(1, b"RCST\x03\0\0\0" + b"\0" * 8)
    for _ in range(2):  # a failed opening lets go of the store
        with pytest.raises(RuntimeError, match=r"expected a state of version 2 at most.*later"):
            Store(path)


# ---- tables ----


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shape": (5,)}, ["'t'", "float32 [4]", "float32 [5]"]),
        ({"dtype": torch.float64}, ["'t'", "float32 [4]", "float64 [4]"]),
    ],
)
def test_another_schema_is_named(make_table_in, committed, options, words):
    with Store(committed) as store:
        with pytest.raises(ValueError) as error:
            make_table_in(store, **options)
        assert [word for word in words if word not in str(error.value)] == []
        assert len(make_table_in(store)) == 3


@pytest.mark.parametrize("options", [{"seed": 1}, {"block_size": 7}], ids=str)
def test_a_table_of_an_open_store_is_made_again_as_it_was_or_not_at_all(
    make_table_in, committed, options
):
    with Store(committed) as store:
        make_table_in(store)
        with pytest.raises(ValueError, match=r"'t' .*another block_size, initializer or seed"):
            make_table_in(store, **options)
        assert len(make_table_in(store)) == 3
    with Store(committed) as store:
        assert len(make_table_in(store, **options)) == 3


def test_a_budget_below_one_block_is_named(make_table_in, path):
    store = Store(path, hot_bytes=79)
    with pytest.raises(ValueError, match=r"79 bytes has no room.*80 bytes.*raise hot_bytes"):
        make_table_in(store)
    assert store.tables() == []
    assert len(make_table_in(store, block_size=1)) == 0


def test_a_slot_the_budget_has_no_room_for_changes_nothing(make_table_in, path):
    store = Store(path, hot_bytes=100)
    table = make_table_in(store)
    table(torch.arange(20))
    before = dump(table)
    with pytest.raises(ValueError, match=r"no room.*raise hot_bytes"):
        SparseAdam({"t": table.table})
    assert dump(table) == before
    table(torch.arange(30))
    assert len(table) == 30


def test_a_name_twice_is_refused_also_in_one_store(make_table_in, path):
    store = Store(path)
    table = make_table_in(store)
    table(long(1))
    with pytest.raises(ValueError, match="named 't' already"):
        make_table_in(store)
    assert table.ids().tolist() == [1]


@pytest.mark.parametrize("there", [True, False])
def test_a_table_that_cannot_be_made_leaves_no_trace(make_table_in, path, there):
    store = Store(path, hot_bytes=8000)
    if there:
        make_table_in(store)(long(1, 2))
    elsewhere = HashTable([4], name="taken")
    failures = {
        "taken": {},
        "t": {"filter_hook": FilterHook("NoSuchFilter")},
        "family": {"coalesced": True, "children": ["child", "taken"]},
    }
    for name, options in failures.items():
        with pytest.raises(ValueError) as error:
            make_table_in(store, name, **options)
        assert store.tables() == (["t"] if there else []), error
        assert (store.stats()["hot_bytes"] > 0) == there
    assert HashTable([4], name="child").ids().tolist() == []
    # Another seed than that of the table that was not made; none, if it was there before.
    again = make_table_in(store, seed=0 if there else 1)
    assert sorted(again.ids().tolist()) == ([1, 2] if there else [])
    assert elsewhere.ids().tolist() == []


def test_a_store_must_be_one(make_table_in):
    with pytest.raises(TypeError, match="store must be Store or None"):
        make_table_in("path")


# ---- using ----


def test_a_closed_store_says_so(make_table_in, path):
    store = Store(path)
    table = make_table_in(store)
    table(long(1))
    store.close()
    store.close()
    uses = [
        lambda: table(long(1)),
        lambda: table.eval()(long(1)),
        lambda: table.insert(long(1), torch.ones(1, 4)),
        lambda: table.evict(long(1)),
        lambda: table.prefetch(long(1)),
        lambda: table.embeddings(),
        lambda: store.commit(1),
        lambda: store.state(),
        lambda: store.epochs(),
        lambda: store.tables(),
        lambda: store.sizes(),
        lambda: store.stats(),
        lambda: make_table_in(store, "other"),
    ]
    for use in uses:
        with pytest.raises(RuntimeError, match="closed"):
            use()
    assert "closed" in repr(store)


def test_a_state_that_cannot_be_saved_commits_nothing(committed):
    with Store(committed) as store:
        with pytest.raises(TypeError, match=r"state\['a'\]\[1\]"):
            store.commit(8, {"a": [0, object()]})
        assert (store.epoch, store.step, store.state()) == (1, 7, "seven")
        assert store.commit(8) == 2


@pytest.mark.parametrize("step", [1.5, "8", None, 2**63])
def test_a_step_that_is_no_int64_commits_nothing(committed, step):
    with Store(committed) as store:
        with pytest.raises(TypeError, match="step must be an int"):
            store.commit(step)
        assert store.epoch == 1


def test_read_only_reads_beside_a_writer_and_changes_nothing(make_table_in, device, committed):
    reader = """
from recis.nn import HashTable
import torch
store = Store(path, read_only=True)
table = HashTable([4], name="t", store=store, **where)
ids = torch.tensor([1, 2, 3, 4])
table.eval()
print(store.step, store.state(), table.ids().tolist(), table(ids).shape)
changes = [
    lambda: table.train()(ids), lambda: table.insert(ids, torch.ones(4, 4)),
    lambda: table.evict(ids), lambda: table.clear(), lambda: store.commit(1),
    lambda: HashTable([4], name="new", store=store, **where).train()(ids),
]
for change in changes:
    try:
        change()
        print("changed")
    except RuntimeError as error:
        assert "read-only" in str(error), error
"""
    with Store(committed) as store:
        table = make_table_in(store)
        table(torch.arange(100))
        run = in_a_child(reader, committed, device=device)
        store.commit(8)
    assert run.stdout == "7 seven [3, 2, 1] torch.Size([4, 4])\n", run.stderr


def test_a_scratch_store_is_wiped_and_cannot_be_committed(make_table_in, path, caplog):
    with caplog.at_level(logging.WARNING):
        store = Store(path, hot_bytes=400, durability="scratch")
    assert str(path) in caplog.text
    assert "wiped" in caplog.text
    table = make_table_in(store)
    table(torch.arange(100))
    assert table.stats()["cold_rows"] > 50
    with pytest.raises(RuntimeError, match="scratch"):
        store.commit(1)
    del table
    store.close()
    assert len(make_table_in(Store(path, durability="scratch"))) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_refused_and_does_no_harm(make_table_in, committed):
    with Store(committed, hot_bytes=400) as store:
        table = make_table_in(store)
        table(torch.arange(100))
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            report = []
            look_up = partial(table, long(1))
            for use in (look_up, partial(store.commit, 9), store.state, store.stats):
                try:
                    use()
                    report.append("did")
                except RuntimeError as error:
                    report.append("fork" if "fork" in str(error) else str(error))
            store.close()
            os.write(write, " ".join(report).encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as answer:
            assert answer.read() == "fork fork fork fork"
        assert os.waitpid(child, 0)[1] == 0
        table(torch.arange(200))
        store.commit(9)
    del table
    with Store(committed) as store:
        assert len(make_table_in(store)) == 200


# ---- crashes and failures ----


@pytest.mark.parametrize("end", ["os._exit(3)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_crash_loses_what_came_after_the_last_commit_and_nothing_else(device, path, end):
    trainer = f"""
import os, signal, torch
from recis.nn import FilterHook, HashTable
from recis.optim import SparseAdam
store = Store(path, hot_bytes=2000)
hook = FilterHook("GlobalStepFilter")
table = HashTable([4], name="t", store=store, filter_hook=hook, **where)
optimizer = SparseAdam({{"t": table.table}})
for step in range(7):
    table(torch.arange(step * 20, step * 20 + 100)).sum().backward()
    optimizer.step(), optimizer.zero_grad()
    if step in (2, 4):
        store.commit(step, {{"optimizer": optimizer.state_dict()}})
{end}
"""
    run = in_a_child(trainer, path, device=device)
    assert run.returncode == (3 if "exit" in end else -signal.SIGKILL), run.stderr
    options = {"filter_hook": FilterHook("GlobalStepFilter")}
    twin = HashTable([4], name="twin", **options)
    optimizer = SparseAdam({"t": twin.table})
    for step in range(5):
        twin(torch.arange(step * 20, step * 20 + 100)).sum().backward()
        optimizer.step(), optimizer.zero_grad()
    with Store(path) as store:
        assert store.step == 4
        table = HashTable([4], name="t", store=store, **options)
        assert dump(table) == dump(twin)
        resumed = SparseAdam({"t": table.table})
        resumed.load_state_dict(store.state()["optimizer"])
        (found,), (expected,) = (o.state_dict()["state"].values() for o in (resumed, optimizer))
        assert found == expected


@contextmanager
def files_no_larger_than(size):
    """What a quota does: larger files cannot be written."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_is_full_leaves_the_last_commit_and_training_goes_on(make_table_in, committed):
    with Store(committed) as store:
        table = make_table_in(store)
        with files_no_larger_than((committed / "data.mdb").stat().st_size + (64 << 10)):
            table(torch.arange(20_000))
            with pytest.raises(OSError, match=str(committed)):
                store.commit(8)
            assert (store.epoch, store.step) == (1, 7)
            table(torch.arange(100)).sum().backward()
        expected = dump(table)["ids"], dump(table)["slot embedding"]
        assert store.commit(9) == 2  # there is room again
    del table
    with Store(committed) as store:
        table = make_table_in(store)
        assert (dump(table)["ids"], dump(table)["slot embedding"]) == expected
