"""A second writer of snapshots, of nothing but numpy, json and docs/format.md."""

import json
import struct
from pathlib import Path

import numpy as np

from recis import _engine

SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I8": 1}
NUMPY = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I8": "<i1",
}


def xxh3(data):
    data = np.frombuffer(bytes(data), np.uint8)
    return _engine.xxh3(data.ctypes.data, data.size)


def digits(number):
    return f"{number:016x}"


class Content:
    """Rows of a table: ids, and for each slot `(name, dtype, shape, initial)` an array."""

    def __init__(self, slots, ids, values, deleted=(), slice_size=65536):
        self.slots = list(slots)
        self.slice_size = slice_size
        ids = np.asarray(ids, np.int64)
        order = np.lexsort((ids, ids.view(np.uint64) % np.uint64(slice_size)))
        self.ids = ids[order]
        self.values = {
            name: np.asarray(values[name], NUMPY[dtype]).reshape(len(ids), *shape)[order]
            for name, dtype, shape, _ in self.slots
        }
        gone = np.asarray(deleted, np.int64)
        order = np.lexsort((gone, gone.view(np.uint64) % np.uint64(slice_size)))
        self.deleted = gone[order]

    def slices(self, ids):
        return (ids.view(np.uint64) % np.uint64(self.slice_size)).astype(np.int64)


def sparse_bytes(table, content, kind, shard, shards, part, begin, end):
    """A file's bytes and what the manifest says of it, but for the path."""
    ids = content.ids if kind == "rows" else content.deleted
    slices = content.slices(ids)
    inside = (slices >= begin) & (slices < end)
    ids, slices = ids[inside], slices[inside]
    offsets = np.searchsorted(slices, np.arange(begin, end + 1)).astype("<i8")
    slots = content.slots if kind == "rows" else []
    ordered = sorted(slots, key=lambda slot: -SIZES[slot[1]])
    columns = {"ids": ids.astype("<i8")}
    for name, _, _, _ in ordered:
        columns[f"slot/{name}"] = content.values[name][inside]
    groups = -(-(end - begin) // 256)
    sums = np.zeros((groups, len(columns)), "<u8")
    for group in range(groups):
        first, last = offsets[group * 256], offsets[min(group * 256 + 256, end - begin)]
        for column, values in enumerate(columns.values()):
            sums[group, column] = xxh3(values[first:last].tobytes())
    tensors = {"ids": columns["ids"], "slice_offsets": offsets, "checksums": sums.view("<i8")}
    tensors.update(columns)
    checksums = {
        name: digits(xxh3(sums[:, column].tobytes())) for column, name in enumerate(columns)
    }
    for name in ("slice_offsets", "checksums"):
        checksums[name] = digits(xxh3(tensors[name].tobytes()))
    metadata = {
        "recis": "1", "kind": kind, "table": table, "shard": str(shard), "shards": str(shards),
        "part": str(part), "slice_begin": str(begin), "slice_end": str(end),
        "slice_size": str(content.slice_size),
        **{f"xxh3/{name}": value for name, value in checksums.items()},
    }  # fmt: skip
    dtypes = {f"slot/{name}": dtype for name, dtype, _, _ in slots}
    header, at, payload = {"__metadata__": metadata}, 0, b""
    for name, values in tensors.items():
        data = values.tobytes()
        header[name] = {
            "dtype": dtypes.get(name, "I64"),
            "shape": list(values.shape),
            "data_offsets": [at, at + len(data)],
        }
        at += len(data)
        payload += data
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 4096)
    about = {
        "kind": kind, "rows": len(ids), "shard": shard, "shards": shards, "part": part,
        "slice_begin": begin, "slice_end": end, "xxh3": checksums,
    }  # fmt: skip
    return struct.pack("<Q", len(text)) + text + payload, about


def bounds(slice_size, shards):
    size, rest = divmod(slice_size, shards)
    return [(k * size + min(k, rest), (k + 1) * size + min(k + 1, rest)) for k in range(shards)]


def write(root, step, tables, parent=None, shards=1, info=None):
    """Writes a snapshot of `{name: Content}` below a local root; `parent` is a step."""
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    (root / "FORMAT").write_text('{"format": "recis-snapshot", "major": 1}\n')
    folder = root / f"step-{step:012d}"
    manifest = {
        "format": "recis-snapshot", "major": 1, "minor": 0, "requires": [], "step": step,
        "epoch": None, "world_size": shards, "parent": None, "tables": {}, "dense": [],
    }  # fmt: skip
    if parent is not None:
        data = (root / f"step-{parent:012d}" / "MANIFEST.json").read_bytes()
        manifest["parent"] = {"step": parent, "manifest_xxh3": digits(xxh3(data))}
    for name, content in tables.items():
        files = []
        for shard, (begin, end) in enumerate(bounds(content.slice_size, shards)):
            for kind in ("deleted", "rows") if len(content.deleted) else ("rows",):
                data, about = sparse_bytes(name, content, kind, shard, shards, 0, begin, end)
                suffix = "000" if kind == "rows" else "deleted"
                path = f"sparse/{name}/{shard:05d}-of-{shards:05d}.{suffix}.safetensors"
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(data)
                files.append({"path": path, "bytes": len(data), **about})
        manifest["tables"][name] = {
            "slots": [
                {"name": n, "dtype": dtype, "shape": list(shape), "initial": initial}
                for n, dtype, shape, initial in content.slots
            ],
            "slice_size": content.slice_size, "rows": len(content.ids),
            "deleted": len(content.deleted), "children": [name], "coalesced": False,
            "info": info or {}, "files": files, "policies": [],
        }  # fmt: skip
    data = (json.dumps(manifest, sort_keys=True, indent=1) + "\n").encode()
    (folder / "MANIFEST.json.xxh3").write_text(digits(xxh3(data)) + "\n")
    (folder / "MANIFEST.json").write_bytes(data)
    return folder
