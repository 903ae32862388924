"""What a checkpoint of RecIS 1.0 says it holds, checked: its JSON files and all headers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recis._tensors import new_output
from recis.snapshot import strict_json
from recis.snapshot.checksum import bytes_of
from recis.snapshot.errors import DamagedError
from recis.snapshot.files import Files
from recis.snapshot.header import DTYPES, Header, TensorSpec, parse
from recis.snapshot.manifest import MAX_SLICES, SlotInfo
from recis.snapshot.upstream.names import (
    DENSE_END,
    EMBEDDING,
    ID,
    INDEX,
    RANK_TABLE,
    TENSOR_KEYS,
    Place,
    is_data_name,
    parse_place,
)

_READ_AT_ONCE = 8  # headers


class Block(NamedTuple):
    """A tensor in a data file."""

    path: str
    """Of the file."""
    key: str
    """Its name in the file."""
    spec: TensorSpec
    begin: int
    """Where its bytes begin in the file."""


class Part(NamedTuple):
    """What a shard has saved of a child."""

    slices: tuple[int, int]
    """Those it held, `[begin, end)`. Rows of others may be there; they belong to nobody."""
    rows: int
    ids: Block
    slots: dict[str, Block]


class Child(NamedTuple):
    """A table, or a child of a coalesced one: the layout does not tell."""

    slots: tuple[SlotInfo, ...]
    """The embedding first, then by name. The layout does not know what new rows start with."""
    slice_size: int
    parts: tuple[Part, ...]
    """By slice; they do not overlap."""


class Checkpoint:
    """An open checkpoint. Threads may share it. No row is read to open it.

    Args:
        files: of its directory.

    Raises:
        DamagedError: its files contradict the layout or one another.
    """

    def __init__(self, files: Files) -> None:
        self.files = files
        blocks = self._blocks()
        places = self._places(blocks)
        self._check_rank_table(blocks)
        self.shards = max((place.shards for place in places.values()), default=1)
        """How many workers saved it."""
        self.dense = {
            key.removesuffix(DENSE_END): block
            for key, block in blocks.items()
            if key.endswith(DENSE_END)
        }
        """Dense tensors by name."""
        of: defaultdict[str, dict[Place, Block]] = defaultdict(dict)
        for key, place in places.items():
            of[place.child][place] = blocks[key]
        self.children = {name: self._child(name, found) for name, found in sorted(of.items())}
        """Tables, and children of coalesced ones, by name."""

    def damaged(
        self, path: str, expected: str, found: object, key: str | None = None
    ) -> DamagedError:
        """The error for a file of this checkpoint."""
        return DamagedError(
            self.files.name(path), expected, str(found)[:200], tensor=key and key[:200]
        )

    def read_rows(self, block: Block, first: int, last: int) -> Tensor:
        """Rows `[first, last)` of a block. There is no checksum to verify them with."""
        shape, dtype = block.spec.shape, DTYPES[block.spec.dtype]
        out, _ = new_output((last - first, *shape[1:]), dtype)
        if out.numel():
            row_bytes = out.nbytes // (last - first)
            self.files.read_into(block.path, block.begin + first * row_bytes, bytes_of(out))
        return out

    def read_dense(self, name: str) -> Tensor:
        """A dense tensor."""
        block = self.dense[name]
        out = torch.empty(block.spec.shape, dtype=DTYPES[block.spec.dtype])
        if out.numel():
            self.files.read_into(block.path, block.begin, bytes_of(out))
        return out

    # ---- the JSON files ----

    def _json(self, path: str) -> dict[str, Any]:
        try:
            size = self.files.size(path)
        except FileNotFoundError:
            raise self.damaged(path, "a file", "none: this checkpoint was not finished") from None
        if size > strict_json.MAX_BYTES:
            raise self.damaged(path, f"at most {strict_json.MAX_BYTES} bytes", size)
        return strict_json.load(self.files.read(path, 0, size), self.files.name(path))

    def _blocks(self) -> dict[str, Block]:
        """Every block of the index, and no other, is in the file that the index says."""
        index = self._json(INDEX)
        if index.keys() != {"block_index", "file_index"}:
            raise self.damaged(INDEX, "block_index and file_index", sorted(index))
        names = {number: name for name, number in self._numbers(index, "file_index")}
        if len(names) != len(index["file_index"]):
            raise self.damaged(INDEX, "a number of its own for each file", index["file_index"])
        for name in names.values():
            if not is_data_name(name):
                raise self.damaged(INDEX, "files model-NNNNNN-of-NNNNNN.safetensors", repr(name))
        keys: defaultdict[str, set[str]] = defaultdict(set)
        for key, number in self._numbers(index, "block_index"):
            if number not in names:
                raise self.damaged(INDEX, "the number of a file in file_index", number, key)
            keys[names[number]].add(key)
        paths = sorted(names.values())
        with ThreadPoolExecutor(_READ_AT_ONCE, "recis-headers") as pool:
            headers = dict(zip(paths, pool.map(self._header, paths), strict=True))
        blocks = {}
        for path, header in headers.items():
            missing, more = keys[path] - header.tensors.keys(), header.tensors.keys() - keys[path]
            if missing:
                raise self.damaged(path, f"a block as {INDEX} says", "none", min(missing))
            if more:
                raise self.damaged(path, "no block", f"one that {INDEX} does not know", min(more))
            for key, spec in header.tensors.items():
                blocks[key] = Block(path, key, spec, header.data_offset + spec.begin)
        return blocks

    def _numbers(self, index: dict[str, Any], which: str) -> Iterator[tuple[str, int]]:
        found = index[which]
        if not isinstance(found, dict) or not all(type(n) is int for n in found.values()):
            raise self.damaged(INDEX, f"{which}: numbers by name", repr(found))
        yield from found.items()

    def _header(self, path: str) -> Header:
        try:
            size = self.files.size(path)
        except FileNotFoundError:
            raise self.damaged(path, f"a file, as {INDEX} names it", "none") from None
        return parse(partial(self.files.read, path), size, self.files.name(path))

    def _places(self, blocks: dict[str, Block]) -> dict[str, Place]:
        """What each sparse block is."""
        found = self._json(TENSOR_KEYS)
        sparse = {key for key in blocks if not key.endswith(DENSE_END)}
        if found.keys() != sparse:
            raise self.damaged(
                TENSOR_KEYS,
                f"exactly the sparse blocks of {INDEX}",
                f"no entry for {min(sparse - found.keys())!r}"
                if sparse - found.keys()
                else f"an entry for {min(found.keys() - sparse)!r}",
            )
        places = {}
        for key, text in found.items():
            place = parse_place(key, text)
            if place is None:
                raise self.damaged(
                    TENSOR_KEYS,
                    "CHILD@SLOT^BEGIN@END@SIZE for CHILD.SLOT/part_I_N",
                    repr(text),
                    key,
                )
            if not place.shard < place.shards:
                raise self.damaged(TENSOR_KEYS, "part I of N with I < N", key, key)
            if not (
                place.slice_begin <= place.slice_end <= place.slice_size
                and 0 < place.slice_size <= MAX_SLICES
            ):
                raise self.damaged(
                    TENSOR_KEYS, f"slices BEGIN <= END <= SIZE <= {MAX_SLICES}", repr(text), key
                )
            places[key] = place
        return places

    def _check_rank_table(self, blocks: dict[str, Block]) -> None:
        """RecIS never reads this file; where it is, it must not contradict the others."""
        if not self.files.exists(RANK_TABLE):
            return
        found = self._json(RANK_TABLE)
        for key in sorted(found.keys() | blocks.keys()):
            entry = found.get(key)
            expected = list(blocks[key].spec.shape) if key in blocks else None
            shape = entry.get("shape") if isinstance(entry, dict) else None
            if expected is None or shape != expected:
                raise self.damaged(RANK_TABLE, f"the shape {expected}", repr(shape), key)

    # ---- what they come to ----

    def _child(self, name: str, blocks: dict[Place, Block]) -> Child:
        of: defaultdict[int, dict[str, Block]] = defaultdict(dict)
        slices: dict[int, tuple[int, int]] = {}
        first = next(iter(blocks))
        for place, block in blocks.items():
            key = place.key()
            if (place.shards, place.slice_size) != (first.shards, first.slice_size):
                raise self.damaged(
                    TENSOR_KEYS,
                    f"{first.shards} parts of {first.slice_size} slices, as for {first.key()!r}",
                    f"{place.shards} parts of {place.slice_size}",
                    key,
                )
            span = (place.slice_begin, place.slice_end)
            if slices.setdefault(place.shard, span) != span:
                raise self.damaged(
                    TENSOR_KEYS, f"slices {slices[place.shard]}, as the part has", span, key
                )
            of[place.shard][place.slot] = block
        if len(of) != first.shards:
            shard = next(shard for shard in range(first.shards) if shard not in of)
            raise self.damaged(
                TENSOR_KEYS, f"parts 0 to {first.shards - 1} of {name!r}", f"no part {shard}"
            )
        parts = sorted(
            (self._part(name, slices[shard], found) for shard, found in of.items()),
            key=lambda part: part.slices,
        )
        held = [part for part in parts if part.slices[0] < part.slices[1]]
        for before, part in pairwise(held):
            if part.slices[0] < before.slices[1]:
                raise self.damaged(
                    TENSOR_KEYS,
                    f"each slice of {name!r} in one part",
                    f"parts with {list(before.slices)} and {list(part.slices)}",
                )
        slots = _slots(parts[0])
        for part in parts:
            if _slots(part) != slots:
                raise self.damaged(
                    part.ids.path, f"slots {_brief(slots)}", _brief(_slots(part)), part.ids.key
                )
        return Child(slots, first.slice_size, tuple(parts))

    def _part(self, name: str, slices: tuple[int, int], blocks: dict[str, Block]) -> Part:
        for needed in (ID, EMBEDDING):
            if needed not in blocks:
                raise self.damaged(
                    TENSOR_KEYS, f"a block {needed!r} in each part of {name!r}", sorted(blocks)
                )
        ids = blocks[ID]
        if ids.spec.dtype != "I64" or len(ids.spec.shape) != 1:
            found = f"{ids.spec.dtype} {list(ids.spec.shape)}"
            raise self.damaged(ids.path, "ids I64 [n]", found, ids.key)
        rows = ids.spec.shape[0]
        slots = {slot: block for slot, block in blocks.items() if slot != ID}
        for slot, block in slots.items():
            shape = block.spec.shape
            if not shape or shape[0] != rows:
                raise self.damaged(block.path, f"{rows} rows", list(shape), block.key)
            if not 0 < SlotInfo(slot, block.spec.dtype, shape[1:], 0.0).row_bytes < 1 << 40:
                raise self.damaged(
                    block.path,
                    "rows of at least 1 byte and less than 2**40",
                    list(shape),
                    block.key,
                )
        return Part(slices, rows, ids, slots)


def _slots(part: Part) -> tuple[SlotInfo, ...]:
    names: Iterable[str] = sorted(part.slots, key=lambda name: (name != EMBEDDING, name))
    return tuple(
        SlotInfo(name, part.slots[name].spec.dtype, part.slots[name].spec.shape[1:], 0.0)
        for name in names
    )


def _brief(slots: Iterable[SlotInfo]) -> str:
    return ", ".join(f"{slot.name} {slot.dtype}{list(slot.shape)}" for slot in slots)
