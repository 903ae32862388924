"""A second writer of RecIS 1.0's layout, of nothing but numpy, json and docs/format.md."""

import json
import struct
from pathlib import Path

import numpy as np

NAMES = {"<f4": "F32", "<f8": "F64", "<i8": "I64", "|i1": "I8", "<f2": "F16"}
JSON_FILES = ["index", "tensorkey.json", "torch_rank_weights_embs_table_multi_shard.json"]


def bounds(size, shards):
    whole, rest = divmod(size, shards)
    return [(k * whole + min(k, rest), (k + 1) * whole + min(k + 1, rest)) for k in range(shards)]


def describe(children, dense, shards=1, size=65536, slices=None):
    """`{shard: {key: array}}` and `tensorkey.json` of `{child: {"id": ids, slot: values}}`.

    `slices`: those of the shards, for a checkpoint that is not cut as it should be.
    """
    of = {shard: {} for shard in range(shards)}
    places = {}
    width = len(str(size))
    for child, columns in children.items():
        ids = np.asarray(columns["id"], "<i8")
        homes = ids.view(np.uint64) % np.uint64(size)
        for shard, (begin, end) in enumerate(slices or bounds(size, shards)):
            inside = (homes >= begin) & (homes < end) if slices is None else slice(None)
            for slot, values in columns.items():
                key = f"{child}.{slot}/part_{shard}_{shards}"
                of[shard][key] = (ids if slot == "id" else np.asarray(values))[inside]
                numbers = "@".join(f"{number:0{width}d}" for number in (begin, end, size))
                places[key] = f"{child}@{slot}^{numbers}"
    for name, values in dense.items():
        of[0][f"{name}^ "] = np.asarray(values)
    return of, places


def write(folder, children, dense=(), shards=1, parallel=2, **options):
    """Writes a checkpoint; `children` and `options` as for `describe`."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    of, places = describe(children, dict(dense), shards, **options)
    blocks, files, rank = {}, {}, {}
    for shard, arrays in of.items():
        for writer in range(parallel):
            own = dict(list(arrays.items())[writer::parallel])
            if own:
                number = shard * parallel + writer
                name = f"model-{number:06d}-of-{shards * parallel:06d}.safetensors"
                (folder / name).write_bytes(data_file(own))
                files[name] = number
                blocks |= dict.fromkeys(own, number)
        rank |= {key: {"shape": list(values.shape)} for key, values in arrays.items()}
    index = {"block_index": blocks, "file_index": files}
    for name, content in zip(JSON_FILES, (index, places, rank), strict=True):
        (folder / name).write_text(json.dumps(content))
    return folder


def data_file(arrays):
    """The bytes of a file with these arrays."""
    header, at = {}, 0
    for key, values in arrays.items():
        offsets = [at, at + values.nbytes]
        dtype = NAMES[values.dtype.str]
        header[key] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": offsets}
        at += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (8 - len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(v.tobytes() for v in arrays.values())
