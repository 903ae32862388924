"""How the processes that save one snapshot together agree on it."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from typing import Any

import torch.distributed as dist

from recis._collectives import collective, gloo_beside
from recis.snapshot.errors import SnapshotError
from recis.snapshot.files import is_remote, open_files
from recis.snapshot.manifest import (
    FileInfo,
    Manifest,
    Parent,
    SlotInfo,
    StateFile,
    TableInfo,
    read_manifest,
)
from recis.snapshot.names import DRAFT_PREFIX, MANIFEST, step_name
from recis.snapshot.publish import Draft, write_bytes


class Shards:
    """One of `count` shards.

    With a process group of as many processes, all agree by collectives that run whatever
    happens to any of them, and rank 0 publishes; making one is a collective, too. Without, each
    leaves a report in the draft that they share, and the one that finds all reports publishes.
    """

    def __init__(self, index: int, count: int) -> None:
        self.index = index
        self.count = count
        self.grouped = (
            count > 1 and dist.is_available() and dist.is_initialized()
            and dist.get_world_size() == count
        )  # fmt: skip
        self._group = _own_group() if self.grouped else None

    def check_same(self, what: str, value: object) -> None:
        """Raises SnapshotError unless all processes of the group have found the same."""
        if self.grouped:
            found: list[Any] = [None] * self.count
            with collective(f"{what}: the workers cannot compare it", SnapshotError):
                dist.all_gather_object(found, value, group=self._group)
            if found != [value] * self.count:
                raise SnapshotError(f"{what}: the workers have found {found}")

    def save(
        self,
        root: str,
        step: int,
        write: Callable[[Draft], Manifest],
        publish: Callable[[Draft, Manifest], object] = Draft.publish,
    ) -> tuple[str, str]:
        """Has a shard written into a draft, and publishes the snapshot once all are.

        Args:
            root: the directory of snapshots.
            step: of the snapshot.
            write: writes this shard and returns the manifest of a snapshot that has no other.
            publish: what one process does with all of them.

        Returns:
            Its path and the checksum of its manifest, "" if another process will publish it.

        Raises:
            ValueError: shards without a process group cannot agree at a URL.
            SnapshotError: another shard failed, or is lost: nothing was published, unless the
                message says that it may have been.
        """
        if self.grouped:
            return self._save_together(root, step, write, publish)
        if self.count > 1:
            return self._save_apart(root, step, write, publish)
        with Draft(root, step) as draft:
            manifest = write(draft)
            publish(draft, manifest)
            return f"{draft.root}/{step_name(step)}", Manifest.checksum(manifest.to_bytes())

    def _save_together(
        self,
        root: str,
        step: int,
        write: Callable[[Draft], Manifest],
        publish: Callable[[Draft, Manifest], object],
    ) -> tuple[str, str]:
        token = [secrets.token_hex(8)]
        with collective(f"{root}: step {step} was not saved", SnapshotError):
            dist.broadcast_object_list(token, src=0, group=self._group)
        name = f"{DRAFT_PREFIX}{step_name(step)}-{token[0]}"
        error: BaseException | None = None
        path, whole = "", None
        report: dict[str, Any] = {"shard": self.index}
        with ExitStack() as stack:
            try:
                draft = Draft(root, step, name=name, owner=self.index == 0)
                stack.enter_context(draft)
                path = f"{draft.root}/{step_name(step)}"
                report["manifest"] = write(draft)
                draft.sync()
            except BaseException as failure:
                error = failure
                report["error"] = f"{type(failure).__name__}: {failure}"
            reports: list[Any] = [None] * self.count
            with collective(f"{root}: step {step} was not saved", SnapshotError):
                dist.all_gather_object(reports, report, group=self._group)
            failed = [f"shard {r['shard']}: {r['error']}" for r in reports if "error" in r]
            outcome: list[Any] = ["; ".join(failed) or None]
            if not failed:
                whole = _merge([r["manifest"] for r in reports])
                if self.index == 0:
                    try:
                        publish(draft, whole)
                    except BaseException as failure:
                        error = failure
                        outcome = [f"shard 0: {type(failure).__name__}: {failure}"]
            with collective(f"{root}: step {step} may have been saved", SnapshotError):
                dist.broadcast_object_list(outcome, src=0, group=self._group)
        if error is not None:
            raise error
        if outcome[0] is not None or whole is None:
            raise SnapshotError(f"{path} was not published: {outcome[0]}")
        return path, Manifest.checksum(whole.to_bytes())

    def _save_apart(
        self,
        root: str,
        step: int,
        write: Callable[[Draft], Manifest],
        publish: Callable[[Draft, Manifest], object],
    ) -> tuple[str, str]:
        if is_remote(os.fspath(root)):
            raise ValueError(
                f"{root}: shards that are saved without a process group find one another by files "
                "in a local directory: call torch.distributed.init_process_group first, or save "
                "into a directory that all of them share"
            )
        name = f"{DRAFT_PREFIX}{step_name(step)}-shards"
        # Others may still be writing when this process is done: it does not own the draft.
        with (
            Draft(root, step, name=name, owner=False) as draft,
            # Beside it: should publishing fail, what the others said is still needed.
            Draft(root, step, name=f"{name}-reports", owner=False) as told,
        ):
            path = f"{draft.root}/{step_name(step)}"
            report = told.path(_report(self.index))
            with suppress(FileNotFoundError):
                os.unlink(report)  # of an earlier save, cut short
            manifest = write(draft)
            draft.sync()
            write_bytes(f"{report}.new", json.dumps(asdict(manifest)).encode())
            os.rename(f"{report}.new", report)
            reports = []
            for shard in range(self.count):
                try:
                    with open(told.path(_report(shard)), encoding="ascii") as file:
                        reports.append(_from_report(json.load(file)))
                except FileNotFoundError:
                    return path, ""  # another will be the last
            whole = _merge(reports)
            try:
                publish(draft, whole)
            except (FileExistsError, FileNotFoundError):
                # Two were the last.
                files = open_files(path)
                if not files.exists(MANIFEST) or read_manifest(files)[0] != whole:
                    raise
            except BaseException:
                with suppress(OSError):  # nobody is to publish before this is saved again
                    os.unlink(report)
                raise
            told.owner = True  # drops the reports
            return path, Manifest.checksum(whole.to_bytes())


def _report(shard: int) -> str:
    return f"shard-{shard:05d}.json"


_groups: list[Any] = []  # the default group, and that of saves beside it


def _own_group() -> Any:
    """A group for saves alone: training may use the others at the same time."""
    world = dist.group.WORLD
    if not _groups or _groups[0] is not world:
        _groups[:] = [world, gloo_beside(world)]
    return _groups[1]


def _merge(manifests: list[Manifest]) -> Manifest:
    """The manifest of a snapshot, of those of its shards in their order."""
    tables = {}
    for name in manifests[0].tables:
        parts = [manifest.tables[name] for manifest in manifests]
        tables[name] = replace(
            parts[0],
            rows=sum(part.rows for part in parts),
            deleted=sum(part.deleted for part in parts),
            files=tuple(
                sorted(
                    (file for part in parts for file in part.files),
                    key=lambda file: (file.slice_begin, file.slice_end, file.kind),
                )
            ),
            policies=tuple(file for part in parts for file in part.policies),
        )
    dense = sorted((file for m in manifests for file in m.dense), key=lambda file: file.path)
    return replace(manifests[0], tables=tables, dense=tuple(dense))


def _from_report(report: dict[str, Any]) -> Manifest:
    tables = {
        name: TableInfo(
            **{
                **table,
                "slots": tuple(
                    SlotInfo(**{**slot, "shape": tuple(slot["shape"])}) for slot in table["slots"]
                ),
                "children": tuple(table["children"]),
                "files": tuple(FileInfo(**file) for file in table["files"]),
                "policies": tuple(StateFile(**file) for file in table["policies"]),
            }
        )
        for name, table in report["tables"].items()
    }
    parent = report["parent"]
    return Manifest(
        **{
            **report,
            "tables": tables,
            "parent": None if parent is None else Parent(**parent),
            "dense": tuple(StateFile(**file) for file in report["dense"]),
            "requires": tuple(report["requires"]),
        }
    )
