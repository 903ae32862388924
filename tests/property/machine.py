"""Random operations on a table, its hooks and its optimizers, and on a dict of numpy arrays."""

import os
from itertools import count
from unittest import mock

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from recis import optim
from recis.hooks import HashTableFilterHook
from recis.nn import AdmitHook, FilterHook, HashTable
from recis.nn.initializers import ConstantInitializer, NormalInitializer, UniformInitializer
from recis.nn.modules.hashtable_hook_impl import BaseAdmitHookImpl, HashtableHookFactory

from ..helpers import bits
from .oracle import Frequency, NoFilter, Oracle, Staleness
from .rules import UPDATES, slots_of
from .strategies import (
    FLOATING,
    IDS,
    LAYOUTS,
    OPTIMIZERS,
    SCALES,
    SEEDS,
    laid_out,
)

FILTER_INTERVAL = 2
FILTERS = {
    None: NoFilter,
    FilterHook("FrequencyFilter", {"min_frequency": 3}): lambda: Frequency(3),
    FilterHook("GlobalStepFilter", {"filter_step": 2}): lambda: Staleness(2),
}
FREQUENCY_ADMIT = AdmitHook("FrequencyAdmit", {"min_frequency": 3})
HOOKS = st.sampled_from([None, AdmitHook("ReadOnly"), AdmitHook("OddIds"), FREQUENCY_ADMIT])
PICKS = st.integers(0, 255)  # of something, modulo how many there are
MANY = 10  # rows worth clearing


class OddIds(BaseAdmitHookImpl):
    def admit(self, ids, counts):
        return (ids % 2 == 1) | (counts > 2)


HashtableHookFactory().regist_admit("OddIds", OddIds)


class TableAgainstDict(RuleBasedStateMachine):
    """Whatever is done to a table, it holds what a dict of arrays would."""

    numbers = count()
    device = "cpu"
    dtypes = FLOATING
    optimizers = st.none()  # attached from the start
    attachable = st.one_of(OPTIMIZERS.values())  # later
    live_views = True  # whether values() are such

    @initialize(
        shape=st.sampled_from([(1,), (3,), (16,), (35,), (2, 3)]),
        block_size=st.sampled_from([1, 5, 7]),
        reduce=st.sampled_from(["worker", "id"]),
        world_size=st.sampled_from([1, 3]),
        filter_hook=st.sampled_from(list(FILTERS)),
        initializer=st.sampled_from(
            [ConstantInitializer(5), UniformInitializer(-1, 1), NormalInitializer()]
        ),
        data=st.data(),
    )
    def start(self, shape, block_size, reduce, world_size, filter_hook, initializer, data):
        self.dtype = data.draw(st.sampled_from(self.dtypes))
        same = {
            "embedding_shape": list(shape),
            "dtype": self.dtype,
            "device": self.device,
            "initializer": initializer if self.trainable else ConstantInitializer(5),
            "seed": 7,
        }
        self.name = f"against-dict-{next(self.numbers)}"
        self.world_size = world_size
        self.options = {
            **same,
            "block_size": block_size,
            "grad_reduce_by": reduce,
            "filter_hook": filter_hook,
            "name": self.name,
        }
        self.table = self.make_table()
        # Where an id is alone, its first embedding cannot depend on others.
        self.alone = HashTable(**same, name=f"{self.name}-alone")
        mean = reduce == "id"
        self.oracle = Oracle(
            self.dtype, shape, mean, world_size, self.first, FILTERS[filter_hook]()
        )
        self.block_size = block_size
        self.filter = HashTableFilterHook(filter_interval=FILTER_INTERVAL)
        self.global_step = 0
        self.pending = []  # outputs with a graph, and what the oracle saw then
        self.sightings = {}
        self.recovered = 0  # rows found in a store
        self.optimizer = None
        optimizer = data.draw(self.optimizers)
        if optimizer is not None:
            self.attach_an_optimizer(optimizer, 1)
        self.started()

    def started(self):
        """For machines that do more."""

    def make_table(self, **more):
        with mock.patch.dict(os.environ, WORLD_SIZE=str(self.world_size)):
            return HashTable(**self.options, **more)

    def first(self, id):
        if not self.trainable:
            return torch.full(self.oracle.shape, 5)
        self.alone.clear()
        return self.alone(torch.tensor([id]))[0].detach()

    @property
    def trainable(self):
        return self.dtype.is_floating_point

    def random(self, shape, seed, scale):
        """Values of the table's dtype."""
        values = np.random.default_rng(seed).standard_normal((*shape, *self.oracle.shape)) * scale
        return torch.from_numpy(values).to(self.dtype)

    def arrays(self, values):
        """The same as the oracle computes with."""
        return list(self.oracle.stored(values))

    def assert_same(self, found, expected):
        expected = np.array(expected, self.oracle.number).reshape(tuple(found.shape))
        assert bits(found) == bits(torch.from_numpy(expected).to(found.dtype))

    # ---- lookup ----

    def third_sighting(self, id, count):
        seen = self.sightings.pop(id, 0) + count
        if seen < 3:
            self.sightings[id] = seen
        return seen >= 3

    def policy(self, hook):
        if hook == FREQUENCY_ADMIT:
            return self.third_sighting
        policies = {
            None: lambda id, count: True,
            AdmitHook("ReadOnly"): lambda id, count: False,
            AdmitHook("OddIds"): lambda id, count: id % 2 == 1 or count > 2,
        }
        return policies[hook]

    @rule(ids=IDS, layout=LAYOUTS, hook=HOOKS, with_grad=st.booleans())
    def look_up(self, ids, layout, hook, with_grad):
        ids = laid_out(ids, layout)
        with torch.set_grad_enabled(with_grad):
            out = self.table(ids, admit_hook=hook)
        asked = ids.reshape(-1).tolist()
        if not self.trainable:
            self.assert_same(out, self.oracle.read(asked))
            return
        values, seen = self.oracle.lookup(asked, self.policy(hook))
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

    @precondition(lambda self: len(self.oracle.row_of) > MANY)
    @rule()
    def clear(self):
        self.table.clear()
        self.oracle.clear()
        self.sightings.clear()

    @precondition(lambda self: self.live_views and self.oracle.row_of)
    @rule(pick=PICKS, seed=SEEDS)
    def write_a_live_view(self, pick, seed):
        rows = list(self.oracle.row_of.values())
        row = rows[pick % len(rows)]
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
    @rule(pick=PICKS, seed=SEEDS, scale=SCALES, again=st.booleans())
    def backward(self, pick, seed, scale, again):
        index = pick % len(self.pending)
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
    @rule(picks=st.lists(PICKS, max_size=8), seed=SEEDS)
    def accept_grad(self, picks, seed):
        live = list(self.oracle.row_of.values())
        rows = [live[pick % len(live)] for pick in picks]
        grad = self.random((len(rows),), seed, 1)
        self.table.accept_grad(torch.tensor(rows, dtype=torch.int64), grad)
        self.oracle.accept_grad(rows, self.arrays(grad))

    @rule()
    def clear_grad(self):
        self.table.clear_grad()
        self.oracle.gradient.clear()

    @precondition(lambda self: self.trainable)
    @rule(
        choice=st.runner().flatmap(lambda self: self.attachable),
        accumulated=st.sampled_from([1, 1, 3]),
    )
    def attach_an_optimizer(self, choice, accumulated):
        optimizer, self.hyper = choice
        self.optimizer = optimizer({self.name: self.table.table}, **self.hyper)
        self.optimizer.set_grad_accum_steps(accumulated)
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
    @rule(ids=IDS, layout=LAYOUTS, hook=HOOKS, seed=SEEDS, scale=SCALES)
    def train(self, ids, layout, hook, seed, scale):
        self.look_up(ids, layout, hook, with_grad=True)
        self.backward(len(self.pending) - 1, seed, scale, again=False)
        self.step(zero_grad=True)

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
    def all_agrees(self):
        self.ids_and_rows_agree()
        self.slots_agree()
        self.gradients_agree()
        self.counters_agree()
        self.sightings_agree()

    def ids_and_rows_agree(self):
        ids, rows = self.table.ids_map()
        assert ids.tolist() == self.oracle.ids()
        assert rows.tolist() == [self.oracle.row_of[id] for id in self.oracle.ids()]
        capacity = -(-self.oracle.end // self.block_size) * self.block_size
        assert self.table.grad().shape == (capacity, *self.oracle.shape)

    def slots_agree(self):
        capacity = self.table.grad().shape[0]
        slots = self.table.slot_group().slots()
        assert {slot.name() for slot in slots} == {"embedding", *self.oracle.initial}
        for slot in slots:
            expected = torch.zeros((capacity, *slot.shape), dtype=slot.dtype)
            for row, record in self.oracle.records.items():
                expected[row] = torch.from_numpy(record[slot.name()])
            assert bits(slot.value()) == bits(expected), slot

    def gradients_agree(self):
        if not self.trainable:
            return
        grad = self.table.grad()
        rows = sorted(self.oracle.gradient)
        assert grad.indices()[0].tolist() == rows
        self.assert_same(grad.values(), [self.oracle.gradient[row] for row in rows])

    def counters_agree(self):
        stats = self.table.stats()
        assert stats["rows"] == len(self.table) == len(self.oracle.row_of)
        for name in ("lookups", "hits", "admits", "refusals", "evictions"):
            assert stats[name] == self.oracle.counters[name], name
        assert stats["lookups"] == stats["hits"] + stats["misses"]
        assert stats["rows"] == self.recovered + stats["admits"] - stats["evictions"]
        assert stats["rows"] == stats["hot_rows"] + stats["cold_rows"]

    def sightings_agree(self):
        tables = HashtableHookFactory().get_admits().get(str(FREQUENCY_ADMIT), {})
        if self.table in tables:
            ids, counts = tables[self.table].state()
            found = dict(zip(ids.tolist(), counts.tolist(), strict=True))
            assert found == self.sightings
