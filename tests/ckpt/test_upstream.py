"""recis-ckpt and checkpoints of RecIS 1.0."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from recis_ckpt.main import app
from typer.testing import CliRunner

import recis
from recis.nn import HashTable
from recis.serialize import Loader
from recis.snapshot.errors import MismatchError

from ..helpers import by_id

GOLDEN = Path(__file__).parent.parent / "golden" / "upstream-1.0"
EXPECTED = json.loads(GOLDEN.with_name("upstream-1.0.json").read_text())


def run(*arguments, code=0):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, (done.output, done.stderr, done.exception)
    assert "Traceback" not in done.output + done.stderr
    return done


def run_json(*arguments, code=0):
    return json.loads(run(*arguments, "--json", code=code).stdout)


def test_inspect_and_verify_take_it_as_it_is(tmp_path):
    found = run_json("inspect", GOLDEN)
    assert {name: table["rows"] for name, table in found["tables"].items()} == {
        name: len(rows) for name, rows in EXPECTED["tables"].items()
    }
    assert found["dense"].keys() == EXPECTED["dense"].keys()
    assert "user_emb" in run("inspect", GOLDEN).stdout
    assert "no checksums" in run("verify", GOLDEN, "--level", "deep").stdout
    copy = tmp_path / "copy"
    shutil.copytree(GOLDEN, copy)
    (copy / "model-000001-of-000003.safetensors").unlink()
    (problem,) = run_json("verify", copy, code=1)["problems"]
    assert problem["path"] == str(copy / "model-000001-of-000003.safetensors")


def test_it_goes_to_a_snapshot_and_back(tmp_path):
    arguments = ["--step", 7, "--coalesced", "both=c0,c1"]
    made = run_json("import", GOLDEN, tmp_path / "snaps", *arguments)["snapshot"]
    assert made == str(tmp_path / "snaps" / "step-000000000007")
    assert run_json("verify", made, "--level", "deep")["ok"]
    row = run_json("cat", made, "user_emb", "--ids=-9")["rows"][0]
    assert row["slots"] == EXPECTED["tables"]["user_emb"]["-9"]
    back = run_json("export", made, tmp_path / "back", "--shards", 2)["checkpoint"]
    assert run_json("verify", back, "--level", "deep")["ok"]
    tables = [HashTable([2], name="both", coalesced=True, children=["c0", "c1"])]
    tables.append(HashTable([3], name="user_emb"))
    wanted = {table.table.name: table for table in tables}
    Loader(GOLDEN, hashtables=wanted).load()
    before = [by_id(table, slot) for table, slot in zip(tables, SLOTS, strict=True)]
    for path in (made, back):
        for table in tables:
            table.clear()
        Loader(path, hashtables=wanted).load()
        assert [by_id(t, slot) for t, slot in zip(tables, SLOTS, strict=True)] == before
        assert [len(rows) for rows in before] == [3, 5]


SLOTS = ["step_filter", "sparse_adamw_exp_avg_sq"]


def test_where_a_snapshot_is_needed_it_says_what_to_do(tmp_path):
    for arguments in (
        ["cat", GOLDEN, "user_emb", "--ids", 7],
        ["diff", GOLDEN, GOLDEN],
        ["reshard", GOLDEN, tmp_path / "out", "--shards", 2],
        ["load", GOLDEN, tmp_path / "store"],
        ["export", GOLDEN, tmp_path / "out"],
    ):
        assert "import it first" in run(*arguments, code=2).stderr
    with pytest.raises(MismatchError, match="recis-ckpt import"):
        recis.Snapshot(GOLDEN)
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments(tmp_path):
    assert "--step" in run("import", GOLDEN, tmp_path / "out", code=2).stderr
    run("import", GOLDEN, tmp_path / "out", "--coalesced", "both", code=2)
    assert "no checkpoint" in run("import", tmp_path, tmp_path / "out", code=2).stderr
    assert list(tmp_path.iterdir()) == []


def test_a_url_is_read(tmp_path):
    """Anything that fsspec can read can be imported from."""
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    for path in GOLDEN.iterdir():
        system.pipe_file(f"/upstream/ckpt_30/{path.name}", path.read_bytes())
    table = HashTable([3], name="user_emb")
    assert Loader("memory://upstream/ckpt_30", hashtables={"user_emb": table}).load() == 30
    assert len(table) == 5
    made = run_json("import", "memory://upstream/ckpt_30", tmp_path)["snapshot"]
    assert made == str(tmp_path / "step-000000000030")
    assert torch.equal(recis.Snapshot(tmp_path).table("int8_t").lookup(torch.tensor([4])),
                       torch.tensor([[1, -2, 3, -4]], dtype=torch.int8))  # fmt: skip
