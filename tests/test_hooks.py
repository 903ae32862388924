"""Which ids get a row, which lose it, and what hooks remember meanwhile."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from recis.hooks import HashTableFilterHook, Hook
from recis.nn import AdmitHook
from recis.nn.hashtable_hook import (
    FrequencyAdmitHook,
    FrequencyFilterHook,
    GlobalStepFilterHook,
    ReadOnlyAdmitHook,
)
from recis.nn.initializers import ConstantInitializer
from recis.nn.modules.hashtable_hook_impl import (
    HashtableHookFactory,
)
from recis.optim import SparseSGD

from .helpers import by_id, long


def admission(table, hook):
    """What admits for a hook on a table."""
    return HashtableHookFactory().create_admit_hook(table, hook)


def sightings(table, hook):
    ids, counts = admission(table, hook).state()
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))


def filters(table, name):
    return HashtableHookFactory().get_filters()[name][table]


# ---- ReadOnly ----


@pytest.mark.parametrize("hook", [AdmitHook("ReadOnly"), ReadOnlyAdmitHook()])
def test_read_only_gives_no_rows_and_trains_known_ids(make_table, hook):
    table = make_table([1], initializer=ConstantInitializer(5))
    table(long(1))
    out = table(long(1, 2, 2), admit_hook=hook)
    assert out.tolist() == [[5.0], [0.0], [0.0]]
    out.sum().backward()
    SparseSGD({"t": table.table}, lr=1.0).step()
    assert by_id(table) == {1: [4.0]}
    assert table.stats()["refusals"] == 1


# ---- FrequencyAdmit ----


def test_an_id_is_admitted_at_its_min_frequency_th_sighting(make_table):
    table = make_table([1], initializer=ConstantInitializer(5))
    hook = FrequencyAdmitHook(3)
    for expected in (0.0, 0.0, 5.0, 5.0):
        assert table(long(7), admit_hook=hook).item() == expected
    assert table.ids().tolist() == [7]


def test_repeats_in_a_batch_are_sightings(make_table):
    table = make_table([1])
    hook = FrequencyAdmitHook(3)
    table(long(1, 2, 1, 2, 2, 3), admit_hook=hook)
    assert table.ids().tolist() == [2]
    assert sightings(table, hook) == {1: 2, 3: 1}
    table(long(1), admit_hook=hook)
    assert sorted(table.ids().tolist()) == [1, 2]


def test_before_admission_an_id_takes_no_gradient(make_table):
    table = make_table([1])
    table(long(1), admit_hook=FrequencyAdmitHook(2)).sum().backward()
    table(long(1), admit_hook=FrequencyAdmitHook(2)).sum().backward()
    assert table.grad().values().tolist() == [[1.0]]


def test_reading_is_no_sighting(make_table):
    table = make_table()
    hook = FrequencyAdmitHook(2)
    table(long(1), admit_hook=hook)
    for _ in range(3):
        table.eval()(long(1, 2), admit_hook=hook)
    assert sightings(table, hook) == {1: 1}


def test_an_evicted_id_starts_to_count_anew(make_table):
    table = make_table()
    hook = FrequencyAdmitHook(2)
    table(long(1, 1), admit_hook=hook)
    table.evict(long(1))
    table(long(1), admit_hook=hook)
    assert len(table) == 0
    assert sightings(table, hook) == {1: 1}


def test_clear_forgets_sightings(make_table):
    table = make_table()
    hook = FrequencyAdmitHook(2)
    table(long(1), admit_hook=hook)
    table.clear()
    assert sightings(table, hook) == {}


def test_sightings_are_told_of_one_id(make_table):
    table = make_table()
    hook = FrequencyAdmitHook(3)
    table(long(-1, -1, 5, 5, 5), admit_hook=hook)
    assert [admission(table, hook).sightings(id) for id in (-1, 5, 9)] == [2, 0, 0]


def test_candidates_are_bounded_and_the_longest_unseen_are_forgotten(make_table):
    table = make_table()
    hook = FrequencyAdmitHook(3, max_candidates=20)
    for id in range(100):
        table(long(id, 1000), admit_hook=hook if id else FrequencyAdmitHook(9))
        assert len(sightings(table, hook)) <= 20
    assert admission(table, hook).sightings(99) == 1
    assert admission(table, hook).sightings(1) == 0
    assert table.ids().tolist() == [1000]


def test_an_id_seen_meanwhile_is_not_forgotten(make_table):
    table = make_table()
    hook = FrequencyAdmitHook(1000, max_candidates=20)
    for id in range(1, 200):
        table(long(id, 0), admit_hook=hook)
    assert admission(table, hook).sightings(0) == 199


def test_restored_sightings_admit_as_the_saved_ones_would(make_table):
    table, other = make_table(), make_table()
    hook = FrequencyAdmitHook(3)
    random = torch.Generator().manual_seed(0)
    for _ in range(10):
        table(torch.randint(-20, 20, (4,), generator=random), admit_hook=hook)
    other.insert(table.ids(), table.embeddings())
    admission(other, hook).load_state(*admission(table, hook).state())
    for _ in range(10):
        assert sightings(other, hook) == sightings(table, hook)
        ids = torch.randint(-20, 20, (4,), generator=random)
        for each in (table, other):
            each(ids, admit_hook=hook)
        assert sorted(other.ids().tolist()) == sorted(table.ids().tolist())


def test_restoring_sightings_replaces_those_there_were(make_table):
    table = make_table()
    hook = FrequencyAdmitHook(5, max_candidates=10)
    table(long(1, 2, 3), admit_hook=hook)
    admission(table, hook).load_state(torch.arange(-4, 6), torch.arange(1, 11))
    assert sightings(table, hook) == dict(zip(range(-4, 6), range(1, 11), strict=True))


def test_different_parameters_are_different_hooks(make_table):
    table = make_table()
    twice, thrice = FrequencyAdmitHook(2), FrequencyAdmitHook(3)
    assert twice == FrequencyAdmitHook(2)
    assert hash(twice) == hash(FrequencyAdmitHook(2))
    assert twice != thrice
    table(long(1), admit_hook=twice)
    assert sightings(table, thrice) == {}
    assert admission(table, twice) is admission(table, FrequencyAdmitHook(2))
    assert admission(table, twice) is not admission(table, thrice)


def test_the_order_of_parameters_does_not_matter():
    one = AdmitHook("Some", {"a": 1, "b": 2})
    assert one == AdmitHook("Some", {"b": 2, "a": 1})
    assert one != AdmitHook("Other", {"a": 1, "b": 2})
    assert (one.name, one.params) == ("Some", {"a": 1, "b": 2})


def test_tables_count_apart(make_table):
    one, two = make_table(), make_table()
    hook = FrequencyAdmitHook(2)
    one(long(1), admit_hook=hook)
    two(long(1), admit_hook=hook)
    assert len(one) == len(two) == 0


# ---- FrequencyFilter ----


def test_ids_seen_too_seldom_go_after_being_spared_once(make_table):
    table = make_table(filter_hook=FrequencyFilterHook(3))
    run = filters(table, "FrequencyFilter").do_filter
    table(long(1, 1, 1, 2, 2, 3))
    run()
    assert sorted(table.ids().tolist()) == [1, 2, 3]
    table(long(2, 4))
    run()
    assert sorted(table.ids().tolist()) == [1, 2, 4]
    run()
    assert sorted(table.ids().tolist()) == [1, 2]


def test_frequency_counts_every_training_occurrence_and_insert(make_table):
    table = make_table([1], filter_hook=FrequencyFilterHook(3))
    table(long(1, 1, 2))
    with torch.no_grad():
        table(long(2))
    table.insert(long(2, 3), torch.ones(2, 1))
    table.eval()(long(3, 3))
    assert by_id(table, "frequency_filter") == {1: [2], 2: [3], 3: [1]}


def test_two_training_threads_lose_no_count(make_table):
    table = make_table([1], filter_hook=FrequencyFilterHook(3))
    ids = torch.arange(2000)

    def train(_):
        for _ in range(200):
            table(ids)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(train, range(2)))
    counts = table.table.get_slot("frequency_filter").read(table.table.rows_of(ids))
    assert counts.unique().tolist() == [400]


def test_a_readmitted_id_is_counted_and_spared_anew(make_table):
    table = make_table(filter_hook=FrequencyFilterHook(2))
    run = filters(table, "FrequencyFilter").do_filter
    table(long(1, 1, 1))
    run()
    table.evict(long(1))
    table(long(1))
    assert by_id(table, "frequency_filter") == {1: [1]}
    run()
    assert table.ids().tolist() == [1]
    run()
    assert table.ids().tolist() == []


def test_the_frequency_of_refused_ids_is_not_counted(make_table):
    table = make_table(filter_hook=FrequencyFilterHook(2))
    table(long(1, 1, 2), admit_hook=FrequencyAdmitHook(2))
    assert by_id(table, "frequency_filter") == {1: [2]}


# ---- GlobalStepFilter ----


def test_a_row_is_stale_iff_its_last_use_is_more_than_filter_step_ago(make_table):
    table = make_table([1], filter_hook=GlobalStepFilterHook(2))
    impl = filters(table, "GlobalStepFilter")
    table(long(1, 2, 3))
    impl.update_step()
    table(long(2))  # stamped 1
    impl.update_step()
    table.insert(long(3), torch.ones(1, 1))  # stamped 2
    table.eval()(long(1))  # reading is no use
    impl.do_filter()  # 2 - 0 is not more than 2
    assert sorted(table.ids().tolist()) == [1, 2, 3]
    impl.update_step()
    impl.do_filter()
    assert sorted(table.ids().tolist()) == [2, 3]
    impl.update_step(5)
    impl.do_filter()
    assert table.ids().tolist() == []


def test_stale_rows_are_reset_and_free(make_table):
    table = make_table([1], filter_hook=GlobalStepFilterHook(1))
    table(long(1, 2)).sum().backward()
    filters(table, "GlobalStepFilter").update_step(2)
    table(long(2))
    filters(table, "GlobalStepFilter").do_filter()
    assert table.grad().indices().tolist() == [table.table.rows_of(long(2)).tolist()]
    assert table.stats()["evictions"] == 1
    table(long(9))
    assert table.table.rows_of(long(9)).tolist() == [1]  # the row of 1
    assert by_id(table, "step_filter") == {2: [2], 9: [2]}


# ---- HashTableFilterHook ----


def test_filters_run_every_filter_interval_steps(make_table):
    table = make_table(filter_hook=GlobalStepFilterHook(1))
    hook = HashTableFilterHook(filter_interval=3)
    assert isinstance(hook, Hook)
    table(long(7))
    lengths = []
    for step in range(1, 7):
        hook.after_step(None, step)
        lengths.append(len(table))
        table(long(step))
    assert lengths == [1, 2, 1, 2, 3, 1]  # at 3, ids 7 and 1 are stale; at 6, ids 2, 3 and 4


def test_the_interval_can_be_changed_and_switched_off(make_table):
    table = make_table(filter_hook=GlobalStepFilterHook(1))
    hook = HashTableFilterHook(filter_interval=None)
    table(long(7))
    for step in range(1, 50):
        hook.after_step(None, step)
    assert len(table) == 1
    hook.reset_filter_interval(5)
    hook.after_step(None, 50)
    assert len(table) == 0


def test_after_step_runs_the_filters_of_all_tables(make_table):
    tables = [make_table(filter_hook=GlobalStepFilterHook(steps)) for steps in (1, 2)]
    tables.append(make_table())
    for table in tables:
        table(long(1))
    hook = HashTableFilterHook(filter_interval=1)
    lengths = []
    for step in range(1, 4):
        hook.after_step(None, step)
        lengths.append([len(table) for table in tables])
    assert lengths == [[1, 1, 1], [0, 1, 1], [0, 0, 1]]


def test_hooks_do_not_keep_tables_alive(make_table):
    table = make_table(filter_hook=FrequencyFilterHook(2))
    hook = FrequencyAdmitHook(2)
    table(long(1), admit_hook=hook)
    factory = HashtableHookFactory()
    assert table in factory.get_filters()["FrequencyFilter"]
    assert table in factory.get_admits()[str(hook)]
    alive = weakref.ref(table)
    gc.disable()
    try:
        del table
        assert alive() is None
    finally:
        gc.enable()
    names = [each.table.name for each in factory.get_filters()["FrequencyFilter"]]
    assert len(names) == len(set(names))
