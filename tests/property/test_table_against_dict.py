"""A table, its hooks and its optimizers hold what a dict of numpy arrays would, to the last bit.

`HYPOTHESIS_PROFILE=deep pytest --timeout=0 tests/property` looks for an hour rather than seconds.
"""

import pytest

from .machine import TableAgainstDict
from .run import run
from .strategies import INTEGER, OPTIMIZERS


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_trained_table_holds_what_a_dict_would(device, optimizer):
    class Machine(TableAgainstDict):
        optimizers = OPTIMIZERS[optimizer]

    run(Machine, device)


def test_an_integer_table_holds_what_a_dict_would(device):
    class Machine(TableAgainstDict):
        dtypes = INTEGER

    run(Machine, device)
