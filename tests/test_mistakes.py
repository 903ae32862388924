"""A mistake gets the right exception and a message that helps, and changes nothing."""

from itertools import count

import pytest
import torch

from recis import optim
from recis.nn import AdmitHook, FilterHook
from recis.nn import initializers as init
from recis.nn.modules.hashtable import Slice, gen_slice
from recis.nn.modules.hashtable_hook_impl import BaseAdmitHookImpl, HashtableHookFactory

from .helpers import dump, long, train

names = (f"mistaken-{number}" for number in count())


def cases(*mistakes):
    """A parameter for each `(description, what is done, exception, words of its message)`."""
    return [pytest.param(*rest, id=description) for description, *rest in mistakes]


def assert_helps(error, words):
    message = str(error.value)
    assert [word for word in words if word not in message] == [], message


def answer(how):
    """An admit hook that answers wrongly."""
    return AdmitHook("Answers", {"how": how})


class Answers(BaseAdmitHookImpl):
    """Answers as it was made to."""

    def __init__(self, how):
        self.how = how

    def admit(self, ids, counts):
        return {
            "short": torch.ones(len(ids) - 1, dtype=torch.bool),
            "ints": torch.ones(len(ids), dtype=torch.int64),
            "matrix": torch.ones(len(ids), 1, dtype=torch.bool),
            "list": [True] * len(ids),
            "nothing": None,
        }[self.how]


HashtableHookFactory().regist_admit("Answers", Answers)


@pytest.fixture
def table(make_table):
    """A table with three rows, a pending gradient and optimizer state."""
    table = make_table([2, 3], filter_hook=FilterHook("FrequencyFilter"))
    optimizer = optim.SparseAdam({"t": table.table})
    train(table, optimizer, long(1, 2, 3), torch.ones(3, 2, 3))
    table(long(1, 2)).sum().backward()
    return table


# ---- making a table ----

RANDOM_INTEGERS = {"dtype": torch.int8, "initializer": init.NormalInitializer()}
MANY_CHILDREN = {"children": [f"c{i}" for i in range(4095)], "coalesced": True}
UNKNOWN = FilterHook("Nope")
BAD_NAME = FilterHook("FrequencyFilter", {"n": 1})


# fmt: off
TABLES = cases(
    ("a shape as a string", {"embedding_shape": "12"}, ValueError, ["'12'", "positive"]),
    ("a shape as a number", {"embedding_shape": 8}, ValueError, ["8", "[64]"]),
    ("an empty shape", {"embedding_shape": []}, ValueError, ["[]", "positive"]),
    ("a zero size", {"embedding_shape": [4, 0]}, ValueError, ["[4, 0]", "positive"]),
    ("a negative size", {"embedding_shape": [-4]}, ValueError, ["[-4]", "positive"]),
    ("a float size", {"embedding_shape": [4.0]}, ValueError, ["[4.0]", "ints"]),
    ("a bool size", {"embedding_shape": [True]}, ValueError, ["[True]", "ints"]),
    ("a huge size", {"embedding_shape": [2**40]}, ValueError, ["1099511627776", "2^30"]),
    ("sizes that overflow", {"embedding_shape": [2**31] * 3}, ValueError, ["2^30"]),
    ("no rows a block", {"block_size": 0}, ValueError, ["block_size", "positive", "0"]),
    ("a float block", {"block_size": 5.0}, TypeError, ["block_size", "5.0"]),
    ("a huge block", {"block_size": 2**62}, ValueError, ["block", "too large"]),
    ("a dtype's name", {"dtype": "float32"}, TypeError, ["dtype", "float32"]),
    ("a complex dtype", {"dtype": torch.complex64}, TypeError, ["dtype", "complex64"]),
    ("no such GPU", {"device": "cuda:99"}, RuntimeError, ["cuda:99", "not available", "cpu"]),
    ("no such GPU, as an object", {"device": torch.device("cuda:99")}, RuntimeError, ["cuda:99"]),
    ("another way to reduce", {"grad_reduce_by": "sum"}, ValueError, ["'worker'", "'sum'"]),
    ("a slice as a tuple", {"slice": (0, 1, 1)}, TypeError, ["Slice", "(0, 1, 1)"]),
    ("an initializer's name", {"initializer": "zeros"}, TypeError, ["initializer", "'zeros'"]),
    ("an initializer's class", {"initializer": init.NormalInitializer}, TypeError, ["class"]),
    ("random integers", RANDOM_INTEGERS, ValueError, ["NormalInitializer", "int8"]),
    ("a float seed", {"seed": 0.5}, TypeError, ["seed", "0.5"]),
    ("children as a string", {"children": "ab"}, TypeError, ["children", "'ab'"]),
    ("no children", {"children": [], "coalesced": True}, ValueError, ["children", "0"]),
    ("too many children", MANY_CHILDREN, ValueError, ["4094", "4095"]),
    ("equal children", {"children": ["a", "a"], "coalesced": True}, ValueError, ["different"]),
    ("children that are not apart", {"children": ["a", "b"]}, ValueError, ["coalesced"]),
    ("a hook's name", {"filter_hook": "FrequencyFilter"}, TypeError, ["filter_hook"]),
    ("an admit hook", {"filter_hook": AdmitHook("ReadOnly")}, TypeError, ["FilterHook"]),
    ("an unknown filter", {"filter_hook": UNKNOWN}, ValueError, ["'Nope'", "GlobalStepFilter"]),
    ("an unknown parameter", {"filter_hook": BAD_NAME}, ValueError, ["'n'", "min_frequency"]),
)
# fmt: on


@pytest.mark.parametrize("options, exception, words", TABLES)
def test_a_table_that_cannot_be_is_not_made(make_table, options, exception, words):
    options = {"embedding_shape": [4], "name": next(names), **options}
    with pytest.raises(exception) as error:
        make_table(**options)
    assert_helps(error, [options["name"], *words])
    del error
    make_table(name=options["name"])  # the name was not taken


@pytest.mark.parametrize(
    "name", ["", "a b", "a\n", "ä", "../up", "/root", "a..b", "x" * 256, 7, None, "a\0"], ids=repr
)
def test_a_name_that_cannot_be_part_of_a_path_is_refused(make_table, name):
    with pytest.raises(ValueError, match="name must be") as error:
        make_table(name=name)
    assert_helps(error, [repr(name), "file names"])


@pytest.mark.parametrize("name", ["a", "user/item.v-2_B", "x" * 255, "9"])
def test_names_that_are_paths_are_accepted(make_table, name):
    assert make_table(name=name).table.name == name


def test_a_live_tables_name_is_refused(table, make_table):
    with pytest.raises(ValueError, match=f"named '{table.table.name}' already") as error:
        make_table([7], name=table.table.name)
    assert_helps(error, ["[2, 3]", "[7]", "float32", "delete it"])


def test_a_live_tables_name_is_refused_to_children(table, make_table):
    with pytest.raises(ValueError, match=f"named '{table.table.name}' already"):
        make_table(children=["kid", table.table.name], coalesced=True)
    make_table(name="kid")


def test_tuples_and_torch_sizes_are_shapes(make_table):
    assert make_table((2, 3)).embeddings().shape == (0, 2, 3)
    assert make_table(torch.Size([5])).embeddings().shape == (0, 5)


# ---- using a table ----

ONES = torch.ones(2, 2, 3)


def embedding(table):
    return table.slot_group().slot_by_name("embedding")


# fmt: off
CALLS = cases(
    ("int32 ids", lambda t: t(long(1).int()), TypeError, ["ids", "int64", "int32"]),
    ("float ids", lambda t: t(torch.ones(2)), TypeError, ["int64", "float32"]),
    ("a list of ids", lambda t: t([1, 2]), TypeError, ["int64 tensor", "list"]),
    ("a number for ids", lambda t: t(1), TypeError, ["int64 tensor", "int"]),
    ("bool ids in eval", lambda t: t.eval()(torch.ones(2).bool()), TypeError, ["torch.bool"]),
    ("int32 to prefetch", lambda t: t.prefetch(long(1).int()), TypeError, ["prefetch"]),
    ("floats to evict", lambda t: t.evict(torch.ones(1)), TypeError, ["evict", "float32"]),
    ("a list to find", lambda t: t.contains([1]), TypeError, ["int64 tensor", "list"]),
    ("a hook's name", lambda t: t(long(9), "ReadOnly"), TypeError, ["AdmitHook", "'ReadOnly'"]),
    ("a filter hook", lambda t: t(long(9), FilterHook("ReadOnly")), TypeError, ["AdmitHook"]),
    ("an unknown hook", lambda t: t(long(9), AdmitHook("No")), ValueError, ["'No'", "ReadOnly"]),
    ("a hook's parameter", lambda t: t(long(9), AdmitHook("ReadOnly", {"n": 1})), ValueError,
     ["'n'", "ReadOnly"]),
    ("a short mask", lambda t: t(long(8, 9), answer("short")), ValueError, ["(2,)", "(1,)"]),
    ("a mask of ints", lambda t: t(long(9), answer("ints")), ValueError, ["bool", "int64"]),
    ("a square mask", lambda t: t(long(9), answer("matrix")), ValueError, ["bool", "(1, 1)"]),
    ("a mask as a list", lambda t: t(long(9), answer("list")), TypeError, ["bool mask", "list"]),
    ("no mask", lambda t: t(long(9), answer("nothing")), TypeError, ["bool mask", "NoneType"]),
    ("int32 to insert", lambda t: t.insert(long(1, 2).int(), ONES), TypeError, ["insert", "int32"]),
    ("too few embeddings", lambda t: t.insert(long(8, 9, 7), ONES), ValueError,
     ["insert", "(3, 2, 3)", "(2, 2, 3)"]),
    ("flat embeddings", lambda t: t.insert(long(8, 9), torch.ones(2, 6)), ValueError,
     ["insert", "(2, 2, 3)", "(2, 6)"]),
    ("embeddings of another dtype", lambda t: t.insert(long(8, 9), ONES.double()), ValueError,
     ["insert", "float32", "float64"]),
    ("embeddings as a list", lambda t: t.insert(long(8), [1.0]), TypeError, ["insert", "list"]),
    ("a gradient for no row", lambda t: t.accept_grad(long(0, 3), ONES), IndexError,
     ["row 3", "position 1", "3 rows", "ids_map"]),
    ("a gradient for row -1", lambda t: t.accept_grad(long(-1, 0), ONES), IndexError, ["row -1"]),
    ("a gradient for row 2^40", lambda t: t.accept_grad(long(0, 2**40), ONES), IndexError,
     [f"row {2**40}"]),
    ("a gradient of another shape", lambda t: t.accept_grad(long(0), ONES), ValueError,
     ["accept_grad", "(1, 2, 3)", "(2, 2, 3)"]),
    ("a gradient of integers", lambda t: t.accept_grad(long(0, 1), ONES.long()), TypeError,
     ["accept_grad", "floating", "int64"]),
    ("int32 rows", lambda t: t.accept_grad(long(0, 1).int(), ONES), TypeError,
     ["grad_index", "int64", "int32"]),
    ("a gradient as a list", lambda t: t.accept_grad(long(0), [1.0]), TypeError, ["list"]),
    ("no steps to divide by", lambda t: t.grad(acc_step=0), ValueError, ["acc_step", "0"]),
    ("a slot's unknown name", lambda t: t.slot_group().slot_by_name("momentum"), KeyError,
     ["momentum", "embedding", "sparse_adam_exp_avg"]),
    ("a slot of another kind", lambda t: t.table.add_slot("embedding", torch.int8, (1,)),
     ValueError, ["embedding", "float32", "int8", "[2, 3]", "[1]"]),
    ("a slot without elements", lambda t: t.table.add_slot("late", shape=(0,)), ValueError,
     ["late", "[0]"]),
    ("reading no row", lambda t: embedding(t).read(long(7)), IndexError, ["row 7"]),
    ("writing no row", lambda t: embedding(t).write(long(0, 7), ONES), IndexError, ["row 7"]),
    ("writing another shape", lambda t: embedding(t).write(long(0), ONES), ValueError,
     ["embedding", "(1, 2, 3)", "(2, 2, 3)"]),
)
# fmt: on


@pytest.mark.parametrize("mistake, exception, words", CALLS)
def test_a_mistaken_call_changes_nothing(table, mistake, exception, words):
    before = dump(table)
    with pytest.raises(exception) as error:
        mistake(table)
    assert_helps(error, [table.table.name, *words])
    assert dump(table) == before


def test_an_unknown_slot_index_is_refused(table):
    with pytest.raises(IndexError):
        table.slot_group().slot_by_index(99)


def test_an_integer_table_takes_no_gradient(make_table):
    table = make_table(dtype=torch.int32)
    table.insert(long(1), torch.ones(1, 4, dtype=torch.int32))
    with pytest.raises(ValueError, match="takes no gradient") as error:
        table.accept_grad(long(0), torch.ones(1, 4))
    assert_helps(error, [table.table.name, "int32"])


# ---- children and slices ----


@pytest.mark.parametrize("id", [-1, 2**52, -(2**63), 2**63 - 1])
def test_an_id_that_would_lose_bits_is_refused(make_table, id):
    table = make_table(coalesced=True, children=["left", "right"])
    with pytest.raises(ValueError, match="2\\*\\*52") as error:
        table.children_info().encode(long(5, id), "right")
    assert_helps(error, [table.table.name, "right", str(id)])


@pytest.mark.parametrize(
    "use",
    [
        lambda table, ids: table(ids),
        lambda table, ids: table.eval()(ids),
        lambda table, ids: table.insert(ids, torch.ones(1, 4)),
    ],
    ids=["training", "eval", "insert"],
)
def test_an_id_of_no_child_is_refused(make_table, use):
    table = make_table(coalesced=True, children=["left", "right"])
    with pytest.raises(ValueError, match="child 2") as error:
        use(table, long(2 << 52))
    assert_helps(error, [table.table.name, "encode"])
    assert len(table) == 0


CHILDREN = cases(
    ("name", lambda info: info.child_index("third"), KeyError, ["third", "left", "right"]),
    ("name to encode for", lambda info: info.encode(long(1), "third"), KeyError, ["third"]),
    ("high index", lambda info: info.child_at(2), IndexError, ["child 2", "2"]),
    ("negative index", lambda info: info.child_at(-1), IndexError, ["child -1"]),
)


@pytest.mark.parametrize("mistake, exception, words", CHILDREN)
def test_an_unknown_child_is_refused(make_table, mistake, exception, words):
    table = make_table(coalesced=True, children=["left", "right"])
    with pytest.raises(exception) as error:
        mistake(table.children_info())
    assert_helps(error, [table.table.name, *words])


@pytest.mark.parametrize("bounds", [(-1, 1, 2), (2, 1, 2), (0, 3, 2), (0, 0, 0)])
def test_a_slice_that_cannot_be_is_refused(bounds):
    with pytest.raises(ValueError, match="slice_beg") as error:
        Slice(*bounds)
    assert_helps(error, [str(bounds[0]), str(bounds[1]), str(bounds[2])])


@pytest.mark.parametrize("shard, shards", [(-1, 2), (2, 2), (0, 0)])
def test_a_shard_that_cannot_be_is_refused(shard, shards):
    with pytest.raises(ValueError, match=f"shard {shard} of {shards}"):
        gen_slice(shard, shards)
