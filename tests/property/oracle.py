"""What a table must do, as a dict of numpy arrays: slow, obvious, and by other code."""

from collections import Counter
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
import torch

RUN = 64  # occurrences that are summed by themselves


@dataclass
class Seen:
    """What a lookup saw: the ids asked for, and the rows they had then."""

    ids: list[int]
    rows: dict[int, int | None]


class Oracle:
    """A table of `dtype`; `first(id)` is the embedding that an id starts with."""

    def __init__(self, dtype, shape, mean, divisor, first, filter_hook):
        self.dtype, self.shape, self.first = dtype, shape, first
        self.mean, self.divisor, self.filter_hook = mean, divisor, filter_hook
        self.number = np.float64 if dtype == torch.float64 else np.float32
        if not dtype.is_floating_point:
            self.number = torch.empty(0, dtype=dtype).numpy().dtype.type
        self.row_of = {}
        self.freed = []  # the last freed at the end
        self.end = 0
        self.records = {}  # row -> {slot: array}
        self.initial = {}  # slot -> array
        self.gradient = {}  # row -> array
        self.counters = Counter()
        filter_hook.add_slots(self)

    def stored(self, values):
        """Values as the table's dtype can hold them."""
        narrow = torch.as_tensor(values).to(self.dtype)
        return narrow.to(torch.from_numpy(np.empty(0, self.number)).dtype).numpy()

    # ---- rows ----

    def ids(self):
        """Ids by ascending row."""
        return sorted(self.row_of, key=self.row_of.__getitem__)

    def admit(self, ids):
        """Gives rows to new ids, the last first."""
        for id in reversed(ids):
            row = self.freed.pop() if self.freed else self.end
            self.end = max(self.end, row + 1)
            self.row_of[id] = row
            self.records[row] = {name: array.copy() for name, array in self.initial.items()}
            self.records[row]["embedding"] = self.stored(self.first(id))
        self.counters["admits"] += len(ids)

    def evict(self, ids):
        gone = [id for id in dict.fromkeys(ids) if id in self.row_of]
        for id in gone:
            row = self.row_of.pop(id)
            del self.records[row]
            self.gradient.pop(row, None)
            self.freed.append(row)
        self.counters["evictions"] += len(gone)
        return len(gone)

    def clear(self):
        self.evict(list(self.row_of))
        self.freed, self.end = [], 0

    def add_slot(self, name, array):
        """`array` is what a row starts with."""
        if name not in self.initial:
            self.initial[name] = array
            for record in self.records.values():
                record[name] = array.copy()

    def slot(self, name, id):
        return self.records[self.row_of[id]][name]

    # ---- lookup ----

    def gather(self, ids):
        zero = np.zeros(self.shape, self.number)
        return [self.slot("embedding", id) if id in self.row_of else zero for id in ids]

    def count(self, ids):
        self.counters["lookups"] += len(ids)
        self.counters["hits"] += sum(id in self.row_of for id in ids)

    def read(self, ids):
        self.count(ids)
        return self.gather(ids)

    def lookup(self, ids, policy):
        """`policy(id, count)`: does this new id, which occurs `count` times, get a row?"""
        self.count(ids)
        occurrences = Counter(ids)
        new = [id for id in occurrences if id not in self.row_of]
        admitted = [id for id in new if policy(id, occurrences[id])]
        self.admit(admitted)
        self.counters["refusals"] += len(new) - len(admitted)
        self.observe(occurrences)
        return self.gather(ids), Seen(ids, {id: self.row_of.get(id) for id in occurrences})

    def insert(self, ids, values):
        self.admit([id for id in dict.fromkeys(ids) if id not in self.row_of])
        for id, value in zip(ids, values, strict=True):
            self.records[self.row_of[id]]["embedding"] = self.stored(value)
        self.observe(Counter(ids))

    def observe(self, occurrences):
        for id, count in occurrences.items():
            if id in self.row_of:
                self.filter_hook.observe(self.records[self.row_of[id]], count)

    # ---- gradient ----

    def backward(self, seen, grads):
        """Sums run over an id's occurrences in order, by runs; calls are added in order."""
        for id, then in seen.rows.items():
            row = self.row_of.get(id)  # it may have got another one since
            if then is None or row is None:
                continue
            mine = [grad for other, grad in zip(seen.ids, grads, strict=True) if other == id]
            self.add_gradient(row, mine, len(mine) if self.mean else self.divisor)

    def accept_grad(self, rows, grads):
        for row in dict.fromkeys(rows):
            mine = [grad for other, grad in zip(rows, grads, strict=True) if other == row]
            self.add_gradient(row, mine, 1)

    def add_gradient(self, row, grads, divisor):
        runs = [grads[first : first + RUN] for first in range(0, len(grads), RUN)]
        total = reduce(add, (reduce(add, run) for run in runs)) / self.number(divisor)
        self.gradient[row] = self.gradient[row] + total if row in self.gradient else total

    def step(self, update, slots, hyper, step, accumulated):
        """Applies `update` of rules.py to each row that has a gradient."""
        for row, grad in self.gradient.items():
            record = self.records[row]
            grad = grad.reshape(-1) / self.number(accumulated)
            states = [record[slot].reshape(-1) for slot in slots]
            weights, states = update(record["embedding"].reshape(-1), grad, states, hyper, step)
            record["embedding"] = self.stored(weights.reshape(self.shape))
            for slot, state in zip(slots, states, strict=True):
                record[slot] = state.reshape(record[slot].shape)


class NoFilter:
    """A table without a filter hook."""

    def add_slots(self, table):
        pass

    def observe(self, record, count):
        pass

    def after_step(self, table, run):
        pass


class Frequency:
    """Evicts ids seen fewer than `least` times, after sparing each once."""

    def __init__(self, least):
        self.least = least

    def add_slots(self, table):
        table.add_slot("frequency_filter", np.zeros(1, np.int64))
        table.add_slot("frequency_filter_spared", np.ones(1, np.int8))

    def observe(self, record, count):
        record["frequency_filter"] += count

    def after_step(self, table, run):
        if not run:
            return
        rare = []
        for id in table.ids():
            record = table.records[table.row_of[id]]
            if record["frequency_filter_spared"]:
                record["frequency_filter_spared"][:] = 0
            elif record["frequency_filter"] < self.least:
                rare.append(id)
        table.evict(rare)


class Staleness:
    """Evicts ids that were last used more than `most` steps ago."""

    def __init__(self, most):
        self.most, self.now = most, 0

    def add_slots(self, table):
        table.add_slot("step_filter", np.zeros(1, np.int64))

    def observe(self, record, count):
        record["step_filter"][:] = self.now

    def after_step(self, table, run):
        self.now += 1
        if run:
            ids = table.ids()
            stale = [id for id in ids if self.now - table.slot("step_filter", id) > self.most]
            table.evict(stale)
