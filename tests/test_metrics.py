"""What is counted is what was asked for."""

import importlib
import sys

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from recis import Store, metrics, prometheus
from recis._counters import EXCHANGES, SNAPSHOTS
from recis.metrics import GroupMetrics, WorkerMetrics
from recis.nn import DynamicEmbedding, EmbeddingOption, HashTable
from recis.serialize import Saver

COUNTS = {"rows": 0, "lookups": 0}


def samples(text):
    """By name and labels, the values."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def users(device, tmp_path):
    """A table in a store, with three rows, that was asked for five ids."""
    with Store(tmp_path / "store") as store:
        option = EmbeddingOption(
            shared_name="metered", embedding_dim=4, block_size=5, device=device
        )
        device_bytes = None if device == "cpu" else 100
        made = DynamicEmbedding(option, store=store, device_bytes=device_bytes)
        made(torch.tensor([[1, 2, 2], [1, -3, 1]]))
        store.commit(1)
        made.eval()(torch.tensor([7, 1]))
        yield made.hashtable


def test_counts_of_a_worker_are_what_was_asked(users):
    found = metrics.collect({"users": users})
    counts = found.tables["metered"]
    # Repeats of a batch are asked for once.
    expected = {"rows": 3, "lookups": 5, "hits": 1, "misses": 4, "admits": 3, "batch_ids": 8}
    expected |= {"requested_ids": 5, "remote_ids": 0}
    assert {name: counts[name] for name in expected} == expected
    assert found.stores == {users.table.store.path: users.table.store.stats()}
    assert metrics.gather(found) == GroupMetrics((found,))


def test_a_worker_alone_exchanges_nothing(users):
    before = EXCHANGES.read()
    users.eval()(torch.tensor([1]))
    assert EXCHANGES.read() == before


def test_snapshots_are_counted(tmp_path):
    table = HashTable([4], name="metered_snapshot")
    table(torch.tensor([1, 2]))
    before = SNAPSHOTS.read()
    saver = Saver(path=tmp_path, hashtables={"t": table}, tensors={"w": torch.ones(3)})
    path = saver.save(1)
    with pytest.raises(FileExistsError):
        saver.save(1)
    saver.save_async(2).wait()
    found = {name: value - before[name] for name, value in SNAPSHOTS.read().items()}
    written = sum(
        f.stat().st_size for p in tmp_path.glob("step-*") for f in p.rglob("*.safetensors")
    )
    assert path and found.pop("seconds") > 0
    assert found == {"saves": 2, "failures": 1, "written_bytes": written}


def test_all_that_is_counted_is_in_the_text(users):
    found = metrics.collect({"users": users})
    by_name = samples(prometheus.text(found))
    values = [*found.tables.values(), *found.stores.values(), found.exchanges, found.snapshots]
    assert sorted(by_name.values()) == sorted(float(v) for each in values for v in each.values())
    path = users.table.store.path
    assert by_name["recis_table_rows", ("rank", "0"), ("table", "metered")] == 3
    assert by_name["recis_table_lookups_total", ("rank", "0"), ("table", "metered")] == 5
    assert by_name["recis_store_commits_total", ("rank", "0"), ("store", path)] == 1
    assert (
        by_name["recis_exchange_collectives_total", ("rank", "0")]
        == EXCHANGES.read()["collectives"]
    )


def test_names_follow_the_conventions(users):
    text = prometheus.text(GroupMetrics((metrics.collect({"users": users}),)))
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    for family in families:
        assert family.name.startswith("recis_") and family.documentation
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample.name
            assert "bytes" not in sample.name or "_bytes" in sample.name.removesuffix("_total")


def test_without_the_library_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client.core", None)
    monkeypatch.delitem(sys.modules, "recis.prometheus")
    with pytest.raises(ImportError, match=r"pip install 'recis\[metrics\]'"):
        importlib.import_module("recis.prometheus")


def of_workers(*tables):
    """Metrics of workers with these counts of one table."""
    exchanges, snapshots = dict.fromkeys(EXCHANGES.read(), 0), dict.fromkeys(SNAPSHOTS.read(), 0)
    return [
        WorkerMetrics(rank, {"t": counts}, {}, exchanges, snapshots)
        for rank, counts in enumerate(tables)
    ]


@pytest.fixture
def gathered(monkeypatch):
    """Gathers the metrics of workers that are not there."""
    monkeypatch.setattr(metrics, "_warned", set())

    def gather(workers):
        monkeypatch.setattr(metrics, "gather_objects", lambda mine, group: workers)
        return metrics.gather(workers[0])

    return gather


def test_skew_is_shown_and_warned_of_once(gathered):
    workers = of_workers({"rows": 9000, "lookups": 1}, {"rows": 1000, "lookups": 3})
    with pytest.warns(UserWarning, match=r"'t': rows: worker 0 of 2 has 1\.80 times") as told:
        found = gathered(workers)
    assert len(told) == 1  # four look-ups are too few to say anything
    assert gathered(workers) == found
    ratios = {(each.counter, each.table): (each.rank, each.ratio) for each in found.skews()}
    assert ratios == {
        ("rows", "t"): (0, 1.8),
        ("lookups", "t"): (1, 1.5),
        ("sent_bytes", ""): (0, 1),
    }
    assert found.tables() == {"t": {"rows": 10000, "lookups": 4}}


def test_skew_of_exchanges(gathered):
    workers = of_workers(COUNTS, COUNTS)
    workers[1].exchanges["sent_bytes"] = 8 << 20
    workers[0] = workers[0]._replace(exchanges={**workers[0].exchanges, "sent_bytes": 0})
    with pytest.warns(UserWarning, match="exchanges: sent bytes: worker 1 of 2 has 2.00 times"):
        assert gathered(workers).skews()[-1].ratio == 2


def test_balance_is_not_warned_of(gathered):
    even = {"rows": 5000, "lookups": 5000}
    gathered(of_workers(even, {**even, "rows": 10000}))
