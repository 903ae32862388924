"""Serving: lookups straight from the files."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import recis
from recis.snapshot.errors import DamagedError, MismatchError

from . import reference
from .test_read import IDS, SLOTS, content, expected

UNKNOWN = [1, 2, 65536 * 3 + 5, -77]


def check(table, known):
    """Whether a table serves exactly these rows, `{id: {slot: value}}`."""
    ids = torch.tensor([*known, *UNKNOWN, *list(known)[:3], *IDS])
    here = torch.tensor([int(id) in known for id in ids])
    for slot, dtype, shape, _ in SLOTS:
        values, mask = table.lookup(ids, slot, return_mask=True)
        assert torch.equal(mask, here)
        zeros = np.zeros(shape, reference.NUMPY[dtype]).tolist()
        assert values.tolist() == [known.get(int(id), {slot: zeros})[slot] for id in ids]
    assert len(table) == len(known)


@pytest.mark.parametrize("shards", [1, 3, 16])
def test_what_is_served_is_what_was_saved(tmp_path, shards):
    users = content(IDS)
    reference.write(tmp_path, 12, {"users": users}, shards=shards)
    snapshot = recis.Snapshot(tmp_path)
    assert snapshot.tables() == ["users"]
    assert snapshot.step == 12
    table = snapshot.table("users")
    assert table.slots() == [name for name, *_ in SLOTS]
    check(table, expected(users))
    assert table.lookup(torch.tensor([[5, -1], [0, 1]])).shape == (2, 2, 3)
    assert table.lookup(torch.empty(0, dtype=torch.int64)).shape == (0, 3)


@given(st.data())
def test_deltas_are_looked_through(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("chain")
    some = st.lists(st.sampled_from(IDS[:30]), unique=True)
    known, parent = {}, None
    for step in range(data.draw(st.integers(1, 4))):
        gone = [] if parent is None else data.draw(some)
        changed = data.draw(some)
        piece = content(changed, seed=step, deleted=gone)
        reference.write(root, step, {"users": piece}, parent=parent)
        parent = step
        for id in gone:
            known.pop(id, None)
        known.update(expected(piece))
    check(recis.Snapshot(root).table("users"), known)


def test_a_slot_that_came_later_is_initial_in_older_rows(tmp_path):
    reference.write(tmp_path, 1, {"users": content([1, 2], slots=SLOTS[:1])})
    later = content([2], seed=1)
    reference.write(tmp_path, 2, {"users": later}, parent=1)
    seen = recis.Snapshot(tmp_path).table("users").lookup(torch.tensor([1, 2, 3]), "seen")
    assert seen.view(-1).tolist() == [7, later.values["seen"].item(), 0]


def test_refreshing_goes_on_to_the_newest(tmp_path):
    reference.write(tmp_path, 1, {"users": content(IDS, seed=1)})
    snapshot = recis.Snapshot(tmp_path)
    table = snapshot.table("users")
    assert not snapshot.refresh()
    later = content(IDS[3:], seed=2)
    reference.write(tmp_path, 2, {"users": later})
    check(table, expected(content(IDS, seed=1)))
    assert snapshot.refresh()
    assert snapshot.step == 2
    check(table, expected(later))


def test_no_lookup_fails_while_snapshots_come_and_go(tmp_path):
    contents = {step: content(IDS, seed=step) for step in range(1, 9)}
    reference.write(tmp_path, 1, {"users": contents[1]})
    snapshot = recis.Snapshot(tmp_path)
    table = snapshot.table("users")
    possible = [
        torch.tensor([expected(c)[id]["embedding"] for id in IDS]) for c in contents.values()
    ]
    stop, errors, served = threading.Event(), [], set()

    def serve():
        ids = torch.tensor(IDS)
        while not stop.is_set():
            try:
                found = table.lookup(ids)
                served.add([torch.equal(found, values) for values in possible].index(True))
            except BaseException as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=serve) for _ in range(3)]
    for thread in threads:
        thread.start()
    for step in range(2, 9):
        reference.write(tmp_path, step, {"users": contents[step]})
        assert snapshot.refresh()
        shutil.rmtree(tmp_path / f"step-{step - 1:012d}")  # maps outlive it
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert served


def test_mistakes(tmp_path):
    with pytest.raises(FileNotFoundError):
        recis.Snapshot(tmp_path)
    reference.write(tmp_path, 1, {"users": content(IDS)})
    snapshot = recis.Snapshot(tmp_path)
    with pytest.raises(MismatchError, match="it has users"):
        snapshot.table("items")
    with pytest.raises(MismatchError, match="it has embedding, seen, flag"):
        snapshot.table("users").lookup(torch.tensor([1]), "speed")
    with pytest.raises(TypeError, match="int64"):
        snapshot.table("users").lookup(torch.tensor([1.0]))


def test_a_file_that_was_cut_short_is_refused(tmp_path):
    reference.write(tmp_path, 1, {"users": content(IDS)})
    (file,) = (tmp_path / "step-000000000001/sparse/users").iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DamagedError, match=file.name):
        recis.Snapshot(tmp_path)


def test_what_was_deleted_is_served(tmp_path):
    before, later = content(IDS), content(IDS[5:9], seed=1, deleted=IDS[:2])
    reference.write(tmp_path, 1, {"users": before}, shards=3)
    reference.write(tmp_path, 2, {"users": later}, parent=1)
    snapshot = recis.Snapshot(tmp_path)
    shutil.rmtree(tmp_path)
    known = {id: row for id, row in expected(before).items() if id not in IDS[:2]}
    check(snapshot.table("users"), {**known, **expected(later)})


def test_what_is_served_stays_when_the_newest_cannot_be(tmp_path):
    users = content(IDS)
    reference.write(tmp_path, 1, {"users": users})
    snapshot = recis.Snapshot(tmp_path)
    reference.write(tmp_path, 2, {"users": content(IDS[:3])})
    (file,) = (tmp_path / "step-000000000002/sparse/users").iterdir()
    data = bytearray(file.read_bytes())
    data[20] ^= 1  # in the header, which nothing but opening the file shows
    file.write_bytes(data)
    with pytest.raises(DamagedError, match=file.name):
        snapshot.refresh()
    assert snapshot.step == 1
    check(snapshot.table("users"), expected(users))


def test_what_lookups_touch_is_verified_if_asked_for(tmp_path):
    users, gone = content(range(1000)), content([], deleted=[7])
    folder = reference.write(tmp_path, 1, {"users": users})
    reference.write(tmp_path, 2, {"users": gone}, parent=1)
    (file,) = (folder / "sparse/users").iterdir()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1  # the flag of id 999
    data[-1000 * 21] ^= 1  # the counter of id 0
    file.write_bytes(data)
    table = recis.Snapshot(tmp_path, check=True).table("users")
    ids = torch.arange(100)
    assert table.lookup(ids).shape == (100, 3)
    assert table.lookup(ids, "flag")[7] == 0
    for slot, id in [("seen", 255), ("flag", 768)]:
        with pytest.raises(DamagedError, match=f"slot/{slot}"):
            table.lookup(torch.tensor([id]), slot)
    assert len(table) == 999
    trusting = recis.Snapshot(tmp_path).table("users")
    assert trusting.lookup(torch.tensor([255]), "seen").shape == (1, 1)


def test_ids_out_of_place_are_found_by_lookups_that_check(tmp_path):
    users = content([1, 2, 65537])
    users.ids = users.ids[[1, 0, 2]]
    reference.write(tmp_path, 1, {"users": users})
    with pytest.raises(DamagedError, match=r"slices \[1, 2\)"):
        recis.Snapshot(tmp_path, check=True).table("users").lookup(torch.tensor([9]))


SERVER = """
import sys, torch, recis
table = recis.Snapshot(sys.argv[1]).table("users")
print(table.lookup(torch.tensor([5])).tolist(), flush=True)
sys.stdin.read()
"""


def test_processes_share_what_they_serve(tmp_path):
    users = content([5])
    reference.write(tmp_path, 1, {"users": users})
    servers = [
        subprocess.Popen(
            [sys.executable, "-c", SERVER, str(tmp_path)],
            cwd=tmp_path,  # not where the sources are
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    value = str([expected(users)[5]["embedding"]])
    for server in servers:
        assert server.stdout.readline().strip() == value
        lines = Path(f"/proc/{server.pid}/maps").read_text().splitlines()
        (mapped,) = [line for line in lines if line.endswith("00000-of-00001.000.safetensors")]
        assert mapped.split()[1] == "r--s"  # read-only and shared
        server.communicate()
