"""A table in a store with room for a few blocks holds what a dict would, through crashes."""

import pytest
from hypothesis.stateful import run_state_machine_as_test

from .store_machine import TableInStoreAgainstDict
from .strategies import INTEGER, OPTIMIZERS


@pytest.mark.parametrize("optimizer", ["momentum", "row-wise adagrad", "adam"])
def test_a_trained_table_survives_crashes(optimizer):
    class Machine(TableInStoreAgainstDict):
        optimizers = attachable = OPTIMIZERS[optimizer]

    run_state_machine_as_test(Machine)


def test_an_integer_table_survives_crashes():
    class Machine(TableInStoreAgainstDict):
        dtypes = INTEGER

    run_state_machine_as_test(Machine)
