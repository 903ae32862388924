"""Reading snapshots: whole ones and chains of deltas, verified, in bounded memory."""

from __future__ import annotations

import logging
import os
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recis._slices import Array, slices_of
from recis._state import decode
from recis._tensors import new_output
from recis.snapshot import strict_json
from recis.snapshot.checksum import Xxh3, to_hex, xxh3
from recis.snapshot.errors import DamagedError, MismatchError, SnapshotError
from recis.snapshot.files import Bytes, Files, LocalFiles, open_files
from recis.snapshot.header import DTYPES, parse
from recis.snapshot.manifest import (
    FileInfo,
    Manifest,
    Parent,
    SlotInfo,
    StateFile,
    TableInfo,
    read_manifest,
)
from recis.snapshot.names import MANIFEST, parse_step, step_name
from recis.snapshot.publish import steps
from recis.snapshot.sparse_file import SparseFile
from recis.snapshot.upstream.names import is_checkpoint

logger = logging.getLogger(__name__)

STATE = "state"
"""What states are encoded as."""

_RUN_BYTES = 2 << 20  # of rows that are read at once, so that small groups cost no call each


class Rows(NamedTuple):
    """Some rows of a table."""

    ids: Tensor
    """int64 `(n,)`, by slice, and by id in a slice."""
    slots: dict[str, Tensor]
    """By name, each `(n, *shape)`."""


class SnapshotReader:
    """An open snapshot. Made by `open_snapshot`; threads may share it."""

    def __init__(
        self, files: Files, manifest: Manifest, checksum: str, parents: list[SnapshotReader]
    ) -> None:
        self.files = files
        self.manifest = manifest
        self.checksum = checksum
        """Of the manifest, 16 hexadecimal digits."""
        self.chain: list[SnapshotReader] = [*parents, self]
        """From the base, which has no parent, to this one."""
        self._open: dict[str, SparseFile] = {}
        self._lock = Lock()

    def table(self, name: str) -> TableInfo:
        """What the manifest says of a table.

        Raises:
            MismatchError: there is none of this name; the message lists those there are.
        """
        found = self.manifest.tables.get(name)
        if found is None:
            known = ", ".join(sorted(self.manifest.tables)) or "none"
            raise MismatchError(f"{self.files.url} has no table {name!r}; it has {known}")
        return found

    def sources(self, table: str) -> list[SnapshotReader]:
        """Those of the chain that hold rows of a table, oldest first."""
        self.table(table)
        found = []
        for reader in reversed(self.chain):
            if table not in reader.manifest.tables:
                break
            found.append(reader)
        return found[::-1]

    def open_file(self, table: str, info: FileInfo) -> SparseFile:
        """A file of this snapshot.

        Raises:
            DamagedError: it is not what the manifest says.
        """
        with self._lock:
            found = self._open.get(info.path)
        if found is None:
            about = self.table(table)
            found = SparseFile(self.files, table, info, about.slots, about.slice_size)
            with self._lock:
                self._open[info.path] = found
        return found

    def read_rows(
        self,
        table: str,
        slices: tuple[int, int] | None = None,
        slots: Sequence[str] | None = None,
        max_bytes: int = 16 << 20,
        parallel: int = 4,
    ) -> Iterator[Rows]:
        """The live rows of a table, by slice, and by id in a slice, every byte verified.

        Args:
            table: its name.
            slices: only those of slices `[begin, end)`; others are neither read nor verified.
            slots: which ones; default, all.
            max_bytes: of rows that are held. Where 256 slices have more, they are read twice,
                which takes longer; where one slice has more, its ids are held nonetheless.
            parallel: how many threads read.

        Raises:
            MismatchError: there is no such table or slot.
            DamagedError: a file is not what was written. Pieces given before are good.
            SnapshotError: the snapshot has other slices.
        """
        about = self.table(table)
        begin, end = (0, about.slice_size) if slices is None else slices
        if not 0 <= begin <= end <= about.slice_size:
            raise MismatchError(
                f"{self.files.url}, table {table!r}: there are no slices [{begin}, {end}) of "
                f"{about.slice_size}"
            )
        known = {slot.name: slot for slot in about.slots}
        unknown = [name for name in slots or () if name not in known]
        if unknown:
            raise MismatchError(
                f"{self.files.url}, table {table!r} has no slot {unknown[0]!r}; it has "
                f"{', '.join(known)}"
            )
        wanted = [known[name] for name in (known if slots is None else slots)]
        merge = _Merge(self, table, wanted, max_bytes)
        with ThreadPoolExecutor(max(1, parallel), "recis-read") as pool:
            yield from _in_order(pool, merge, begin, end, max(1, parallel))

    # ---- what is no rows ----

    def policies(self, table: str) -> list[dict[str, tuple[Any, ...]]]:
        """What the hooks of a table had learnt, by shard: hook -> the state it gave.

        Raises:
            DamagedError: a file is not what was written.
        """
        return [self._state(file) for file in self.table(table).policies]

    def dense_names(self) -> list[str]:
        """Names of the dense values."""
        return sorted(self._dense())

    def dense(self, name: str) -> Any:
        """A dense value: nested dicts, lists and tensors, or tensors by name.

        Raises:
            MismatchError: there is none of this name.
            DamagedError: its file is not what was written.
        """
        found = self._dense()
        if name not in found:
            raise MismatchError(
                f"{self.files.url} has no dense value {name!r}; it has {', '.join(sorted(found))}"
            )
        file = found[name]
        if file.path.endswith(".state"):
            return self._state(file)
        return _tensors(self.read_whole(file), self.files.name(file.path))

    def _dense(self) -> dict[str, StateFile]:
        return {
            file.path.removeprefix("dense/").rpartition(".")[0]: file
            for file in self.manifest.dense
        }

    def read_whole(self, file: StateFile) -> bytearray:
        """The bytes of a file of state.

        Raises:
            DamagedError: they are not what was written.
        """
        self.check_size(file)
        data = self.files.read(file.path, 0, file.bytes)
        self._check_sum(file, xxh3(data))
        return data

    def read_pieces(self, file: StateFile) -> Iterator[Bytes]:
        """The same piece by piece, in memory that the next piece takes over.

        Raises:
            DamagedError: they are not what was written. The last piece may have come by then.
        """
        self.check_size(file)
        state = Xxh3()
        for piece in self.files.read_pieces(file.path, 0, file.bytes):
            state.update(piece)
            yield piece
        self._check_sum(file, state.digest())

    def _check_sum(self, file: StateFile, checksum: int) -> None:
        found = to_hex(checksum)
        if found != file.xxh3:
            raise DamagedError(self.files.name(file.path), f"checksum {file.xxh3}", found)

    def check_size(self, file: FileInfo | StateFile) -> None:
        """Raises DamagedError unless a file is there and has the size it should have."""
        try:
            found = str(self.files.size(file.path))
        except FileNotFoundError:
            found = "no file"
        if found != str(file.bytes):
            raise DamagedError(self.files.name(file.path), f"{file.bytes} bytes", found)

    def check_sizes(self) -> None:
        """The same for every file of this snapshot."""
        files: list[FileInfo | StateFile] = [*self.manifest.dense]
        for table in self.manifest.tables.values():
            files += [*table.files, *table.policies]
        if isinstance(self.files, LocalFiles):  # where asking takes less than a thread does
            for file in files:
                self.check_size(file)
            return
        with ThreadPoolExecutor(16, "recis-sizes") as pool:
            list(pool.map(self.check_size, files))

    def _state(self, file: StateFile) -> Any:
        data = self.read_whole(file)
        check_state(data, self.files.name(file.path))
        try:
            return decode(bytes(data), STATE)
        except Exception as error:  # the bytes are not trusted: anything may come of them
            raise DamagedError(
                self.files.name(file.path), "an encoded state", f"{type(error).__name__}: {error}"
            ) from None

    def __repr__(self) -> str:
        return f"SnapshotReader({self.files.url!r})"


def check_state(data: bytes | bytearray, path: str) -> None:
    """Raises DamagedError if decoding a state could take far more memory than it has bytes."""
    at = 0
    for _ in range(2):  # the text, and the header of its tensors
        length = int.from_bytes(data[at : at + 8], "little")
        strict_json.check_size(data[at + 8 : at + 8 + min(length, len(data))], path)
        at += 8 + length


def open_snapshot(
    url: str | os.PathLike[str], step: int | None = None, strict: bool = False
) -> SnapshotReader:
    """Opens a snapshot and those it is a delta to.

    Args:
        url: a directory of snapshots or one of them, local or an fsspec URL.
        step: which one of the directory; default, the newest.
        strict: whether to refuse when the newest is damaged. Otherwise the newest that is not
            is opened, with a warning.

    Raises:
        FileNotFoundError: there is no snapshot.
        SnapshotError: it is damaged, or a later version of recis wrote it.
    """
    root, own = split_url(url)
    if own is not None:
        if step not in (None, own):
            raise ValueError(f"{url} is the snapshot of step {own}, asked for step {step}")
        step = own
    if step is not None:
        return _open_step(root, step)
    found_steps = steps(root)
    if not found_steps:
        check_not_upstream(root)
        raise FileNotFoundError(f"{url}: there is no snapshot in it")
    refused: SnapshotError | None = None
    for candidate in reversed(found_steps):
        try:
            found = _open_step(root, candidate)
        except SnapshotError as error:
            if strict:
                raise
            refused = refused or error
            logger.warning("%s cannot be used: %s", step_name(candidate), error)
        else:
            if refused is not None:
                logger.warning("%s: fell back to %s", url, step_name(candidate))
            return found
    assert refused is not None
    raise refused


def check_not_upstream(url: str) -> None:
    """Raises MismatchError, which says what to do, if this is a checkpoint of RecIS 1.0."""
    if is_checkpoint(open_files(url)):
        raise MismatchError(
            f"{url} is a checkpoint of RecIS 1.0, not a snapshot: import it first with "
            f"`recis-ckpt import {url} SNAPSHOTS`; recis.serialize.Loader and CheckpointReader, "
            "and recis-ckpt inspect and verify, take it as it is"
        )


def split_url(url: str | os.PathLike[str]) -> tuple[str, int | None]:
    """The directory of snapshots, and the step if the URL is that of one of them."""
    url = os.fspath(url).rstrip("/") or "/"
    folder, _, leaf = url.rpartition("/")
    step = parse_step(leaf)
    return (url, None) if step is None else (folder or ".", step)


def read_chain(root: str, step: int) -> Iterator[tuple[Files, Manifest, str]]:
    """Manifests from that of a step back to the base, with their files and checksums.

    Raises:
        FileNotFoundError: there is no snapshot of this step.
        SnapshotError: the next one is damaged, missing, or of a later version.
    """
    parent: Parent | None = Parent(step, "")
    while parent is not None:
        files = open_files(f"{root}/{step_name(parent.step)}")
        try:
            manifest, checksum = read_manifest(files)
        except FileNotFoundError:
            if not parent.manifest_xxh3:
                raise
            raise DamagedError(files.url, "the parent of a later snapshot", "none") from None
        if manifest.step != parent.step:
            raise DamagedError(files.name(MANIFEST), f"step {parent.step}", f"step {manifest.step}")
        if parent.manifest_xxh3 not in ("", checksum):
            raise DamagedError(
                files.name(MANIFEST),
                f"checksum {parent.manifest_xxh3}, as the delta that follows it says",
                checksum,
            )
        yield files, manifest, checksum
        parent = manifest.parent


def _open_step(root: str, step: int) -> SnapshotReader:
    """A snapshot with its parents, the sizes of all files checked."""
    chain: list[SnapshotReader] = []
    for files, manifest, checksum in reversed(list(read_chain(root, step))):
        if chain:
            check_follows(files, manifest, chain[-1].manifest)
        chain.append(SnapshotReader(files, manifest, checksum, chain))
        chain[-1].check_sizes()
    return chain[-1]


def check_follows(files: Files, manifest: Manifest, parent: Manifest) -> None:
    """Raises DamagedError unless the tables of a delta are as its parent's."""
    for name, table in manifest.tables.items():
        before = parent.tables.get(name)
        if before is None:
            continue
        if table.slots[: len(before.slots)] != before.slots:
            raise DamagedError(
                files.name(MANIFEST), f"table {name!r} with the slots of the parent", "others"
            )
        if table.slice_size != before.slice_size:
            raise DamagedError(
                files.name(MANIFEST),
                f"table {name!r} with slice_size {before.slice_size}, as in the parent",
                f"{table.slice_size}",
            )


# ---- merging a chain ----


class _Part(NamedTuple):
    """Some slices of a file that take part in a merge."""

    level: int  # the place of its snapshot in the chain
    file: SparseFile
    first: int  # rows [first, last) of the file
    last: int
    ids: Tensor
    held: dict[str, Tensor]  # slots of these rows that were read already


class _Merge:
    """Rows of one table, out of all snapshots of a chain."""

    def __init__(
        self, reader: SnapshotReader, table: str, slots: list[SlotInfo], max_bytes: int
    ) -> None:
        self._table = table
        self._slots = slots
        self.max_bytes = max_bytes
        self._row_bytes = 8 + sum(slot.row_bytes for slot in slots)
        self._slice_size = reader.table(table).slice_size
        self._sources = reader.sources(table)
        self._infos = [
            (level, infos, [info.slice_begin for info in infos], [info.slice_end for info in infos])
            for level, source in enumerate(self._sources)
            for infos in (source.table(table).deleted_files(), source.table(table).rows_files())
        ]

    def windows(self, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Runs of slices to be merged at once, `(begin, end, bytes)`, cut between groups."""
        limit = min(_RUN_BYTES, self.max_bytes)
        base = self._sources[0]
        for info in base.table(self._table).rows_files():
            if info.slice_end <= begin or end <= info.slice_begin:
                continue
            file = base.open_file(self._table, info)
            start = None
            for group in range(
                *file.groups_of(max(begin, info.slice_begin), min(end, info.slice_end))
            ):
                low, high = file.group_slices(group)
                low, high = max(low, begin), min(high, end)
                if start is not None and self._bytes(start, high) > limit:
                    yield start, low, self._bytes(start, low)
                    start = low
                start = low if start is None else start
            if start is not None:
                last = min(info.slice_end, end)
                yield start, last, self._bytes(start, last)

    def _files(self, begin: int, end: int) -> Iterator[tuple[int, SparseFile]]:
        for level, infos, begins, ends in self._infos:
            for info in infos[bisect_right(ends, begin) : bisect_left(begins, end)]:
                yield level, self._sources[level].open_file(self._table, info)

    def _bytes(self, begin: int, end: int) -> int:
        """What the groups with these slices take, at most."""
        total = 0
        for _, file in self._files(begin, end):
            groups = file.groups_of(
                max(begin, file.info.slice_begin), min(end, file.info.slice_end)
            )
            total += self._bytes_in(
                file, file.group_slices(groups[0])[0], file.group_slices(groups[1] - 1)[1]
            )
        return total

    def _bytes_in(self, file: SparseFile, begin: int, end: int) -> int:
        """What a file's rows of these slices take."""
        first, last = file.row_range(begin, end)
        return (last - first) * (8 if file.info.kind == "deleted" else self._row_bytes)

    def pieces(self, begin: int, end: int, total: int) -> Iterator[Rows]:
        """The rows of a window."""
        files = list(self._files(begin, end))
        if total <= self.max_bytes:
            yield from self._merged([self._part(*file, begin, end) for file in files])
            return
        # Groups that are too large to be held: verified first, then read by slices.
        for _, file in files:
            self._verify(file, begin, end)
        for low, high in self._runs(files, begin, end):
            yield from self._merged([self._verified_part(*file, low, high) for file in files])

    def _runs(
        self, files: list[tuple[int, SparseFile]], begin: int, end: int
    ) -> Iterator[tuple[int, int]]:
        """Slices to be read at once, cut between any two."""
        start, held = begin, 0
        for slice_ in range(begin, end):
            size = sum(self._bytes_in(file, slice_, slice_ + 1) for _, file in files)
            if slice_ > start and held + size > self.max_bytes:
                yield start, slice_
                start, held = slice_, 0
            held += size
        yield start, end

    def _merged(self, parts: list[_Part]) -> Iterator[Rows]:
        """The rows that count, of parts of the same slices."""
        parts = [part for part in parts if part.last > part.first]
        if not parts:
            return
        step = max(1, min(_RUN_BYTES, self.max_bytes) // self._row_bytes)
        if len(parts) == 1:
            part = parts[0]
            if part.file.info.kind == "deleted":
                return
            for first in range(part.first, part.last, step):
                last = min(first + step, part.last)
                slots = {slot.name: self._column(part, slot, first, last) for slot in self._slots}
                yield Rows(part.ids[first - part.first : last - part.first], slots)
            return
        which, rows, wins = self._order(parts)
        for at in range(0, len(which), step):
            window = slice(at, at + step)
            keep = wins[window]
            if keep.any():
                yield self._gather(parts, which[window][keep], rows[window][keep])

    def _columns(self, file: SparseFile) -> list[str]:
        """The tensors of the slots that are asked for, as far as a file has them."""
        known = file.columns()
        return [f"slot/{slot.name}" for slot in self._slots if f"slot/{slot.name}" in known]

    def _part(self, level: int, file: SparseFile, begin: int, end: int) -> _Part:
        """Reads and verifies what a file has of these slices."""
        begin, end = max(begin, file.info.slice_begin), min(end, file.info.slice_end)
        groups = file.groups_of(begin, end)
        start = file.row_range(*file.group_slices(groups[0]))[0]
        first, last = file.row_range(begin, end)
        cut = slice(first - start, last - start)
        ids = file.read_groups("ids", *groups)[cut]
        file.check_ids(ids.numpy(), first)
        held = {
            name.removeprefix("slot/"): file.read_groups(name, *groups)[cut]
            for name in self._columns(file)
        }
        return _Part(level, file, first, last, ids, held)

    def _verify(self, file: SparseFile, begin: int, end: int) -> None:
        """Verifies what a file has of these slices, in little memory."""
        begin, end = max(begin, file.info.slice_begin), min(end, file.info.slice_end)
        groups = file.groups_of(begin, end)
        file.verify_ids(*groups)
        for name in self._columns(file):
            for _ in file.read_pieces(name, *groups):
                pass

    def _verified_part(self, level: int, file: SparseFile, begin: int, end: int) -> _Part:
        """Reads the ids that a file has of these slices, which were verified before."""
        first, last = file.row_range(begin, end)
        return _Part(level, file, first, last, file.read_rows("ids", first, last), {})

    def _order(self, parts: list[_Part]) -> tuple[Array, Array, Array]:
        """All rows in the order of slices and ids: `(part, row of its file, whether it wins)`."""
        ids = np.concatenate([part.ids.numpy() for part in parts])
        which = np.repeat(np.arange(len(parts)), [part.last - part.first for part in parts])
        rows = np.concatenate([np.arange(part.first, part.last) for part in parts])
        # A later snapshot wins; of one, rows win over deletions: an id may have come back.
        ranks = np.array([-2 * p.level - (p.file.info.kind == "rows") for p in parts])
        order = np.lexsort((ranks[which], ids, slices_of(ids, self._slice_size)))
        ids, which, rows = ids[order], which[order], rows[order]
        wins = np.ones(len(ids), bool)
        wins[1:] = ids[1:] != ids[:-1]
        wins &= np.array([part.file.info.kind == "rows" for part in parts])[which]
        return which, rows, wins

    def _gather(self, parts: list[_Part], which: Array, rows: Array) -> Rows:
        count = len(which)
        ids = torch.empty(count, dtype=torch.int64)
        slots = {
            slot.name: new_output((count, *slot.shape), DTYPES[slot.dtype])[0]
            for slot in self._slots
        }
        for index in np.unique(which):
            part = parts[index]
            places = np.flatnonzero(which == index)
            taken = rows[places]
            first, last = int(taken[0]), int(taken[-1]) + 1
            to, source = torch.from_numpy(places), torch.from_numpy(taken - first)
            ids[to] = part.ids[first - part.first : last - part.first][source]
            for slot in self._slots:
                slots[slot.name][to] = self._column(part, slot, first, last)[source]
        return Rows(ids, slots)

    def _column(self, part: _Part, slot: SlotInfo, first: int, last: int) -> Tensor:
        """A slot of rows `[first, last)` of the file, verified before."""
        if slot.name in part.held:
            return part.held[slot.name][first - part.first : last - part.first]
        if f"slot/{slot.name}" in part.file.columns():
            return part.file.read_rows(f"slot/{slot.name}", first, last)
        dtype = DTYPES[slot.dtype]
        initial = slot.initial if dtype.is_floating_point else int(slot.initial)
        return torch.full((last - first, *slot.shape), initial, dtype=dtype)


def _in_order(
    pool: ThreadPoolExecutor, merge: _Merge, begin: int, end: int, parallel: int
) -> Iterator[Rows]:
    """The rows of all windows, some of which are read ahead."""
    ahead: deque[tuple[Future[list[Rows]], int]] = deque()
    held = 0
    try:
        for low, high, total in merge.windows(begin, end):
            small = total <= merge.max_bytes
            while ahead and (not small or len(ahead) >= parallel or held + total > merge.max_bytes):
                future, size = ahead.popleft()
                yield from future.result()
                held -= size
            if small:
                ahead.append(
                    (pool.submit(lambda *w: list(merge.pieces(*w)), low, high, total), total)
                )
                held += total
            else:
                yield from merge.pieces(low, high, total)
        while ahead:
            yield from ahead.popleft()[0].result()
    finally:
        for future, _ in ahead:
            future.cancel()


def _tensors(data: bytearray, path: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file, sharing its bytes."""
    header = parse(lambda offset, count: data[offset : offset + count], len(data), path)
    whole = torch.frombuffer(data, dtype=torch.uint8)
    found = {}
    for name, spec in header.tensors.items():
        raw = whole[header.data_offset + spec.begin : header.data_offset + spec.end]
        # Cloned where the file does not align them.
        dtype = DTYPES[spec.dtype]
        aligned = raw if raw.data_ptr() % dtype.itemsize == 0 else raw.clone()
        found[name] = aligned.view(dtype).reshape(spec.shape)
    return found
