"""Writing a directory in RecIS 1.0's layout: files, names and JSON, row by row."""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
import struct
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple

from torch import Tensor

from recis.snapshot.checksum import bytes_of
from recis.snapshot.files import is_remote, local_path
from recis.snapshot.header import DTYPES, TensorSpec, lay_out
from recis.snapshot.names import DRAFT_PREFIX
from recis.snapshot.publish import named, sync
from recis.snapshot.upstream.names import (
    DENSE_END,
    EMBEDDING,
    ID,
    INDEX,
    RANK_TABLE,
    TENSOR_KEYS,
    Place,
    data_name,
)
from recis.snapshot.write import put


class NewBlock(NamedTuple):
    """A tensor that will be in the checkpoint."""

    place: Place | str
    """What it is of a table, or the name of a dense tensor."""
    dtype: str
    """As safetensors names it."""
    shape: tuple[int, ...]
    """With the rows, for one of a table."""

    @property
    def key(self) -> str:
        """Its name in the files."""
        return f"{self.place}{DENSE_END}" if isinstance(self.place, str) else self.place.key()

    @property
    def shard(self) -> int:
        """Which one has it."""
        return 0 if isinstance(self.place, str) else self.place.shard


def check_free(path: str | os.PathLike[str]) -> str:
    """The absolute path of a directory that can be made.

    Raises:
        ValueError: it is a URL.
        FileExistsError: there is something, and no empty directory.
    """
    if is_remote(os.fspath(path)):
        raise ValueError(
            f"{os.fspath(path)}: RecIS 1.0's layout is written to local directories only: copy it "
            "to the URL afterwards"
        )
    found = os.path.abspath(local_path(path))
    if os.path.lexists(found) and (not os.path.isdir(found) or os.listdir(found)):
        raise FileExistsError(
            f"{found} is there already and was not changed: choose another path, or delete it first"
        )
    return found


class CheckpointWriter:
    """A checkpoint in the making. Leaving its context without `publish` drops it.

    Args:
        path: the directory, local, which must not be there, or be empty.
        blocks: in RecIS's order: per table and child the ids, then the slots; then dense tensors.
        shards: how many workers saved it.
        parallel: data files of a shard, at most.

    Raises:
        ValueError: the path is a URL.
        FileExistsError: the directory holds something.
    """

    def __init__(
        self, path: str | os.PathLike[str], blocks: Sequence[NewBlock], shards: int, parallel: int
    ) -> None:
        self.path = check_free(path)
        folder, name = os.path.split(self.path)
        os.makedirs(folder, exist_ok=True)
        self._folder = os.path.join(folder, f"{DRAFT_PREFIX}{name}-{secrets.token_hex(8)}")
        self._blocks = {block.key: block for block in blocks}
        self._file_of: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._specs: dict[str, TensorSpec] = {}
        self._at: dict[str, int] = {}  # where in its file the next row goes
        self._end: dict[str, int] = {}
        os.mkdir(self._folder)
        try:
            for shard in range(shards):
                own = [block for block in blocks if block.shard == shard]
                for writer in range(min(parallel, len(own))):
                    self._begin(shard * parallel + writer, shards * parallel, own[writer::parallel])
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def _begin(self, number: int, count: int, blocks: Sequence[NewBlock]) -> None:
        """A data file without its rows."""
        self._names[number] = data_name(number, count)
        specs = lay_out([(block.key, block.dtype, block.shape) for block in blocks])
        text = {
            key: {"dtype": s.dtype, "shape": s.shape, "data_offsets": (s.begin, s.end)}
            for key, s in specs.items()
        }
        data = json.dumps(text, separators=(",", ":")).encode("ascii")
        data += b" " * (8 - len(data) % 8)  # at least one
        head = struct.pack("<Q", len(data)) + data
        for key, spec in specs.items():
            self._file_of[key] = number
            self._at[key], self._end[key] = len(head) + spec.begin, len(head) + spec.end
        self._specs |= specs
        with open(os.path.join(self._folder, self._names[number]), "wb") as file:
            file.write(head)

    def append(self, place: Place | str, values: Tensor) -> None:
        """Writes the next rows of a block, or the whole of a dense tensor."""
        key = NewBlock(place, "", ()).key
        data = bytes_of(values.contiguous())
        if self._at[key] + len(data) > self._end[key]:
            raise ValueError(f"{key!r}: more rows than were counted")
        path = os.path.join(self._folder, self._names[self._file_of[key]])
        handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            with named(path):
                put(handle, data, self._at[key])
        finally:
            os.close(handle)
        self._at[key] += len(data)

    def publish(self) -> str:
        """Makes it visible, whole and for good, and returns its path.

        Raises:
            FileExistsError: the directory holds something by now.
            OSError: it cannot be written. Nothing has changed.
        """
        for key, at in self._at.items():
            if at != self._end[key]:
                raise ValueError(f"{key!r}: fewer rows than were counted")
        keys = {b.key: b.place.text() for b in self._blocks.values() if isinstance(b.place, Place)}
        files = {name: number for number, name in self._names.items()}
        self._write(TENSOR_KEYS, keys, indent=4)
        self._write(RANK_TABLE, {key: self._entry(key) for key in self._blocks}, indent=4)
        self._write(INDEX, {"block_index": self._file_of, "file_index": files})
        for name in os.listdir(self._folder):
            sync(os.path.join(self._folder, name))
        sync(self._folder)
        os.rename(self._folder, self.path)  # it never replaces a directory that holds something
        sync(os.path.dirname(self.path))
        return self.path

    def _write(self, name: str, value: Any, indent: int | None = None) -> None:
        separators = (",", ":") if indent is None else None
        text = json.dumps(value, sort_keys=True, indent=indent, separators=separators)
        with open(os.path.join(self._folder, name), "w", encoding="ascii") as file:
            file.write(text)

    def _entry(self, key: str) -> dict[str, Any]:
        """What the third JSON file says of a block."""
        block, spec = self._blocks[key], self._specs[key]
        dtype = str(DTYPES[block.dtype]).removeprefix("torch.")
        shape = list(block.shape)
        named = {"name": key, "dtype": dtype, "shape": shape}
        if isinstance(block.place, str):
            return {**named, "dense": True, "dimension": 0, "is_hashmap": False}
        if block.place.slot == EMBEDDING:
            return {
                **named,
                "dense": False,
                "dimension": math.prod(shape[1:]),
                "hashmap_key": block.place._replace(slot=ID).key(),
                "hashmap_key_dtype": "int64",
                "hashmap_value": key,
                "is_hashmap": True,
            }
        return {
            "data_offsets": [spec.begin, spec.end],
            "dense": False,
            "dtype": block.dtype,
            "shape": shape,
        }

    def __enter__(self) -> CheckpointWriter:
        """The writer itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Drops what was not published."""
        shutil.rmtree(self._folder, ignore_errors=True)
