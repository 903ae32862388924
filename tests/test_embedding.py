"""DynamicEmbedding and EmbeddingEngine in one process."""

from itertools import count

import pytest
import torch

from recis import Store
from recis._place import Place, place_of
from recis.nn import DynamicEmbedding, EmbeddingEngine, EmbeddingOption
from recis.nn.hashtable_hook import FrequencyAdmitHook
from recis.nn.modules.hashtable import filter_out_sparse_param
from recis.optim import SparseAdam, SparseSGD
from recis.ragged import RaggedTensor

from .helpers import dump

_names = count()
_defaults = {"embedding_dim": 2}


@pytest.fixture(autouse=True)
def on_each_device(device, monkeypatch):
    monkeypatch.setitem(_defaults, "device", device)


def option(**fields):
    return EmbeddingOption(**{**_defaults, "shared_name": f"name{next(_names)}", **fields})


def filled(**fields):
    """An embedding in which id i has (i, 10 i)."""
    made = DynamicEmbedding(option(**fields))
    ids = torch.arange(-20, 20)
    made.insert(ids, torch.stack([ids, 10 * ids], 1).float())
    return made


RAGGED = RaggedTensor(
    torch.tensor([1, 2, 2, -3, 5]), torch.tensor([0, 3, 3, 5]), torch.tensor([1, 2, 0.5, 1, -1])
)


@pytest.mark.parametrize(
    ("combiner", "weighted", "expected"),
    [
        ("sum", True, [6, 0, -8]),
        ("sum", False, [5, 0, 2]),
        ("mean", True, [6 / 3.5, 0, 0]),
        ("mean", False, [5 / 3, 0, 1]),
    ],
)
def test_rows_are_combined(combiner, weighted, expected):
    found = filled(combiner=combiner, use_weight=weighted)(RAGGED)
    torch.testing.assert_close(found[:, 0], torch.tensor(expected, dtype=torch.float32))
    torch.testing.assert_close(found[:, 1], 10 * found[:, 0])


def test_rows_are_put_side_by_side():
    made = filled(combiner="tile", combiner_kwargs={"tile_len": 2}, use_weight=False)
    assert made(RAGGED).tolist() == [[1, 10, 2, 20], [0, 0, 0, 0], [-3, -30, 5, 50]]


@pytest.mark.parametrize("in_a_store", [False, True])
@pytest.mark.parametrize("in_an_engine", [False, True])
def test_rows_are_combined_where_their_table_is(
    device, monkeypatch, tmp_path, in_an_engine, in_a_store
):
    combined, make_bags = [], Place.make_bags
    monkeypatch.setattr(
        Place, "make_bags", lambda self, *rows: combined.append(self.name) or make_bags(self, *rows)
    )
    where = {}
    if in_a_store:
        where["store"] = Store(tmp_path)
        where["device_bytes"] = None if device == "cpu" else 500
    of_a, ids = option(block_size=3), torch.arange(40).view(8, 5)
    made = (
        EmbeddingEngine({"a": of_a}, **where) if in_an_engine else DynamicEmbedding(of_a, **where)
    )
    out = made({"a": ids})["a"] if in_an_engine else made(ids)
    out.sum().backward()
    assert combined == [place_of(device).name]
    assert out.device == ids.device


def test_any_shape_of_ids():
    made = filled()
    assert made(torch.tensor([3, -4])).tolist() == [[3, 30], [-4, -40]]
    assert made(torch.tensor([[1, 2], [3, 4]]))[:, 0].tolist() == [3, 7]
    assert made(torch.ones((2, 3, 4), dtype=torch.int64)).shape == (2, 3, 2)
    assert made(torch.empty((0, 4), dtype=torch.int64)).shape == (0, 2)
    assert made(torch.empty((3, 0), dtype=torch.int64)).tolist() == [[0, 0]] * 3
    weights = torch.tensor([[1.0, 0.5]])
    assert made(torch.tensor([[1, 2]]), weights)[0, 0] == 2


def test_weights_take_gradients():
    weights = torch.tensor([[1.0, 0.5]], requires_grad=True)
    filled()(torch.tensor([[1, 2]]), weights).sum().backward()
    assert weights.grad.tolist() == [[11, 22]]


@pytest.mark.parametrize(("reduce_by", "expected"), [("worker", 3.0), ("id", 1.0)])
def test_gradients_of_an_id(reduce_by, expected):
    made = filled(grad_reduce_by=reduce_by)
    made(torch.tensor([[7, 7], [8, 7]])).sum().backward()
    grads = made.hashtable.grad().to_dense()
    assert grads[made.hashtable.table.rows_of(torch.tensor([7]))].tolist() == [[expected] * 2]


def test_hooks_see_every_occurrence():
    made = DynamicEmbedding(option(admit_hook=FrequencyAdmitHook(3)))
    made(torch.tensor([[1, 1], [2, 1]]))
    assert made.hashtable.ids().tolist() == [1]


def test_frozen_embeddings():
    made = filled(trainable=False)
    assert not made(torch.tensor([1])).requires_grad


@pytest.mark.parametrize("fields", [{"dtype": torch.int8}, {"trainable": False}])
def test_tables_that_learn_beside_one_that_does_not(fields):
    engine = EmbeddingEngine({"still": option(**fields), "learns": option()}, coalesce=False)
    ids = torch.tensor([[1, 2]])
    out = engine({"still": ids, "learns": ids})
    assert not out["still"].requires_grad
    out["learns"].sum().backward()
    tables = filter_out_sparse_param(engine)
    found = {name: table.grad(1).to_dense().sum().item() for name, table in tables.items()}
    assert sorted(found.values()) == [0, 4]


def test_a_table_in_eval_beside_one_that_learns():
    engine = EmbeddingEngine({"still": option(), "learns": option()}, coalesce=False)
    next(iter(engine._tables.values())).eval()
    ids = torch.tensor([[1, 2]])
    sum(each.sum() for each in engine({"still": ids, "learns": ids}).values()).backward()
    assert sorted(len(table) for table in filter_out_sparse_param(engine).values()) == [0, 2]


def test_bytes_pass_through_as_they_are():
    ragged = RaggedTensor(torch.ones(3, dtype=torch.int8), torch.tensor([0, 1, 3]))
    assert EmbeddingEngine({"a": option()})({"other": ragged})["other"] is ragged


def test_eval_changes_nothing():
    made = filled().eval()
    assert made(torch.tensor([100])).tolist() == [[0, 0]]
    assert len(made.hashtable) == 40


def test_int8_embeddings_come_out_as_floats():
    for half, dtype in [(False, torch.float32), (True, torch.float16)]:
        made = DynamicEmbedding(option(dtype=torch.int8, fp16_enabled=half))
        made.insert(torch.tensor([1]), torch.tensor([[3, -4]], dtype=torch.int8))
        found = made(torch.tensor([[1, 1]]))
        assert found.dtype == dtype and found.tolist() == [[6, -8]]


@pytest.mark.parametrize("coalesce", [True, False])
def test_features_of_an_engine(coalesce):
    shared = f"shared{next(_names)}"
    tile = option(combiner="tile", combiner_kwargs={"tile_len": 2})
    engine = EmbeddingEngine(
        {"a": option(shared_name=shared), "b": option(), "tile": tile,
         "again": option(shared_name=shared, combiner="mean"), "wide": option(embedding_dim=3)},
        coalesce=coalesce,
    )  # fmt: skip
    tables = filter_out_sparse_param(engine)
    assert len(tables) == (2 if coalesce else 4)
    optimizer = SparseSGD(tables, lr=1.0)
    ids = {name: torch.tensor([[1, 2], [3, 3]]) for name in ["a", "b", "tile", "again", "wide"]}
    other = torch.ones(2)
    for _ in range(2):
        out = engine({**ids, "other": other, "ragged": RAGGED})
        assert out["other"] is other and torch.equal(out["ragged"], RAGGED.to_dense())
        sum(out[name].sum() for name in ids).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert out["tile"].shape == (2, 4) and out["wide"].shape == (2, 3)
    # Of the first step 1 of "a" and 1/2 of "again" for ids 1 and 2, twice that for 3.
    assert out["a"][:, 0].tolist() == [-3, -6] and out["again"][:, 0].tolist() == [-1.5, -3]
    assert out["b"][:, 0].tolist() == [-2, -4]
    only = engine({"b": ids["b"]})
    assert list(only) == ["b"]


@pytest.mark.parametrize("coalesce", [True, False])
def test_an_engine_in_a_store_has_the_results_of_one_in_memory(device, tmp_path, coalesce):
    names = {name: f"stored{next(_names)}" for name in ("a", "b")}
    random = torch.Generator().manual_seed(0)
    batches = [torch.randint(0, 50, (9, 3), generator=random) for _ in range(6)]

    def trained(batches, device="cpu", **where):
        """What its tables hold after these batches."""
        features = {
            name: option(shared_name=shared, device=device, block_size=3)
            for name, shared in names.items()
        }
        engine = EmbeddingEngine(features, coalesce=coalesce, **where)
        optimizer = SparseAdam(filter_out_sparse_param(engine))
        for ids in batches:
            out = engine({"a": ids, "b": ids // 2})
            (out["a"] - 1).square().sum().add(out["b"].sum()).backward()
            optimizer.step()
            optimizer.zero_grad()
        return {made.name: dump(made.hashtable) for made in engine._tables.values()}

    expected = trained(batches)
    with Store(tmp_path, hot_bytes=2000) as store:
        device_bytes = None if device == "cpu" else 500
        assert trained(batches, device, store=store, device_bytes=device_bytes) == expected
        store.commit(1)
    with Store(tmp_path) as store:
        assert trained([], store=store) == expected


def test_ids_that_cannot_share_a_table():
    engine = EmbeddingEngine({"a": option(), "b": option()})
    for ids in [torch.tensor([-1]), torch.tensor([1 << 52])]:
        with pytest.raises(ValueError, match=r"feature 'b'.*coalesce=False"):
            engine({"a": torch.tensor([1]), "b": ids})
    assert [len(table.ids_map()[0]) for table in filter_out_sparse_param(engine).values()] == [0]


def test_options_that_contradict_each_other():
    for coalesce in [True, False]:
        with pytest.raises(ValueError, match=r"feature 'b'.*'one'"):
            EmbeddingEngine(
                {"a": option(shared_name="one"), "b": option(shared_name="one", embedding_dim=3)},
                coalesce=coalesce,
            )


def test_a_table_has_its_name_wherever_it_lives(device):
    names = []
    for each in ("cpu", device):
        engine = EmbeddingEngine({"a": option(device=each)})
        names.append(list(filter_out_sparse_param(engine)))
        del engine
    assert names[0] == names[1]
    if device != "cpu":
        with pytest.raises(ValueError, match=rf"feature 'b'.*{device}.*cpu.*coalesce=False"):
            EmbeddingEngine({"a": option(device="cpu"), "b": option()})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"combiner": "max"}, "combiner must be one of"),
        ({"combiner": "tile"}, "tile_len"),
        ({"combiner": "tile", "combiner_kwargs": {"tile_len": 0}}, "tile_len"),
        ({"fp16_enabled": True}, "int8"),
    ],
)
def test_wrong_options(fields, message):
    with pytest.raises(ValueError, match=message):
        option(**fields)


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (torch.ones(2), TypeError, "int64"),
        (torch.eye(2).to_sparse(), TypeError, "torch.sparse_coo"),
        ([1, 2], TypeError, "list"),
        (RaggedTensor.from_offsets(RAGGED, torch.tensor([0, 1, 3])), ValueError, "pad outer"),
        (RaggedTensor(torch.ones(2, 3).long(), torch.tensor([0, 2])), ValueError, r"\(n,\)"),
    ],
)  # fmt: skip
def test_wrong_ids(ids, error, message):
    made = filled()
    with pytest.raises(error, match=message):
        made(ids)


def test_wrong_weights_and_embeddings():
    made = filled()
    with pytest.raises(ValueError, match="2 ids and 3 weights"):
        made(torch.tensor([[1, 2]]), torch.ones(3))
    with pytest.raises(ValueError, match=r"expected shape \(1, 2\)"):
        made.insert(torch.tensor([1]), torch.ones(1, 3))
    with pytest.raises(ValueError, match="float64"):
        made.insert(torch.tensor([1]), torch.ones(1, 2).double())
