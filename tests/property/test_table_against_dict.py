"""A table, its hooks and its optimizers hold what a dict of numpy arrays would, to the last bit.

`HYPOTHESIS_PROFILE=deep pytest --timeout=0 tests/property` looks for an hour rather than seconds.
"""

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from .machine import TableAgainstDict
from .strategies import INTEGER, OPTIMIZERS


def run(machine, device):
    machine.device, machine.live_views = device, device == "cpu"
    # The same operations on the same table: on devices a few tries are enough.
    standard = machine.TestCase.settings
    tries = standard.max_examples // (1 if device == "cpu" else 4)
    run_state_machine_as_test(machine, settings=settings(standard, max_examples=tries))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_trained_table_holds_what_a_dict_would(device, optimizer):
    class Machine(TableAgainstDict):
        optimizers = OPTIMIZERS[optimizer]

    run(Machine, device)


def test_an_integer_table_holds_what_a_dict_would(device):
    class Machine(TableAgainstDict):
        dtypes = INTEGER

    run(Machine, device)
