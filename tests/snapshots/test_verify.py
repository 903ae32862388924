"""Verification names what is damaged, and nothing else."""

import numpy as np
import pytest
import torch

from recis.snapshot.errors import DamagedError
from recis.snapshot.manifest import Manifest
from recis.snapshot.publish import Draft
from recis.snapshot.read import open_snapshot
from recis.snapshot.verify import verify
from recis.snapshot.write import write_state, write_tensors

from . import reference

SLOTS = [("embedding", "F32", (3,), 0.0), ("seen", "I64", (1,), 7.0)]


def content(ids, **options):
    draw = np.random.default_rng(0)
    values = {name: draw.integers(-9, 9, (len(ids), *shape)) for name, _, shape, _ in SLOTS}
    return reference.Content(SLOTS, ids, values, **options)


@pytest.fixture
def root(tmp_path):
    """A base and a delta to it."""
    reference.write(tmp_path, 0, {"users": content(np.arange(3000) * 7 - 500)}, shards=3)
    reference.write(tmp_path, 1, {"users": content([1, 2], deleted=[6])}, parent=0, shards=2)
    return tmp_path


def files(root):
    return sorted(path for path in root.glob("step-*/**/*") if path.is_file())


def names(problems, path):
    """Whether the problems are all of this file, or of the manifest whose checksum it is."""
    manifest = str(path).removesuffix(".xxh3")
    return bool(problems) and {problem.path for problem in problems} <= {str(path), manifest}


@pytest.mark.parametrize("level", ["quick", "full", "deep"])
def test_a_whole_chain_has_no_problems(root, level):
    seen = []
    assert verify(root, level, lambda done, total: seen.append((done, total))) == []
    assert seen[-1][0] == seen[-1][1] > 0


def test_every_flipped_bit_is_named(root):
    draw = np.random.default_rng(1)
    for path in files(root):
        whole = path.read_bytes()
        for place in draw.integers(0, len(whole), 8).tolist():
            broken = bytearray(whole)
            broken[place] ^= 1 << int(draw.integers(8))
            path.write_bytes(broken)
            assert names(verify(root), path), (path, place)
        path.write_bytes(whole)


def test_every_file_cut_short_is_named_at_once(root):
    for path in files(root):
        whole = path.read_bytes()
        for length in {0, *range(0, len(whole), 4096), len(whole) - 1}:
            path.write_bytes(whole[:length])
            assert names(verify(root, "quick"), path), (path, length)
        path.unlink()
        # Without a manifest there is no snapshot.
        if path.name == "MANIFEST.json":
            path.write_bytes(whole)
            continue
        assert names(verify(root, "quick"), path), path
        path.write_bytes(whole)


def test_all_damage_is_named_with_tensor_and_slices(tmp_path):
    folder = reference.write(tmp_path, 0, {"users": content(range(65536))})
    path = folder / "sparse/users/00000-of-00001.000.safetensors"
    broken = bytearray(path.read_bytes())
    broken[-1] ^= 1  # the last slot: the embedding of slice 65535
    broken[-65536 * 12 - 65536 * 8] ^= 1  # the first byte of `seen`: slice 0
    path.write_bytes(broken)
    assert [(p.tensor, p.slices) for p in verify(tmp_path)] == [
        ("slot/embedding", (65280, 65536)),
        ("slot/seen", (0, 256)),
    ]


@pytest.mark.parametrize("order", [[1, 0, 2], [0, 0, 1]], ids=["order", "repeat"])
def test_ids_out_of_place_are_found_by_looking_deep(tmp_path, order):
    users = content([1, 2, 65537])
    users.ids = users.ids[order]
    reference.write(tmp_path, 0, {"users": users})
    assert verify(tmp_path, "full") == []
    (problem,) = verify(tmp_path, "deep")
    assert (problem.tensor, problem.slices) == ("ids", (1, 2))


def test_values_that_are_no_numbers_are_found_when_asked_for(tmp_path):
    users = content([1, 2])
    users.values["embedding"][1, 0] = torch.nan
    reference.write(tmp_path, 0, {"users": users})
    assert verify(tmp_path, "deep") == []
    (problem,) = verify(tmp_path, finite=True)
    assert problem.tensor == "slot/embedding"


def test_a_level_that_is_none_is_refused(root):
    with pytest.raises(ValueError, match="'thorough'"):
        verify(root, "thorough")


def test_every_flipped_bit_of_a_state_is_named(tmp_path):
    with Draft(tmp_path, 0) as draft:
        dense = (
            write_state(draft, "dense/extra.state", {"lr": 0.1, "weight": torch.ones(3)}),
            write_tensors(draft, "dense/model.safetensors", {"weight": torch.ones(3)}),
        )
        draft.publish(Manifest(step=0, tables={}, dense=dense))
    reader = open_snapshot(tmp_path)
    for name in ("extra", "model"):
        assert reader.dense(name)["weight"].tolist() == [1, 1, 1]
        (path,) = (tmp_path / "step-000000000000/dense").glob(f"{name}.*")
        whole = path.read_bytes()
        for place in range(0, len(whole), len(whole) // 50):
            broken = bytearray(whole)
            broken[place] ^= 4
            path.write_bytes(broken)
            with pytest.raises(DamagedError, match=path.name):
                reader.dense(name)
            assert names(verify(tmp_path), path)
        path.write_bytes(whole)
