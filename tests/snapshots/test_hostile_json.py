"""Whatever a manifest or a header holds, it costs little to read, and little to refuse."""

import gc
import json
import struct
import tracemalloc

import pytest
import torch

from recis.nn.modules.hashtable import gen_slice
from recis.snapshot import strict_json
from recis.snapshot.errors import DamagedError
from recis.snapshot.header import compose, lay_out, parse
from recis.snapshot.manifest import FileInfo, Manifest, SlotInfo, TableInfo
from recis.snapshot.publish import Draft, steps
from recis.snapshot.read import open_snapshot
from recis.snapshot.write import write_file, write_state

MOST = 64 << 20

N = strict_json.MAX_VALUES - 8  # values that a text may have
B = strict_json.MAX_BYTES - 64


def many(item, values):
    """As many different items as there may be, in a text that is as long as it may be."""
    text = b",".join(item % {b"i": i} for i in range(N // values))
    return text + b" " * (B - len(text))


SHAPES = {
    "numbers": b"[" + many(b"%(i)d", 1) + b"]",
    "texts": b"[" + many(b'"%(i)x"', 1) + b"]",
    "objects": b"[" + many(b'{"%(i)x":"%(i)x"}', 3) + b"]",
    "keys": b"{" + many(b'"%(i)x":"%(i)x"', 2) + b"}",
    "one text": b'"' + b"x" * B + b'"',
    "one number": b"1." + b"3" * B,
    "one exponent": b"1e" + b"3" * B,
    "blanks": b" " * B + b"1",
    "too many": b"[" + b"{}," * (B // 3) + b"{}]",
    "too long": b" " * (B + 100) + b"1",
    "deep": b"[" * (N // 2) + b"]" * (N // 2),
    "not as deep": b"[" * 400 + b"]" * 400,
    "not ASCII": b'"' + b"\xff" * B + b'"',
}


def peak_of(read):
    """The most memory that Python takes for a call, which must raise DamagedError if at all."""
    gc.collect()
    tracemalloc.start()
    try:
        read()
    except DamagedError as error:
        assert len(str(error)) < 1500
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


@pytest.mark.parametrize("shape", SHAPES)
def test_the_worst_of_manifests_takes_little_memory(shape):
    text = b'{"format":' + SHAPES[shape] + b"}"
    assert peak_of(lambda: Manifest.from_bytes(bytearray(text), "x")) < MOST


@pytest.mark.parametrize("shape", ["keys", "one text", "too long"])
def test_the_worst_of_headers_takes_little_memory(shape):
    text = b'{"ids":' + SHAPES[shape] + b"}"
    data = struct.pack("<Q", len(text)) + text
    size = len(data)
    assert peak_of(lambda: parse(lambda at, n: bytearray(data[at : at + n]), size, "x")) < MOST


def manifest_of(files):
    """Of one table that so many shards wrote, with the optimizer's slots and a filter's."""
    slots = tuple(
        SlotInfo(name, "F32", (128,), 0.0)
        for name in ("embedding", "sparse_adam_exp_avg", "sparse_adam_exp_avg_sq", "step_filter")
    )
    names = ["ids", "slice_offsets", "checksums", *(f"slot/{slot.name}" for slot in slots)]
    parts = [gen_slice(shard, files) for shard in range(files)]
    made = tuple(
        FileInfo(
            f"sparse/users/{i:05d}-of-{files:05d}.000.safetensors", 2**30, "rows", 10_000, i,
            files, 0, part.slice_begin, part.slice_end, dict.fromkeys(names, "0123456789abcdef"),
        )
        for i, part in enumerate(parts)
    )  # fmt: skip
    return Manifest(1, {"users": TableInfo(slots, 65536, 10_000 * files, files=made)})


def test_the_manifest_of_thousands_of_files_is_read():
    manifest = manifest_of(6000)
    assert Manifest.from_bytes(manifest.to_bytes(), "x") == manifest
    assert peak_of(lambda: Manifest.from_bytes(manifest.to_bytes(), "x")) < MOST


def test_a_snapshot_that_nobody_could_read_is_not_published(tmp_path):
    with Draft(tmp_path, 1) as draft, pytest.raises(ValueError, match="JSON of at most"):
        draft.publish(manifest_of(20_000))
    assert steps(tmp_path) == []


def test_a_state_of_too_many_values_is_not_written(tmp_path):
    with Draft(tmp_path, 1) as draft:
        with pytest.raises(ValueError, match="put long lists into tensors"):
            write_state(draft, "dense/x.state", {"seen": [0] * strict_json.MAX_VALUES})
        write_state(draft, "dense/x.state", {"seen": torch.zeros(strict_json.MAX_VALUES)})


def test_a_state_of_too_many_values_is_not_read(tmp_path):
    text = b"[" + b"{}," * N + b"{}]"
    with Draft(tmp_path, 1) as draft:
        state = [struct.pack("<Q", len(text)), text, struct.pack("<Q", 2), b"{}"]
        file = write_file(draft, "dense/x.state", state)
        draft.publish(Manifest(1, {}, dense=(file,)))
    reader = open_snapshot(tmp_path)
    with pytest.raises(DamagedError, match=r"x\.state.*JSON of at most"):
        reader.dense("x")


def test_a_header_of_too_many_tensors_is_not_written():
    specs = lay_out([(f"t{i}", "U8", (1,)) for i in range(30_000)])
    with pytest.raises(ValueError, match="30000 tensors are too many"):
        compose(specs, {})


def test_what_is_nested_too_deeply_is_refused():
    deep = {"a": 1}
    for _ in range(strict_json.MAX_DEPTH - 1):
        deep = {"a": deep}
    assert strict_json.load(json.dumps(deep).encode(), "x") == deep
    with pytest.raises(DamagedError, match="nested"):
        strict_json.load(json.dumps({"a": deep}).encode(), "x")
