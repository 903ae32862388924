"""The user's state comes back exactly as it was committed."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recis._state import decode, encode

from .helpers import bits

DTYPES = """
    bool uint8 int8 int16 int32 int64 uint16 uint32 uint64 float16 bfloat16 float32 float64
    float8_e4m3fn float8_e5m2 complex64 complex128
""".split()


def there_and_back(value):
    return decode(encode(value, "state"), "state")


def same(found, expected):
    """Equality that tells 1 from True and 1.0, -0.0 from 0.0, and lists from tuples."""
    if isinstance(expected, torch.Tensor):
        return isinstance(found, torch.Tensor) and bits(found) == bits(expected)
    if type(found) is not type(expected):
        return False
    if isinstance(expected, dict):
        pairs = zip(found.items(), expected.items(), strict=True)
        return len(found) == len(expected) and all(
            same(key, other) and same(item, wanted) for (key, item), (other, wanted) in pairs
        )
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, float):
        return math.copysign(1, found) == math.copysign(1, expected) and (
            found == expected or (math.isnan(found) and math.isnan(expected))
        )
    return found == expected


tensors = st.builds(
    lambda values, dtype: torch.tensor(values, dtype=torch.float64).to(dtype),
    st.lists(st.integers(0, 100), max_size=3),
    st.sampled_from([torch.float32, torch.bfloat16, torch.int8, torch.complex128, torch.uint64]),
)
plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(st.characters()),
    tensors,
)
states = st.recursive(
    plain,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=4),
    ),
    max_leaves=12,
)


@given(states)
def test_any_state_comes_back_as_it_was(state):
    assert same(there_and_back(state), state)


@pytest.mark.parametrize("dtype", [getattr(torch, name) for name in DTYPES], ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (3,), (2, 3)], ids=str)
def test_a_tensor_of_any_dtype_and_shape_comes_back(dtype, shape):
    tensor = torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape).to(dtype)
    found = there_and_back({"x": [tensor]})["x"][0]
    assert found.shape == tensor.shape
    assert bits(found.reshape(-1)) == bits(tensor.reshape(-1))


def test_strided_shared_and_trained_tensors_come_back_as_plain_ones():
    weight = torch.nn.Parameter(torch.arange(6.0).view(2, 3))
    state = [weight, weight, weight.t(), weight[1:], weight[0, 1:], weight.expand(4, 2, 3)]
    found = there_and_back(state)
    for tensor, expected in zip(found, state, strict=True):
        assert torch.equal(tensor, expected)
        assert not tensor.requires_grad
    found[0].zero_()  # nor do they share memory now
    assert torch.equal(found[1], weight)


def test_a_conjugate_comes_back_by_value():
    tensor = torch.tensor([1 + 2j]).conj()
    assert torch.equal(there_and_back(tensor), tensor.resolve_conj())


def test_ints_and_floats_have_no_limits():
    state = [10**6000, -(10**6000), 2**63, -(2**63), -0.0, math.nan, math.inf, -math.inf, 5e-324]
    assert same(there_and_back(state), state)


def test_keys_keep_their_kind_and_order():
    state = {2: "int", "2": "str", -(2**80): "long", "": "empty", "a']['b": "quotes"}
    assert same(there_and_back(state), state)
    assert same(there_and_back({k: torch.tensor(i) for i, k in enumerate(state)}),
                {k: torch.tensor(i) for i, k in enumerate(state)})  # fmt: skip


def test_what_derives_from_a_known_kind_comes_back_as_that():
    model = torch.nn.Linear(2, 1)
    assert type(there_and_back(model.state_dict())) is dict
    assert there_and_back(torch.Size([2, 3])) == (2, 3)
    model.load_state_dict(there_and_back(model.state_dict()))


def test_optimizers_and_random_generators_go_on_from_their_state():
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([parameter], amsgrad=True)
    parameter.sum().backward()
    optimizer.step()
    state = {"optimizer": optimizer.state_dict(), "random": torch.get_rng_state()}
    found = there_and_back(state)
    assert same(found, state)
    optimizer.load_state_dict(found["optimizer"])
    torch.set_rng_state(found["random"])


@pytest.mark.parametrize(
    ("state", "place", "kind"),
    [
        ({"a": [0, 1, 2, {3}]}, "state['a'][3]", "set"),
        (b"bytes", "state", "bytes"),
        ({"model": {"m": (object(),)}}, "state['model']['m'][0]", "object"),
        ({"k": {1.5: 0}}, "state['k']", "1.5"),
        ({True: 0}, "state", "True"),
        ([torch.ones(2).to_sparse()], "state[0]", "sparse"),
        ([torch.ones(2, device="meta")], "state[0]", "meta"),
        ({1: 1j}, "state[1]", "complex"),
    ],
)
def test_what_cannot_be_saved_is_named_with_its_place(state, place, kind):
    with pytest.raises(TypeError) as error:
        encode(state, "state")
    assert str(error.value).startswith(f"{place}: ")
    assert kind in str(error.value)


def test_a_table_in_the_state_gets_advice(make_table):
    with pytest.raises(TypeError, match="split_sparse_dense_state_dict"):
        encode(make_table().state_dict(), "state")
