"""Workers together do what one alone does with all their rows."""

from pathlib import Path

import pytest
import torch

from . import training

WORKER = """
import sys
sys.path.insert(0, sys.argv[1])
import training
training.main(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
"""


def joined(parts):
    """The tables of all workers as one: by id, every slot."""
    tables = {}
    for part in parts:
        for name, (ids, slots) in part.items():
            rows = tables.setdefault(name, {})
            for i, id in enumerate(ids.tolist()):
                assert id not in rows, f"{name}: two workers hold {id}"
                rows[id] = {slot: values[i] for slot, values in slots.items()}
    return tables


def assert_same_tables(found, expected):
    assert found.keys() == expected.keys()
    for name, rows in expected.items():
        assert found[name].keys() == rows.keys(), name
        for id, slots in rows.items():
            for slot, value in slots.items():
                torch.testing.assert_close(found[name][id][slot], value, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("world", [2, 3])
def test_any_engine_of_several_workers_is_that_of_one(tmp_path, run_workers, world):
    seeds = range(100 * world, 100 * world + 25)
    run_workers(WORKER, world, Path(__file__).parent, seeds.start, seeds.stop, tmp_path)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(world)]
    for seed in seeds:
        tables, outputs = training.train(seed)
        assert_same_tables(joined(each[seed][0] for each in found), joined([tables]))
        for step, expected in enumerate(outputs):
            for name, value in expected.items():
                parts = [each[seed][1][step][name] for each in found]
                torch.testing.assert_close(torch.cat(parts), value, rtol=2e-6, atol=2e-6)
