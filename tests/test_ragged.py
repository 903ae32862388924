"""RaggedTensor."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recis.ragged import RaggedTensor

ROWS = st.lists(st.lists(st.integers(-9, 9), max_size=4), max_size=5)
NESTED = st.lists(ROWS, max_size=4)


def ragged(rows):
    flat = torch.tensor([value for row in rows for value in row], dtype=torch.int64)
    return RaggedTensor.from_lengths(flat, torch.tensor([len(row) for row in rows]).long())


def padded(rows):
    length = max(map(len, rows), default=0)
    return [row + [0] * (length - len(row)) for row in rows]


@given(ROWS)
def test_rows_are_padded(rows):
    made = ragged(rows)
    assert made.to_dense().tolist() == padded(rows)
    assert made.to_sparse().to_dense().tolist() == padded(rows)
    assert made.shape == made.size() == tuple(made.to_dense().shape)
    assert (made.dim, made.max_length, len(made)) == (2, made.shape[1], len(rows))


@given(NESTED)
def test_rows_of_rows(groups):
    inner = ragged([row for rows in groups for row in rows])
    made = RaggedTensor.from_offsets(inner, torch.tensor([0, *map(len, groups)]).cumsum(0))
    count, length = made.shape[1:]
    expected = [
        [row + [0] * (length - len(row)) for row in rows] + [[0] * length] * (count - len(rows))
        for rows in groups
    ]
    assert made.to_dense().tolist() == expected
    assert made.to_sparse().to_dense().tolist() == expected


@given(ROWS, st.integers(-6, 6) | st.none(), st.integers(-6, 6) | st.none(), st.integers(1, 3))
def test_rows_are_taken_as_of_a_list(rows, start, stop, step):
    made = ragged(rows)
    made.set_weight(made.values() * 2.0)
    key = slice(start, stop, step)
    taken = made[key]
    assert taken.to_dense().tolist() == padded(rows[key])
    assert torch.equal(taken.weight(), taken.values() * 2.0)
    for i in range(-len(rows), len(rows)):
        assert made[i].tolist() == rows[i]
    with pytest.raises(IndexError):
        made[len(rows)]


SLICES = st.builds(
    slice, st.integers(-3, 4) | st.none(), st.integers(-3, 4) | st.none(), st.integers(1, 3)
)


def lists(made):
    """What it holds, in lists."""
    if isinstance(made, torch.Tensor):
        return made.tolist()
    return [lists(made[i]) for i in range(len(made))]


@given(NESTED, SLICES, SLICES, SLICES)
def test_parts_of_rows_are_taken_as_of_lists(groups, outer, middle, inner):
    rows = ragged([row for rows in groups for row in rows])
    rows.set_weight(rows.values() * 2.0)
    made = RaggedTensor.from_offsets(rows, torch.tensor([0, *map(len, groups)]).cumsum(0))
    assert lists(made[outer, middle]) == [rows[middle] for rows in groups[outer]]
    taken = made[outer, middle, inner]
    assert lists(taken) == [[row[inner] for row in rows[middle]] for rows in groups[outer]]
    assert torch.equal(taken.weight(), taken.values() * 2.0)
    assert lists(made[..., inner]) == [[row[inner] for row in rows] for rows in groups]
    for i, rows in enumerate(groups):
        assert lists(made[i, middle, inner]) == [row[inner] for row in rows[middle]]


def test_a_row_of_rows_is_ragged():
    made = RaggedTensor(torch.arange(6), [torch.tensor([0, 1, 3]), torch.tensor([0, 2, 3, 6])])
    assert made[1].to_dense().tolist() == [[2, 0, 0], [3, 4, 5]]


def test_new_dimensions():
    made = ragged([[1, 2], [], [3]])
    assert lists(made[None]) == [[[1, 2], [], [3]]]
    assert lists(made[1:, None]) == [[[]], [[3]]]
    assert lists(made[:, :1, None]) == [[[1]], [], [[3]]]
    assert lists(made[0, None, 1:]) == [[2]]


@pytest.mark.parametrize(
    ("key", "error"),
    [
        ((0, 0), IndexError),
        ((slice(None), 0), IndexError),
        ((slice(None),) * 3, IndexError),
        ((..., ...), IndexError),
        (slice(None, None, -1), IndexError),
        (slice(None, None, 0), IndexError),
        ("a", TypeError),
        ((0, torch.tensor(1)), TypeError),
    ],
)
def test_keys_that_take_nothing(key, error):
    with pytest.raises(error):
        ragged([[1, 2], [3]])[key]


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (0, 4), (3, 0), (2, 0, 4), (2, 3, 0)])
def test_dense_there_and_back(shape):
    dense = torch.arange(int(np.prod(shape))).reshape(shape)
    made = RaggedTensor.from_dense(dense)
    assert made.shape == shape
    assert torch.equal(made.to_dense(), dense)


def test_padding_at_the_ends_of_rows_is_left_out():
    made = RaggedTensor.from_dense(torch.tensor([[1, 0, 2, 0], [0, 0, 0, 0]]), True)
    assert made.values().tolist() == [1, 0, 2]
    assert made.offsets()[0].tolist() == [0, 3, 3]


def test_made_of_what_others_have():
    values, lengths = torch.tensor([1, 2, 3]), torch.tensor([2, 0, 1])
    nested = torch.nested.nested_tensor_from_jagged(values, torch.tensor([0, 2, 2, 3]))

    class Jagged:  # as TorchRec's
        def values(self):
            return values

        def lengths(self):
            return lengths

        def weights_or_none(self):
            return values / 2

    for what in [nested, (values, lengths), Jagged(), ragged([[1, 2], [], [3]])]:
        assert RaggedTensor.from_any(what).to_dense().tolist() == [[1, 2], [0, 0], [3, 0]]
    assert RaggedTensor.from_any(Jagged()).weight().tolist() == [0.5, 1.0, 1.5]
    gaps = torch.nested.nested_tensor_from_jagged(
        torch.tensor([1, 2, 9, 9, 3]), torch.tensor([0, 3, 4, 5]), lengths=lengths
    )
    assert RaggedTensor.from_any(gaps).to_dense().tolist() == [[1, 2], [0, 0], [3, 0]]
    rows = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)], layout=torch.jagged)
    assert RaggedTensor.from_any(rows).to_dense().shape == (2, 2, 3)
    with pytest.raises(TypeError, match="second dimension"):
        RaggedTensor.from_any(rows.transpose(1, 2))
    made = RaggedTensor.from_numpy(np.array([1, 2]), np.array([0, 2]))
    assert made.to_dense().tolist() == [[1, 2]]
    with pytest.raises(TypeError, match="list"):
        RaggedTensor.from_any([1, 2])


def test_copies():
    made = RaggedTensor(torch.tensor([1, 2]), torch.tensor([0, 2]), torch.ones(2), (1, 5))
    deep, shallow = copy.deepcopy(made), made.clone()
    made.values().zero_()
    assert deep.values().tolist() == [1, 2] and shallow.values().tolist() == [0, 0]
    assert deep.shape == (1, 5) == made.to(torch.float32).shape
    assert made.to(torch.float32).offsets()[0].dtype == torch.int64


@pytest.mark.parametrize(
    ("offsets", "weight", "message"),
    [
        ([], None, "at least one dimension"),
        (torch.tensor([0, 2]), None, "0 to 2: expected 0 to 3"),
        (torch.tensor([1, 3]), None, "1 to 3"),
        (torch.tensor([0, 2, 1, 3]), None, "decrease"),
        (torch.tensor([0.0, 3.0]), None, "integers"),
        (torch.tensor([], dtype=torch.int64), None, "rows"),
        (torch.tensor([0, 3]), torch.ones(2), "3 values and 2 weights"),
        (torch.tensor([0, 3]), torch.ones(3, 2), "3 values and 6 weights"),
        ([torch.tensor([0, 2]), torch.tensor([0, 3])], None, "dimension 0"),
    ],
)
def test_wrong_offsets(offsets, weight, message):
    with pytest.raises(ValueError, match=message):
        RaggedTensor(torch.arange(3), offsets, weight)


def test_wrong_dimensions():
    with pytest.raises(ValueError, match="dense_shape of 2 dimensions"):
        RaggedTensor(torch.arange(3), torch.tensor([0, 3]), dense_shape=(1, 1, 3))
    with pytest.raises(IndexError):
        ragged([[1]]).get_shape(2)
