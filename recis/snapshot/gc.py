"""Removing snapshots that are not needed any more."""

from __future__ import annotations

import os
import secrets

from recis.snapshot.errors import SnapshotError
from recis.snapshot.files import is_remote, local_path, open_files
from recis.snapshot.names import DRAFT_PREFIX, step_name
from recis.snapshot.publish import clean_drafts, remove_tree, steps, sync
from recis.snapshot.read import read_chain
from recis.snapshot.verify import Level, verify


def collect_garbage(
    root: str | os.PathLike[str], keep: int, *, level: Level = "full", dry_run: bool = False
) -> list[str]:
    """Removes the oldest snapshots of a local directory, and drafts that nobody is writing.

    The newest snapshot that is whole always stays, and so do the parents of those that stay.
    If none is whole, all stay.

    Args:
        root: the directory.
        keep: how many of the newest stay, at least one.
        level: of `verify`, by which a snapshot is found to be whole.
        dry_run: whether to remove nothing.

    Returns:
        The names of what was, or would be, removed.

    Raises:
        ValueError: `keep` is less than one, or the directory is not local.
        FileNotFoundError: there is no such directory.
        OSError: something could not be removed.
    """
    if keep < 1:
        raise ValueError(f"at least one snapshot must be kept, asked to keep {keep}")
    if is_remote(os.fspath(root)):
        raise ValueError(f"{root}: snapshots are only removed from a local directory")
    root = os.path.abspath(local_path(root))
    if not os.path.isdir(root):
        raise FileNotFoundError(f"{root}: there is no such directory")
    found = steps(root)
    kept = set(found[-keep:])
    whole = next((step for step in reversed(found) if _is_whole(root, step, level)), None)
    kept |= set(found) if whole is None else {whole}
    for step in tuple(kept):
        kept |= _parents(root, step)
    # A delta goes before its parents: whatever cuts this short, what is left can be read.
    gone = [step_name(step) for step in reversed(found) if step not in kept]
    if dry_run:
        return gone + [n for n in open_files(root).list() if n.startswith(DRAFT_PREFIX)]
    for name in gone:
        hidden = os.path.join(root, f"{DRAFT_PREFIX}gone-{secrets.token_hex(8)}")
        os.rename(os.path.join(root, name), hidden)  # out of readers' sight at once
        sync(root)  # and for good: with files missing it would be damaged
        remove_tree(hidden)
    return gone + clean_drafts(root)


def _is_whole(root: str, step: int, level: Level) -> bool:
    try:
        return not verify(f"{root}/{step_name(step)}", level)
    except (SnapshotError, OSError):
        return False


def _parents(root: str, step: int) -> set[int]:
    """The steps that a snapshot stands on, as far as manifests can be read."""
    found = set()
    try:
        for _, manifest, _ in read_chain(root, step):
            found.add(manifest.step)
            if manifest.parent is not None:
                found.add(manifest.parent.step)
    except (SnapshotError, OSError):
        pass
    return found
