"""Files that nobody vouches for: refused with an error that names the file, and never worse."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recis.nn import HashTable
from recis.serialize import Loader
from recis.snapshot.errors import DamagedError, SnapshotError
from recis.snapshot.upstream.read import open_upstream
from recis.snapshot.verify import verify

from . import reference

INDEX, KEYS, RANK = reference.JSON_FILES
GOLDEN = Path(__file__).parent.parent / "golden" / "upstream-1.0"
FIRST = "model-000000-of-000004.safetensors"
ID, EMBEDDING, SEEN = (f"users.{slot}/part_0_2" for slot in ("id", "embedding", "seen"))


@pytest.fixture
def folder(tmp_path):
    ids = np.arange(10) * 6553
    users = {"id": ids, "embedding": np.ones((10, 2), "<f4"), "seen": np.ones((10, 1), "<i8")}
    return reference.write(tmp_path / "up", {"users": users}, {"w": np.ones(3, "<f4")}, shards=2)


def refused(folder, file, match):
    with pytest.raises(DamagedError, match=match) as caught:
        open_upstream(folder)
    assert caught.value.path == str(folder / file)
    table = HashTable([2], name="users")
    with pytest.raises(DamagedError):
        Loader(folder, hashtables={"users": table}).load()
    assert len(table) == 0
    assert [slot.name() for slot in table.slot_group().slots()] == ["embedding"]
    found = verify(folder, "quick")
    assert [problem.path for problem in found] == [str(folder / file)]


def edit(folder, file, change):
    found = json.loads((folder / file).read_text())
    change(found)
    (folder / file).write_text(json.dumps(found))


def put(*path_and_value):
    """A change: sets what is at a path of keys."""
    *path, last, value = path_and_value

    def change(found):
        for key in path:
            found = found[key]
        found[last] = value

    return change


def drop(*path):
    def change(found):
        for key in path[:-1]:
            found = found[key]
        del found[path[-1]]

    return change


@pytest.mark.parametrize("file", reference.JSON_FILES)
@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "JSON"),
        ("[]", "a JSON object"),
        ("{", "JSON"),
        ('{"a": 1, "a": 1}', "twice"),
        ('{"a": NaN}', "NaN"),
        ('{"a": 1' + "0" * 30 + "}", "digits"),
        ("[" * 100_000, "JSON"),
        ('{"\u00e9": 1}', "ASCII"),
        ("," * (1 << 18) + ",", "at most 262144 values"),
    ],
    ids=["empty", "list", "cut", "twice", "nan", "digits", "deep", "unicode", "many"],
)
def test_json_is_read_strictly(folder, file, text, match):
    (folder / file).write_text(text)
    with pytest.raises(DamagedError, match=match) as caught:
        open_upstream(folder)
    assert caught.value.path == str(folder / file)


@pytest.mark.parametrize("file", reference.JSON_FILES)
def test_json_has_a_limit_before_it_is_read(folder, file):
    with open(folder / file, "r+b") as handle:
        handle.truncate(1 << 40)
    refused(folder, file, "at most 8388608 bytes")


INDEX_CHANGES = {
    "no files": (drop("file_index"), "block_index and file_index"),
    "more": (put("files", {}), "block_index and file_index"),
    "files are a list": (put("file_index", []), "numbers by name"),
    "a text for a number": (put("file_index", FIRST, "0"), "numbers by name"),
    "true for a number": (put("block_index", ID, True), "numbers by name"),
    "a number twice": (put("file_index", FIRST, 1), "a number of its own"),
    "no such number": (put("block_index", ID, 99), "in file_index, found 99"),
    "out of the directory": (put("file_index", "../model-000000-of-000004.safetensors", 9), "NNN"),
    "absolute": (put("file_index", "/etc/passwd", 9), "model-NNNNNN"),
    "another name": (put("file_index", "index", 9), "model-NNNNNN"),
    "a block that is nowhere": (
        put("block_index", "b.id/part_0_1", 0),
        "as index says, found none",
    ),
    "a block in another file": (put("block_index", ID, 1), "index"),
    "a block less": (drop("block_index", ID), "that index does not know"),
}


@pytest.mark.parametrize("name", INDEX_CHANGES)
def test_the_index_is_held_against_the_files(folder, name):
    change, match = INDEX_CHANGES[name]
    edit(folder, INDEX, change)
    with pytest.raises(DamagedError, match=match):
        open_upstream(folder)


def test_a_file_of_a_save_that_crashed(folder):
    """RecIS merges what crashed saves have left: files that are not there."""
    missing = "model-000009-of-000010.safetensors"
    edit(folder, INDEX, put("file_index", missing, 9))
    refused(folder, missing, "as index names it, found none")


@pytest.mark.parametrize("file", [INDEX, KEYS])
def test_an_unfinished_save(folder, file):
    os.unlink(folder / file)
    refused(folder, file, "was not finished")


def test_what_recis_never_reads_may_be_missing(folder):
    os.unlink(folder / RANK)
    open_upstream(folder)


TWO_OF = "users@id^00000@32768@65536"
KEY_CHANGES = {
    "an entry less": (drop(SEEN), "no entry for 'users.seen"),
    "an entry more": (put("b.id/part_0_1", "b@id^0@1@1"), "an entry for 'b.id"),
    "no text": (put(ID, 7), "CHILD@SLOT"),
    "another syntax": (put(ID, "users@id"), "CHILD@SLOT"),
    "another table": (put(ID, TWO_OF.replace("users", "items")), "CHILD@SLOT"),
    "digits without end": (put(ID, "users@id^0@1@" + "9" * 5000), "CHILD@SLOT"),
    "no slices": (put(ID, "users@id^0@0@0"), "BEGIN <= END <= SIZE"),
    "too many slices": (put(ID, "users@id^0@1@99999999"), "BEGIN <= END <= SIZE"),
    "backwards": (put(ID, "users@id^00002@00001@65536"), "BEGIN <= END <= SIZE"),
    "past the end": (put(ID, "users@id^00000@65537@65536"), "BEGIN <= END <= SIZE"),
    "of other slices": (put(ID, "users@id^00000@32767@65536"), "as the part has"),
    "of another size": (put(ID, "users@id^00000@32768@65537"), "2 parts of 65536"),
}


@pytest.mark.parametrize("name", KEY_CHANGES)
def test_tensor_keys_are_held_against_the_index(folder, name):
    change, match = KEY_CHANGES[name]
    edit(folder, KEYS, change)
    refused(folder, KEYS, match)


@pytest.mark.parametrize(
    "change", [drop(ID), put("more", {"shape": []}), put(ID, "shape", [4]), put(ID, 5)]
)
def test_the_third_file_must_not_contradict(folder, change):
    edit(folder, RANK, change)
    refused(folder, RANK, "the shape")


def make(tmp_path, columns, **options):
    return reference.write(tmp_path / "made", {"users": columns}, **options)


ONE = {"id": [1], "embedding": np.ones((1, 2), "<f4")}


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({**ONE, "id": np.ones((1, 1), "<i8")}, r"ids I64 \[n\]"),
        ({"id": [1]}, "a block 'embedding'"),
        ({"embedding": ONE["embedding"]}, "a block 'id'"),
        ({**ONE, "embedding": np.ones((2, 2), "<f4")}, "1 rows"),
        ({**ONE, "embedding": np.ones((1, 0), "<f4")}, "at least 1 byte"),
    ],
)
def test_columns_must_fit(tmp_path, columns, match):
    arrays = {slot: np.asarray(values) for slot, values in columns.items()}
    of = {f"users.{slot}/part_0_1": values for slot, values in arrays.items()}
    folder = tmp_path / "made"
    folder.mkdir()
    name = "model-000000-of-000001.safetensors"
    (folder / name).write_bytes(reference.data_file(of))
    index = {"block_index": dict.fromkeys(of, 0), "file_index": {name: 0}}
    (folder / INDEX).write_text(json.dumps(index))
    places = {f"users.{slot}/part_0_1": f"users@{slot}^0@8@8" for slot in arrays}
    (folder / KEYS).write_text(json.dumps(places))
    with pytest.raises(DamagedError, match=match):
        open_upstream(folder)


def test_parts_must_not_overlap(tmp_path):
    folder = make(tmp_path, ONE, shards=2, slices=[(0, 40000), (30000, 65536)])
    with pytest.raises(DamagedError, match="each slice of 'users' in one part"):
        open_upstream(folder)


def test_all_parts_must_be_there(folder):
    """A worker's part is gone, and nothing else shows it."""

    def without(found):
        for key in [key for key in found if key.endswith("part_1_2")]:
            del found[key]

    edit(folder, KEYS, without)
    edit(folder, RANK, without)
    index = json.loads((folder / INDEX).read_text())
    without(index["block_index"])
    kept = set(index["block_index"].values())
    index["file_index"] = {n: i for n, i in index["file_index"].items() if i in kept}
    (folder / INDEX).write_text(json.dumps(index))
    refused(folder, KEYS, "parts 0 to 1 of 'users', found no part 1")


def test_parts_must_have_the_same_slots(folder):
    for path in sorted(folder.glob("model-00000[23]-*")):
        data = path.read_bytes()
        path.write_bytes(re.sub(rb'"I64"(, "shape": \[\d, 1\])', rb'"F64"\1', data))
    with pytest.raises(DamagedError, match=r"slots .*seen I64\[1\], found .*seen F64\[1\]"):
        open_upstream(folder)


def test_links_are_not_followed(folder, tmp_path):
    away = tmp_path / "away"
    shutil.move(folder / FIRST, away)
    (folder / FIRST).symlink_to(away)
    refused(folder, FIRST, "a symbolic link")


def test_a_file_that_is_cut_short(folder):
    with open(folder / FIRST, "r+b") as handle:
        handle.truncate(os.path.getsize(folder / FIRST) - 1)
    refused(folder, FIRST, "bytes")


def test_bool_tensors_are_named(folder):
    """RecIS writes `bool` where its own reader wants another word."""
    data = (folder / FIRST).read_bytes()
    (folder / FIRST).write_bytes(data.replace(b'"dtype": "I64"', b'"dtype":"bool"', 1))
    with pytest.raises(DamagedError, match="'bool'"):
        open_upstream(folder)


FILES = sorted(path.name for path in GOLDEN.iterdir())


@given(data=st.data())
def test_whatever_the_bytes_nothing_worse_than_an_error_happens(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz") / "up"
    shutil.copytree(GOLDEN, folder)
    path = folder / data.draw(st.sampled_from(FILES))
    text = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text) - 1))
        if data.draw(st.booleans()):
            text[at] = data.draw(st.integers(0, 255))
        else:
            length = data.draw(st.integers(1, 40))
            text[at : at + length] = data.draw(st.binary(max_size=8)) or b"0"
    path.write_bytes(text)
    try:
        reader = open_upstream(folder)
        for name in reader.manifest.tables:
            reader.check_ids(name)
            list(reader.read_rows(name))
        reader.dense("model")
    except SnapshotError as error:
        assert str(folder) in str(error)
