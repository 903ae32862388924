"""What snapshots cost in memory: a bounded amount beside the table, whatever its size."""

import json
import subprocess
import sys

import pytest

MOST = 64 << 20

# Prints the growth of each operation's peak over what the process had before it, in bytes.
CHILD = """
import json, sys, torch
from recis.nn import HashTable
from recis.optim import SparseAdam
from recis.serialize import Loader, Saver
from recis.snapshot.diff import diff_table
from recis.snapshot.read import open_snapshot
from recis.snapshot.rewrite import rewrite
from recis.snapshot.sources import open_source
from recis.snapshot.verify import verify

torch.set_num_threads(1)  # a busy machine makes threads wait for one another
what, root, ids = sys.argv[1], sys.argv[2], sys.argv[3]
ROWS = 150_000
step = {"spread": 1, "one slice": 65536}[ids]

def status(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(field))

def growth(work):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak is what there is now
    before = status("VmRSS")
    work()
    return status("VmHWM") - before, status("VmRSS") - before

def make():
    table = HashTable([64], name="t")
    SparseAdam({"t": table.table})
    return table

found = {}
if what == "save":
    table = make()
    for first in range(0, ROWS, 10_000):
        table.insert(torch.arange(first, first + 10_000) * step, torch.ones(10_000, 64))
    saver = Saver(path=root, hashtables={"t": table}, track=True)
    found["save"], _ = growth(lambda: saver.save(1))
    table.insert(torch.arange(0, 50_000) * step, torch.zeros(50_000, 64))
    table.evict(torch.arange(50_000, 60_000) * step)
    saver = Saver(path=root, hashtables={"t": table}, parent=f"{root}/step-000000000001")
    found["delta"], _ = growth(lambda: saver.save(2))
    Saver(path=f"{root}-dense", tensors={"w": torch.ones(100 << 20, dtype=torch.uint8)}).save(1)
elif what == "load":
    table = make()
    peak, kept = growth(lambda: Loader(root, hashtables={"t": table}).load())
    found["load"] = peak - kept
else:
    def diff():
        with open_source(f"{root}/step-000000000001") as a, open_source(root) as b:
            assert diff_table(a, b, "t").changed == 50_000
    def check(level):
        assert verify(root, level) == []
    found["verify"], _ = growth(lambda: check("full"))
    found["verify deep"], _ = growth(lambda: check("deep"))
    found["compact"], _ = growth(lambda: rewrite(open_snapshot(root), f"{root}/compact"))
    found["reshard"], _ = growth(lambda: rewrite(open_snapshot(root), f"{root}/8", shards=8))
    found["diff"], _ = growth(diff)
    dense = f"{root}-dense"
    found["verify dense"], _ = growth(lambda: verify(dense))
    found["reshard dense"], _ = growth(lambda: rewrite(open_snapshot(dense), f"{root}/dense"))
print(json.dumps(found))
"""


def run(tmp_path, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, arguments)],
        cwd=tmp_path,  # not where the sources are
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("ids", ["spread", "one slice"])
def test_memory_beside_the_table_is_bounded(tmp_path, ids):
    """The table has 110 MiB; the bounds are above it, or above what its tools are without it."""
    found = {}
    for what in ("save", "load", "tools"):
        found |= run(tmp_path, what, tmp_path / "snapshots", ids)
    assert {name: peak for name, peak in found.items() if peak > MOST} == {}
