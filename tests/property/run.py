"""How machines are run."""

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test


def run(machine, device):
    """Runs a machine whose table lives on this device."""
    machine.device = device
    machine.live_views = machine.live_views and device == "cpu"
    # The same operations on the same table: on devices a few tries are enough.
    standard = machine.TestCase.settings
    tries = standard.max_examples // (1 if device == "cpu" else 4)
    run_state_machine_as_test(machine, settings=settings(standard, max_examples=tries))
