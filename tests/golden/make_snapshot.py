"""Makes the golden snapshots of this version: `python tests/golden/make_snapshot.py`.

Run by hand, once a format: snapshots that were published are never made anew. Two shards of a table
with an optimizer's states and hooks, a dense model and more state, and a delta to it; beside
them, as JSON, all that must be found. 64 slices keep the files small.
"""

import json
import shutil
from pathlib import Path

import torch

from recis import optim
from recis.nn import AdmitHook, FilterHook, HashTable
from recis.nn.initializers import NormalInitializer
from recis.nn.modules.hashtable import gen_slice
from recis.serialize import Saver

HERE = Path(__file__).parent
NAME = "snapshot-1"
SLICES = 64
ADMIT = AdmitHook("FrequencyAdmit", {"min_frequency": 2})
FILTER = FilterHook("GlobalStepFilter", {"filter_step": 5})


def content(table):
    """`{id: {slot: values}}`, as JSON has it."""
    ids, rows = table.ids_map()
    slots = {slot.name(): slot.read(rows).tolist() for slot in table.slot_group().slots()}
    return {
        str(id): {name: values[i] for name, values in slots.items()}
        for id, i in sorted((id, i) for i, id in enumerate(ids.tolist()))
    }


def main():
    folder = HERE / NAME
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(1)
    table = HashTable(
        [3],
        name="users",
        initializer=NormalInitializer(),
        filter_hook=FILTER,
        slice=gen_slice(slice_size=SLICES),
    )
    optimizer = optim.SparseAdam({"users": table.table}, lr=0.1)
    expected, parent = [], None
    for step in (10, 20):
        ids = torch.tensor([7, -7, 0, 2**63 - 1, -(2**63), *range(100 + step, 120 + step)])
        table(ids).backward(torch.randn(len(ids), 3))
        optimizer.step()
        optimizer.zero_grad()
        table(torch.tensor([5000, 5001]), admit_hook=ADMIT)
        table.evict(torch.arange(95 + step, 112 + step))
        table._filter_hook_impl.update_step()
        for shard in range(1 if parent else 2):
            path = Saver(
                shard,
                1 if parent else 2,
                path=folder,
                hashtables={"users": table},
                tensors={"weight": torch.arange(step) / 2, "count": torch.tensor(step)},
                states={"more": {"step": step, "nested": [{"lr": 0.1}, None, "é"]}},
                parent=parent,
                track=True,
            ).save(step)
        expected.append({"step": step, "table": content(table)})
        parent = path
    (folder / "latest").unlink()
    text = ",\n".join(json.dumps(found) for found in expected)
    (HERE / f"{NAME}.json").write_text(f"[{text}]\n")


if __name__ == "__main__":
    main()
