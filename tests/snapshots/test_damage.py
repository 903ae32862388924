"""A thousand flipped bits, and files cut short anywhere: all are named, and nothing is loaded.

The snapshot has all there can be: tables with optimizer slots and hooks, two shards, a base and a
delta with deleted rows, dense tensors and states.
"""

import numpy as np
import pytest
import torch

from recis import Snapshot
from recis.nn import AdmitHook, HashTable
from recis.nn.modules.hashtable import gen_slice
from recis.optim import SparseAdam
from recis.serialize import CheckpointReader, Loader
from recis.snapshot.errors import DamagedError
from recis.snapshot.manifest import Manifest, Parent, TableInfo
from recis.snapshot.names import policies_path
from recis.snapshot.publish import Draft
from recis.snapshot.read import open_snapshot
from recis.snapshot.verify import verify
from recis.snapshot.write import collect, slots_of, write_state, write_table, write_tensors

SLICES = 600
FLIPS = 1000
DTYPES = {"users": torch.float32, "items": torch.float16}


def make_tables():
    tables = {
        name: HashTable([3], name=name, dtype=dtype, slice=gen_slice(0, 1, SLICES))
        for name, dtype in DTYPES.items()
    }
    optimizer = SparseAdam({name: table.table for name, table in tables.items()})
    return tables, optimizer


def write_step(root, tables, step, parent=None):
    with Draft(root, step) as draft:
        infos = {}
        for name, module in tables.items():
            table, files, policies = module.table, [], []
            cut = table.cut(delta=parent is not None)
            about = TableInfo(slots_of(cut), SLICES, 0, children=(name,))
            for shard in range(2):
                part = gen_slice(shard, 2, SLICES)
                files += write_table(
                    draft, cut, name, about, shard=shard, shards=2,
                    slices=(part.slice_begin, part.slice_end), delta=parent is not None,
                ).files  # fmt: skip
                path = policies_path(name, shard, 2)
                policies.append(write_state(draft, path, table.policies.of(name), shard, 2))
            cut.close()
            about = collect(about, files)
            infos[name] = TableInfo(**{**vars(about), "policies": tuple(policies)})
        dense = (
            write_tensors(draft, "dense/model.safetensors", {"weight": torch.arange(3000.0)}),
            write_state(draft, "dense/training.state", {"lr": 0.5, "seen": torch.arange(2000)}),
        )
        draft.publish(Manifest(step, infos, world_size=2, parent=parent, dense=dense))
    return Parent(step, open_snapshot(root).checksum)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("damage")
    tables, optimizer = make_tables()
    torch.manual_seed(0)
    for table in tables.values():
        table.table.track()
        table(torch.arange(-300, 300) * 7).sum().backward()
        table(torch.tensor([10**6]), admit_hook=AdmitHook("FrequencyAdmit", {"min_frequency": 3}))
    optimizer.step()
    base = write_step(root, tables, 1)
    for table in tables.values():
        table(torch.arange(200, 400) * 7).sum().backward()
        table.evict(torch.arange(-300, -290) * 7)
    optimizer.zero_grad()
    write_step(root, tables, 2, base)
    return root


def read_all(root):
    """All that readers give of a snapshot; they must raise DamagedError instead."""
    reader = CheckpointReader(root)
    return {name: reader.read_tensor(name) for name in reader.tensor_names()}


def serve_all(root, ids):
    tables = {name: Snapshot(root, strict=True, check=True).table(name) for name in DTYPES}
    return [table.lookup(ids, slot) for table in tables.values() for slot in table.slots()]


def files_of(root):
    return sorted(path for path in root.glob("step-*/**/*") if path.is_file())


def test_flipped_bits_are_named_and_refused(root):
    ids = torch.arange(-310, 410) * 7
    newest = root / "step-000000000002"
    served = serve_all(newest, ids)
    tables, _ = make_tables()
    files = files_of(root)
    assert len(files) == 2 * (2 * (2 + 2) + 2 + 2) + 4
    draw = np.random.default_rng(0)
    for number, place in enumerate(draw.random(FLIPS)):
        path = files[int(draw.integers(len(files)))]
        whole = path.read_bytes()
        broken = bytearray(whole)
        broken[int(place * len(whole))] ^= 1 << int(draw.integers(8))
        path.write_bytes(broken)
        what = path, int(place * len(whole))
        # A manifest and its checksum beside it cannot be told apart.
        problems = {problem.path.removesuffix(".xxh3") for problem in verify(newest, parallel=1)}
        assert problems == {str(path).removesuffix(".xxh3")}, what
        rows = "sparse" in path.parts
        if path.name == "training.state":
            with pytest.raises(DamagedError, match=path.name):
                open_snapshot(path.parents[1]).dense("training")
        elif rows or newest in path.parents:  # states of a parent are of no interest
            with pytest.raises(DamagedError):
                Loader(newest, tables, {"weight": torch.empty(3000)}, parallel=1).load()
            assert not any(map(len, tables.values()))
        if rows and number % 4 == 0:
            with pytest.raises(DamagedError):
                read_all(newest)
            try:  # what is not touched may be damaged
                found = serve_all(newest, ids)
            except DamagedError:
                pass
            else:
                assert all(map(torch.equal, found, served)), what
        path.write_bytes(whole)


def test_files_cut_short_are_named_and_refused(root):
    newest = root / "step-000000000002"
    for path in files_of(root):
        whole = path.read_bytes()
        for length in {*range(0, len(whole), 4096), len(whole) - 1}:
            path.write_bytes(whole[:length])
            problems = {problem.path.removesuffix(".xxh3") for problem in verify(newest, "quick")}
            assert problems == {str(path).removesuffix(".xxh3")}, (path, length)
            with pytest.raises(DamagedError):
                open_snapshot(newest)
        path.write_bytes(whole)
