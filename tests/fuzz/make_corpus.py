"""Writes the first inputs of each target: small ones that are accepted. Run by hand."""

import json
import struct
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "snapshots"))

from reference import Content, sparse_bytes

from recis._state import encode
from recis.snapshot.manifest import FileInfo, Manifest, Parent, SlotInfo, StateFile, TableInfo
from recis.snapshot.read import STATE

CORPUS = Path(__file__).parent / "corpus"


def put(target, name, data):
    (CORPUS / target).mkdir(parents=True, exist_ok=True)
    (CORPUS / target / name).write_bytes(data)


def main():
    slots = [("embedding", "F32", (2,), 0.0), ("seen", "I64", (1,), 3.0)]
    values = {"embedding": np.ones((3, 2)), "seen": np.arange(3)}
    content = Content(slots, [4, -1, 7], values, deleted=[5], slice_size=4)
    for kind in ("rows", "deleted"):
        data, about = sparse_bytes("t", content, kind, 0, 1, 0, 0, 4)
        length = struct.unpack_from("<Q", data)[0]
        text = data[8 : 8 + length].rstrip()  # without what fills it up
        data = struct.pack("<Q", len(text)) + text + data[8 + length :]
        put("header", kind, data)
        put("sparse_file", kind, data)
        if kind == "rows":
            file = FileInfo(path="sparse/t/x", bytes=len(data), **about)
    table = TableInfo(
        tuple(SlotInfo(*slot) for slot in slots), 4, 3, files=(file,), info={"seed": 1},
        policies=(StateFile("policies/t/x", 9, "0" * 16),), children=("t",),
    )  # fmt: skip
    whole = Manifest(3, {"t": table}, parent=Parent(1, "0" * 16), epoch=2)
    put("manifest", "whole", json.dumps(json.loads(whole.to_bytes())).encode())
    put("manifest", "empty", json.dumps(json.loads(Manifest(0, {}).to_bytes())).encode())
    in_order = struct.pack("<BBB", 2, 3, 0) + struct.pack("<7q", 0, 1, 1, 3, 3, -7, 2)
    put("sparse_rows", "in_order", in_order)
    nested = {"a": [1, None, (2.5, "x")], 7: float("nan"), "big": 1 << 70, "t": torch.ones(2)}
    put("state", "nested", encode(nested, STATE))


if __name__ == "__main__":
    main()
