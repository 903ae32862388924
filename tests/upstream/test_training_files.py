"""What RecIS 1.0's framework puts beside a checkpoint: taken along, but no code of it is run."""

import collections
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from recis.nn import HashTable
from recis.serialize import Loader
from recis.snapshot.errors import MismatchError
from recis.snapshot.read import open_snapshot
from recis.snapshot.upstream.importing import import_checkpoint
from recis.snapshot.upstream.read import open_upstream

from . import reference


@pytest.fixture
def folder(tmp_path):
    users = {"id": [1, -2], "embedding": np.ones((2, 2), "<f4")}
    folder = reference.write(tmp_path / "ckpt_40", {"users": users}, {"beta": np.ones(1, "<f4")})
    model = collections.OrderedDict({"fc.weight": torch.ones(2, 3), "fc.bias": torch.zeros(2)})
    torch.save(model, folder / "model.pt")
    torch.save({"global_step": torch.tensor(41), "epoch": [1, "x"]}, folder / "extra.pt")
    for shard in range(2):
        torch.save({"offset": shard}, folder / f"io_state_{shard}.pt")
    (folder / "io_state_count").write_text("2")
    return folder


def test_they_come_along(folder, tmp_path):
    path = import_checkpoint(open_upstream(folder), tmp_path / "snaps")
    reader = open_snapshot(path)
    assert reader.manifest.step == 41
    names = ["extra", "io_state_0", "io_state_1", "model"]
    assert reader.dense_names() == names
    assert reader.dense("io_state_1") == {"offset": 1}
    assert reader.dense("extra")["epoch"] == [1, "x"]
    table = HashTable([2], name="users")
    tensors = {"fc.weight": torch.zeros(2, 3), "beta": torch.zeros(1)}
    Loader(path, hashtables={"users": table}, tensors=tensors).load()
    assert torch.equal(tensors["fc.weight"], torch.ones(2, 3))
    assert tensors["beta"].item() == 1
    assert sorted(table.ids().tolist()) == [-2, 1]


def test_the_step_is_found_or_asked_for(folder, tmp_path):
    reader = open_upstream(folder)
    assert import_checkpoint(reader, tmp_path / "a", step=3).endswith("step-000000000003")
    os.unlink(folder / "extra.pt")
    assert import_checkpoint(reader, tmp_path / "a").endswith("step-000000000040")
    os.rename(folder, tmp_path / "other")
    with pytest.raises(MismatchError, match="say which one"):
        import_checkpoint(open_upstream(tmp_path / "other"), tmp_path / "b")
    assert not (tmp_path / "b").exists()


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def pickled(path, value):
    path.write_bytes(pickle.dumps(value, 2))


def zipped(path, value):
    """The same where torch puts it."""
    torch.save({"a": torch.ones(1)}, path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, pickle.dumps(value, 2) if name.endswith("data.pkl") else data)


@pytest.mark.parametrize("file", ["model.pt", "extra.pt", "io_state_0.pt"])
@pytest.mark.parametrize("write", [pickled, zipped])
def test_code_is_not_run(folder, tmp_path, file, write):
    write(folder / file, Trap(tmp_path / "sprung"))
    with pytest.raises(MismatchError, match=rf"{file} is not taken.*open.*move it away"):
        import_checkpoint(open_upstream(folder), tmp_path / "snaps")
    assert not (tmp_path / "sprung").exists()
    assert not (tmp_path / "snaps").exists()


@pytest.mark.parametrize(
    "value",
    [
        {"a": torch.zeros(1).expand(1 << 22)},
        {1: {2, 3}},
        torch.zeros(3).to_sparse(),
    ],
)
def test_what_a_snapshot_cannot_hold_is_refused(folder, tmp_path, value):
    torch.save(value, folder / "io_state_0.pt")
    with pytest.raises(MismatchError, match=r"io_state_0\.pt is not taken"):
        import_checkpoint(open_upstream(folder), tmp_path / "snaps")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x80\x02.", bytes(range(100))])
def test_what_is_no_such_file_is_refused(folder, tmp_path, data):
    (folder / "extra.pt").write_bytes(data)
    with pytest.raises(MismatchError, match=r"extra\.pt is not taken"):
        import_checkpoint(open_upstream(folder), tmp_path / "snaps")


def test_a_model_must_be_a_state_dict(folder, tmp_path):
    torch.save([torch.ones(1)], folder / "model.pt")
    with pytest.raises(MismatchError, match="no state dict"):
        import_checkpoint(open_upstream(folder), tmp_path / "snaps")


def test_what_of_the_model_is_no_tensor_is_kept(folder, tmp_path):
    torch.save({"w": torch.ones(1), "_extra_state": {"a": 1}}, folder / "model.pt")
    reader = open_snapshot(import_checkpoint(open_upstream(folder), tmp_path / "snaps"))
    assert reader.dense("model_rest") == {"_extra_state": {"a": 1}}


def test_a_dense_tensor_has_one_value(folder, tmp_path):
    torch.save({"beta": torch.ones(1)}, folder / "model.pt")
    import_checkpoint(open_upstream(folder), tmp_path / "a")
    torch.save({"beta": torch.zeros(1)}, folder / "model.pt")
    with pytest.raises(MismatchError, match=r"'beta' is in the data files and"):
        import_checkpoint(open_upstream(folder), tmp_path / "b")


@pytest.mark.parametrize(
    ("coalesced", "match"),
    [
        ({"both": ("users", "users")}, "one coalesced table only"),
        ({"both": ("nobody",)}, "no rows of 'nobody'"),
        ({"users": ("items",)}, "cannot be the name"),
        ({"../x": ("users",)}, "cannot be in a snapshot"),
    ],
)
def test_wrong_groups_are_refused(folder, tmp_path, coalesced, match):
    with pytest.raises(MismatchError, match=match):
        import_checkpoint(open_upstream(folder), tmp_path / "snaps", coalesced=coalesced)
    assert not (tmp_path / "snaps").exists()


def test_a_rejected_import_keeps_what_is_there(folder, tmp_path):
    import_checkpoint(open_upstream(folder), tmp_path / "snaps")
    with pytest.raises(FileExistsError):
        import_checkpoint(open_upstream(folder), tmp_path / "snaps")
    assert open_snapshot(tmp_path / "snaps").manifest.step == 41
