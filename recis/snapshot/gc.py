"""Removing snapshots that are not needed any more."""

from __future__ import annotations

import os
import secrets
import shutil

from recis.snapshot.errors import SnapshotError
from recis.snapshot.files import is_remote, local_path
from recis.snapshot.names import DRAFT_PREFIX, step_name
from recis.snapshot.publish import clean_drafts, steps, sync
from recis.snapshot.read import open_snapshot
from recis.snapshot.verify import Level, verify


def collect_garbage(
    root: str | os.PathLike[str], keep: int, *, level: Level = "quick", dry_run: bool = False
) -> list[str]:
    """Removes all but the newest snapshots of a local directory, and what cut-short saves left.

    Kept beyond those are the newest one that is whole, if none of them is, and all that a kept
    delta needs.

    Args:
        root: the directory.
        keep: how many are kept, at least one.
        level: how "whole" is decided; see `verify`.
        dry_run: whether to remove nothing.

    Returns:
        The names of what was removed, oldest first.

    Raises:
        ValueError: `keep` is less than one, or the directory is not local.
        OSError: something could not be removed.
    """
    if keep < 1:
        raise ValueError(f"at least one snapshot is kept, asked to keep {keep}")
    root = os.fspath(root)
    if is_remote(root):
        raise ValueError(f"{root}: only snapshots in a local directory are removed")
    root = os.path.abspath(local_path(root))
    found = steps(root)
    kept = set(found[-keep:])
    for step in reversed(found):
        whole = _whole(root, step, level)
        if whole:
            kept.add(step)
        if whole and len(kept) >= min(keep, len(found)):
            break
    for step in sorted(kept):
        kept |= _chain(root, step)
    gone = [step_name(step) for step in found if step not in kept]
    if dry_run:
        return gone
    for name in gone:
        # It goes at once for readers, whenever its files do.
        hidden = os.path.join(root, f"{DRAFT_PREFIX}gone-{name}-{secrets.token_hex(8)}")
        os.rename(os.path.join(root, name), hidden)
        sync(root)
        shutil.rmtree(hidden)
    return gone + clean_drafts(root)


def _whole(root: str, step: int, level: Level) -> bool:
    try:
        return not verify(os.path.join(root, step_name(step)), level)
    except (SnapshotError, OSError):
        return False


def _chain(root: str, step: int) -> set[int]:
    """The snapshots that one is a delta to; none that can be known of a damaged one."""
    try:
        reader = open_snapshot(os.path.join(root, step_name(step)))
    except (SnapshotError, OSError):
        return set()
    return {link.manifest.step for link in reader.chain}
