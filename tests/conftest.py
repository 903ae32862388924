"""What all tests share."""

import os
from itertools import count
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest
import torch
from hypothesis import settings

import recis
from recis import Store
from recis.nn import HashTable

from . import workers
from .helpers import memory

# Time is not a property: a busy machine must not turn an example red. Derandomized, so that a
# red run on one machine is red on all. HYPOTHESIS_PROFILE=deep looks further, at new places.
settings.register_profile("recis", deadline=None, derandomize=True, max_examples=60)
settings.register_profile("deep", deadline=None, max_examples=2000, stateful_step_count=80)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "recis"))

_numbers = count()

HOT_BYTES, DEVICE_BYTES = 8192, 256  # of the tables of most tests, some blocks and one or two


class Place(NamedTuple):
    """Where the tables under test live."""

    device: str
    """As `HashTable` takes it."""
    in_a_store: bool = False
    """Whether what the device holds is a small part of a table in a store."""

    def __str__(self) -> str:
        return f"{self.device}-in-a-store" if self.in_a_store else self.device


ON_A_GPU = [pytest.mark.cuda]
if not (torch.cuda.is_available() and recis.build_info()["cuda"]):
    ON_A_GPU += [pytest.mark.skip(reason="there is no GPU, or no CUDA in torch or in recis")]
ON_DEVICES = [Place("cpu"), Place("emulated"), pytest.param(Place("cuda"), marks=ON_A_GPU)]
IN_STORES = [Place("emulated", True), pytest.param(Place("cuda", True), marks=ON_A_GPU)]


def pytest_generate_tests(metafunc):
    """Tests run in each place that their tables may be in, but for those that a marker rules out.

    What a test makes with `device` alone is in no store.
    """
    if "table_place" in metafunc.fixturenames:
        marked = metafunc.definition.get_closest_marker
        places = ON_DEVICES[:1] if marked("only_on_cpu") else ON_DEVICES
        if "place_options" in metafunc.fixturenames and not (
            marked("only_on_cpu") or marked("in_no_store")
        ):
            places = ON_DEVICES + IN_STORES
        metafunc.parametrize("table_place", places, indirect=True, ids=str)


@pytest.fixture(scope="module")  # what Hypothesis draws for a test is for one place
def table_place(request):
    """Where the tables under test live."""
    return request.param


@pytest.fixture(scope="module")
def device(table_place):
    """Its device, as `HashTable` takes it."""
    return table_place.device


@pytest.fixture(scope="module")
def place_options(table_place):
    """`place_options()`: the options of a table in the place under test.

    A store is a new one: another table of the same name is not to find the rows of before.
    """
    with TemporaryDirectory(dir=memory()) as stores:

        def options():
            place = {"device": table_place.device}
            if table_place.in_a_store:
                place["store"] = Store(f"{stores}/{next(_numbers)}", hot_bytes=HOT_BYTES)
                place["device_bytes"] = DEVICE_BYTES
            return place

        yield options


@pytest.fixture(scope="module")
def make_table(device, place_options):
    """Makes tables in the place under test, each with a name of its own."""

    def make(embedding_shape=(4,), **options):
        elsewhere = {"store", "device"} & options.keys()
        place = {"device": device} if elsewhere else place_options()
        return HashTable(embedding_shape, **{"name": f"table-{next(_numbers)}", **place, **options})

    return make


@pytest.fixture
def make_table_in(device):
    """`make_table_in(store, ...)`: a table of it, of which the device under test holds a little.

    In no store, it is on the CPU, for comparison.
    """

    def make(store, name="t", shape=(4,), **options):
        if store is not None and device != "cpu":
            options = {"device": device, "device_bytes": DEVICE_BYTES, **options}
        return HashTable(shape, name=name, store=store, **options)

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
