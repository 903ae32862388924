"""A `HashTable` among other torch modules: names, state dicts, copies, threads."""

import copy
import pickle
import threading
from collections import Counter

import pytest
import torch

from recis.nn import FilterHook
from recis.nn.initializers import UniformInitializer
from recis.nn.modules.hashtable import (
    HashtableRegister,
    filter_out_sparse_param,
    is_hashtable,
    split_sparse_dense_state_dict,
)
from recis.optim import SparseSGD

from .helpers import by_id, dump, long


class Model(torch.nn.Module):
    """Two tables, one of them deep inside, and a dense layer."""

    def __init__(self, make_table):
        super().__init__()
        self.user = make_table(name="model.user")
        self.inner = torch.nn.ModuleDict(
            {"item": make_table(name="item", filter_hook=FilterHook("GlobalStepFilter"))}
        )
        self.dense = torch.nn.Linear(8, 1)

    def forward(self, ids):
        return self.dense(torch.cat([self.user(ids), self.inner["item"](ids)], dim=-1))


def test_a_table_works_in_sequential(make_table):
    model = torch.nn.Sequential(make_table([3]), torch.nn.Linear(3, 2))
    model(long(1, 2, 3)).sum().backward()
    table = model[0]
    assert table.grad().values().shape == (3, 3)
    assert not list(table.parameters())


def test_train_and_eval_reach_the_table(make_table):
    model = Model(make_table)
    model.eval()(long(1))
    assert len(model.user) == 0
    model.train()(long(1))
    assert len(model.user) == 1


def test_moving_or_casting_a_model_leaves_its_tables(make_table):
    model = Model(make_table)
    model(long(1))
    before = dump(model.user)
    model.double().to("cpu")
    assert dump(model.user) == before
    assert model.user(long(1)).dtype == torch.float32


# ---- state dicts ----


def test_the_state_dict_holds_tables_by_their_names(make_table):
    model = Model(make_table)
    state = model.state_dict()
    assert state["model.user"] is model.user.table
    assert is_hashtable(state["item"])
    assert not is_hashtable(state["dense.weight"])
    assert set(filter_out_sparse_param(model)) == {"model.user", "item"}


def test_a_state_dict_splits_into_tables_and_tensors(make_table):
    model = Model(make_table)
    sparse, dense = split_sparse_dense_state_dict(model.state_dict())
    assert set(sparse) == {"model.user", "item"}
    assert all(isinstance(value, torch.Tensor) for value in dense.values())
    assert set(dense) == {
        "dense.weight",
        "dense.bias",
        "inner.item._filter_hook_impl._global_step",
    }


def test_a_model_loads_its_own_state_dict_strictly(make_table):
    model = Model(make_table)
    model(long(1, 2)).sum().backward()
    before = dump(model.user), dump(model.inner["item"])
    result = model.load_state_dict(model.state_dict(), strict=True)
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert (dump(model.user), dump(model.inner["item"])) == before


def test_a_model_loads_the_dense_part_alone(make_table):
    model = Model(make_table)
    _, dense = split_sparse_dense_state_dict(model.state_dict())
    model.load_state_dict({**dense, "dense.bias": torch.tensor([5.0])}, strict=True)
    assert model.dense.bias.tolist() == [5.0]


def test_a_key_that_is_no_table_is_still_unexpected(make_table):
    model = Model(make_table)
    with pytest.raises(RuntimeError, match="nobody"):
        model.load_state_dict({**model.state_dict(), "nobody": torch.zeros(1)})


def test_the_global_step_of_a_filter_is_saved_with_the_model(make_table):
    model = Model(make_table)
    _, dense = split_sparse_dense_state_dict(model.state_dict())
    key = "inner.item._filter_hook_impl._global_step"
    model.load_state_dict({**dense, key: torch.tensor([41])})
    assert model.state_dict()[key].tolist() == [41]


@pytest.mark.parametrize(
    "copying",
    [
        copy.deepcopy,
        pickle.dumps,
        lambda model: copy.deepcopy(model.state_dict()),
        lambda model: torch.save(model.state_dict(), "unused.pt"),
        lambda model: torch.save(model, "unused.pt"),
    ],
    ids=["deepcopy", "pickle", "deepcopy of state", "save of state", "save of model"],
)
def test_copying_a_table_says_what_to_use_instead(make_table, copying, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = Model(make_table)
    with pytest.raises(TypeError, match=r"'model.user' cannot be .*insert.*split_sparse_dense"):
        copying(model)


def test_content_moves_into_another_table_as_the_message_says(make_table):
    table, other = make_table(initializer=UniformInitializer()), make_table()
    table(long(3, -1, 2**62))
    other.insert(table.ids(), table.embeddings())
    assert by_id(other) == by_id(table)


# ---- names ----


def test_a_name_is_free_once_its_table_is_gone(make_table):
    table = make_table(name="recycled")
    del table
    make_table([9], name="recycled")


def test_a_name_held_by_a_garbage_cycle_is_free(make_table):
    table = make_table(name="in-a-cycle")
    table.itself = [table]
    del table
    make_table(name="in-a-cycle")


def test_tables_are_found_by_name_and_child(make_table):
    table = make_table(name="family", coalesced=True, children=["older", "younger"])
    register = HashtableRegister()
    for name in ("family", "older", "younger"):
        assert register.get_ht_by_child_name(name) is table.table
    del table
    with pytest.raises(KeyError):
        register.get_ht_by_child_name("older")


def test_repr_names_the_table_and_its_rows(make_table):
    table = make_table([3], name="shown")
    table(long(1, 2))
    assert "'shown'" in repr(table)
    assert "rows=2" in repr(table)
    assert "shown" in repr(table.table)
    assert "slot 'embedding' of table 'shown'" in repr(table.slot_group().slot_by_index(0))


# ---- threads ----


def in_threads(*works):
    """Runs each at the same time and raises what any of them raised."""
    errors = []
    start = threading.Barrier(len(works))

    def guarded(work):
        try:
            start.wait()
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_threads_share_a_table(make_table):
    table = make_table([2], filter_hook=FilterHook("GlobalStepFilter"))
    optimizer = SparseSGD({"t": table.table}, lr=1.0)
    rounds, batch = 40, 64

    def train():
        for i in range(rounds):
            table(torch.arange(i, i + batch)).sum().backward()

    def read():
        for i in range(rounds):
            with torch.no_grad():
                table(torch.arange(i, i + batch))
            table.embeddings(), table.stats(), table.grad()

    in_threads(train, train, read)
    optimizer.step()
    stats = table.stats()
    assert stats["lookups"] == 3 * rounds * batch == stats["hits"] + stats["misses"]
    assert stats["admits"] == stats["rows"] == len(table)
    trained = Counter(id for i in range(rounds) for id in range(i, i + batch))
    assert by_id(table) == {id: [-2.0 * count] * 2 for id, count in trained.items()}


def test_threads_may_evict_what_others_train(make_table):
    table = make_table([2])
    optimizer = SparseSGD({"t": table.table})
    rounds, batch = 40, 64

    def train():
        for _ in range(rounds):
            table(torch.arange(batch)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    def evict():
        for i in range(rounds):
            table.evict(torch.arange(i, batch))

    in_threads(train, train, evict)
    stats = table.stats()
    assert stats["rows"] == stats["admits"] - stats["evictions"] == table.ids().unique().numel()
    assert stats["lookups"] == 2 * rounds * batch == stats["hits"] + stats["misses"]
