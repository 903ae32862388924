"""A table in a store with room for a few blocks holds what a dict would, through crashes."""

import pytest

from .run import run
from .store_machine import TableInStoreAgainstDict
from .strategies import INTEGER, OPTIMIZERS


@pytest.mark.parametrize("optimizer", ["momentum", "row-wise adagrad", "adam"])
def test_a_trained_table_survives_crashes(device, optimizer):
    class Machine(TableInStoreAgainstDict):
        optimizers = attachable = OPTIMIZERS[optimizer]

    run(Machine, device)


def test_an_integer_table_survives_crashes(device):
    class Machine(TableInStoreAgainstDict):
        dtypes = INTEGER

    run(Machine, device)
