"""Snapshots are whole or not there, whatever happens while they are made and removed.

RECIS_CRASH=all tries every call and many more states of the disk: `make crash`.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ..helpers import memory
from .shim import build

HERE = Path(__file__).parent
ALL = os.environ.get("RECIS_CRASH") == "all"
EVERY = "1" if ALL else "40"
STATES = "5000" if ALL else "400"
OPERATIONS = "first save,save,delta,shards,background,store,device,gc,reshard".split(",")
OPERATIONS += ["compact"] if ALL else []  # which is reshard with the shards there are


@pytest.fixture(scope="module")
def preloaded(tmp_path_factory):
    """Runs a script of this folder under the shim and returns what it says."""
    library = build(tmp_path_factory.mktemp("shim"))
    if library is None:
        pytest.skip("there is no C compiler for tests/crash/shim.c")

    def run(script, *arguments):
        # A disk's syncs would take most of the time: nothing counts on them.
        with tempfile.TemporaryDirectory(dir=memory()) as folder:
            done = subprocess.run(
                [sys.executable, HERE / script, folder, *arguments],
                env={**os.environ, "LD_PRELOAD": str(library)},
                cwd=folder,  # not where the sources are
                capture_output=True,
                text=True,
                check=False,
            )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.mark.timeout(3600 if ALL else 120)
def test_power_may_fail_at_any_time(preloaded):
    found = preloaded("power.py", STATES)
    assert found["calls"] > 200
    assert found["failures"] == []


@pytest.mark.timeout(3600 if ALL else 120)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_call_that_goes_wrong_tears_nothing(preloaded, operation):
    """Processes are killed at calls, and in the midst of writes; disks are full or broken."""
    for fault, found in preloaded("everywhere.py", operation, EVERY).items():
        assert found["failures"] == {}, fault
        if fault in ("kill", "broken"):
            assert found["tried"] > 10, fault
