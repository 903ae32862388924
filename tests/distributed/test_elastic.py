"""Workers are killed and go on by themselves; then there are fewer of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from . import elastic

GO_ON = """
import sys
sys.path.insert(0, sys.argv[1])
import elastic
elastic.go_on_elsewhere(elastic.Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Where four workers of torchrun have left their content, after all kills."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "stores").mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4"]
    command += [f"--max-restarts={len(elastic.KILLS)}", elastic.__file__, str(folder)]
    # Otherwise torch 2.13 would have workers look for those of the launch before.
    environment = os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-8000:]
    return folder


def loaded(folder, count):
    return joined([torch.load(folder / f"{rank}-of-{count}.pt") for rank in range(count)])


def joined(parts):
    """The model of some workers: rows by id, and what is the same for all."""
    order = torch.cat([part["ids"] for part in parts]).argsort()
    whole = {}
    for name, first in parts[0].items():
        values = [part[name] for part in parts]
        if name in elastic.SHARED:
            assert all(torch.equal(value, first) for value in values), name
            whole[name] = first
        elif name != "rows":
            whole[name] = torch.cat(values)[order]
    return whole


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=2e-6)


def test_killed_workers_go_on_from_their_last_common_commit(killed):
    for launch, step in enumerate(elastic.RESUMED):
        for rank in range(4):
            assert (killed / f"launch-{launch}-{rank}").read_text() == str(step)
    # Each worker has found its content to be, to the last bit, what it is without kills.
    found = loaded(killed, 4)
    assert len(found["ids"]) > 30
    same(found, joined([elastic.train()]))


@pytest.mark.parametrize("count", [2, 3])
def test_fewer_workers_go_on_from_the_snapshot(killed, run_workers, count):
    run_workers(GO_ON, count, Path(__file__).parent, killed)
    same(loaded(killed, count), joined([elastic.train()]))
