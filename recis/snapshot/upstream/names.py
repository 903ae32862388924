"""Names of files and blocks in a checkpoint of RecIS 1.0."""

from __future__ import annotations

import re
from typing import NamedTuple

from recis.snapshot.files import Files

INDEX = "index"
TENSOR_KEYS = "tensorkey.json"
RANK_TABLE = "torch_rank_weights_embs_table_multi_shard.json"

DENSE_END = "^ "
"""What the key of a dense tensor ends with."""

ID = "id"
EMBEDDING = "embedding"

_DATA = re.compile(r"model-\d{6,9}-of-\d{6,9}\.safetensors", re.ASCII)
_PLACE = re.compile(r"([^@^]+)@([^@^]+)\^(\d{1,9})@(\d{1,9})@(\d{1,9})", re.ASCII)
_PART = re.compile(r"/part_(\d{1,9})_(\d{1,9})", re.ASCII)
_PRINTABLE = re.compile(r"[ !#-\[\]-~]{1,200}")
_STEP = re.compile(r"ckpt_(\d{1,12})", re.ASCII)


class Place(NamedTuple):
    """What a sparse block holds of which table."""

    child: str
    """The name of the table, or of a child of a coalesced one."""
    slot: str
    """`id` or a slot's name."""
    shard: int
    shards: int
    slice_begin: int
    slice_end: int
    slice_size: int

    def key(self) -> str:
        """The name of the block."""
        return f"{self.child}.{self.slot}/part_{self.shard}_{self.shards}"

    def text(self) -> str:
        """What `tensorkey.json` says of it."""
        width = len(str(self.slice_size))
        slices = (self.slice_begin, self.slice_end, self.slice_size)
        return f"{self.child}@{self.slot}^" + "@".join(f"{part:0{width}d}" for part in slices)


def parse_place(key: str, text: object) -> Place | None:
    """The place of a block of this name and this entry of `tensorkey.json`; None if none is."""
    found = _PLACE.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return None
    child, slot = found[1], found[2]
    part = _PART.fullmatch(key, len(f"{child}.{slot}"))
    if part is None or not key.startswith(f"{child}.{slot}/"):
        return None
    begin, end, size = (int(found[i]) for i in (3, 4, 5))
    return Place(child, slot, int(part[1]), int(part[2]), begin, end, size)


def data_name(number: int, count: int) -> str:
    """The name of a data file."""
    return f"model-{number:06d}-of-{count:06d}.safetensors"


def is_data_name(name: str) -> bool:
    """Whether a file of blocks may have this name."""
    return _DATA.fullmatch(name) is not None


def check_block_name(name: str) -> str:
    """The name of a table, child, slot or dense tensor that the layout can hold, as it is.

    Raises:
        ValueError: RecIS 1.0 would take it for something else.
    """
    if not _PRINTABLE.fullmatch(name) or any(mark in name for mark in ("@", "^", "/part_")):
        raise ValueError(
            "RecIS 1.0 needs a name of 1 to 200 printable ASCII letters without quotes, "
            f"backslashes, '@', '^' and '/part_', found {name[:200]!r}"
        )
    return name


def is_checkpoint(files: Files) -> bool:
    """Whether a directory looks like such a checkpoint, whole or not."""
    return any(files.exists(name) for name in (INDEX, TENSOR_KEYS, RANK_TABLE))


def step_of(url: str) -> int | None:
    """The step in the name `ckpt_<step>` of a directory; None if it has another."""
    found = _STEP.fullmatch(url.rstrip("/").rpartition("/")[2])
    return None if found is None else int(found[1])
