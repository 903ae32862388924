"""Saving in RecIS 1.0's layout: by way of a snapshot, which all shards write as any other."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

from recis.serialize.shards import Shards
from recis.snapshot.manifest import Manifest
from recis.snapshot.names import DRAFT_PREFIX
from recis.snapshot.publish import Draft
from recis.snapshot.read import open_snapshot
from recis.snapshot.upstream.exporting import export_snapshot
from recis.snapshot.upstream.read import is_upstream
from recis.snapshot.upstream.write import check_free


class UpstreamTarget:
    """A checkpoint that will be at `path`, with up to `parallel` data files a shard."""

    def __init__(self, path: str | os.PathLike[str], parallel: int) -> None:
        self._path = check_free(path)
        self._parallel = parallel
        folder, name = os.path.split(self._path)
        self.root = os.path.join(folder, f"{DRAFT_PREFIX}{name}-snapshot")
        """Where the snapshot is made; the same for all shards."""

    def check(self) -> None:
        """Raises FileExistsError if there is something at the path."""
        check_free(self._path)

    def save(self, shards: Shards, step: int, write: Callable[[Draft], Manifest]) -> str:
        """Has a shard written, and makes the checkpoint once all are; returns its path."""
        # Without a group nobody knows what others have begun.
        owner = shards.count == 1 or (shards.grouped and shards.index == 0)
        try:
            if owner:
                self._drop()  # of a save that was cut short
            shards.save(self.root, step, write, self._publish)
        except BaseException:
            if owner:
                self._drop()
            raise
        return self._path

    def _publish(self, draft: Draft, manifest: Manifest) -> None:
        try:
            snapshot = draft.publish(manifest)
        except (FileExistsError, FileNotFoundError):
            if is_upstream(self._path):
                return  # two shards were the last, and the other has been faster
            raise
        try:
            export_snapshot(open_snapshot(snapshot), self._path, parallel=self._parallel)
        finally:
            self._drop()

    def _drop(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
