"""`Saver`: tables and tensors into a snapshot, also while training goes on."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from recis import _engine
from recis._counters import SNAPSHOTS
from recis._slices import gen_slice
from recis._table import Table
from recis.serialize.blocks import FilterBlocks, chosen, every_block, tables_of
from recis.serialize.shards import Shards
from recis.serialize.upstream_target import UpstreamTarget
from recis.snapshot.errors import MismatchError
from recis.snapshot.manifest import Manifest, Parent, StateFile, TableInfo
from recis.snapshot.names import check_table, policies_path, shard_name
from recis.snapshot.publish import Draft, clean_drafts, steps
from recis.snapshot.read import open_snapshot
from recis.snapshot.write import slots_of, write_state, write_table, write_tensors

logger = logging.getLogger(__name__)

MODEL = "model"
"""The name under which dense tensors are saved."""

_MOST_PARTS = 2  # written at a time: more take memory and gain nothing


class Saver:
    """Writes one snapshot of tables and dense tensors, whole or not at all.

    Tables in a store are saved as they are then, committed or not, and are not committed by it.

    Args:
        shard_index: which shard this process saves.
        shard_num: how many processes save one snapshot together. With `torch.distributed` each of
            them makes a Saver, they agree by collectives in a group of their own, and rank 0
            publishes. Without, the one that is last publishes, and the others return before
            that; if a save of theirs was cut short, delete its `.tmp-` directories before another
            of the same step. That takes a directory they share, and is refused at a URL.
        parallel: parts that `save` writes at once, two at most. `save_async` writes them one by one
            at a lower priority, and leaves the processors to training.
        path: the directory of snapshots, local or an fsspec URL; a snapshot is
            `<path>/step-<step>`.
        hashtables: tables by name, as `filter_out_sparse_param(model)` gives them, or modules.
        tensors: dense tensors by name; shard 0 saves them.
        filter_func: of the list of blocks that would be saved, those that are.
        parent: a snapshot in the same directory: only what changed since it is written. Its
            tables must have been saved or loaded with `track=True` by this process, and not
            saved since.
        track: whether to remember from now on which rows change, so that the next snapshot can
            be a delta. One bit a row, and eight bytes an id that goes.
        states: more that belongs to it, by name: nested dicts, lists, tensors, plain values.
            Shard 0 saves them.
        shard_states: the same, but each shard saves its own.
        pool_bytes: memory for what training changes before it is written; when it is full,
            training waits.
        format: "recis-1.0" makes `path` itself a checkpoint that RecIS 1.0 can read, with up to
            `parallel` data files a shard: of all shards once the last is done. It is written by
            way of a snapshot beside it, so takes twice the space for a while, and has neither
            states nor deltas.

    Example:
        >>> from recis.nn import HashTable
        >>> from tempfile import TemporaryDirectory
        >>> folder = TemporaryDirectory()
        >>> users = HashTable([4], name="saver_example")
        >>> _ = users(torch.tensor([1, 2, 3]))
        >>> saver = Saver(path=folder.name, hashtables={"saver_example": users})
        >>> saver.save(step=10).removeprefix(folder.name)
        '/step-000000000010'
        >>> folder.cleanup()
    """

    def __init__(
        self,
        shard_index: int = 0,
        shard_num: int = 1,
        parallel: int = 8,
        path: str | os.PathLike[str] = ".",
        hashtables: Mapping[str, object] | None = None,
        tensors: Mapping[str, Tensor] | None = None,
        filter_func: FilterBlocks = every_block,
        *,
        parent: str | os.PathLike[str] | None = None,
        track: bool = False,
        states: Mapping[str, Any] | None = None,
        shard_states: Mapping[str, Any] | None = None,
        pool_bytes: int = 1 << 28,
        format: Literal["snapshot", "recis-1.0"] = "snapshot",
    ) -> None:
        gen_slice(shard_index, shard_num)
        if format not in ("snapshot", "recis-1.0"):
            raise ValueError(f"format must be 'snapshot' or 'recis-1.0', found {format!r}")
        self._upstream: UpstreamTarget | None = None
        if format == "recis-1.0":
            if parent is not None or track or states or shard_states:
                raise ValueError(
                    "format 'recis-1.0' has no deltas and no states: leave out parent, track, "
                    "states and shard_states, or save a snapshot"
                )
            self._upstream = UpstreamTarget(path, parallel)
            path = self._upstream.root
        self._shards = Shards(shard_index, shard_num)
        self._parallel = max(1, min(parallel, _MOST_PARTS))
        self._path = os.fspath(path)
        self._tables = tables_of("Saver", hashtables)
        self._tensors = dict(tensors or {})
        self._filter = filter_func
        self._parent = None if parent is None else os.fspath(parent)
        self._track = track or parent is not None
        self._states = dict(states or {}) if shard_index == 0 else {}
        for name, state in (shard_states or {}).items():
            self._states[shard_name(name, shard_index, shard_num)] = state
        self._pool_bytes = pool_bytes
        self._pending: SaveHandle | None = None
        for name in [*self._tables, *self._states]:
            check_table(name)
        if MODEL in self._states:
            raise ValueError(f"states: {MODEL!r} is the name of the dense tensors: choose another")

    def save(self, step: int | None = None) -> str:
        """Saves the tables as of now, and returns once that survives a crash.

        Args:
            step: of training; default, one more than that of the newest snapshot. RecIS 1.0's
                format has no place for it.

        Returns:
            The path or URL of the snapshot.

        Raises:
            FileExistsError: there is one of this step; in RecIS 1.0's format, `path` holds
                something.
            ValueError: for a delta, the parent is not what these tables have changed since; one of
                several shards without a process group, at a URL.
            RuntimeError: a table is being saved already.
            OSError: it cannot be written. Earlier snapshots are intact.
        """
        return self._begin(step, self._parallel).run()

    def save_async(self, step: int | None = None) -> SaveHandle:
        """Saves the tables as of now while training goes on; arguments and errors as for `save`.

        The file is what `save` would have written at this moment. Tensors and states are copied
        now. Writing through views of `slot.values()` meanwhile is not seen by it.

        Returns:
            A handle to wait for. An error that nobody waited for is raised by the next save.
        """
        save = self._begin(step, parallel=1)
        self._pending = SaveHandle(save)
        return self._pending

    def _begin(self, step: int | None, parallel: int) -> _Save:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.wait()
        if self._upstream is not None:
            self._upstream.check()
            step = 0
        if step is None:
            step = max(steps(self._path), default=-1) + 1
        tables, tensors = chosen(self._filter, self._tables, self._tensors)
        parent = None if self._parent is None else self._parent_of(tables, step)
        return _Save(
            path=self._path,
            step=step,
            shards=self._shards,
            parallel=parallel,
            parent=parent,
            track=self._track,
            cuts=_take_cuts(tables, parent is not None, self._track, self._pool_bytes),
            tensors=tensors,
            states=self._states,
            upstream=self._upstream,
        )

    def _parent_of(self, tables: dict[str, Table], step: int) -> Parent:
        reader = open_snapshot(self._parent or "")
        found = reader.manifest.step
        if found >= step:
            raise ValueError(f"{reader.files.url}: a delta of step {step} must be of a later step")
        for name, table in tables.items():
            if table.known_since != reader.checksum:
                raise MismatchError(
                    f"table {name!r}: what changed since {reader.files.url} is not known: this "
                    "process has neither saved nor loaded it with track=True, or has saved "
                    "another since. Save a full snapshot (parent=None, track=True)"
                )
        return Parent(found, reader.checksum)


class SaveHandle:
    """A snapshot that is being written."""

    def __init__(self, save: _Save) -> None:
        self._save = save
        self._path: str | None = None
        self._error: BaseException | None = None
        # No daemon: a process that ends finishes its snapshot first.
        self._thread = threading.Thread(target=self._run, name="recis-save")
        self._thread.start()

    def _run(self) -> None:
        _engine.enter_background()  # training goes first
        try:
            self._path = self._save.run()
        except BaseException as error:
            logger.warning("a snapshot was not saved: %s: %s", type(error).__name__, error)
            self._error = error

    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return not self._thread.is_alive()

    def wait(self) -> str:
        """Returns the path or URL of the snapshot once it survives a crash.

        Raises:
            OSError, RuntimeError: it could not be written; every call raises it.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._path is not None
        return self._path


class _Save:
    """A snapshot of a moment that has been held."""

    def __init__(
        self,
        path: str,
        step: int,
        shards: Shards,
        parallel: int,
        parent: Parent | None,
        track: bool,
        cuts: dict[str, tuple[Table, _engine.Cut, dict[str, tuple[Any, ...]]]],
        tensors: dict[str, Tensor],
        states: dict[str, Any],
        upstream: UpstreamTarget | None,
    ) -> None:
        self._path = path
        self._upstream = upstream
        self._written_bytes = 0
        self._step = step
        self._shards = shards
        self._parallel = parallel
        self._parent = parent
        self._track = track
        self._cuts = cuts
        try:
            # Training changes them meanwhile.
            self._tensors = {name: t.detach().cpu().clone() for name, t in tensors.items()}
            self._states = _copied(states)
        except BaseException:
            self._abandon()
            raise

    def run(self) -> str:
        started = time.monotonic()
        try:
            if self._upstream is not None:
                path, checksum = self._upstream.save(self._shards, self._step, self._write), ""
            else:
                path, checksum = self._shards.save(self._path, self._step, self._write)
        except BaseException:
            SNAPSHOTS.add(failures=1)
            self._abandon()
            raise
        SNAPSHOTS.add(
            saves=1, written_bytes=self._written_bytes, seconds=time.monotonic() - started
        )
        for table, cut, _ in self._cuts.values():
            cut.close()
            table.track(self._track)
            table.known_since = checksum if self._track else None
        return path

    def _abandon(self) -> None:
        for _, cut, _ in self._cuts.values():
            cut.abandon()

    def _write(self, draft: Draft) -> Manifest:
        """Writes this shard and returns what the manifest says of it."""
        if self._shards.index == 0:
            clean_drafts(self._path)  # not this one, in which other shards may be already
        tables = {name: self._write_table(draft, name) for name in self._cuts}
        dense: list[StateFile] = []
        if self._shards.index == 0 and self._tensors:
            dense.append(write_tensors(draft, f"dense/{MODEL}.safetensors", self._tensors))
        for name, state in self._states.items():
            dense.append(write_state(draft, f"dense/{name}.state", state))
        manifest = Manifest(
            step=self._step,
            tables=tables,
            world_size=self._shards.count,
            parent=self._parent,
            dense=tuple(sorted(dense, key=lambda file: file.path)),
        )
        self._written_bytes = sum(file.bytes for file in manifest.files())
        return manifest

    def _write_table(self, draft: Draft, name: str) -> TableInfo:
        table, cut, policies = self._cuts[name]
        index, count = self._shards.index, self._shards.count
        size = table.slice.slice_size
        part = gen_slice(index, count, size)
        about = TableInfo(
            slots=slots_of(cut),
            slice_size=size,
            rows=0,
            children=tuple(table.children),
            coalesced=table.coalesced,
            info=table.info,
        )
        if policies:
            file = write_state(draft, policies_path(name, index, count), policies, index, count)
            about = TableInfo(**{**vars(about), "policies": (file,)})
        return write_table(
            draft,
            cut,
            name,
            about,
            shard=index,
            shards=count,
            slices=(part.slice_begin, part.slice_end),
            delta=self._parent is not None,
            parallel=self._parallel,
        )


def _take_cuts(
    tables: dict[str, Table], delta: bool, track: bool, pool_bytes: int
) -> dict[str, tuple[Table, _engine.Cut, dict[str, tuple[Any, ...]]]]:
    """The moment of each table, and what its hooks know then."""
    cuts: dict[str, tuple[Table, _engine.Cut, dict[str, tuple[Any, ...]]]] = {}
    try:
        for name, table in tables.items():
            if track:
                table.track()
            policies = _copied(table.policies.of(name))
            cuts[name] = (table, table.cut(delta=delta, pool_bytes=pool_bytes), policies)
    except BaseException:
        for _, cut, _ in cuts.values():
            cut.abandon()
        raise
    return cuts


def _copied(value: Any) -> Any:
    """Nested values whose tensors nobody else changes."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_copied(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value
