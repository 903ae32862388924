"""How the processes that save one snapshot together agree on it."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch.distributed as dist

from recis.snapshot.errors import SnapshotError
from recis.snapshot.files import open_files
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
from recis.snapshot.publish import Draft


class Shards:
    """One of `count` shards.

    With a process group of as many processes, all agree by collectives that run whatever
    happens to any of them, and rank 0 publishes. Without, each leaves a report in the draft that
    they share, and the one that finds all reports there publishes.
    """

    def __init__(self, index: int, count: int) -> None:
        self.index = index
        self.count = count
        self._grouped = (
            count > 1 and dist.is_available() and dist.is_initialized()
            and dist.get_world_size() == count
        )  # fmt: skip

    @property
    def publishes(self) -> bool:
        """Whether this process looks after the directory."""
        return self.index == 0

    def draft(self, root: str, step: int) -> Draft:
        """The draft of this save; the same one for all shards."""
        if self.count == 1:
            return Draft(root, step)
        name = f"{DRAFT_PREFIX}{step_name(step)}-shards"
        if self._grouped:
            token = [secrets.token_hex(8)]
            dist.broadcast_object_list(token, src=0)
            name = f"{DRAFT_PREFIX}{step_name(step)}-{token[0]}"
        # Others may still be writing when this process is done.
        return Draft(root, step, name=name, owner=self._grouped and self.index == 0)

    def finish(self, draft: Draft, write: Callable[[], Manifest]) -> tuple[str, str]:
        """Writes a shard and publishes the snapshot; returns its path and checksum.

        Raises:
            SnapshotError: another shard failed: nothing was published.
        """
        if self.count == 1:
            manifest = write()
            return draft.publish(manifest), Manifest.checksum(manifest.to_bytes())
        return self._finish_grouped(draft, write) if self._grouped else self._finish(draft, write)

    def _finish_grouped(self, draft: Draft, write: Callable[[], Manifest]) -> tuple[str, str]:
        error: BaseException | None = None
        report: dict[str, Any] = {"shard": self.index}
        try:
            manifest = write()
            draft.sync()
            report["manifest"] = manifest
        except BaseException as failure:
            error = failure
            report["error"] = f"{type(failure).__name__}: {failure}"
        reports: list[Any] = [None] * self.count
        dist.all_gather_object(reports, report)
        failed = [f"shard {r['shard']}: {r['error']}" for r in reports if "error" in r]
        outcome: list[Any] = ["; ".join(failed) or None]
        path = f"{draft.root}/{step_name(draft.step)}"
        whole = None if failed else _merge([r["manifest"] for r in reports])
        if self.index == 0 and whole is not None:
            try:
                path = draft.publish(whole)
            except BaseException as failure:
                error = failure
                outcome = [f"shard 0: {type(failure).__name__}: {failure}"]
        dist.broadcast_object_list(outcome, src=0)
        if error is not None:
            raise error
        if outcome[0] is not None or whole is None:
            raise SnapshotError(f"{path} was not published: {outcome[0]}")
        return path, Manifest.checksum(whole.to_bytes())

    def _finish(self, draft: Draft, write: Callable[[], Manifest]) -> tuple[str, str]:
        manifest = write()
        draft.sync()
        report = draft.path(f"shard-{self.index:05d}.json")
        with open(f"{report}.new", "w", encoding="ascii") as file:
            json.dump(asdict(manifest), file)
        os.rename(f"{report}.new", report)
        reports = []
        for shard in range(self.count):
            try:
                with open(draft.path(f"shard-{shard:05d}.json"), encoding="ascii") as file:
                    reports.append(_from_report(json.load(file)))
            except FileNotFoundError:
                return f"{draft.root}/{step_name(draft.step)}", ""  # another will be the last
        whole = _merge(reports)
        try:
            path = draft.publish(whole)
        except (FileExistsError, FileNotFoundError):
            # Two were the last.
            path = f"{draft.root}/{step_name(draft.step)}"
            files = open_files(path)
            if not files.exists(MANIFEST) or read_manifest(files)[0] != whole:
                raise
        return path, Manifest.checksum(whole.to_bytes())


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
    return replace(manifests[0], tables=tables)


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
