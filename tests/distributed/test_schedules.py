"""Workers that do anything in any order end, and have what one alone has.

RECIS_SCHEDULES=0:10000 tries those seeds, not the first 500; 17:18 is one alone.
"""

import os
import tempfile
from pathlib import Path

import pytest
import torch

from recis.nn import HashTable
from recis.snapshot.publish import steps

from ..helpers import memory
from .schedules import Player, Schedule, workers_of
from .tables import content, joined

WORKER = """
import sys
sys.path.insert(0, sys.argv[1])
from distributed import schedules
schedules.main(list(map(int, sys.argv[3:])), schedules.Path(sys.argv[2]))
"""
FIRST, LAST = map(int, os.environ.get("RECIS_SCHEDULES", "0:500").split(":"))


def same(schedule, found, expected):
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            same(schedule, found[name], value)
    elif schedule.exact:
        assert torch.equal(found, expected), (found, expected)
    else:
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def together(operation, parts):
    """What all workers have found, as one that has all their rows."""
    if operation == "evict":
        return sum(parts)
    if operation in ("forward", "evaluate", "sight"):
        names = {name: None for part in parts for name in part}
        return {name: torch.cat([part[name] for part in parts if name in part]) for name in names}
    return joined(parts)


def snapshot(folder, step, tables):
    """Its tables, as one process has them that loads it."""
    path = folder / "snapshots" / f"step-{step:012d}"
    return content({name: HashTable.from_snapshot(path, name).table for name in tables})


def check(seed, folder, workers):
    schedule = Schedule(seed)
    expected = Player(schedule, folder).play()
    folder = folder / f"seed-{seed}"
    saved = []
    for k, operation in enumerate([*schedule.operations, "end"]):
        if operation.startswith("save"):
            saved.append(k)
            found = snapshot(folder, k, expected[k])
            for table in [*found.values(), *expected[k].values()]:
                del table["gradient"]  # which is not saved
            same(schedule, found, expected[k])
        elif expected[k] is not None:
            same(schedule, together(operation, [each[k] for each in workers]), expected[k])
    assert steps(folder / "snapshots") == saved


@pytest.mark.timeout(300 + LAST - FIRST)
@pytest.mark.parametrize("world", sorted({workers_of(seed) for seed in range(FIRST, LAST)}))
def test_any_schedule_of_workers_is_that_of_one(run_workers, world):
    seeds = [seed for seed in range(FIRST, LAST) if workers_of(seed) == world]
    with tempfile.TemporaryDirectory(dir=memory()) as path:
        folder = Path(path)
        run_workers(WORKER, world, Path(__file__).parents[1], folder, *seeds)
        workers = [torch.load(folder / f"{rank}.pt") for rank in range(world)]
        for seed in seeds:
            try:
                check(seed, folder, [found[seed] for found in workers])
            except Exception as error:
                raise AssertionError(f"RECIS_SCHEDULES={seed}:{seed + 1}") from error
