"""Counters of several workers reconcile with what these exchanged."""

WORKER = """
import warnings
import torch, torch.distributed as dist
from recis import metrics, prometheus
from recis.nn import EmbeddingEngine, EmbeddingOption
from recis.nn.modules.hashtable import filter_out_sparse_param

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
dims = {"a": 4, "b": 8}
options = {name: EmbeddingOption(embedding_dim=d, shared_name=name) for name, d in dims.items()}
engine = EmbeddingEngine(options, coalesce=False)
tables = filter_out_sparse_param(engine)
before = metrics.collect(tables)
assert (before.rank, before.exchanges["collectives"]) == (rank, 0)
# Of table a slices 0 to 9, which worker 0 has; of b ids of all workers, none of them on worker 0.
ids = {"a": torch.arange(10).repeat(3), "b": torch.arange(rank * 65536 // world, 65536, 4096)}
sum(each.sum() for each in engine(ids).values()).backward()
mine = metrics.collect(tables)
a, b = mine.tables["a"], mine.tables["b"]
assert (a["batch_ids"], a["requested_ids"], a["remote_ids"]) == (30, 10, 10 if rank else 0)
assert (a["lookups"], a["rows"]) == ((10 * world, 10) if rank == 0 else (0, 0))

found = metrics.gather(mine)
assert [worker.rank for worker in found.workers] == list(range(world))
assert found.workers[rank] == mine
for name, total in found.tables().items():
    assert total["requested_ids"] == total["lookups"], name
exchanged = found.exchanges()
assert exchanged["sent_bytes"] == exchanged["received_bytes"]
# Each worker takes part in as many: agree, ids, rows of two widths; agree, gradients of two widths.
assert exchanged["collectives"] == 7 * world
remote = {name: total["remote_ids"] for name, total in found.tables().items()}
agreeing = 2 * 16 * (world - 1) * world + 2 * 8 * (world - 1) * world  # and how many of each table
carried = sum(remote[name] * (16 + 2 * 4 * dim) for name, dim in dims.items())
assert exchanged["sent_bytes"] == agreeing + carried, (exchanged, agreeing, carried)
skews = {(s.counter, s.table): s for s in found.skews()}
assert skews["rows", "a"].ratio == world and skews["rows", "a"].rank == 0
assert f'recis_table_rows{{rank="{world - 1}",table="a"}} 0.0' in prometheus.text(found)
assert f'recis_table_rows_skew_ratio{{table="a"}} {float(world)}' in prometheus.text(found)

# Of many rows the first worker warns, and once.
engine({"a": torch.arange(3000)})
for step in range(3):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        metrics.gather(metrics.collect(tables))
    texts = [str(each.message) for each in told]
    assert len(texts) == (2 if rank == 0 and step == 0 else 0), texts
    for text, counter in zip(texts, ["rows", "lookups"]):
        assert text.startswith(f"table 'a': {counter}: worker 0 of {world} has"), text
"""


def test_counters_reconcile(run_workers):
    run_workers(WORKER, 2)
    run_workers(WORKER, 3)
