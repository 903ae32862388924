"""Makes the golden store of this version: `python tests/golden/make_store.py`.

Run by hand, once a format: a store that was published is never made anew. Two epochs of a table
that has freed rows, states of an optimizer and records from before those; beside it, as JSON, all
that must be found.
"""

import json
import shutil
from pathlib import Path

import torch

from recis import Store, optim
from recis.nn import HashTable
from recis.nn.initializers import NormalInitializer

HERE = Path(__file__).parent
NAME = "store-1"


def content(table):
    """Ids in the order of their rows, the rows, and what the slots hold."""
    ids, rows = table.ids_map()
    slots = {slot.name(): slot.read(rows).tolist() for slot in table.slot_group().slots()}
    return {"ids": ids.tolist(), "rows": rows.tolist(), "slots": slots}


def main():
    folder = HERE / NAME
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(1)
    expected = []
    with Store(folder, hot_bytes=4096) as store:
        table = HashTable([3], name="users", initializer=NormalInitializer(), store=store)
        table(torch.tensor([7, -7, 0, 2**63 - 1, -(2**63), *range(100, 130)]))
        store.commit(step=0)
        optimizer = optim.SparseAdam({"users": table.table}, lr=0.1)
        for step in (10, 20):
            ids = torch.arange(100 + step, 140 + step)
            table(ids).backward(torch.randn(len(ids), 3))
            optimizer.step()
            optimizer.zero_grad()
            table.evict(torch.arange(95 + step, 105 + step))
            state = {"step": step, "dense": torch.arange(step), "nested": [{"lr": 0.1}, None, "é"]}
            epoch = store.commit(step, state)
            expected.append({"epoch": epoch, "step": step, "table": content(table)})
        # Freed rows come back in an order that a commit keeps.
        fresh = torch.arange(1000, 1030)
        table(fresh)
        expected[-1]["next rows"] = table.table.rows_of(fresh).tolist()
    for name in ("LOCK", "lock.mdb"):
        (folder / name).unlink()
    text = ",\n".join(json.dumps(found) for found in expected)
    (HERE / f"{NAME}.json").write_text(f"[{text}]\n")


if __name__ == "__main__":
    main()
