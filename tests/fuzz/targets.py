"""What is fuzzed: each target takes any bytes, and fails if they do harm.

Files are hostile: whatever they hold, reading them ends in a SnapshotError, or gives something
that can be written again, or that is where it belongs.
"""

import contextlib

import numpy as np

from recis._slices import slices_of
from recis.snapshot.checksum import to_hex, xxh3
from recis.snapshot.errors import SnapshotError
from recis.snapshot.files import Files
from recis.snapshot.header import compose, parse
from recis.snapshot.manifest import FileInfo, Manifest, SlotInfo, StateFile
from recis.snapshot.read import SnapshotReader
from recis.snapshot.sparse_file import SparseFile, layout, metadata

PATH = "sparse/t/00000-of-00001.000.safetensors"


class OneFile(Files):
    """A single file in memory, at any path."""

    def __init__(self, data):
        super().__init__("memory")
        self.data = data

    def size(self, path):
        return len(self.data)

    def read_into(self, path, offset, buffer):
        view = memoryview(buffer).cast("B")
        view[:] = self.data[offset : offset + len(view)]

    def list(self, path=""):
        return []

    def is_link(self, path):
        return False


def header(data):
    """The header of any safetensors file."""
    try:
        found = parse(lambda at, count: data[at : at + count], len(data), PATH)
    except SnapshotError:
        return
    head = compose(found.tensors, found.metadata, align=1)
    payload = data[found.data_offset :]
    again = parse(lambda at, count: (head + payload)[at : at + count], len(head + payload), PATH)
    assert again[:2] == found[:2]


def manifest(data):
    """A manifest whose checksum holds."""
    try:
        found = Manifest.from_bytes(data, "MANIFEST.json")
    except SnapshotError:
        return
    text = found.to_bytes()
    assert Manifest.from_bytes(text, "MANIFEST.json").to_bytes() == text


def sparse_file(data):
    """A file whose manifest says of it what it says of itself."""
    try:
        found = parse(lambda at, count: data[at : at + count], len(data), PATH)
        about = found.metadata
        numbers = {
            key: int(about.get(key, "0")[:7])
            for key in ("shard", "shards", "part", "slice_begin", "slice_end", "slice_size")
        }
    except (SnapshotError, ValueError):
        return
    slots = [
        SlotInfo(name[5:], spec.dtype, spec.shape[1:], 0.0)
        for name, spec in found.tensors.items()
        if name.startswith("slot/")
    ]
    rows = found.tensors["ids"].shape[:1] if "ids" in found.tensors else ()
    slice_size = numbers.pop("slice_size")
    in_order = 0 <= numbers["slice_begin"] <= numbers["slice_end"] <= slice_size
    info = FileInfo(
        PATH,
        len(data),
        about.get("kind", ""),
        *(rows or (0,)),
        xxh3={key[5:]: about[key] for key in about if key.startswith("xxh3/")},
        **numbers,
    )
    # The manifest has been checked for these.
    if in_order and slice_size and all(slot.row_bytes for slot in slots):
        _read(OneFile(data), info, slots, slice_size)


def sparse_rows(data):
    """Any ids and offsets, in a file whose checksums all hold."""
    data = data.ljust(3, b"\0")
    slices, rows = 1 + data[0] % 8, data[1] % 32
    slice_size = slices + data[2] % 8
    count = slices + 1 + rows
    numbers = np.frombuffer(data[3 : 3 + 8 * count].ljust(8 * count, b"\0"), "<i8")
    offsets, ids = numbers[: slices + 1], numbers[slices + 1 :]
    sums = np.array([[xxh3(ids)]], "<u8")
    columns = {"ids": xxh3(sums), "slice_offsets": xxh3(offsets), "checksums": xxh3(sums)}
    sums_of = {name: to_hex(value) for name, value in columns.items()}
    info = FileInfo(PATH, 0, "rows", rows, 0, 1, 0, 0, slices, sums_of)
    head = compose(layout((), rows, slices), metadata("t", info, slice_size, sums_of))
    whole = head + ids.tobytes() + offsets.tobytes() + sums.tobytes()
    info = FileInfo(**{**vars(info), "bytes": len(whole)})
    _read(OneFile(whole), info, [], slice_size)


def state(data):
    """A file of state whose checksum holds: nested values, and tensors."""
    for path in ("dense/x.state", "dense/x.safetensors"):
        file = StateFile(path, len(data), to_hex(xxh3(data)))
        reader = SnapshotReader(OneFile(data), Manifest(1, {}, dense=(file,)), "", [])
        with contextlib.suppress(SnapshotError):
            reader.dense("x")


def _read(files, info, slots, slice_size):
    """Reads a file in both ways; what is accepted is where it belongs."""
    try:
        file = SparseFile(files, "t", info, slots, slice_size)
        if file.groups():
            file.verify_ids(0, file.groups())
        for tensor in file.columns() if file.groups() else ():
            whole = file.read_groups(tensor, 0, file.groups())
            pieces = [piece.copy() for _, piece in file.read_pieces(tensor, 0, file.groups())]
            assert sum(map(len, pieces)) == whole.nbytes
    except SnapshotError:
        return
    ids = np.frombuffer(files.data, "<i8", info.rows, file.begin["ids"])
    of = slices_of(ids, slice_size)
    assert len(set(ids.tolist())) == len(ids)
    assert (np.diff(of.astype(np.int64)) >= 0).all()
    assert not len(of) or info.slice_begin <= of[0] <= of[-1] < info.slice_end


TARGETS = {
    target.__name__: target for target in (header, manifest, sparse_file, sparse_rows, state)
}
