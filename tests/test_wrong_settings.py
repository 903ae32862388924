"""Wrong settings of optimizers, hooks and initializers are refused when they are given."""

import pytest
import torch

from recis import optim
from recis.hooks import HashTableFilterHook
from recis.nn import AdmitHook, FilterHook
from recis.nn import initializers as init
from recis.nn.hashtable_hook import (
    FrequencyAdmitHook,
    FrequencyFilterHook,
    GlobalStepFilterHook,
)
from recis.nn.modules.hashtable_hook_impl import (
    BaseAdmitHookImpl,
    BaseFilterHookImpl,
    HashtableHookFactory,
)

from .helpers import by_id, dump, long

# ---- optimizers ----

OPTIMIZERS = [
    optim.SparseAdam,
    optim.SparseAdamW,
    optim.SparseAdamWTF,
    optim.SparseSGD,
    optim.SparseAdagrad,
    optim.SparseRowWiseAdagrad,
]
NAN = float("nan")
# fmt: off
RANGES = [
    *((optimizer, "lr", value) for optimizer in OPTIMIZERS for value in (-1e-3, NAN)),
    *((optimizer, "weight_decay", -0.1) for optimizer in OPTIMIZERS),
    *((optimizer, name, value) for optimizer in OPTIMIZERS[:3] for name, value in
      [("beta1", 1.0), ("beta1", -0.1), ("beta2", 1.0), ("beta2", NAN), ("eps", -1e-8)]),
    (optim.SparseSGD, "momentum", -0.9),
    (optim.SparseAdagrad, "lr_decay", -0.1),
    (optim.SparseAdagrad, "initial_accumulator_value", -0.1),
    (optim.SparseAdagrad, "eps", -1e-10),
    (optim.SparseRowWiseAdagrad, "initial_accumulator_value", NAN),
    (optim.SparseRowWiseAdagrad, "eps", -1e-8),
]
# fmt: on


def attach(optimizer, table, **options):
    return optimizer({table.table.name: table.table}, **options)


@pytest.mark.parametrize("optimizer, name, value", RANGES)
def test_a_hyper_parameter_out_of_range_is_refused(make_table, optimizer, name, value):
    table = make_table()
    before = dump(table)
    with pytest.raises(ValueError, match=f"{optimizer.__name__}: {name} must be") as error:
        attach(optimizer, table, **{name: value})
    assert repr(value) in str(error.value)
    assert dump(table) == before  # no slot was added


def test_nesterov_without_momentum_is_refused(make_table):
    with pytest.raises(ValueError, match="momentum"):
        attach(optim.SparseSGD, make_table(), nesterov=True)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_dense_parameters_are_refused(optimizer):
    with pytest.raises(TypeError, match=r"filter_out_sparse_param.*generator"):
        optimizer(torch.nn.Linear(2, 2).parameters())
    with pytest.raises(TypeError, match=r"'weight' is a Parameter.*torch\.optim"):
        optimizer(dict(torch.nn.Linear(2, 2).named_parameters()))


def test_a_module_is_not_its_table(make_table):
    with pytest.raises(TypeError, match=r"'t' is a HashTable.*filter_out_sparse_param"):
        optim.SparseAdam({"t": make_table()})


def test_tables_are_taken_on_all_or_none(make_table):
    table, integers = make_table(), make_table(dtype=torch.int64)
    before = dump(table)
    with pytest.raises(ValueError, match=f"'{integers.table.name}' holds torch.int64"):
        optim.SparseAdam({"good": table.table, "bad": integers.table})
    assert dump(table) == before


def test_a_slot_of_that_name_but_another_kind_is_refused(make_table):
    table = make_table()
    table.table.add_slot("sparse_adam_exp_avg", torch.int64, (1,))
    with pytest.raises(ValueError, match=r"sparse_adam_exp_avg.*int64.*float32") as error:
        attach(optim.SparseAdam, table)
    assert table.table.name in str(error.value)


@pytest.mark.parametrize("steps", [0, -1, 1.5, "2"])
def test_accumulation_over_no_steps_is_refused(make_table, steps):
    optimizer = attach(optim.SparseAdam, make_table())
    with pytest.raises(ValueError, match="grad_accum_steps must be a positive int") as error:
        optimizer.set_grad_accum_steps(steps)
    assert repr(steps) in str(error.value)


def test_another_optimizers_state_is_refused(make_table):
    table = make_table()
    adam, adamw = attach(optim.SparseAdam, table), attach(optim.SparseAdamW, table)
    before = adam.state_dict()
    for state, found in [(adamw.state_dict(), "SparseAdamW"), ({"state": {}}, "None")]:
        with pytest.raises(ValueError, match=f"expected the state of a SparseAdam, .*{found}"):
            adam.load_state_dict(state)
    assert adam.state_dict() == before


def test_the_state_of_tables_it_does_not_have_is_refused(make_table):
    table, other = make_table(), make_table()
    one = attach(optim.SparseAdam, table)
    both = optim.SparseAdam({"a": table.table, "b": other.table}, lr=0.5)
    before = one.state_dict()
    with pytest.raises(ValueError, match=f"{other.table.name}; .*add_params"):
        one.load_state_dict(both.state_dict())
    assert one.state_dict() == before


def test_a_saved_momentum_needs_its_slot(make_table):
    """The optimizer that loads takes on the slots that the saved one had."""
    table = make_table()
    saved = attach(optim.SparseSGD, make_table(), lr=1.0, momentum=0.5).state_dict()
    optimizer = attach(optim.SparseSGD, table)
    optimizer.load_state_dict({**saved, "state": {}})
    for _ in range(2):
        table(long(1)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert by_id(table) == {1: [-2.5] * 4}


# ---- hooks ----


@pytest.mark.parametrize("kind", [AdmitHook, FilterHook])
@pytest.mark.parametrize("name", ["", None, 3])
def test_a_hook_needs_a_name(kind, name):
    with pytest.raises(TypeError, match=f"{kind.__name__}: name .*{name!r}"):
        kind(name)


@pytest.mark.parametrize("params", [[1], 5, "min_frequency=5"])
def test_a_hooks_parameters_are_a_dict(params):
    with pytest.raises(TypeError, match="AdmitHook: params must be a dict"):
        AdmitHook("FrequencyAdmit", params)


@pytest.mark.parametrize("value", [0, -1, 1.5, "5", None, True])
@pytest.mark.parametrize(
    "hook, parameter",
    [
        (FrequencyAdmitHook, "min_frequency"),
        (FrequencyFilterHook, "min_frequency"),
        (GlobalStepFilterHook, "filter_step"),
    ],
)
def test_a_hooks_count_is_a_positive_int(make_table, hook, parameter, value):
    hook = hook(value)
    with pytest.raises(ValueError, match=f"{parameter} must be an int of at least 1") as error:
        if isinstance(hook, AdmitHook):
            make_table()(long(1), admit_hook=hook)
        else:
            make_table(filter_hook=hook)
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("value", [1, 2.5])
def test_candidates_are_bounded_by_at_least_two(make_table, value):
    with pytest.raises(ValueError, match="max_candidates must be an int of at least 2"):
        make_table()(long(1), admit_hook=FrequencyAdmitHook(2, max_candidates=value))


@pytest.mark.parametrize("interval", [0, -5])
def test_a_filter_interval_is_positive(interval):
    with pytest.raises(ValueError, match=f"positive or None, found {interval}"):
        HashTableFilterHook(filter_interval=interval)
    hook = HashTableFilterHook(filter_interval=7)
    with pytest.raises(ValueError, match=f"positive or None, found {interval}"):
        hook.reset_filter_interval(interval)
    assert hook.filter_interval == 7


def test_a_registered_hooks_name_is_taken():
    factory = HashtableHookFactory()
    with pytest.raises(ValueError, match="'GlobalStepFilter' is registered"):
        factory.regist_filter("GlobalStepFilter", BaseFilterHookImpl)
    with pytest.raises(ValueError, match="'ReadOnly' is registered"):
        factory.regist_admit("ReadOnly", BaseAdmitHookImpl)


def test_a_table_has_one_filter_of_a_name(make_table):
    table = make_table(filter_hook=FrequencyFilterHook(3))
    with pytest.raises(ValueError, match=f"'{table.table.name}' has filter hook 'FrequencyFilter'"):
        HashtableHookFactory().create_filter_hook(table, FrequencyFilterHook(4))


HashtableHookFactory().regist_admit("Empty", BaseAdmitHookImpl)
HashtableHookFactory().regist_filter("Empty", BaseFilterHookImpl)


def test_a_policy_that_defines_nothing_says_what_to_define(make_table):
    table = make_table(filter_hook=FilterHook("Empty"))
    with pytest.raises(NotImplementedError, match=r"must define admit\(ids, counts\)"):
        table(long(1), admit_hook=AdmitHook("Empty"))
    assert len(table) == 0
    with pytest.raises(NotImplementedError, match=r"must define filter\(ids, "):
        HashtableHookFactory().get_filters()["Empty"][table].do_filter()


# ---- initializers ----


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: init.UniformInitializer(2.0, 1.0), "a=2.0, b=1.0"),
        (lambda: init.UniformInitializer(NAN, 1.0), "a=nan"),
        (lambda: init.NormalInitializer(0.0, -1.0), "-1.0"),
        (lambda: init.NormalInitializer(0.0, NAN), "nan"),
        (lambda: init.TruncNormalInitializer(std=-1.0), "-1.0"),
        (lambda: init.TruncNormalInitializer(a=1.0, b=1.0), "a=1.0, b=1.0"),
        (lambda: init.KaimingNormalInitializer(mode="fan"), "'fan'"),
        (lambda: init.KaimingUniformInitializer(nonlinearity="cube"), "cube"),
    ],
)
def test_an_initializer_out_of_range_is_refused(make, words):
    with pytest.raises(ValueError, match=r"Initializer|nonlinearity") as error:
        make()
    assert words in str(error.value)
