"""The manifest: all that a snapshot holds, by name, size and checksum."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from recis._slices import gen_slice
from recis.snapshot import strict_json
from recis.snapshot.checksum import to_hex, xxh3
from recis.snapshot.errors import DamagedError, SnapshotError
from recis.snapshot.files import Files
from recis.snapshot.header import DTYPES
from recis.snapshot.names import MANIFEST, MANIFEST_CHECKSUM, check_path, check_table

FORMAT_NAME = "recis-snapshot"
MAJOR = 1
MINOR = 0
MAX_SLICES = 1 << 20
MAX_SLOTS = 256
_NOT_FINITE = ("nan", "inf", "-inf")  # JSON has no numbers for them


@dataclass(frozen=True)
class SlotInfo:
    """A slot of a table."""

    name: str
    dtype: str
    """As safetensors names it, such as "F32"."""
    shape: tuple[int, ...]
    """Of one row."""
    initial: float
    """What every element of a row is that no file holds."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class FileInfo:
    """A file of rows, or of ids that are gone."""

    path: str
    """Inside the snapshot."""
    bytes: int
    kind: str
    """ "rows" or "deleted"."""
    rows: int
    shard: int
    shards: int
    part: int
    slice_begin: int
    slice_end: int
    xxh3: dict[str, str]
    """The checksum of each tensor, 16 hexadecimal digits."""


@dataclass(frozen=True)
class StateFile:
    """A file of dense tensors or other state."""

    path: str
    """Inside the snapshot."""
    bytes: int
    xxh3: str
    """Of the whole file, 16 hexadecimal digits."""
    shard: int = 0
    shards: int = 1


@dataclass(frozen=True)
class TableInfo:
    """A table of a snapshot."""

    slots: tuple[SlotInfo, ...]
    """In the table's order, the embedding first."""
    slice_size: int
    """An id belongs to slice `uint64(id) % slice_size`."""
    rows: int
    """In this snapshot's files; in a delta, those that changed."""
    deleted: int = 0
    """Ids of the parent that are gone."""
    children: tuple[str, ...] = ()
    """Names of the tables that share this one."""
    coalesced: bool = False
    """Whether ids carry their child's index."""
    info: dict[str, Any] = field(default_factory=dict)
    """What else is known of the table: JSON."""
    files: tuple[FileInfo, ...] = ()
    """By slice, "deleted" before "rows"."""
    policies: tuple[StateFile, ...] = ()
    """What the hooks of each shard had learnt."""

    def rows_files(self) -> list[FileInfo]:
        """The files of rows, by slice."""
        return [file for file in self.files if file.kind == "rows"]

    def deleted_files(self) -> list[FileInfo]:
        """The files of ids that are gone, by slice."""
        return [file for file in self.files if file.kind == "deleted"]


@dataclass(frozen=True)
class Parent:
    """The snapshot that a delta is to be applied to."""

    step: int
    manifest_xxh3: str
    """The checksum of its manifest."""


@dataclass(frozen=True)
class Manifest:
    """What a snapshot holds."""

    step: int
    tables: dict[str, TableInfo]
    epoch: int | None = None
    """Of the store it was made of."""
    world_size: int = 1
    """How many shards wrote it."""
    parent: Parent | None = None
    """None for a snapshot that stands for itself."""
    dense: tuple[StateFile, ...] = ()
    minor: int = MINOR
    requires: tuple[str, ...] = ()
    """Features that a reader must know."""

    def files(self) -> Iterator[FileInfo | StateFile]:
        """Every file it names."""
        for table in self.tables.values():
            yield from table.files
            yield from table.policies
        yield from self.dense

    def to_bytes(self) -> bytes:
        """Its text; equal manifests give equal bytes."""
        text = {
            "format": FORMAT_NAME,
            "major": MAJOR,
            "minor": self.minor,
            "requires": list(self.requires),
            "step": self.step,
            "epoch": self.epoch,
            "world_size": self.world_size,
            "parent": None if self.parent is None else vars(self.parent),
            "tables": {name: _table_text(table) for name, table in self.tables.items()},
            "dense": [
                {"path": file.path, "bytes": file.bytes, "xxh3": file.xxh3}
                for file in sorted(self.dense, key=lambda file: file.path)
            ],
        }
        return (json.dumps(text, sort_keys=True, indent=1, allow_nan=False) + "\n").encode("ascii")

    @staticmethod
    def from_bytes(data: bytes | bytearray, path: str) -> Manifest:
        """The manifest of this text.

        Args:
            data: the text.
            path: of its file, for errors.

        Raises:
            DamagedError: it contradicts itself or the format.
            SnapshotError: a later version of recis wrote it.
        """
        top = _Fields(strict_json.load(data, path), path, "the manifest")
        if top.text("format") != FORMAT_NAME:
            raise top.damaged(f"format {FORMAT_NAME!r}", repr(top.text("format")))
        requires = tuple(top.texts("requires"))
        if top.size("major") != MAJOR or requires:
            raise SnapshotError(
                f"{path}: this recis reads snapshots of format {MAJOR} without further features, "
                f"found format {top.size('major')}, features {list(requires)}: a later recis wrote "
                "it. Read it with that one"
            )
        parent = top.optional("parent", top.fields)
        manifest = Manifest(
            step=top.size("step"),
            tables={
                _checked(name, check_table, top): _parse_table(fields)
                for name, fields in top.fields("tables").members()
            },
            epoch=top.optional("epoch", top.size),
            world_size=top.size("world_size"),
            parent=None
            if parent is None
            else Parent(parent.size("step"), parent.checksum("manifest_xxh3")),
            dense=tuple(_parse_state(fields) for fields in top.items("dense")),
            minor=top.size("minor"),
            requires=requires,
        )
        _check(manifest, top)
        return manifest

    @staticmethod
    def checksum(data: bytes | bytearray) -> str:
        """The checksum of a manifest's text, as deltas and the file beside it have it."""
        return to_hex(xxh3(data))


def read_manifest(files: Files) -> tuple[Manifest, str]:
    """The manifest of the snapshot in a directory, and its checksum.

    Raises:
        FileNotFoundError: there is none: no snapshot, or one that was never finished.
        DamagedError: it does not hold what was written.
        SnapshotError: a later version of recis wrote it.
    """
    name, sum_name = files.name(MANIFEST), files.name(MANIFEST_CHECKSUM)
    size = files.size(MANIFEST)
    if size > strict_json.MAX_BYTES:
        raise DamagedError(name, f"at most {strict_json.MAX_BYTES} bytes", f"{size}")
    try:
        sum_size = files.size(MANIFEST_CHECKSUM)
    except FileNotFoundError:
        raise DamagedError(sum_name, "the manifest's checksum", "no file") from None
    expected = files.read(MANIFEST_CHECKSUM, 0, sum_size) if sum_size == 17 else b""
    data = files.read(MANIFEST, 0, size)
    found = Manifest.checksum(data)
    if expected != f"{found}\n".encode():
        raise DamagedError(name, f"the checksum in {sum_name}", found)
    return Manifest.from_bytes(data, name), found


def _table_text(table: TableInfo) -> dict[str, Any]:
    return {
        "slots": [
            {
                "name": slot.name,
                "dtype": slot.dtype,
                "shape": list(slot.shape),
                "initial": slot.initial if math.isfinite(slot.initial) else str(slot.initial),
            }
            for slot in table.slots
        ],
        "slice_size": table.slice_size,
        "rows": table.rows,
        "deleted": table.deleted,
        "children": list(table.children),
        "coalesced": table.coalesced,
        "info": table.info,
        "files": [vars(file) for file in sorted(table.files, key=_place)],
        "policies": [vars(file) for file in sorted(table.policies, key=lambda file: file.shard)],
    }


def _place(file: FileInfo) -> tuple[int, int, str]:
    return file.slice_begin, file.slice_end, file.kind


class _Fields:
    """An object of the text whose members are asked for by name and kind."""

    def __init__(self, found: dict[str, Any], path: str, place: str) -> None:
        self._found = found
        self._path = path
        self._place = place

    def damaged(self, expected: str, found: str) -> DamagedError:
        return DamagedError(self._path, f"{self._place}: {expected}", found[:200])

    def _get(self, key: str, kind: type, what: str) -> Any:
        value = self._found.get(key)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.damaged(f"{what} {key!r}", repr(self._found.get(key, "nothing")))
        return value

    def optional(self, key: str, get: Callable[[str], Any]) -> Any:
        return None if key in self._found and self._found[key] is None else get(key)

    def size(self, key: str) -> int:
        value: int = self._get(key, int, "a whole number")
        if not 0 <= value < 1 << 63:
            raise self.damaged(f"{key!r} in [0, 2**63)", str(value))
        return value

    def flag(self, key: str) -> bool:
        return bool(self._get(key, bool, "true or false as"))

    def text(self, key: str) -> str:
        return str(self._get(key, str, "a text"))

    def texts(self, key: str) -> list[str]:
        values = self._get(key, list, "a list of texts")
        if not all(isinstance(value, str) for value in values):
            raise self.damaged(f"a list of texts {key!r}", repr(values))
        return list(values)

    def sizes(self, key: str) -> tuple[int, ...]:
        values = self._get(key, list, "a list of sizes")
        if not all(type(value) is int and 0 <= value < 1 << 63 for value in values):
            raise self.damaged(f"a list of sizes {key!r}", repr(values))
        return tuple(values)

    def number(self, key: str) -> float:
        value = self._found.get(key)
        if value not in _NOT_FINITE and type(value) not in (int, float):
            raise self.damaged(f"a number {key!r}", repr(value))
        return float(value)  # type: ignore[arg-type]

    def json(self, key: str) -> dict[str, Any]:
        return dict(self._get(key, dict, "an object"))

    def checksum(self, key: str) -> str:
        value = self.text(key)
        if len(value) != 16 or not all(digit in "0123456789abcdef" for digit in value):
            raise self.damaged(f"16 hexadecimal digits {key!r}", repr(value))
        return value

    def checksums(self, key: str) -> dict[str, str]:
        fields = self.fields(key)
        return {name: fields.checksum(name) for name in fields._found}

    def path(self, key: str) -> str:
        return _checked(self.text(key), check_path, self)

    def fields(self, key: str) -> _Fields:
        return _Fields(self._get(key, dict, "an object"), self._path, f"{self._place}, {key}")

    def items(self, key: str) -> list[_Fields]:
        place = f"{self._place}, {key}"
        values = self._get(key, list, "a list of objects")
        if not all(isinstance(value, dict) for value in values):
            raise self.damaged(f"a list of objects {key!r}", repr(values))
        return [_Fields(value, self._path, f"{place}[{i}]") for i, value in enumerate(values)]

    def members(self) -> Iterator[tuple[str, _Fields]]:
        for key in self._found:
            yield key, self.fields(key)


def _checked(value: str, check: Callable[[str], str], fields: _Fields) -> str:
    try:
        return check(value)
    except ValueError as error:
        raise fields.damaged("a path inside the snapshot", str(error)) from None


def _parse_table(fields: _Fields) -> TableInfo:
    table = TableInfo(
        slots=tuple(_parse_slot(slot) for slot in fields.items("slots")),
        slice_size=fields.size("slice_size"),
        rows=fields.size("rows"),
        deleted=fields.size("deleted"),
        children=tuple(fields.texts("children")),
        coalesced=fields.flag("coalesced"),
        info=fields.json("info"),
        files=tuple(_parse_file(file) for file in fields.items("files")),
        policies=tuple(
            StateFile(
                file.path("path"),
                file.size("bytes"),
                file.checksum("xxh3"),
                file.size("shard"),
                file.size("shards"),
            )
            for file in fields.items("policies")
        ),
    )
    names = [slot.name for slot in table.slots]
    if not 0 < len(names) <= MAX_SLOTS or len(set(names)) != len(names):
        raise fields.damaged(f"1 to {MAX_SLOTS} slots of different names", repr(names))
    if not 0 < table.slice_size <= MAX_SLICES:
        raise fields.damaged(f"slice_size in [1, {MAX_SLICES}]", str(table.slice_size))
    _check_cover(table, fields)
    return table


def _parse_slot(fields: _Fields) -> SlotInfo:
    slot = SlotInfo(
        fields.text("name"), fields.text("dtype"), fields.sizes("shape"), fields.number("initial")
    )
    if slot.dtype not in DTYPES:
        raise fields.damaged(f"a dtype of {', '.join(DTYPES)}", repr(slot.dtype))
    if not 0 < slot.row_bytes < 1 << 40:
        raise fields.damaged("a shape of at least 1 byte and less than 2**40", repr(slot.shape))
    if not _can_hold(DTYPES[slot.dtype], slot.initial):
        raise fields.damaged(f"an initial {slot.dtype}", repr(slot.initial))
    return slot


def _can_hold(dtype: torch.dtype, value: float) -> bool:
    if dtype.is_floating_point:
        return True
    least, most = (
        (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    )
    return value.is_integer() and least <= int(value) <= most


def _parse_file(fields: _Fields) -> FileInfo:
    file = FileInfo(
        path=fields.path("path"),
        bytes=fields.size("bytes"),
        kind=fields.text("kind"),
        rows=fields.size("rows"),
        shard=fields.size("shard"),
        shards=fields.size("shards"),
        part=fields.size("part"),
        slice_begin=fields.size("slice_begin"),
        slice_end=fields.size("slice_end"),
        xxh3=fields.checksums("xxh3"),
    )
    if file.kind not in ("rows", "deleted"):
        raise fields.damaged("kind 'rows' or 'deleted'", repr(file.kind))
    # Every row takes bytes, so nothing that is sized by `rows` can be larger than the file.
    if 8 * file.rows > file.bytes:
        raise fields.damaged(f"at most {file.bytes // 8} rows", str(file.rows))
    return file


def _parse_state(fields: _Fields) -> StateFile:
    return StateFile(fields.path("path"), fields.size("bytes"), fields.checksum("xxh3"))


def _check_cover(table: TableInfo, fields: _Fields) -> None:
    """The files hold every slice once, and as many rows as there are said to be."""
    for kind, files, rows in [
        ("rows", table.rows_files(), table.rows),
        ("deleted", table.deleted_files(), table.deleted),
    ]:
        end = 0
        for file in files:
            if file.slice_begin != end or file.slice_end < end:
                raise fields.damaged(
                    f"a file of {kind} that begins at slice {end}",
                    f"{file.path} with [{file.slice_begin}, {file.slice_end})",
                )
            end = file.slice_end
            _check_shard(file, table.slice_size, fields)
        if end != table.slice_size and (files or kind == "rows"):
            raise fields.damaged(f"files of {kind} up to slice {table.slice_size}", f"to {end}")
        if sum(file.rows for file in files) != rows:
            raise fields.damaged(f"files of {rows} {kind}", str(sum(f.rows for f in files)))


def _check_shard(file: FileInfo, slice_size: int, fields: _Fields) -> None:
    """A file holds slices of its shard only."""
    if file.shard >= file.shards:
        raise fields.damaged(f"a shard below {file.shards} of {file.path}", str(file.shard))
    part = gen_slice(file.shard, file.shards, slice_size)
    if not part.slice_begin <= file.slice_begin <= file.slice_end <= part.slice_end:
        raise fields.damaged(
            f"slices of shard {file.shard} of {file.shards}, "
            f"[{part.slice_begin}, {part.slice_end}), in {file.path}",
            f"[{file.slice_begin}, {file.slice_end})",
        )


def _check(manifest: Manifest, fields: _Fields) -> None:
    paths = [file.path for file in manifest.files()]
    if len(set(paths)) != len(paths):
        raise fields.damaged("every path once", "one that is listed twice")
    if manifest.step >= 10**12:
        raise fields.damaged("a step below 10**12", str(manifest.step))
    if manifest.parent is None and any(t.deleted_files() for t in manifest.tables.values()):
        raise fields.damaged("no deleted ids without a parent", "some")
    if manifest.parent is not None and manifest.parent.step >= manifest.step:
        raise fields.damaged("a parent of an earlier step", str(manifest.parent.step))
