"""recis-ckpt, as its users run it."""

import json

import numpy as np
import pytest
import torch

import recis
from recis.nn import HashTable
from recis.serialize import Loader, Saver

main = pytest.importorskip("recis_ckpt.main").main


@pytest.fixture
def run(capsys):
    """Runs a command line: exit code, what it printed, and its complaints."""

    def call(*arguments):
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


@pytest.fixture
def snapshots(tmp_path):
    """A base of two shards, a delta to it, and what the table held at each."""
    root = tmp_path / "snapshots"
    table = HashTable([2], name="users")
    table.table.add_slot("seen", torch.int64, (1,))
    table.insert(torch.arange(-50, 50), torch.randn(100, 2))
    contents = []
    for step, shards in [(10, 2), (20, 1)]:
        for shard in range(shards):
            parent = root / "step-000000000010" if step == 20 else None
            Saver(
                shard,
                shards,
                path=root,
                hashtables={"users": table},
                tensors={"w": torch.ones(3)},
                parent=parent,
                track=True,
            ).save(step)
        contents.append(dict(zip(table.ids().tolist(), table.embeddings().tolist(), strict=True)))
        table.insert(torch.tensor([7, 1000]), torch.ones(2, 2))
        table.evict(torch.tensor([-50, 8]))
    return root, contents


def content(root):
    table = HashTable([2], name="users")
    table.table.add_slot("seen", torch.int64, (1,))
    Loader(root, hashtables={"users": table}).load()
    return dict(zip(table.ids().tolist(), table.embeddings().tolist(), strict=True))


def damage(root):
    """Flips a bit of the delta's rows."""
    path = root / "step-000000000020/sparse/users/00000-of-00001.000.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return path


def test_inspect(run, snapshots, tmp_path):
    root, _ = snapshots
    code, out, _ = run("inspect", root, "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["step"], found["chain"], found["dense"]) == (20, [10, 20], ["model"])
    assert found["tables"]["users"]["rows"] == 2
    assert found["tables"]["users"]["deleted"] == 2
    assert [slot["name"] for slot in found["tables"]["users"]["slots"]] == ["embedding", "seen"]
    code, out, _ = run("inspect", root / "step-000000000010", "--plot", tmp_path / "plot.png")
    assert code == 0
    assert "100 rows" in out
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_verify(run, snapshots):
    root, _ = snapshots
    for level in ("quick", "full", "deep"):
        assert run("verify", root, "--level", level)[0] == 0
    path = damage(root)
    assert run("verify", root, "--level", "quick")[0] == 0
    code, out, _ = run("verify", root, "--json")
    (problem,) = json.loads(out)
    assert code == 1
    assert problem["path"] == str(path)
    assert problem["tensor"] == "slot/embedding"
    code, out, _ = run("verify", root)
    assert code == 1
    assert "slot/embedding" in out.replace("\n", "")


def test_cat(run, snapshots, tmp_path):
    root, contents = snapshots
    code, out, _ = run("cat", root, "users", "--ids", "7,-1,8", "--json")
    found = json.loads(out)
    assert code == 1
    assert found["missing"] == [8]
    assert found["rows"]["7"] == {"embedding": [1.0, 1.0], "seen": [0]}
    assert np.allclose(found["rows"]["-1"]["embedding"], contents[1][-1])
    target = tmp_path / "rows.npz"
    assert run("cat", root, "users", "--ids=-1", "--slot", "embedding", "--npz", target)[0] == 0
    with np.load(target) as arrays:
        assert set(arrays) == {"ids", "embedding"}
        assert np.allclose(arrays["embedding"], [contents[1][-1]])


def test_diff(run, snapshots):
    root, _ = snapshots
    base = root / "step-000000000010"
    assert run("diff", base, base)[0] == 0
    code, out, _ = run("diff", base, root, "--json")
    found = json.loads(out)["users"]
    assert code == 1
    assert {key: found[key] for key in ("added", "removed", "common", "changed")} == {
        "added": 1, "removed": 2, "common": 98, "changed": 1,
    }  # fmt: skip
    assert found["slots"]["embedding"]["rows"] == 1
    assert found["slots"]["embedding"]["largest"] > 0
    assert found["slots"]["seen"] == {"rows": 0, "largest": 0, "mean": 0, "l2": 0}


@pytest.mark.parametrize("shards", [1, 3])
def test_reshard_and_compact(run, snapshots, tmp_path, shards):
    root, contents = snapshots
    assert run("reshard", root, tmp_path / "other", "--shards", shards)[0] == 0
    _, out, _ = run("inspect", tmp_path / "other", "--json")
    found = json.loads(out)
    assert (found["world_size"], found["chain"]) == (shards, [20])
    assert content(tmp_path / "other") == contents[1]
    assert run("verify", tmp_path / "other", "--level", "deep")[0] == 0
    assert run("compact", root, tmp_path / "compacted")[0] == 0
    assert run("diff", tmp_path / "other", tmp_path / "compacted")[0] == 0


def test_resharding_gives_the_bytes_that_saving_gives(run, snapshots, tmp_path):
    root, _ = snapshots
    base = root / "step-000000000010"
    assert run("reshard", base, tmp_path / "other", "--shards", 2)[0] == 0
    files = [
        {path.relative_to(top): path.read_bytes() for path in top.rglob("*") if path.is_file()}
        for top in (base, tmp_path / "other" / base.name)
    ]
    assert files[0] == files[1]


def test_stores(run, snapshots, tmp_path):
    root, contents = snapshots
    store = tmp_path / "store"
    assert run("load", root, store)[0] == 0
    assert run("verify", store)[0] == 0
    _, out, _ = run("inspect", store, "--json")
    assert [epoch["step"] for epoch in json.loads(out)["epochs"]] == [20]
    with recis.Store(store) as opened:
        table = HashTable([2], name="users", store=opened)
        assert (
            dict(zip(table.ids().tolist(), table.embeddings().tolist(), strict=True))
            == (contents[1])
        )
        assert opened.state()["model"]["w"].tolist() == [1, 1, 1]
        del table
    assert run("save", store, tmp_path / "again")[0] == 0
    assert run("diff", root, tmp_path / "again")[0] == 0
    assert run("load", root, store)[0] == 2


def test_gc(run, snapshots, tmp_path):
    root, _ = snapshots
    (root / ".tmp-step-000000000030-x").mkdir()
    assert run("gc", root, "--keep", "1", "--dry-run")[0] == 0
    assert (root / "step-000000000010").is_dir()  # the delta needs it
    code, out, _ = run("gc", root, "--keep", "1", "--json")
    assert (code, json.loads(out)) == (0, {"removed": [".tmp-step-000000000030-x"]})
    assert run("compact", root, tmp_path / "new")[0] == 0
    assert run("verify", root)[0] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "nothing"],
        ["verify", "nothing"],
        ["verify", "nothing", "--level", "shallow"],
        ["cat", "nothing", "users", "--ids", "x"],
        ["diff", "nothing", "nothing"],
        ["reshard", "nothing", "other", "--shards", "0"],
        ["gc", "nothing", "--keep", "0"],
        ["save", "nothing", "other"],
        ["unheard-of"],
    ],
)
def test_what_cannot_be_done_is_said(run, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*arguments)
    assert code == 2
    assert err.strip()


def test_damage_is_said_and_nothing_is_written(run, snapshots, tmp_path):
    root, _ = snapshots
    path = damage(root)
    code, _, err = run("reshard", root, tmp_path / "other", "--shards", 2)
    assert code == 1
    assert path.name in err.replace("\n", "")
    assert not [name for name in (tmp_path / "other").iterdir() if name.name.startswith("step")]
