"""Inputs that fuzzing began with or found, replayed; and simple changes of each of them."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from .targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
INPUTS = sorted(path for path in CORPUS.rglob("*") if path.is_file())


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}-{path.name[:12]}")
def test_no_input_does_harm(path):
    target, whole = TARGETS[path.parent.name], path.read_bytes()
    target(whole)
    draw = np.random.default_rng(len(whole))
    for _ in range(100):
        changed = bytearray(whole)
        for place in draw.integers(0, len(whole), int(draw.integers(1, 4))).tolist():
            changed[place] = int(draw.integers(256))
        target(bytes(changed[: int(draw.integers(len(whole) // 2, len(whole) + 1))]))


HOSTILE = [None, True, -1, 0, 7, 2**63, 1.5, 1e300, "", "x", "nan", "../x", [], {}, [0], {"a": 0}]


def change(node, draw):
    """The same JSON with another value somewhere in it."""
    if not isinstance(node, dict | list) or not node or draw.random() < 0.1:
        return HOSTILE[int(draw.integers(len(HOSTILE)))]
    node = node.copy()
    place = int(draw.integers(len(node)))
    key = list(node)[place] if isinstance(node, dict) else place
    node[key] = change(node[key], draw)
    return node


@pytest.mark.parametrize("target", ["header", "manifest", "sparse_file", "state"])
def test_no_changed_value_does_harm(target):
    draw = np.random.default_rng(0)
    for path in INPUTS:
        if path.parent.name != target:
            continue
        data = path.read_bytes()
        begin, end = 0, len(data)
        if target != "manifest":  # its length first, and then what it describes
            begin, end = 8, 8 + int.from_bytes(data[:8], "little")
        text = json.loads(data[begin:end])
        for _ in range(1000):
            changed = json.dumps(change(text, draw)).encode()
            length = struct.pack("<Q", len(changed)) if begin else b""
            TARGETS[target](length + changed + data[end:])


def test_every_target_has_inputs():
    assert {path.parent.name for path in INPUTS} == set(TARGETS)
