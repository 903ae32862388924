"""What the reader makes of snapshots that something else wrote."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recis.snapshot.errors import DamagedError, MismatchError, SnapshotError
from recis.snapshot.files import LocalFiles
from recis.snapshot.read import open_snapshot
from recis.snapshot.verify import verify

from . import reference
from .reference import Content, digits, xxh3

SLOTS = [("embedding", "F32", (3,), 0.0), ("seen", "I64", (1,), 7.0), ("flag", "I8", (1,), 1.0)]


def content(ids, seed=0, slots=SLOTS, **options):
    draw = np.random.default_rng(seed)
    values = {name: draw.integers(-100, 100, (len(ids), *shape)) for name, _, shape, _ in slots}
    return Content(slots, ids, values, **options)


def rows_of(reader, table="users", **options):
    """{id: {slot: list}} and the order in which the ids came."""
    found, order = {}, []
    for rows in reader.read_rows(table, **options):
        order += rows.ids.tolist()
        for i, id in enumerate(rows.ids.tolist()):
            found[id] = {name: values[i].tolist() for name, values in rows.slots.items()}
    assert len(found) == len(order)
    return found, order


def expected(content):
    return {
        id: {name: values[i].tolist() for name, values in content.values.items()}
        for i, id in enumerate(content.ids.tolist())
    }


IDS = [5, -1, 0, 2**63 - 1, -(2**63), 65536 + 5, 77, 1 << 40, *range(1000, 1400)]


@pytest.mark.parametrize("shards", [1, 3, 16])
@pytest.mark.parametrize("max_bytes", [1, 1000, 64 << 20])
def test_every_row_is_read(tmp_path, shards, max_bytes):
    users = content(IDS)
    reference.write(tmp_path, 12, {"users": users}, shards=shards)
    reader = open_snapshot(tmp_path)
    found, order = rows_of(reader, max_bytes=max_bytes)
    assert found == expected(users)
    assert order == users.ids.tolist()
    assert reader.manifest.step == 12
    some, _ = rows_of(reader, slices=(5, 1200), slots=["flag"], max_bytes=max_bytes)
    inside = [id for id in IDS if 5 <= id % 65536 < 1200]
    assert some == {id: {"flag": found[id]["flag"]} for id in inside}


ids = st.lists(st.integers(-20, 40), unique=True, max_size=20)


@given(base=ids, edits=st.lists(st.tuples(ids, ids), max_size=4), data=st.data())
def test_deltas_are_applied_in_order(tmp_path_factory, base, edits, data):
    root = tmp_path_factory.mktemp("root")
    small = {"slice_size": 13}
    slots, shards = SLOTS[:1], st.integers(1, 3)
    first = content(base, slots=slots, **small)
    reference.write(root, 0, {"users": first}, shards=data.draw(shards))
    live = expected(first)
    for step, (changed, gone) in enumerate(edits, 1):
        if data.draw(st.booleans()):
            slots = SLOTS
        delta = content(changed, step, slots, deleted=gone, **small)
        reference.write(root, step, {"users": delta}, step - 1, shards=data.draw(shards))
        for id in gone:
            live.pop(id, None)
        live.update(expected(delta))
    initial = {name: [value] * shape[0] for name, _, shape, value in slots}
    reader = open_snapshot(root, len(edits))
    for max_bytes in (1, 64 << 20):
        found, order = rows_of(reader, max_bytes=max_bytes)
        assert found == {id: {**initial, **row} for id, row in live.items()}
        assert order == sorted(order, key=lambda id: (id % 2**64 % 13, id))


def test_a_chain_must_be_whole(tmp_path):
    for step in range(3):
        reference.write(
            tmp_path, step, {"users": content([step], step)}, step - 1 if step else None
        )
    assert [reader.manifest.step for reader in open_snapshot(tmp_path).chain] == [0, 1, 2]
    middle = tmp_path / "step-000000000001"
    shutil.move(middle, tmp_path / "away")
    with pytest.raises(DamagedError, match="parent of a later snapshot"):
        open_snapshot(tmp_path, 2)
    reference.write(tmp_path, 1, {"users": content([9], 9)}, 0)
    with pytest.raises(DamagedError, match="as the delta that follows it says"):
        open_snapshot(tmp_path, 2)
    assert open_snapshot(tmp_path).manifest.step == 1  # loudly
    with pytest.raises(DamagedError):
        open_snapshot(tmp_path, strict=True)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (SLOTS, SLOTS[:1]),
        (SLOTS, [SLOTS[1], SLOTS[0]]),
        (SLOTS[:1], [("embedding", "F32", (2,), 0)]),
    ],
)
def test_a_delta_keeps_the_slots(tmp_path, before, after):
    reference.write(tmp_path, 0, {"users": content([1], slots=before)})
    reference.write(tmp_path, 1, {"users": content([1], slots=after)}, 0)
    with pytest.raises(DamagedError, match="slots of the parent"):
        open_snapshot(tmp_path, 1)


def test_unknown_names_are_named(tmp_path):
    reference.write(tmp_path, 0, {"users": content([1])})
    reader = open_snapshot(tmp_path)
    with pytest.raises(MismatchError, match="no table 'items'; it has users"):
        rows_of(reader, "items")
    with pytest.raises(MismatchError, match="no slot 'adam'; it has embedding, seen, flag"):
        rows_of(reader, slots=["adam"])
    with pytest.raises(FileNotFoundError):
        open_snapshot(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError):
        open_snapshot(tmp_path, 4)


def change_manifest(folder, change):
    """Rewrites a manifest and its checksum: damage that only looking inside finds."""
    path = folder / "MANIFEST.json"
    text = json.loads(path.read_text())
    change(text)
    data = json.dumps(text).encode()
    path.write_bytes(data)
    (folder / "MANIFEST.json.xxh3").write_text(digits(xxh3(data)) + "\n")


def set_in(*place):
    *keys, last, value = place

    def change(text):
        for key in keys:
            text = text[key]
        text[last] = value

    return change


FILE = ("tables", "users", "files", 0)


@pytest.mark.parametrize(
    "change",
    [
        set_in("format", "other"),
        set_in("major", 2),
        set_in("requires", ["encryption"]),
        set_in("step", -1),
        set_in("step", True),
        set_in("step", 1),
        set_in("tables", []),
        set_in("dense", {}),
        set_in("parent", {"step": 0, "manifest_xxh3": "0" * 16}),
        set_in("tables", "../x", {}),
        set_in("tables", "users", "slots", []),
        set_in("tables", "users", "slots", 0, "dtype", "F31"),
        set_in("tables", "users", "slots", 0, "shape", [-1]),
        set_in("tables", "users", "slots", 0, "shape", [2**62, 2**62]),
        set_in("tables", "users", "slots", 0, "shape", [4]),
        set_in("tables", "users", "slots", 0, "name", "seen"),
        set_in("tables", "users", "slots", 0, "initial", "many"),
        set_in("tables", "users", "slots", 1, "initial", "nan"),
        set_in("tables", "users", "slots", 1, "initial", 0.5),
        set_in("tables", "users", "slots", 2, "initial", 128),
        set_in("tables", "users", "slice_size", 0),
        set_in("tables", "users", "slice_size", 2**40),
        set_in("tables", "users", "slice_size", 65535),
        set_in("tables", "users", "rows", 2),
        set_in("tables", "users", "deleted", 2),
        set_in("tables", "users", "files", []),
        set_in(*FILE, "path", "/etc/passwd"),
        set_in(*FILE, "path", "../step-000000000000/x"),
        set_in(*FILE, "path", "a//b"),
        set_in(*FILE, "path", "a\u0000b"),
        set_in(*FILE, "path", "missing"),
        set_in(*FILE, "bytes", 10),
        set_in(*FILE, "rows", 2**60),
        set_in(*FILE, "kind", "other"),
        set_in(*FILE, "kind", "deleted"),
        set_in(*FILE, "slice_begin", 1),
        set_in(*FILE, "slice_end", 2),
        set_in(*FILE, "xxh3", {}),
        set_in(*FILE, "xxh3", "ids", "0" * 16),
        set_in(*FILE, "xxh3", "ids", "not hexadecimal"),
        set_in(*FILE, "shard", 3),
        set_in(*FILE, "shards", 0),
        set_in(*FILE, "shards", 2),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(tmp_path, change):
    folder = reference.write(tmp_path, 0, {"users": content([1])})
    assert rows_of(open_snapshot(tmp_path))[1] == [1]
    change_manifest(folder, change)
    with pytest.raises(SnapshotError):
        rows_of(open_snapshot(tmp_path))


def test_a_number_that_is_too_large_is_refused(tmp_path):
    folder = reference.write(tmp_path, 0, {"users": content([1])}, info={"seed": 12345})
    data = (folder / "MANIFEST.json").read_bytes().replace(b"12345", b"1e999")
    (folder / "MANIFEST.json").write_bytes(data)
    (folder / "MANIFEST.json.xxh3").write_text(digits(xxh3(data)) + "\n")
    with pytest.raises(DamagedError, match="a number"):
        open_snapshot(tmp_path)


def test_a_path_listed_twice_is_refused(tmp_path):
    folder = reference.write(tmp_path, 0, {"users": content([1]), "items": content([2])})
    path = "sparse/users/00000-of-00001.000.safetensors"
    change_manifest(folder, set_in("tables", "items", "files", 0, "path", path))
    with pytest.raises(DamagedError, match="listed twice"):
        open_snapshot(tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]", b"null", b'{"a":1,"a":1}', b"\xff", b"[" * 100_000, b'{"a":NaN}',
        b'{"a":' + b"1" * 100_000 + b"}", b'{"a":[' + b"[]," * 5_000_000 + b"[]]}",
    ],
    ids=lambda data: str(data[:12]),
)  # fmt: skip
def test_garbage_for_a_manifest_is_refused(tmp_path, data):
    folder = reference.write(tmp_path, 0, {"users": content([1])})
    (folder / "MANIFEST.json").write_bytes(data)
    with pytest.raises(DamagedError, match=r"MANIFEST\.json"):
        open_snapshot(tmp_path)
    (folder / "MANIFEST.json.xxh3").write_text(digits(xxh3(data)) + "\n")
    with pytest.raises(DamagedError):
        open_snapshot(tmp_path)


@pytest.mark.parametrize("level", ["file", "folder", "manifest"])
def test_links_are_not_followed(tmp_path, level):
    folder = reference.write(tmp_path / "root", 0, {"users": content([1])})
    target = {
        "file": folder / "sparse/users/00000-of-00001.000.safetensors",
        "folder": folder / "sparse",
        "manifest": folder / "MANIFEST.json",
    }[level]
    shutil.move(target, tmp_path / "away")
    target.symlink_to(tmp_path / "away")
    with pytest.raises(DamagedError, match="symbolic link"):
        open_snapshot(tmp_path / "root")


def test_a_pipe_is_no_file(tmp_path):
    folder = reference.write(tmp_path, 0, {"users": content([1])})
    path = folder / "sparse/users/00000-of-00001.000.safetensors"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DamagedError, match="regular file"):
        open_snapshot(tmp_path)


def test_any_flipped_bit_of_a_file_is_found(tmp_path):
    folder = reference.write(tmp_path, 0, {"users": content(IDS)})
    path = folder / "sparse/users/00000-of-00001.000.safetensors"
    whole = path.read_bytes()
    draw = np.random.default_rng(1)
    for place in [*range(0, 1400, 7), *draw.integers(0, len(whole), 300).tolist()]:
        broken = bytearray(whole)
        broken[place] ^= 1 << draw.integers(8)
        path.write_bytes(broken)
        with pytest.raises(DamagedError, match="00000-of-00001"):
            rows_of(open_snapshot(tmp_path))


def test_a_file_cut_short_is_found(tmp_path):
    folder = reference.write(tmp_path, 0, {"users": content(IDS)})
    path = folder / "sparse/users/00000-of-00001.000.safetensors"
    whole = path.read_bytes()
    for length in [0, 7, 8, *range(4096, len(whole), 4096), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedError, match="bytes"):
            open_snapshot(tmp_path)


def test_only_the_groups_asked_for_are_read(tmp_path):
    folder = reference.write(tmp_path, 0, {"users": content(range(65536), slots=SLOTS[:1])})
    path = folder / "sparse/users/00000-of-00001.000.safetensors"
    broken = bytearray(path.read_bytes())
    broken[-1] ^= 1
    path.write_bytes(broken)
    reader = open_snapshot(tmp_path)
    assert len(rows_of(reader, slices=(0, 65280))[1]) == 65280
    with pytest.raises(DamagedError, match=r"'slot/embedding', slices \[65280, 65536\)"):
        rows_of(reader, slices=(65535, 65536))


def test_ids_where_they_do_not_belong_are_refused(tmp_path):
    users = content([1, 2, 65537])
    users.ids = users.ids[[1, 0, 2]]
    reference.write(tmp_path, 0, {"users": users})
    with pytest.raises(DamagedError, match="ids by slice"):
        rows_of(open_snapshot(tmp_path))


def test_rows_of_another_shard_are_refused(tmp_path):
    """Whole files, with checksums that hold, whose slices are those of other shards."""
    folder = reference.write(tmp_path, 0, {"users": content(IDS)}, shards=2)

    def swap(text):
        one, two = text["tables"]["users"]["files"]
        one["shard"], two["shard"] = two["shard"], one["shard"]

    change_manifest(folder, swap)
    with pytest.raises(DamagedError, match=r"shard 1 of 2, \[32768, 65536\)"):
        open_snapshot(tmp_path)
    (problem,) = verify(tmp_path, "quick")
    assert "00000-of-00002" in problem.expected


def test_an_id_of_another_shard_is_refused(tmp_path):
    """The same for a single id."""
    users = content([1, 2, 40000])
    folder = reference.write(tmp_path, 0, {"users": users}, shards=2)
    users.slices = lambda ids: np.minimum(ids, 2)  # the id goes where it does not belong
    shutil.rmtree(folder)
    reference.write(tmp_path, 0, {"users": users}, shards=2)
    with pytest.raises(DamagedError, match=r"slices \[2, 3\).*id 40000 in row 2"):
        rows_of(open_snapshot(tmp_path))
    (problem,) = verify(tmp_path, "deep")
    assert (problem.tensor, problem.slices) == ("ids", (2, 3))


def test_groups_larger_than_what_may_be_held_are_read_in_pieces(tmp_path, monkeypatch):
    """Many rows in one slice, in a base and a delta. The base's are read once, and verified."""
    monkeypatch.setattr("recis.snapshot.files.PIECE_BYTES", 4096)
    small = {"slice_size": 300}
    base = content([*range(0, 300_000, 300), *range(1, 900, 3)], **small)
    later = content(range(0, 150_000, 600), seed=1, deleted=[300, 900], **small)
    reference.write(tmp_path, 0, {"users": base}, shards=2)
    folder = reference.write(tmp_path, 1, {"users": later}, 0)
    known = {id: row for id, row in expected(base).items() if id not in (300, 900)}
    reader, read, read_into = open_snapshot(tmp_path), [], LocalFiles.read_into

    def counted(files, path, offset, buffer):
        read.append(len(buffer) if files is reader.chain[0].files else 0)
        read_into(files, path, offset, buffer)

    monkeypatch.setattr(LocalFiles, "read_into", counted)
    found, order = rows_of(reader, max_bytes=2000)
    assert found == {**known, **expected(later)}
    assert order == sorted(order, key=lambda id: (id % 300, id))
    files = (tmp_path / "step-000000000000").rglob("*.safetensors")
    assert sum(read) == sum(path.stat().st_size for path in files)
    path = folder / "sparse/users/00000-of-00001.000.safetensors"
    broken = bytearray(path.read_bytes())
    broken[-1] ^= 1
    path.write_bytes(broken)
    with pytest.raises(DamagedError, match="00000-of-00001"):
        list(open_snapshot(tmp_path).read_rows("users", max_bytes=2000))


def test_a_url_is_read_through_fsspec(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    users = content(IDS)
    reference.write(tmp_path, 3, {"users": users})
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path), "/snapshots", recursive=True)
    try:
        assert rows_of(open_snapshot("memory://snapshots"))[0] == expected(users)
        assert rows_of(open_snapshot("memory://snapshots/step-000000000003"))[0] == expected(users)
        memory.rm("/snapshots/step-000000000003/MANIFEST.json")
        with pytest.raises(FileNotFoundError):
            open_snapshot("memory://snapshots")
    finally:
        memory.rm("/snapshots", recursive=True)


def test_ranges_are_asked_for_by_name(tmp_path, monkeypatch):
    """File systems have other arguments in between, as s3fs does."""
    memory = pytest.importorskip("fsspec").filesystem("memory")
    cat_file = type(memory).cat_file

    def other(self, path, version_id=None, start=None, end=None):
        assert version_id is None
        return cat_file(self, path, start=start, end=end)

    monkeypatch.setattr(type(memory), "cat_file", other)
    users = content(IDS)
    reference.write(tmp_path, 3, {"users": users})
    memory.put(str(tmp_path), "/ranges", recursive=True)
    try:
        assert rows_of(open_snapshot("memory://ranges"))[0] == expected(users)
    finally:
        memory.rm("/ranges", recursive=True)


def test_values_come_with_their_dtypes(tmp_path):
    slots = [(f"slot {dtype}", dtype, (2, 2), 0.0) for dtype in reference.SIZES]
    reference.write(tmp_path, 0, {"users": content(IDS, slots=slots)})
    (rows,) = open_snapshot(tmp_path).read_rows("users")
    dtypes = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
    dtypes += [torch.int64, torch.int32, torch.int8]
    assert [values.dtype for values in rows.slots.values()] == dtypes
    assert {tuple(values.shape) for values in rows.slots.values()} == {(len(IDS), 2, 2)}
