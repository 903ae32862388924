"""Benchmarks run as they are asked to; no test asserts a time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
TINY = ["--rows", "2000", "--dims", "4", "--threads", "1", "--rounds", "1", "--quiet", "9"]


@pytest.mark.parametrize("name, who", [("train", ["recis", "floor"]), ("pooling", ["recis"] * 4)])
def test_recis_named_as_its_own_peer_runs_once(tmp_path, name, who):
    result = tmp_path / "result.json"
    command = [sys.executable, FOLDER / f"{name}.py", *TINY, "--json", result, "--peers", "recis"]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    assert [row["who"] for row in json.loads(result.read_text())["rows"]] == who
