"""A table, its hooks and its optimizers against a dict of numpy arrays, to the last bit.

HYPOTHESIS_PROFILE=deep runs it for hours rather than seconds.
"""

import os
from itertools import count
from unittest import mock

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from recis import optim
from recis.hooks import HashTableFilterHook
from recis.nn import AdmitHook, FilterHook, HashTable
from recis.nn.initializers import ConstantInitializer, NormalInitializer, UniformInitializer
from recis.nn.modules.hashtable_hook_impl import BaseAdmitHookImpl, HashtableHookFactory

from ..helpers import bits
from .oracle import Frequency, NoFilter, Oracle, Staleness
from .rules import UPDATES, slots_of

FILTER_INTERVAL = 2
FILTERS = {
    None: NoFilter,
    FilterHook("FrequencyFilter", {"min_frequency": 3}): lambda: Frequency(3),
    FilterHook("GlobalStepFilter", {"filter_step": 2}): lambda: Staleness(2),
}
FREQUENCY_ADMIT = AdmitHook("FrequencyAdmit", {"min_frequency": 3})


class OddIds(BaseAdmitHookImpl):
    def admit(self, ids, counts):
        return (ids % 2 == 1) | (counts > 2)


HashtableHookFactory().regist_admit("OddIds", OddIds)

FLOATING = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
INTEGER = [torch.int8, torch.int32, torch.int64]
EDGES = [0, -1, -2, -(2**63), 2**63 - 1, 2**52, 2**52 - 1, 2**52 + 1]
IDS = st.lists(
    st.sampled_from(EDGES + list(range(3, 10))) | st.integers(-(2**63), 2**63 - 1), max_size=12
)
SEEDS = st.integers(0, 2**32 - 1)
LAYOUTS = st.sampled_from(["flat", "scalar", "2-D", "transposed", "strided", "repeated"])
SCALES = st.sampled_from([1e-3, 1.0, 30.0])

DECAY = {"weight_decay": st.sampled_from([0.0, 0.01])}
ADAGRAD = {"lr": st.just(0.1), "initial_accumulator_value": st.just(0.1), **DECAY}
ADAM = {
    "lr": st.sampled_from([1e-3, 0.1]),
    "beta1": st.sampled_from([0.0, 0.9]),
    "eps": st.sampled_from([1e-8, 1e-3]),
    "amsgrad": st.booleans(),
    **DECAY,
}
OPTIMIZERS = {
    optim.SparseSGD: {"lr": st.just(0.1), "momentum": st.just(0.0), **DECAY},
    optim.SparseAdagrad: {"lr_decay": st.sampled_from([0.0, 0.1]), **ADAGRAD},
    optim.SparseRowWiseAdagrad: ADAGRAD,
    optim.SparseAdam: ADAM,
    optim.SparseAdamW: ADAM,
    optim.SparseAdamWTF: {"use_nesterov": st.booleans(), **ADAM},
}
MOMENTUM = {"momentum": st.just(0.9), "nesterov": st.booleans()}
CHOICES = st.one_of(
    st.tuples(st.just(optim.SparseSGD), st.fixed_dictionaries({"lr": st.just(0.1), **MOMENTUM})),
    *(
        st.tuples(st.just(optimizer), st.fixed_dictionaries(hyper))
        for optimizer, hyper in OPTIMIZERS.items()
    ),
)


def laid_out(ids, layout):
    """A tensor of some of these ids, in one of the shapes and strides that tensors come in."""
    flat = torch.tensor(ids, dtype=torch.int64)
    pairs = flat[: len(ids) // 2 * 2].view(2, -1)
    if layout == "scalar" and ids:
        return flat[0]
    return {
        "2-D": pairs,
        "transposed": pairs.t(),
        "strided": torch.stack([flat, flat + 1], dim=1)[:, 0],
        "repeated": flat.expand(2, len(ids)),
    }.get(layout, flat)


class TableAgainstDict(RuleBasedStateMachine):
    """Whatever is done to a table, it holds what a dict of arrays would."""

    numbers = count()
    device = torch.device("cpu")

    @initialize(
        dtype=st.sampled_from(FLOATING * 3 + INTEGER),
        shape=st.sampled_from([(1,), (3,), (16,), (35,), (2, 3)]),
        block_size=st.sampled_from([1, 5, 7]),
        grad_reduce_by=st.sampled_from(["worker", "id"]),
        world_size=st.sampled_from([1, 3]),
        filter_hook=st.sampled_from(list(FILTERS)),
        initializer=st.sampled_from(
            [ConstantInitializer(0.5), UniformInitializer(-1, 1), NormalInitializer()]
        ),
    )
    def start(
        self, dtype, shape, block_size, grad_reduce_by, world_size, filter_hook, initializer
    ):
        if not dtype.is_floating_point:
            initializer = ConstantInitializer(5)
        same = {
            "embedding_shape": list(shape),
            "dtype": dtype,
            "device": self.device,
            "initializer": initializer,
            "seed": 7,
        }
        self.name = f"against-dict-{next(self.numbers)}"
        with mock.patch.dict(os.environ, WORLD_SIZE=str(world_size)):
            self.table = HashTable(
                **same,
                block_size=block_size,
                grad_reduce_by=grad_reduce_by,
                filter_hook=filter_hook,
                name=self.name,
            )
        # Where an id is alone, its first embedding cannot depend on others.
        self.alone = HashTable(**same, name=f"{self.name}-alone")
        mean = grad_reduce_by == "id"
        self.oracle = Oracle(dtype, shape, mean, world_size, self.first, FILTERS[filter_hook]())
        self.block_size = block_size
        self.filter = HashTableFilterHook(filter_interval=FILTER_INTERVAL)
        self.global_step = 0
        self.pending = []  # outputs with a graph, and what the oracle saw then
        self.sightings = {}
        self.optimizer = None

    def first(self, id):
        self.alone.clear()
        self.alone.insert(torch.empty(0, dtype=torch.int64), self.random((0,), 0, 1))
        if not self.table.table.dtype.is_floating_point:
            return torch.full(self.oracle.shape, 5)
        return self.alone(torch.tensor([id]))[0].detach()

    @property
    def trainable(self):
        return self.oracle.dtype.is_floating_point

    def random(self, shape, seed, scale):
        """Values of the table's dtype."""
        values = np.random.default_rng(seed).standard_normal((*shape, *self.oracle.shape)) * scale
        return torch.from_numpy(values).to(self.oracle.dtype)

    def arrays(self, values):
        """The same as the oracle computes with."""
        return list(self.oracle.stored(values))

    def assert_same(self, found, expected):
        expected = np.array(expected, self.oracle.number).reshape(tuple(found.shape))
        assert bits(found) == bits(torch.from_numpy(expected).to(found.dtype))

    # ---- lookup ----

    def refuses(self, id, count):
        return False

    def admits(self, id, count):
        return True

    def odd(self, id, count):
        return id % 2 == 1 or count > 2

    def third_sighting(self, id, count):
        seen = self.sightings.pop(id, 0) + count
        if seen < 3:
            self.sightings[id] = seen
        return seen >= 3

    POLICIES = {  # noqa: RUF012 - never written
        None: admits,
        AdmitHook("ReadOnly"): refuses,
        AdmitHook("OddIds"): odd,
        FREQUENCY_ADMIT: third_sighting,
    }

    @rule(ids=IDS, layout=LAYOUTS, hook=st.sampled_from(list(POLICIES)), with_grad=st.booleans())
    def look_up(self, ids, layout, hook, with_grad):
        ids = laid_out(ids, layout)
        with torch.set_grad_enabled(with_grad):
            out = self.table(ids, admit_hook=hook)
        asked = ids.reshape(-1).tolist()
        if not self.trainable:
            self.assert_same(out, self.oracle.read(asked))
            return
        policy = self.POLICIES[hook].__get__(self)
        values, seen = self.oracle.lookup(asked, policy)
        assert out.shape == (*ids.shape, *self.oracle.shape)
        assert out.requires_grad == with_grad
        self.assert_same(out, values)
        if with_grad:
            self.pending.append((out, seen))

    @rule(ids=IDS, layout=LAYOUTS)
    def read(self, ids, layout):
        ids = laid_out(ids, layout)
        self.table.eval()
        self.assert_same(self.table(ids), self.oracle.read(ids.reshape(-1).tolist()))
        self.table.train()

    # ---- change ----

    @rule(ids=IDS, seed=SEEDS)
    def insert(self, ids, seed):
        values = self.random((len(ids),), seed, 3)
        self.table.insert(laid_out(ids, "strided"), values)
        self.oracle.insert(ids, self.arrays(values))

    @rule(ids=IDS, layout=LAYOUTS)
    def evict(self, ids, layout):
        ids = laid_out(ids, layout)
        assert self.table.evict(ids) == self.oracle.evict(ids.reshape(-1).tolist())

    @rule()
    def clear(self):
        self.table.clear()
        self.oracle.clear()
        self.sightings.clear()

    @precondition(lambda self: self.oracle.row_of)
    @rule(data=st.data(), seed=SEEDS)
    def write_a_live_view(self, data, seed):
        row = self.oracle.row_of[data.draw(st.sampled_from(self.oracle.ids()))]
        value = self.random((), seed, 3)
        blocks = self.table.slot_group().slot_by_name("embedding").values()
        blocks[row // self.block_size][row % self.block_size] = value
        self.oracle.records[row]["embedding"] = self.oracle.stored(value)

    @rule(kind=st.sampled_from([(torch.int32, np.int32, ()), (torch.float64, np.float64, (2, 2))]))
    def add_a_slot(self, kind):
        dtype, number, shape = kind
        name = f"late.{dtype}"
        self.table.table.add_slot(name, dtype, shape, initial=3)
        self.oracle.add_slot(name, np.full(shape, 3, number))

    @rule()
    def after_step(self):
        self.global_step += 1
        self.filter.after_step(None, self.global_step)
        self.oracle.filter_hook.after_step(self.oracle, self.global_step % FILTER_INTERVAL == 0)

    # ---- gradient and optimizer ----

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), seed=SEEDS, scale=SCALES, again=st.booleans())
    def backward(self, data, seed, scale, again):
        index = data.draw(st.integers(0, len(self.pending) - 1))
        out, seen = self.pending[index] if again else self.pending.pop(index)
        grad = self.random((len(seen.ids),), seed, scale)
        out.backward(grad.view(out.shape), retain_graph=again)
        self.oracle.backward(seen, self.arrays(grad))

    @precondition(lambda self: self.pending)
    @rule()
    def backward_of_the_sum(self):
        out, seen = self.pending.pop()
        out.sum().backward()
        self.oracle.backward(seen, [np.ones(self.oracle.shape, self.oracle.number)] * len(seen.ids))

    @precondition(lambda self: self.trainable and self.oracle.row_of)
    @rule(data=st.data(), seed=SEEDS)
    def accept_grad(self, data, seed):
        live = st.sampled_from([self.oracle.row_of[id] for id in self.oracle.ids()])
        rows = data.draw(st.lists(live, max_size=8))
        grad = self.random((len(rows),), seed, 1)
        self.table.accept_grad(torch.tensor(rows, dtype=torch.int64), grad)
        self.oracle.accept_grad(rows, self.arrays(grad))

    @rule()
    def clear_grad(self):
        self.table.clear_grad()
        self.oracle.gradient.clear()

    @precondition(lambda self: self.trainable)
    @rule(choice=CHOICES, accumulated=st.sampled_from([1, 1, 3]))
    def attach_an_optimizer(self, choice, accumulated):
        optimizer, self.hyper = choice
        self.optimizer = optimizer({self.name: self.table.table}, **self.hyper)
        self.optimizer.set_grad_accum_steps(accumulated)
        defaults = {"weight_decay": 0.0, "nesterov": False, "beta2": 0.999}
        self.hyper = {**defaults, **self.hyper}
        self.slots, self.update = slots_of(optimizer, self.hyper), UPDATES[optimizer.__name__]
        self.steps, self.calls, self.accumulated = 0, 0, accumulated
        number, initial = self.oracle.number, self.hyper.get("initial_accumulator_value", 0)
        shape = (1,) if optimizer is optim.SparseRowWiseAdagrad else self.oracle.shape
        for slot in self.slots:
            self.oracle.add_slot(slot, np.full(shape, initial, number))

    @precondition(lambda self: self.optimizer)
    @rule(lr=st.sampled_from([1e-3, 0.1]))
    def change_the_learning_rate(self, lr):
        self.optimizer.param_groups[0]["lr"] = self.hyper["lr"] = lr

    @precondition(lambda self: self.optimizer)
    @rule(zero_grad=st.booleans())
    def step(self, zero_grad):
        self.optimizer.step()
        self.calls += 1
        due = self.calls % self.accumulated == 0
        if due and self.oracle.gradient:
            self.steps += 1
            self.oracle.step(self.update, self.slots, self.hyper, self.steps, self.accumulated)
        if zero_grad:
            self.optimizer.zero_grad()
            if due:
                self.oracle.gradient.clear()

    # ---- what must hold after each of these ----

    @invariant()
    def ids_and_rows_agree(self):
        ids, rows = self.table.ids_map()
        assert ids.tolist() == self.oracle.ids()
        assert rows.tolist() == [self.oracle.row_of[id] for id in self.oracle.ids()]
        capacity = -(-self.oracle.end // self.block_size) * self.block_size
        assert self.table.grad().shape == (capacity, *self.oracle.shape)

    @invariant()
    def slots_agree(self):
        capacity = self.table.grad().shape[0]
        slots = self.table.slot_group().slots()
        assert {slot.name() for slot in slots} == {"embedding", *self.oracle.initial}
        for slot in slots:
            expected = torch.zeros((capacity, *slot.shape), dtype=slot.dtype)
            for row, record in self.oracle.records.items():
                expected[row] = torch.from_numpy(record[slot.name()])
            assert bits(slot.value()) == bits(expected), slot

    @invariant()
    def gradients_agree(self):
        if not self.trainable:
            return
        grad = self.table.grad()
        rows = sorted(self.oracle.gradient)
        assert grad.indices()[0].tolist() == rows
        self.assert_same(grad.values(), [self.oracle.gradient[row] for row in rows])

    @invariant()
    def counters_agree(self):
        stats = self.table.stats()
        assert stats["rows"] == len(self.table) == len(self.oracle.row_of)
        for name in ("lookups", "hits", "admits", "refusals", "evictions"):
            assert stats[name] == self.oracle.counters[name], name
        assert stats["lookups"] == stats["hits"] + stats["misses"]
        assert stats["rows"] == stats["admits"] - stats["evictions"]

    @invariant()
    def sightings_agree(self):
        tables = HashtableHookFactory().get_admits().get(str(FREQUENCY_ADMIT), {})
        if self.table in tables:
            ids, counts = tables[self.table].state()
            found = dict(zip(ids.tolist(), counts.tolist(), strict=True))
            assert found == self.sightings


def test_a_table_holds_what_a_dict_would(device):
    class OnDevice(TableAgainstDict):
        pass

    OnDevice.device = device
    run_state_machine_as_test(OnDevice, settings=settings(max_examples=100))
