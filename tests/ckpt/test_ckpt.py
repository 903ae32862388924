"""The command recis-ckpt: what it prints and makes, its exit codes, and never a traceback."""

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from recis_ckpt.main import app
from typer.testing import CliRunner

from recis import Store, optim
from recis._tensors import new_output
from recis.nn import FilterHook, HashTable
from recis.nn.hashtable_hook import FrequencyAdmitHook
from recis.serialize import Saver
from recis.snapshot.errors import MismatchError
from recis.snapshot.manifest import TableInfo
from recis.snapshot.publish import Draft, steps
from recis.snapshot.read import open_snapshot
from recis.snapshot.rewrite import rewrite
from recis.snapshot.sources import open_source
from recis.snapshot.stores import merge_policies, open_table
from recis.snapshot.write import count_slices, slots_of, write_rows, write_table

from ..snapshots.reference import Content, write

SLOTS = [("embedding", "F32", (4,), 0.0), ("seen", "I64", (1,), 3.0)]


def rows(ids, scale=1.0, slots=SLOTS, **options):
    ids = np.asarray(ids, np.int64)
    values = {
        "embedding": np.arange(len(ids) * 4).reshape(-1, 4) * scale,
        "seen": ids.reshape(-1, 1) % 100,
    }
    return Content(slots, ids, {name: values[name] for name, *_ in slots}, **options)


@pytest.fixture
def chain(tmp_path):
    """Steps 1 to 3: a base and two deltas, in two shards."""
    root = tmp_path / "chain"
    write(root, 1, {"users": rows(range(-500, 500)), "empty": rows([])}, shards=2)
    later = {"users": rows(range(490, 520), 2.0, deleted=[-1, 7]), "empty": rows([])}
    write(root, 2, later, parent=1, shards=2)
    last = {"users": rows([7, 8], 9.0, deleted=[519]), "empty": rows([])}
    write(root, 3, last, parent=2, shards=2)
    return root


def fill(path, **where):
    """Makes a store with optimizer slots, hooks and a state, committed at step 12."""
    with Store(path) as opened:
        hook = FilterHook("GlobalStepFilter", {"filter_step": 9})
        table = HashTable([4], name="users", store=opened, filter_hook=hook, **where)
        optimizer = optim.SparseAdam({"users": table.table})
        table(torch.arange(-300, 300)).sum().backward()
        optimizer.step()
        table(torch.arange(295, 310), admit_hook=FrequencyAdmitHook(3))
        opened.commit(12, {"lr": 0.5, "weights": [torch.ones(3)]})
    return path


@pytest.fixture
def store(tmp_path):
    """Of a table on the CPU."""
    return fill(tmp_path / "store")


def run(*arguments, code=0):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, (done.output, done.stderr, done.exception)
    assert "Traceback" not in done.output + done.stderr
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done


def run_json(*arguments, code=0):
    return json.loads(run(*arguments, "--json", code=code).stdout)


def content(root, table="users", step=None):
    """Every slot of every row, by id, as bytes."""
    found = {}
    for piece in open_snapshot(root, step).read_rows(table):
        for i, id_ in enumerate(piece.ids.tolist()):
            found[id_] = {name: v[i].numpy().tobytes() for name, v in piece.slots.items()}
    return found


def damage(root, step=1, table="users"):
    """Flips a bit of the last slot of the second shard; returns the file."""
    folder = Path(root) / f"step-{step:012d}" / "sparse" / table
    path = sorted(folder.glob("00001-of-*.000.safetensors"))[0]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return path


# ---- inspect ----


def test_inspect_shows_what_headers_say(chain):
    found = run_json("inspect", chain)
    assert found["step"] == 3
    assert found["chain"] == [1, 2, 3]
    assert found["world_size"] == 2
    users = found["tables"]["users"]
    assert (users["rows"], users["deleted"]) == (2, 1)
    assert users["slots"][1] == {"name": "seen", "dtype": "I64", "shape": [1], "initial": 3.0}
    # 2 rows of 65536 slices, both in the first of 2 shards.
    assert (users["slice_skew"], users["shard_skew"]) == (32768, 2)
    assert found["tables"]["empty"]["slice_skew"] == 1
    assert "a delta on step 2, on step 1" in run("inspect", chain).stdout


def test_inspect_reads_no_rows(chain):
    """Rows may be damaged: nobody looked."""
    damage(chain)
    run("inspect", chain / "step-000000000001")


def test_inspect_shows_a_store(store):
    found = run_json("inspect", store)
    assert (found["kind"], found["step"], found["epoch"]) == ("store", 12, 1)
    users = found["tables"]["users"]
    names = [slot["name"] for slot in users["slots"]]
    assert names[0] == "embedding"
    assert "step_filter" in names
    assert users["rows"] == 600
    assert users["live_bytes"] == found["live_bytes"] > 600 * 3 * 16


@pytest.mark.parametrize("which", ["chain", "store"])
def test_inspect_draws(request, which, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "picture.png"
    run("inspect", request.getfixturevalue(which), "--plot", picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_what_people_read_of_snapshots_and_stores(chain, store):
    shown = run("inspect", chain).stdout
    assert "step 3, world size 2" in shown
    assert "a delta on step 2, on step 1" in shown
    assert "epoch" not in shown  # it has none
    shown = run("inspect", store).stdout
    assert "step 12, epoch 1" in shown
    assert re.search(r"users +. +600 . +\d\d\.\d KiB +. embedding F32", shown)


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_nothing_is_said_to_a_reader_that_has_read_enough(chain, options):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "recis_ckpt", "inspect", chain, *options]
    done = subprocess.run(
        command, cwd=chain, stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert done.stderr == ""


def test_a_store_is_no_snapshot(store, tmp_path):
    for command in (["export"], ["compact"], ["reshard", "--shards", 2], ["load"]):
        found = run(command[0], store, tmp_path / "new", *command[1:], code=2)
        assert f"recis-ckpt save {store}" in found.stderr


def test_rows_of_slices_are_counted_without_reading_them(chain, store):
    for path in (chain / "step-000000000001", store):
        with open_source(path) as source:
            for table in source.tables():
                rows = list(source.read_rows(table, 65536, []))
                found = source.count_slices(table, 65536)
                assert found.tolist() == count_slices(rows, 65536).tolist()
    with open_source(chain) as source:  # of each of its snapshots
        assert source.count_slices("users", 65536).sum() == 1000 + 30 + 2


# ---- verify ----


@pytest.mark.parametrize("level", ["quick", "full", "deep"])
def test_verify_is_content_with_what_is_whole(chain, store, level):
    for path in (chain, store):
        assert run_json("verify", path, "--level", level)["problems"] == []
    assert "no damage" in run("verify", chain).stdout


def test_verify_names_file_tensor_and_slices_through_the_chain(chain):
    path = damage(chain)
    found = run_json("verify", chain, code=1)
    assert not found["ok"]
    (problem,) = found["problems"]
    assert problem["path"] == str(path)
    assert problem["tensor"] == "slot/embedding"
    assert problem["slices"] == [65280, 65536]
    assert run_json("verify", chain, "--level", "quick")["ok"]
    assert path.name in run("verify", chain, code=1).stdout


def test_verify_names_the_damaged_block_of_a_store(store):
    data = bytearray((store / "data.mdb").read_bytes())
    at = data.index(b"RCB1")
    data[at + 200] ^= 1
    (store / "data.mdb").write_bytes(data)
    found = run_json("verify", store, code=1)
    assert "block" in found["problems"][0]["found"]
    assert run_json("verify", store, "--level", "quick")["ok"]


# ---- reshard, compact ----


@pytest.mark.parametrize("shards", [1, 3, 8])
def test_reshard_keeps_every_bit(chain, tmp_path, shards):
    made = run_json("reshard", chain, tmp_path / "new", "--shards", shards)["snapshot"]
    assert content(made) == content(chain)
    manifest = open_snapshot(made).manifest
    assert manifest.world_size == shards
    assert manifest.parent is None
    assert {file.shards for file in manifest.tables["users"].files} == {shards}
    run("verify", made, "--level", "deep")
    run("diff", chain, made)


def test_reshard_there_and_back_gives_the_same_bytes(store, tmp_path):
    run("save", store, tmp_path / "a")
    run("reshard", tmp_path / "a", tmp_path / "b", "--shards", 5)
    run("reshard", tmp_path / "b", tmp_path / "c", "--shards", 1)
    assert tree(tmp_path / "c") == tree(tmp_path / "a")
    assert any("policies" in path for path in tree(tmp_path / "a"))


def test_reshard_reads_each_byte_once(tmp_path, make_table):
    """And some of the headers and the slices' offsets again. What it writes it does not read."""
    table = make_table((64,), name="wide")
    table.insert(torch.arange(40_000) * 7919, torch.ones(40_000, 64))
    source = Saver(path=tmp_path / "a", hashtables={"wide": table}).save(1)
    size = sum(file.stat().st_size for file in Path(source).rglob("*") if file.is_file())
    run("reshard", source, tmp_path / "warm", "--shards", 2)  # imports are read, too
    before = bytes_read()
    run("reshard", source, tmp_path / "b", "--shards", 3)
    assert size <= bytes_read() - before <= 1.05 * size


def bytes_read():
    """By this process so far, from files and caches."""
    return int(Path("/proc/self/io").read_text().split()[1])


def tree(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_compact_applies_deltas(chain, tmp_path):
    made = run_json("compact", chain, tmp_path / "full")["snapshot"]
    found = content(made)
    assert found == content(chain)
    assert set(found) == {*range(-500, 519)} - {-1}
    assert len(open_snapshot(made).chain) == 1


def test_nothing_is_made_of_what_is_damaged(chain, tmp_path):
    path = damage(chain)
    done = run("compact", chain, tmp_path / "full", code=1)
    assert path.name in done.stderr
    assert steps(tmp_path / "full") == []
    assert [name for name in os.listdir(tmp_path / "full") if name != "FORMAT"] == []


def test_rows_that_are_streamed_make_the_engines_bytes(store, tmp_path):
    """Also in several parts."""
    written = []
    with Store(store, read_only=True) as opened:
        cut = open_table(opened, "users").cut()
        about = TableInfo(slots_of(cut), 65536, 0)
        with Draft(tmp_path / "a", 1) as draft:
            made = write_table(draft, cut, "users", about, part_bytes=10_000)
            written.append({f.path: Path(draft.path(f.path)).read_bytes() for f in made.files})
        cut.abandon()
    run("save", store, tmp_path / "saved")
    reader = open_snapshot(tmp_path / "saved")
    counts = count_slices(reader.read_rows("users", slots=()), 65536)
    with Draft(tmp_path / "b", 1) as draft:
        made = write_rows(
            draft, reader.read_rows("users"), counts, "users", about, part_bytes=10_000
        )
        written.append({f.path: Path(draft.path(f.path)).read_bytes() for f in made.files})
    assert len(written[0]) > 3
    assert written[0] == written[1]


def test_memory_is_bounded_by_a_part_and_not_by_the_rows(tmp_path, monkeypatch):
    """Buffers of torch are seen where they are asked for, the rest by tracemalloc."""
    count = 60_000
    ids = np.arange(count, dtype=np.int64)
    slots = [("embedding", "F32", (64,), 0.0)]
    values = {"embedding": np.ones((count, 64), np.float32)}
    write(tmp_path / "big", 1, {"t": Content(slots, ids, values)})
    del values, ids
    monkeypatch.setattr("recis.snapshot.rewrite.READ_BYTES", 256 << 10)
    largest = 0

    def watched(shape, dtype):
        nonlocal largest
        out, streamed = new_output(shape, dtype)
        largest = max(largest, out.nbytes)
        return out, streamed

    monkeypatch.setattr("recis.snapshot.merge.new_output", watched)
    monkeypatch.setattr("recis.snapshot.sparse_file.new_output", watched)
    reader = open_snapshot(tmp_path / "big")
    tracemalloc.start()
    rewrite(reader, tmp_path / "small", shards=4, part_bytes=1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0 < largest <= 512 << 10  # of 15 MiB
    assert peak < 6 << 20


# ---- diff, cat ----


def test_diff_counts_and_measures(chain):
    a, b = (chain / f"step-{step:012d}" for step in (1, 2))
    run("diff", a, a)
    found = run_json("diff", a, b, code=1)
    assert found["tables"]["empty"]["same"]
    users = found["tables"]["users"]
    assert (users["added"], users["removed"], users["changed"]) == (20, 2, 10)
    assert users["slots"]["seen"]["rows"] == 0
    change = users["slots"]["embedding"]
    old = np.arange(990 * 4, 1000 * 4, dtype=np.float64)
    new = np.arange(10 * 4) * 2.0
    assert change["max_abs"] == abs(old - new).max()
    assert change["mean_abs"] == pytest.approx(abs(old - new).sum() / (998 * 4))
    assert change["l2"] == pytest.approx(np.sqrt(((old - new) ** 2).sum()))
    back = run_json("diff", b, a, code=1)["tables"]["users"]
    assert (back["added"], back["removed"]) == (2, 20)
    assert "added" in run("diff", a, b, code=1).stdout


def test_diff_sees_bits_that_are_equal_numbers(tmp_path):
    for root, zero in [("a", 0.0), ("b", -0.0)]:
        one = Content([("embedding", "F32", (1,), 0.0)], [5], {"embedding": [[zero]]})
        write(tmp_path / root, 1, {"t": one})
    found = run_json("diff", tmp_path / "a", tmp_path / "b", code=1)
    assert found["tables"]["t"]["changed"] == 1
    assert found["tables"]["t"]["slots"]["embedding"]["max_abs"] == 0


def test_diff_sees_slots_and_tables_that_only_one_has(tmp_path):
    write(tmp_path / "a", 1, {"t": rows([1, 2]), "gone": rows([])})
    write(tmp_path / "b", 1, {"t": rows([1, 2], slots=SLOTS[:1])})
    found = run_json("diff", tmp_path / "a", tmp_path / "b", code=1)["tables"]
    assert found["t"]["slots_removed"] == ["seen"]
    assert not found["gone"]["same"]


def test_a_store_can_be_compared_with_its_snapshot(store, tmp_path):
    run("save", store, tmp_path / "snapshots")
    run("diff", store, tmp_path / "snapshots")


@pytest.mark.parametrize("which", ["chain", "store"])
def test_cat_prints_rows_by_id(request, which, tmp_path):
    path = request.getfixturevalue(which)
    ids = [8, -3, 1_000_000]
    found = run_json("cat", path, "users", "--ids", "8,-3,1000000,8")
    assert [row["id"] for row in found["rows"]] == ids[:2]
    assert found["missing"] == [1_000_000]
    if which == "chain":
        assert found["rows"][0]["slots"] == {"embedding": [36, 45, 54, 63], "seen": [8]}
    text = run("cat", path, "users", "--ids=-3,1000000", "--slot", "embedding").stdout
    assert "no row: 1000000" in text
    run("cat", path, "users", "--ids", "8,-3", "--npz", tmp_path / "rows.npz")
    with np.load(tmp_path / "rows.npz") as arrays:
        assert arrays["ids"].tolist() == [8, -3]
        expected = [row["slots"]["embedding"] for row in found["rows"]]
        assert arrays["slot/embedding"].tolist() == expected


# ---- save, load ----


def test_a_store_comes_back_from_its_snapshot(store, tmp_path):
    run("save", store, tmp_path / "snapshots")
    found = run_json("load", tmp_path / "snapshots", tmp_path / "again")
    assert (found["step"], found["epoch"]) == (12, 1)
    run("diff", store, tmp_path / "again")
    hook = FilterHook("GlobalStepFilter", {"filter_step": 9})
    states = []
    for path in (store, tmp_path / "again"):
        with Store(path) as opened:
            states.append(opened.policies.collect())
            table = HashTable([4], name="users", store=opened, filter_hook=hook)
            assert len(table) == 600
            assert opened.state()["weights"][0].tolist() == [1, 1, 1]
        del table
    assert str(states[0]) == str(states[1])
    # The sightings of ids 300 to 309 are among them.
    assert "FrequencyAdmit" in str(states[0])


def test_a_store_does_not_tell_where_its_table_was(store, device, tmp_path):
    device_bytes = None if device == "cpu" else 1000
    other = fill(tmp_path / "other", device=device, device_bytes=device_bytes)
    run("diff", store, other)
    run("save", other, tmp_path / "snapshots")
    run("load", tmp_path / "snapshots", tmp_path / "again")
    run("diff", store, tmp_path / "again")
    run("verify", other)


def test_a_resharded_snapshot_loads_as_well(store, tmp_path):
    run("save", store, tmp_path / "a")
    run("reshard", tmp_path / "a", tmp_path / "b", "--shards", 4)
    run("load", tmp_path / "b", tmp_path / "again")
    run("diff", store, tmp_path / "again")


def test_sightings_of_several_shards_are_joined_and_other_states_are_not():
    one, two = ((torch.tensor([i]), torch.tensor([9])) for i in (1, 2))
    stamp = ({"step": torch.ones(1)},)
    admit = f"admit {FrequencyAdmitHook(3)}"
    shards = [{admit: sightings, "filter GlobalStepFilter": stamp} for sightings in (one, two)]
    merged = merge_policies(shards)
    assert [part.tolist() for part in merged[admit]] == [[1, 2], [9, 9]]
    assert merged["filter GlobalStepFilter"] is stamp


def test_states_of_unknown_hooks_are_taken_if_all_shards_agree():
    """Vectors of int64 are no sightings unless the hook says so."""
    counts = (torch.tensor([1, 2]), torch.tensor([3, 4]))
    assert merge_policies([{"filter Own": counts}, {"filter Own": counts}])["filter Own"] is counts
    with pytest.raises(MismatchError, match=r"'Own'.*recis\.serialize\.Loader"):
        merge_policies([{"filter Own": counts}, {"filter Own": counts[::-1]}])


def test_diff_sees_what_hooks_of_stores_have_learnt(store, tmp_path):
    shutil.copytree(store, tmp_path / "later")
    with Store(tmp_path / "later") as opened:
        hook = FilterHook("GlobalStepFilter", {"filter_step": 9})
        table = HashTable([4], name="users", store=opened, filter_hook=hook)
        table(torch.tensor([305]), admit_hook=FrequencyAdmitHook(3))
        opened.commit(13, opened.state())
    del table
    found = run_json("diff", store, tmp_path / "later", code=1)
    assert all(entry["same"] for entry in found["tables"].values())
    (state,) = found["states"]
    assert "FrequencyAdmit" in state


def test_load_changes_no_store_that_is_in_use(store, chain):
    before = (store / "data.mdb").read_bytes()
    done = run("load", chain, store, code=2)
    assert "in use" in done.stderr
    assert (store / "data.mdb").read_bytes() == before


def test_save_does_not_replace(store, tmp_path):
    run("save", store, tmp_path / "snapshots")
    done = run("save", store, tmp_path / "snapshots", code=2)
    assert "step 12 already" in done.stderr


# ---- gc ----


def test_gc_keeps_what_deltas_need_and_removes_drafts(chain):
    write(chain, 4, {"users": rows([1])})
    (chain / ".tmp-step-000000000009-dead").mkdir()
    assert run_json("gc", chain, "--keep", 2)["removed"] == [".tmp-step-000000000009-dead"]
    dry = run_json("gc", chain, "--keep", 1, "--dry-run")
    assert dry["removed"] == [f"step-{step:012d}" for step in (3, 2, 1)]
    assert steps(chain) == [1, 2, 3, 4]
    assert run_json("gc", chain, "--keep", 1)["removed"] == dry["removed"]
    assert steps(chain) == [4]
    assert "nothing to remove" in run("gc", chain, "--keep", 1).stdout


def test_gc_keeps_the_newest_that_is_whole(tmp_path):
    for step in (1, 2, 3):
        write(tmp_path, step, {"users": rows(range(9))}, shards=2)
    path = damage(tmp_path, step=3)
    shutil.copy(path, tmp_path / "kept")
    run("gc", tmp_path, "--keep", 1)
    assert steps(tmp_path) == [2, 3]
    damage(tmp_path, step=2)
    assert run_json("gc", tmp_path, "--keep", 1)["removed"] == []


# ---- URLs ----


def test_urls_of_fsspec(chain, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.put(str(chain), "/ckpt-test", recursive=True)
    try:
        url = "memory://ckpt-test"
        run("verify", url, "--level", "deep")
        run("diff", url, chain)
        run("compact", url, "memory://ckpt-test/full")
        run("diff", "memory://ckpt-test/full", chain)
        assert run_json("inspect", url)["chain"] == [1, 2, 3]
    finally:
        memory.rm("/ckpt-test", recursive=True)


def test_what_goes_wrong_at_a_url_is_text(tmp_path):
    run("inspect", "memory://nothing-here", code=2)
    run("inspect", "nonsense://bucket/x", code=2)


# ---- what goes wrong ----

HOSTILE = ["", "/", "/dev/null", "/nowhere/at/all", "step-000000000001", "a\nb", "x" * 5000, "\x01"]
COMMANDS = {
    "inspect": ["P"],
    "verify": ["P"],
    "save": ["P", "OUT"],
    "load": ["P", "OUT"],
    "reshard": ["P", "OUT", "--shards", "2"],
    "compact": ["P", "OUT"],
    "diff": ["P", "P"],
    "cat": ["P", "t", "--ids", "1"],
    "gc": ["P", "--keep", "1"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("path", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_path_ends_in_one_paragraph(command, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if command == "gc" and path == "/":
        path = "/nowhere"
    out = str(tmp_path / "out")
    arguments = [path if a == "P" else out if a == "OUT" else a for a in COMMANDS[command]]
    done = CliRunner().invoke(app, [command, *arguments])
    assert done.exit_code == 2 or (command == "gc" and done.exit_code == 0)
    assert isinstance(done.exception, SystemExit) or done.exception is None
    assert len(done.stderr.strip().splitlines()) <= 1


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command):
    assert "Example: recis-ckpt" in run(command, "--help").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["cat", "x", "t", "--ids", "one"],
        ["cat", "x", "t", "--ids", str(2**64)],
        ["gc", "x", "--keep", "0"],
        ["reshard", "a", "b", "--shards", "0"],
    ],
)
def test_wrong_usage_is_2(arguments):
    run(*arguments, code=2)


def test_what_is_not_there_is_named(chain):
    assert "it has empty, users" in run("cat", chain, "x", "--ids", "1", code=2).stderr
    done = run("cat", chain, "users", "--ids", "1", "--slot", "x", code=2)
    assert "it has embedding, seen" in done.stderr


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Serves files, and the ranges of bytes that are asked for."""

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        if not path.is_file() or "Range" not in self.headers:
            return super().do_GET()
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        data = path.read_bytes()[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        """Nobody reads it."""


class Whole(Ranges):
    """Serves whole files, whatever is asked for."""

    do_GET = http.server.SimpleHTTPRequestHandler.do_GET


@pytest.fixture(params=[Ranges, Whole])
def served(request, chain):
    """The class that serves the chain, and its URL."""
    pytest.importorskip("aiohttp")
    handler = functools.partial(request.param, directory=str(chain))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield request.param, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_chain_is_read_over_http(served, chain):
    how, url = served
    if how is Ranges:
        run("verify", f"{url}/step-000000000003", "--level", "deep")
        run("diff", f"{url}/step-000000000003", chain)
    else:
        done = run("cat", f"{url}/step-000000000003", "users", "--ids", "1", code=2)
        assert "ranges of bytes" in done.stderr
