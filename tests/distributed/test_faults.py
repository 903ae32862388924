"""A worker that is lost ends the others, which have what they committed; nothing is half there.

RECIS_CRASH=all tries every point of a step, a commit and a save: `make crash`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ALL = os.environ.get("RECIS_CRASH") == "all"


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("how", "worker", "every"),
    [("killed", 1, 6), ("killed", 0, 11), ("stopped", 1, 9), ("full", 1, 11), ("full", 0, 13)],
)
def test_a_worker_may_go_wrong_anywhere(tmp_path, how, worker, every):
    program = Path(__file__).with_name("faults.py")
    done = subprocess.run(
        [sys.executable, program, tmp_path, how, str(worker), "1" if ALL else str(every)],
        cwd=tmp_path,  # not where the sources are
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["failures"] == {}, json.dumps(found, indent=1)
    assert {"lookup", "accumulate", "step", "commit", "write_table"} <= set(found["points"])
    assert found["points"].count("all_to_all_single") == 7
