"""Policies that users write: which ids get a row, and which lose it."""

import pytest
import torch

from recis.nn import AdmitHook, FilterHook
from recis.nn.initializers import ConstantInitializer
from recis.nn.modules.hashtable_hook_impl import (
    BaseAdmitHookImpl,
    BaseFilterHookImpl,
    HashtableHookFactory,
)

from .helpers import dump, long


def admission(table, hook):
    return HashtableHookFactory().create_admit_hook(table, hook)


def filters(table, name):
    return HashtableHookFactory().get_filters()[name][table]


class NegativeFilter(BaseFilterHookImpl):
    """Upstream's style: negative ids go. Remembers how often `update` was called."""

    def __init__(self, ht, name="negative_filter", note=None):
        super().__init__(ht, name)
        self.note = note
        self.register_buffer("updates", torch.zeros(1, dtype=torch.int64))
        self.gone = []

    def update(self, index):
        self.updates += index.numel()

    def filter(self, ids, index):
        return ids[ids < 0], index[ids < 0]

    def after_filter(self, ids, delete_ids):
        self.gone = delete_ids.tolist()


class Rising(BaseAdmitHookImpl):
    """Admits ids above all before; remembers what it was asked."""

    def __init__(self, start=0):
        self.top, self.asked = start, []

    def admit(self, ids, counts):
        self.asked.append((ids.tolist(), counts.tolist()))
        mask = ids > self.top
        self.top = max(self.top, *ids.tolist())
        return mask


class Failing(BaseAdmitHookImpl):
    def admit(self, ids, counts):
        raise ArithmeticError("no")


HashtableHookFactory().regist_filter("Negative", NegativeFilter)
HashtableHookFactory().regist_admit("Failing", Failing)
HashtableHookFactory().regist_admit("Rising", Rising)


def test_ones_own_filter_sees_rows_and_evicts(make_table):
    table = make_table(filter_hook=FilterHook("Negative", {"note": "kept"}))
    impl = filters(table, "Negative")
    table(long(-1, 2, -3, 2))
    table.eval()(long(-1))
    assert impl.note == "kept"
    assert impl.updates.tolist() == [3]  # distinct rows of the training lookup
    impl.do_filter()
    assert table.ids().tolist() == [2]
    assert sorted(impl.gone) == [-3, -1]
    assert any(name.endswith("updates") for name in table.state_dict())


def test_ones_own_admission_is_asked_of_new_ids_once_with_their_counts(make_table):
    table = make_table([1], initializer=ConstantInitializer(5))
    hook = AdmitHook("Rising", {"start": 3})
    table(long(4), admit_hook=hook)
    out = table(long(2, 4, 6, 2), admit_hook=hook)
    assert out.view(-1).tolist() == [0.0, 5.0, 5.0, 0.0]
    assert admission(table, hook).asked == [([4], [1]), ([2, 6], [2, 1])]
    out.sum().backward()
    assert table.grad().values().tolist() == [[1.0], [1.0]]
    assert table.stats()["refusals"] == 1


def test_an_admission_that_fails_changes_nothing(make_table):
    table = make_table()
    table(long(1)).sum().backward()
    before = dump(table)
    with pytest.raises(ArithmeticError):
        table(long(1, 2), admit_hook=AdmitHook("Failing"))
    assert dump(table) == before
