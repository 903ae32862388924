"""Metrics for Prometheus: `pip install 'recis[metrics]'`.

Each worker may serve its own, or the first those of all (`recis.metrics.gather`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from recis._counters import Counts
from recis.metrics import GroupMetrics, WorkerMetrics

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.exposition import generate_latest
    from prometheus_client.registry import Collector, CollectorRegistry
except ImportError as error:
    raise ImportError(f"{error}: recis.prometheus needs `pip install 'recis[metrics]'`") from error

_G, _C = GaugeMetricFamily, CounterMetricFamily
_Kind = type[GaugeMetricFamily] | type[CounterMetricFamily]

# By counter: what it is, and help. A unit ends a name, `_total` apart.
_About = dict[str, tuple[_Kind, str]]
_TABLE: _About = {
    "rows": (_G, "Rows in use"),
    "hot_rows": (_G, "Rows in memory"),
    "cold_rows": (_G, "Rows in the store's log"),
    "hot_bytes": (_G, "Memory of records"),
    "cold_bytes": (_G, "Bytes of cold records"),
    "index_bytes": (_G, "Memory of the index"),
    "gradient_rows": (_G, "Rows with a pending gradient"),
    "lookups": (_C, "Ids that the table was asked for, repeats included"),
    "hits": (_C, "Ids asked for that had a row"),
    "misses": (_C, "Ids asked for that had no row"),
    "admits": (_C, "Rows given to new ids"),
    "refusals": (_C, "New ids that an admit hook refused"),
    "evictions": (_C, "Rows removed"),
    "promotes": (_C, "Rows that became hot again"),
    "spills": (_C, "Rows that became cold"),
    "drops": (_C, "Rows that became cold without a write"),
    "device_rows": (_G, "Rows of a table in a store that are on a device too"),
    "device_bytes": (_G, "Memory of records there"),
    "device_promotes": (_C, "Rows that came to the device"),
    "device_spills": (_C, "Rows that left it"),
    "device_drops": (_C, "Rows that left it without a copy"),
    "write_backs": (_C, "Rows copied from the device"),
    "batch_ids": (_C, "Ids of this worker's batches, repeats included"),
    "requested_ids": (_C, "Distinct ids that this worker asked all workers for"),
    "remote_ids": (_C, "Of the requested ids, those that other workers hold"),
}
_STORE: _About = {
    "hot_bytes": (_G, "Memory of hot rows"),
    "live_bytes": (_G, "Bytes of cold rows in use"),
    "block_bytes": (_G, "Bytes of cold blocks with rows in use"),
    "dead_bytes": (_G, "Bytes of cold blocks kept for the epoch before"),
    "file_bytes": (_G, "Size of the file"),
    "free_bytes": (_G, "Bytes of the file that will be used again"),
    "queued_bytes": (_G, "Bytes that wait to be written"),
    "commit_seconds": (_G, "How long the last commit took"),
    "commit_stall_seconds": (_G, "How long tables waited for it"),
    "cleaned_bytes": (_C, "Bytes written to move rows out of dead blocks"),
    "bytes_written": (_C, "Bytes written to cold blocks"),
    "bytes_read": (_C, "Bytes read of cold rows"),
    "reads": (_C, "Reads of cold rows"),
    "transactions": (_C, "Transactions of the log"),
    "commits": (_C, "Commits"),
}
_EXCHANGE: _About = {
    "collectives": (_C, "Collectives of look-ups and inserts"),
    "sent_bytes": (_C, "Bytes sent to other workers"),
    "received_bytes": (_C, "Bytes received from other workers"),
}
_SNAPSHOT: _About = {
    "saves": (_C, "Snapshots saved"),
    "failures": (_C, "Snapshots that could not be saved"),
    "written_bytes": (_C, "Bytes of this worker's files of snapshots"),
    "seconds": (_C, "Time of saving snapshots"),
}
_RENAMED = {
    "bytes_written": "written_bytes",
    "bytes_read": "read_bytes",
    "commit_seconds": "last_commit_seconds",
    "commit_stall_seconds": "last_commit_stall_seconds",
    "seconds": "save_seconds",
}
_SKEW = "The greatest worker's share of {} over the mean"


class MetricsCollector(Collector):
    """What a registry of `prometheus_client` asks for metrics.

    Args:
        collect: called by whichever thread serves: gives a worker's metrics as of now, or the last
            that were gathered of a group; not by a collective, of which other workers know nothing.

    Example:
        >>> from urllib.request import urlopen
        >>> from prometheus_client import CollectorRegistry, start_http_server
        >>> from recis.metrics import collect
        >>> from recis.nn import HashTable
        >>> users = HashTable([4], name="metrics_example")
        >>> registry = CollectorRegistry()
        >>> registry.register(MetricsCollector(lambda: collect({"metrics_example": users})))
        >>> server, thread = start_http_server(0, "127.0.0.1", registry)
        >>> _ = users(torch.tensor([1, 2, 2]))
        >>> text = urlopen(f"http://127.0.0.1:{server.server_port}/metrics").read().decode()
        >>> print(*[line for line in text.splitlines() if line.startswith("recis_table_l")])
        recis_table_lookups_total{rank="0",table="metrics_example"} 3.0
        >>> server.shutdown(), server.server_close(), thread.join()
        (None, None, None)
    """

    def __init__(self, collect: Callable[[], WorkerMetrics | GroupMetrics]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        """The metrics, by name."""
        return families(self._collect())

    def describe(self) -> Iterable[Metric]:
        """Nothing: a registry that knows no names collects nothing until it is asked."""
        return []


def text(metrics: WorkerMetrics | GroupMetrics) -> str:
    """Metrics as Prometheus reads them."""
    registry = CollectorRegistry()
    registry.register(MetricsCollector(lambda: metrics))
    return generate_latest(registry).decode()


def families(metrics: WorkerMetrics | GroupMetrics) -> Iterator[Metric]:
    """Metrics as the library has them."""
    workers = metrics.workers if isinstance(metrics, GroupMetrics) else (metrics,)
    yield from _families("recis_table", _TABLE, "table", [(w.rank, w.tables) for w in workers])
    yield from _families("recis_store", _STORE, "store", [(w.rank, w.stores) for w in workers])
    exchanges = [(worker.rank, {"": worker.exchanges}) for worker in workers]
    yield from _families("recis_exchange", _EXCHANGE, None, exchanges)
    snapshots = [(worker.rank, {"": worker.snapshots}) for worker in workers]
    yield from _families("recis_snapshot", _SNAPSHOT, None, snapshots)
    if isinstance(metrics, GroupMetrics):
        yield from _skews(metrics)


def _families(
    prefix: str,
    names: _About,
    label: str | None,
    found: list[tuple[int, dict[str, Counts]]],
) -> Iterator[Metric]:
    labels = ["rank"] if label is None else ["rank", label]
    for counter, (kind, about) in names.items():
        family = kind(f"{prefix}_{_RENAMED.get(counter, counter)}", about, labels=labels)
        for rank, things in found:
            for thing, counts in things.items():
                if counter in counts:  # not every table is on a device
                    family.add_metric([str(rank), thing][: len(labels)], counts[counter])
        yield family


def _skews(metrics: GroupMetrics) -> Iterator[Metric]:
    kinds = {
        "rows": _G("recis_table_rows_skew_ratio", _SKEW.format("rows"), labels=["table"]),
        "lookups": _G("recis_table_lookups_skew_ratio", _SKEW.format("look-ups"), labels=["table"]),
        "sent_bytes": _G("recis_exchange_sent_bytes_skew_ratio", _SKEW.format("bytes sent")),
    }
    for each in metrics.skews():
        labels = [each.table] if each.table else []
        kinds[each.counter].add_metric(labels, each.ratio)
    yield from kinds.values()
