"""Snapshots to RecIS 1.0's layout and back: the same bits, and RecIS's own rules."""

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recis._slices import slices_of
from recis.nn import HashTable
from recis.nn.modules.hashtable import gen_slice
from recis.serialize import CheckpointReader, Loader, Saver
from recis.snapshot.checksum import bytes_of
from recis.snapshot.errors import DamagedError, MismatchError
from recis.snapshot.header import DTYPES
from recis.snapshot.manifest import Manifest, SlotInfo, TableInfo
from recis.snapshot.merge import Rows
from recis.snapshot.publish import Draft
from recis.snapshot.read import open_snapshot
from recis.snapshot.upstream.checkpoint import Checkpoint
from recis.snapshot.upstream.exporting import export_snapshot
from recis.snapshot.upstream.importing import import_checkpoint
from recis.snapshot.upstream.names import ID, Place, parse_place
from recis.snapshot.upstream.read import open_upstream
from recis.snapshot.upstream.write import CheckpointWriter, NewBlock
from recis.snapshot.verify import verify
from recis.snapshot.write import count_slices, write_rows, write_tensors

from ..helpers import bits, by_id
from . import reference

GOLDEN = Path(__file__).parent.parent / "golden" / "upstream-1.0"
# What RecIS 1.0 has. Of bool it makes files that it cannot read.
SAVED = [name for name in DTYPES if name != "BOOL"]


def random_bits(draw, dtype, shape):
    """Any bits at all, NaN with payloads among them."""
    tensor = torch.empty(shape, dtype=DTYPES[dtype])
    bytes_of(tensor)[:] = np.frombuffer(draw.bytes(tensor.nbytes), np.uint8)
    return tensor


def make_snapshot(root, tables, dense, seed=0):
    """`tables`: {name: (TableInfo, ids)}; values are random bits."""
    draw = np.random.default_rng(seed)
    with Draft(root, 7) as draft:
        made = {}
        for name, (about, ids) in tables.items():
            ids = np.asarray(ids, np.int64)
            ids = torch.from_numpy(ids[np.lexsort((ids, slices_of(ids, about.slice_size)))])
            values = {s.name: random_bits(draw, s.dtype, (len(ids), *s.shape)) for s in about.slots}
            rows = [Rows(ids, values)] if len(ids) else []
            counts = count_slices(rows, about.slice_size)
            made[name] = write_rows(draft, rows, counts, name, about)
        files = (write_tensors(draft, "dense/model.safetensors", dense),) if dense else ()
        return draft.publish(Manifest(7, made, dense=files))


def content(path):
    """All that a snapshot holds, as bytes."""
    reader = open_snapshot(path)
    found = {}
    for name, about in reader.manifest.tables.items():
        rows = {}
        for piece in reader.read_rows(name):
            for i, id in enumerate(piece.ids.tolist()):
                rows[id] = {slot: bits(values[i]) for slot, values in piece.slots.items()}
        slots = {(slot.name, slot.dtype, slot.shape) for slot in about.slots}
        found[name] = slots, about.slice_size, about.children, about.coalesced, rows
    dense = reader.dense("model") if "model" in reader.dense_names() else {}
    return found, {name: bits(tensor) for name, tensor in dense.items()}


slots = st.lists(
    st.tuples(st.sampled_from(SAVED), st.sampled_from([(1,), (3,), (2, 2)])), min_size=1, max_size=3
)
any_id = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-5, 70000))
small_id = st.one_of(st.integers(0, 2**52 - 1), st.integers(0, 5))
shapes = st.sampled_from([(), (0,), (2, 3)])


@st.composite
def plain_table(draw, name):
    columns = [
        SlotInfo("embedding" if i == 0 else f"slot_{i}", dtype, shape, 0.0)
        for i, (dtype, shape) in enumerate(draw(slots))
    ]
    size = draw(st.sampled_from([1, 13, 65536]))
    ids = draw(st.lists(any_id, unique=True, max_size=12))
    return TableInfo(tuple(columns), size, 0, children=(name,)), ids


@st.composite
def coalesced_table(draw, name):
    children = tuple(f"{name}.{i}" for i in range(draw(st.integers(1, 3))))
    found = draw(st.sets(st.tuples(st.integers(0, len(children) - 1), small_id), max_size=12))
    about = TableInfo(
        (SlotInfo("embedding", draw(st.sampled_from(SAVED)), (2,), 0.0),),
        draw(st.sampled_from([1, 64, 65536])),
        0,
        children=children,
        coalesced=True,
    )
    return about, [id | child << 52 for child, id in found]


@settings(max_examples=25)
@given(
    plain=plain_table("plain"),
    both=coalesced_table("both"),
    dense=st.lists(st.tuples(st.sampled_from(SAVED), shapes), max_size=3),
    shards=st.integers(1, 4),
    parallel=st.integers(1, 4),
    sort_bytes=st.sampled_from([1, 100, 1 << 20]),
)
def test_what_was_exported_is_imported_bit_for_bit(
    tmp_path_factory, plain, both, dense, shards, parallel, sort_bytes
):
    folder = tmp_path_factory.mktemp("trip")
    draw = np.random.default_rng(1)
    tensors = {f"dense.{i}": random_bits(draw, *spec) for i, spec in enumerate(dense)}
    first = make_snapshot(folder / "a", {"plain": plain, "both": both}, tensors)
    made = export_snapshot(open_snapshot(first), folder / "up", shards=shards, parallel=parallel)
    reader = open_upstream(made)
    assert (reader.checkpoint.shards, verify(made, "deep")) == (shards, [])
    groups = {"both": both[0].children}
    second = import_checkpoint(
        reader, folder / "b", step=7, coalesced=groups, sort_bytes=sort_bytes
    )
    assert content(second) == content(first)
    assert verify(second, "deep") == []


# ---- RecIS's own rules ----


def test_the_writer_makes_the_very_bytes_that_recis_made(tmp_path):
    """The same blocks in the same order and with the same rows: the same directory."""
    checkpoint = Checkpoint(open_upstream(GOLDEN).files)
    places = json.loads((GOLDEN / "tensorkey.json").read_text())
    headers = [header_keys(path) for path in sorted(GOLDEN.glob("*.safetensors"))]
    order = [keys[i] for i in range(9) for keys in headers if i < len(keys)]
    blocks, values = [], {}
    for key in order:
        if key in places:
            place = parse_place(key, places[key])
            part = checkpoint.children[place.child].parts[0]
            block = part.ids if place.slot == ID else part.slots[place.slot]
            values[place] = checkpoint.read_rows(block, 0, part.rows)
        else:
            place = key.removesuffix("^ ")
            block = checkpoint.dense[place]
            values[place] = checkpoint.read_dense(place)
        blocks.append(NewBlock(place, block.spec.dtype, block.spec.shape))
    with CheckpointWriter(tmp_path / "again", blocks, shards=1, parallel=3) as writer:
        for place, tensor in values.items():
            writer.append(place, tensor)
        writer.publish()
    files = {path.name: path.read_bytes() for path in GOLDEN.iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == files


def header_keys(path):
    data = path.read_bytes()
    return list(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]))


def test_files_are_numbered_by_shard_and_writer(tmp_path):
    about = TableInfo((SlotInfo("embedding", "F32", (2,), 0.0),), 65536, 0, children=("users",))
    path = make_snapshot(tmp_path / "a", {"users": (about, range(100))}, {"w": torch.ones(2)})
    made = Path(export_snapshot(open_snapshot(path), tmp_path / "up", shards=3, parallel=8))
    # Two blocks a shard, three in the first: the other files are not there.
    names = [f"model-{number:06d}-of-000024.safetensors" for number in (0, 1, 2, 8, 9, 16, 17)]
    assert sorted(path.name for path in made.glob("model-*")) == names
    keys = json.loads((made / "tensorkey.json").read_text())
    assert keys["users.id/part_1_3"] == "users@id^21846@43691@65536"
    assert keys["users.embedding/part_0_3"] == "users@embedding^00000@21846@65536"
    for file in made.glob("model-*"):
        data = file.read_bytes()
        length = int.from_bytes(data[:8], "little")
        head = data[8 : 8 + length]
        assert length % 8 == 0
        assert 1 <= len(head) - len(head.rstrip()) <= 8
        assert b"__metadata__" not in head


def refused(tmp_path, tables, dense, match):
    path = make_snapshot(tmp_path / "a", tables, dense)
    with pytest.raises(MismatchError, match=match):
        export_snapshot(open_snapshot(path), tmp_path / "up")
    assert os.listdir(tmp_path) == ["a"]


EMBEDDING = SlotInfo("embedding", "F32", (1,), 0.0)


@pytest.mark.parametrize("lost", [-1, 2 << 52, -(2**63)])
def test_ids_of_no_child_are_refused(tmp_path, lost):
    about = TableInfo((EMBEDDING,), 65536, 0, children=("a", "b"), coalesced=True)
    tables = {"both": (about, [1, 1 << 52, lost])}
    refused(tmp_path, tables, {}, rf"table 'both': 1 ids .* no child .*: {lost}\. Evict them")


@pytest.mark.parametrize(
    ("about", "dense", "match"),
    [
        (TableInfo((EMBEDDING,), 8, 0, children=("a/part_0",)), {}, "'a/part_0'"),
        (TableInfo((EMBEDDING, SlotInfo("s@t", "F32", (1,), 0.0)), 8, 0), {}, "'s@t'"),
        (TableInfo((EMBEDDING, SlotInfo("id", "I64", (1,), 0.0)), 8, 0), {}, "none named 'id'"),
        (TableInfo((SlotInfo("weight", "F32", (1,), 0.0),), 8, 0), {}, "first slot 'embedding'"),
        (TableInfo((EMBEDDING,), 9, 0, children=("a",), coalesced=True), {}, "power of two"),
        (TableInfo((EMBEDDING,), 8, 0), {"a^b": torch.ones(1)}, "'a\\^b'"),
        (TableInfo((EMBEDDING,), 8, 0), {"mask": torch.ones(1).bool()}, "'mask' is bool"),
    ],
)
def test_what_recis_could_not_read_is_refused(tmp_path, about, dense, match):
    refused(tmp_path, {"users": (about, [1])}, dense, match)


def test_tables_that_share_a_child_are_refused(tmp_path):
    about = TableInfo((EMBEDDING,), 8, 0, children=("a",))
    refused(tmp_path, {"x": (about, [1]), "y": (about, [2])}, {}, "'a.id/part_0_1'")


def test_what_has_no_place_is_named(tmp_path, caplog):
    table = HashTable([1], name="named")
    root = tmp_path / "snapshots"
    Saver(path=root, hashtables={"named": table}, states={"lr": 0.1}).save(1)
    with caplog.at_level(logging.WARNING):
        export_snapshot(open_snapshot(root), tmp_path / "up")
    assert "no place for lr" in caplog.text


def test_a_directory_that_holds_something_is_left_alone(tmp_path):
    path = make_snapshot(tmp_path / "a", {}, {"w": torch.ones(2)})
    target = tmp_path / "up"
    target.mkdir()
    export_snapshot(open_snapshot(path), target)  # an empty one is no harm
    before = {file.name: file.read_bytes() for file in target.iterdir()}
    with pytest.raises(FileExistsError, match="was not changed"):
        export_snapshot(open_snapshot(path), target)
    assert {file.name: file.read_bytes() for file in target.iterdir()} == before


def test_an_export_that_fails_leaves_nothing(tmp_path, monkeypatch):
    path = make_snapshot(tmp_path / "a", {}, {"w": torch.ones(2)})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("recis.snapshot.upstream.write.put", full)
    with pytest.raises(OSError, match="No space left"):
        export_snapshot(open_snapshot(path), tmp_path / "up")
    assert os.listdir(tmp_path) == ["a"]


# ---- Saver ----


def test_the_saver_writes_the_layout(tmp_path):
    table = HashTable([3], name="saved")
    ids = torch.tensor([5, -9, 2**62])
    table.insert(ids, torch.randn(3, 3))
    dense = {"w": torch.randn(2)}
    saver = Saver(
        path=tmp_path / "up", hashtables={"saved": table}, tensors=dense, format="recis-1.0"
    )
    assert saver.save() == str(tmp_path / "up")
    assert os.listdir(tmp_path) == ["up"]
    before = by_id(table)
    table.clear()
    into = {"w": torch.zeros(2)}
    Loader(tmp_path / "up", hashtables={"saved": table}, tensors=into).load()
    assert by_id(table) == before
    assert torch.equal(into["w"], dense["w"])
    with pytest.raises(FileExistsError):
        saver.save()


def test_savers_of_several_shards_make_one_checkpoint(tmp_path):
    table = HashTable([2], name="shared")
    table.insert(torch.arange(-50, 50), torch.randn(100, 2))
    for shard in (2, 0, 1):
        Saver(shard, 3, 2, tmp_path / "up", hashtables={"shared": table}, format="recis-1.0").save()
        assert (tmp_path / "up").exists() == (shard == 1)
    assert os.listdir(tmp_path) == ["up"]
    reader = CheckpointReader(tmp_path / "up")
    found = reader.read_tensor("shared@id").tolist()
    values = reader.read_tensor("shared@embedding").tolist()
    assert dict(zip(found, values, strict=True)) == by_id(table)
    assert open_upstream(tmp_path / "up").checkpoint.shards == 3


def test_a_save_that_fails_leaves_nothing(tmp_path):
    table = HashTable([1], name="unsaved")
    table.table.add_slot("a@b")
    saver = Saver(path=tmp_path / "up", hashtables={"t": table}, format="recis-1.0")
    with pytest.raises(MismatchError, match="'a@b'"):
        saver.save()
    assert os.listdir(tmp_path) == []
    table.table.cut().abandon()  # nothing holds the table


@pytest.mark.parametrize(
    "options", [{"track": True}, {"states": {"a": 1}}, {"parent": "x"}, {"shard_states": {"a": 1}}]
)
def test_the_layout_has_no_deltas_and_states(tmp_path, options):
    with pytest.raises(ValueError, match="no deltas and no states"):
        Saver(path=tmp_path / "up", format="recis-1.0", **options)


def test_unknown_formats_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'recis-1\.0'"):
        Saver(path=tmp_path, format="recis-2.0")


# ---- memory ----


def test_importing_holds_some_rows_at_a_time(tmp_path, monkeypatch):
    ids = np.random.default_rng(0).permutation(4000) - 2000
    users = {"id": ids, "embedding": np.arange(32000.0).reshape(4000, 8)}
    reference.write(tmp_path / "up", {"users": users}, shards=2)
    held = []
    read = Checkpoint.read_rows

    def counted(self, block, first, last):
        held.append(last - first)
        return read(self, block, first, last)

    monkeypatch.setattr(Checkpoint, "read_rows", counted)
    runs = []
    sort = np.lexsort
    monkeypatch.setattr(np, "lexsort", lambda keys: runs.append(len(keys[0])) or sort(keys))
    row_bytes = 8 + 8 * 8
    made = import_checkpoint(
        open_upstream(tmp_path / "up"), tmp_path / "snaps", step=1, sort_bytes=100 * row_bytes
    )
    assert max(held) <= 100 // 4  # of four threads
    assert max(runs) <= 100
    assert sum(runs) == 4000
    monkeypatch.undo()
    found = {}
    for rows in open_snapshot(made).read_rows("users"):
        values = rows.slots["embedding"].tolist()
        found |= dict(zip(rows.ids.tolist(), values, strict=True))
    assert found == dict(zip(ids.tolist(), users["embedding"].tolist(), strict=True))


def test_rows_come_in_pieces(tmp_path):
    users = {"id": np.arange(1000), "embedding": np.zeros((1000, 2), "<f4")}
    reference.write(tmp_path / "up", {"users": users}, shards=3)
    reader = open_upstream(tmp_path / "up")
    sizes = [len(rows.ids) for rows in reader.read_rows("users", max_bytes=16 * 40, parallel=4)]
    assert max(sizes) <= 10
    assert sum(sizes) == 1000


# ---- what the layout allows and is odd ----


def test_rows_of_foreign_slices_are_left_out_with_a_warning(tmp_path, caplog):
    users = {"id": [1, 40000], "embedding": np.ones((2, 1), "<f4")}
    folder = reference.write(tmp_path / "up", {"users": users}, slices=[(0, 32768)])
    table = HashTable([1], name="users", slice=gen_slice(0, 2))
    with caplog.at_level(logging.WARNING):
        Loader(folder, hashtables={"users": table}).load()
    assert by_id(table) == {1: [1.0]}
    assert "1 rows of other slices than [0, 32768)" in caplog.text
    del table
    other = HashTable([1], name="others", children=["users"], slice=gen_slice(1, 2))
    with pytest.raises(MismatchError, match="no part holds slice 32768 of 65536"):
        Loader(folder, hashtables={"others": other}).load()
    assert len(other) == 0
    assert [problem.expected for problem in verify(folder)] == ["parts with all slices"]


def test_slices_that_no_part_has_are_not_taken_for_empty(tmp_path):
    users = {"id": [1, 300], "embedding": np.ones((2, 1), "<f4")}
    folder = reference.write(tmp_path / "up", {"a": users}, shards=2, slices=[(0, 100), (200, 400)])
    reader = open_upstream(folder)
    for slices in [None, (50, 300), (100, 200), (300, 401)]:
        with pytest.raises(MismatchError, match=r"no part holds slice (100|400) of 65536"):
            list(reader.read_rows("a", slices))
    assert [rows.ids.tolist() for rows in reader.read_rows("a", (200, 400))] == [[300]]


def test_a_checkpoint_is_not_made_of_fewer_rows_than_it_says(tmp_path):
    with CheckpointWriter(tmp_path / "up", [NewBlock("w", "F32", (2,))], 1, 1) as writer:
        writer.append("w", torch.ones(1))
        with pytest.raises(ValueError, match="fewer rows"):
            writer.publish()
        with pytest.raises(ValueError, match="more rows"):
            writer.append("w", torch.ones(2))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("lost", [-1, 2**52])
def test_ids_that_lose_bits_in_a_coalesced_table_are_refused(tmp_path, lost):
    users = {"id": [7, lost], "embedding": np.ones((2, 1), "<f4")}
    folder = reference.write(tmp_path / "up", {"a": users})
    table = HashTable([1], name="both", coalesced=True, children=["a"])
    with pytest.raises(MismatchError, match=rf"table 'both', child 'a': 1 ids .*: {lost}\."):
        Loader(folder, hashtables={"both": table}).load()
    assert len(table) == 0
    with pytest.raises(MismatchError, match=f"{lost}"):
        import_checkpoint(open_upstream(folder), tmp_path / "s", step=1, coalesced={"both": ("a",)})
    assert [name for name in os.listdir(tmp_path / "s") if name.startswith((".tmp", "step"))] == []


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"embedding_shape": [2]}, r"slot 'embedding' is F32 \[1\]"),
        ({"dtype": torch.float64}, "slot 'embedding' is F32"),
        ({"slice": gen_slice(slice_size=64)}, "65536 slices, the table 64"),
        ({"children": ["nobody"]}, "no rows of 'nobody'; it has a"),
    ],
)
def test_what_does_not_fit_changes_nothing(tmp_path, options, match):
    users = {"id": [7], "embedding": np.ones((1, 1), "<f4")}
    folder = reference.write(tmp_path / "up", {"a": users})
    table = HashTable(**{"embedding_shape": [1], "name": "a", **options})
    with pytest.raises(MismatchError, match=match):
        Loader(folder, hashtables={"a": table}).load()
    assert len(table) == 0
    with pytest.raises(MismatchError, match="no dense tensor 'w'"):
        Loader(folder, tensors={"w": torch.ones(1)}).load()


def test_no_delta_follows_it(tmp_path):
    table = HashTable([3], name="user_emb")
    with pytest.raises(MismatchError, match="track=False"):
        Loader(GOLDEN, hashtables={"user_emb": table}, track=True).load()


def test_an_id_twice_is_damage(tmp_path):
    users = {"id": [3, 7, 3], "embedding": np.ones((3, 1), "<f4")}
    folder = reference.write(tmp_path / "up", {"a": users})
    table = HashTable([1], name="a")
    with pytest.raises(DamagedError, match=r"a\.id/part_0_1.*each id once, found 3 again"):
        Loader(folder, hashtables={"a": table}).load()
    assert len(table) == 0
    with pytest.raises(DamagedError, match="3 again"):
        import_checkpoint(open_upstream(folder), tmp_path / "s", step=1)
    assert len(verify(folder)) == 1
    assert verify(folder, "quick") == []


def test_places_are_what_tensorkey_says():
    place = Place("a.b", "c", 1, 3, 5, 9, 64)
    assert (place.key(), place.text()) == ("a.b.c/part_1_3", "a.b@c^05@09@64")
    assert parse_place(place.key(), place.text()) == place
    assert parse_place(place.key(), "a@b.c^05@09@64") == place._replace(child="a", slot="b.c")
