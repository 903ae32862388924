"""What all tests share."""

import os
from itertools import count

import pytest
import torch
from hypothesis import settings

import recis
from recis.nn import HashTable

from . import workers

# Time is not a property: a busy machine must not turn an example red. Derandomized, so that a
# red run on one machine is red on all. HYPOTHESIS_PROFILE=deep looks further, at new places.
settings.register_profile("recis", deadline=None, derandomize=True, max_examples=60)
settings.register_profile("deep", deadline=None, max_examples=2000, stateful_step_count=80)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "recis"))

_numbers = count()


ON_A_GPU = [pytest.mark.cuda]
if not (torch.cuda.is_available() and recis.build_info()["cuda"]):
    ON_A_GPU += [pytest.mark.skip(reason="there is no GPU, or no CUDA in torch or in recis")]
DEVICES = ["cpu", "emulated", pytest.param("cuda", marks=ON_A_GPU)]


def pytest_generate_tests(metafunc):
    """Tests of tables run on each device, unless they are marked `only_on_cpu`."""
    if "device" in metafunc.fixturenames:
        only = metafunc.definition.get_closest_marker("only_on_cpu")
        metafunc.parametrize("device", DEVICES[:1] if only else DEVICES, indirect=True)


@pytest.fixture(scope="module")  # what Hypothesis draws for a test is for one device
def device(request):
    """Where the tables under test live, as `HashTable` takes it."""
    return request.param


@pytest.fixture
def make_table(device):
    """Makes tables on the device under test, each with a name of its own."""

    def make(embedding_shape=(4,), **options):
        options = {"name": f"table-{next(_numbers)}", "device": device, **options}
        return HashTable(embedding_shape, **options)

    return make


@pytest.fixture
def run_workers(tmp_path):
    """`run(program, count, *arguments)` runs Python source as the workers of a group."""

    def run(program, count, *arguments, ends=0):
        workers.run(program, count, *arguments, cwd=tmp_path, ends=ends)

    return run


@pytest.fixture
def group_of():
    """`group_of(count)` is the environment of a group of workers, but for the rank."""
    return workers.group_of
