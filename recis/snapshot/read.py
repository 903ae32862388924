"""Reading snapshots: whole ones and chains of deltas, verified, in bounded memory."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from recis._state import decode
from recis.snapshot import strict_json
from recis.snapshot.checksum import Xxh3, to_hex, xxh3
from recis.snapshot.errors import DamagedError, MismatchError, SnapshotError
from recis.snapshot.files import Bytes, Files, LocalFiles, open_files
from recis.snapshot.header import DTYPES, parse
from recis.snapshot.manifest import (
    FileInfo,
    Manifest,
    Parent,
    StateFile,
    TableInfo,
    read_manifest,
)
from recis.snapshot.merge import Merge, Rows, Source
from recis.snapshot.names import MANIFEST, parse_step, step_name
from recis.snapshot.publish import steps
from recis.snapshot.sparse_file import SparseFile
from recis.snapshot.upstream.names import is_checkpoint

logger = logging.getLogger(__name__)

STATE = "state"
"""What states are encoded as."""


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
        """The live rows of a table, by slice, and by id in a slice, verified; each byte read once.

        Args:
            table: its name.
            slices: only those of slices `[begin, end)`; others are neither read nor verified.
            slots: which ones; default, all.
            max_bytes: of rows that are held. Where 256 slices have more, they are verified behind
                the last of them; where one slice has more, its ids are held nonetheless.
            parallel: how many threads read.

        Raises:
            MismatchError: there is no such table or slot.
            DamagedError: a file is not what was written, and pieces given before may not be used.
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
        sources = [
            Source(
                source.table(table).rows_files(),
                source.table(table).deleted_files(),
                partial(source.open_file, table),
            )
            for source in self.sources(table)
        ]
        merge = Merge(sources, wanted, about.slice_size, max_bytes)
        with ThreadPoolExecutor(max(1, parallel), "recis-read") as pool:
            yield from merge.read(begin, end, pool, max(1, parallel))

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
        _check_no_store(root)
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


def _check_no_store(url: str) -> None:
    """Raises MismatchError, which says what to do, if this is a store."""
    if open_files(url).exists("data.mdb"):
        raise MismatchError(
            f"{url} is a store, not a snapshot: make one of it with "
            f"`recis-ckpt save {url} SNAPSHOTS`; recis-ckpt inspect, verify, diff and cat take it "
            "as it is"
        )


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
