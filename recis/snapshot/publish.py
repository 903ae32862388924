"""Making a snapshot visible: all of it or nothing, and for good.

A crash at any moment leaves the snapshots there were, and perhaps a draft that nobody reads. Only
this file knows what has to be synced, and in which order.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from recis.snapshot.errors import DamagedError, SnapshotError
from recis.snapshot.files import file_system, is_remote, local_path, open_files
from recis.snapshot.manifest import FORMAT_NAME, MAJOR, Manifest, read_manifest
from recis.snapshot.names import (
    DRAFT_PREFIX,
    FORMAT,
    LATEST,
    MANIFEST,
    MANIFEST_CHECKSUM,
    parse_step,
    step_name,
)

logger = logging.getLogger(__name__)

_FORMAT_TEXT = json.dumps({"format": FORMAT_NAME, "major": MAJOR}) + "\n"


class Draft:
    """A snapshot in the making. Leaving its context without `publish` drops it.

    For a URL the files are made in a temporary directory of this machine, then uploaded.

    Args:
        root: the directory of snapshots, local or an fsspec URL; made if it is not there.
        step: of the snapshot.
        name: of the draft, where several processes write one; default, one of its own.
        owner: whether this process publishes it, or else drops it.

    Raises:
        FileExistsError: there is a snapshot of this step.
        SnapshotError: a later version of recis wrote the directory.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        step: int,
        name: str | None = None,
        owner: bool = True,
    ) -> None:
        self.root = os.fspath(root).rstrip("/") or "/"
        self.step = step
        self.owner = owner
        self._system: Any = None
        self._lock: int | None = None
        if open_files(self.root).exists(f"{step_name(step)}/{MANIFEST}"):
            raise FileExistsError(self._taken())
        if is_remote(self.root):
            self._system, self._target = file_system(f"{self.root}/{step_name(step)}")
            self._folder = tempfile.mkdtemp(prefix="recis-snapshot-")
            return
        self.root = os.path.abspath(local_path(self.root))
        make_root(self.root)
        unique = f"{DRAFT_PREFIX}{step_name(step)}-{secrets.token_hex(8)}"
        self._folder = os.path.join(self.root, name or unique)
        self._lock = _make_locked(self._folder)

    def path(self, relative: str) -> str:
        """Where to write a file that will be at `relative` inside the snapshot."""
        found = os.path.join(self._folder, relative)
        os.makedirs(os.path.dirname(found), exist_ok=True)
        return found

    def sync(self) -> None:
        """Makes what this process wrote durable; `publish` does it for its own."""
        for folder, _, files in os.walk(self._folder, topdown=False):
            for file in files:
                path = os.path.join(folder, file)
                if self._system is None:
                    sync(path)
                else:
                    relative = os.path.relpath(path, self._folder)
                    self._upload(path, relative)
            if self._system is None:
                sync(folder)

    def publish(self, manifest: Manifest) -> str:
        """Makes the snapshot visible, durably, and returns its path or URL.

        Raises:
            FileExistsError: there is one of this step by now; nothing has changed.
            ValueError: it is one that readers refuse, such as of too many files; nothing has
                changed.
            OSError: it cannot be written; nothing has changed.
        """
        data = manifest.to_bytes()
        try:
            Manifest.from_bytes(data, MANIFEST)
        except DamagedError as error:
            raise ValueError(
                f"{self.root}: nobody could read such a snapshot: expected {error.expected}, found "
                f"{error.found}"
            ) from None
        named = {file.path for file in manifest.files()}
        for folder, _, files in os.walk(self._folder):
            for file in files:
                path = os.path.join(folder, file)
                if os.path.relpath(path, self._folder) not in named:
                    os.unlink(path)
        self.sync()
        for name, content in [
            (MANIFEST_CHECKSUM, f"{Manifest.checksum(data)}\n".encode()),
            (MANIFEST, data),
        ]:
            path = self.path(name)
            write_bytes(path, content)
            if self._system is not None:
                self._upload(path, name)
            else:
                sync(path)
        if self._system is None:
            sync(self._folder)
            self._rename()
        self._point(step_name(self.step))
        return f"{self.root}/{step_name(self.step)}"

    def _upload(self, path: str, relative: str) -> None:
        target = f"{self._target}/{relative}"
        self._system.makedirs(target.rpartition("/")[0], exist_ok=True)
        self._system.put_file(path, target)

    def _rename(self) -> None:
        target = os.path.join(self.root, step_name(self.step))
        try:
            # It never replaces a directory that holds something, as every snapshot does.
            os.rename(self._folder, target)
        except (FileExistsError, NotADirectoryError):
            raise FileExistsError(self._taken()) from None
        except OSError as error:
            if os.path.exists(target):
                raise FileExistsError(self._taken()) from None
            raise error
        try:
            sync(self.root)
        except OSError:
            # It may not survive a crash, so it is not to be seen, and can be saved again.
            os.rename(target, self._folder)
            raise

    def _point(self, name: str) -> None:
        """Moves `latest`. It is only a hint, and the snapshot is there: no reason to fail."""
        try:
            if self._system is not None:
                folder = self._target.rpartition("/")[0]
                self._system.pipe_file(f"{folder}/{LATEST}", f"{name}\n".encode())
                return
            _replace(self.root, LATEST, f"{name}\n".encode())
        except OSError as error:
            logger.warning("%s: cannot move %r to %s: %s", self.root, LATEST, name, error)

    def _taken(self) -> str:
        return (
            f"{self.root} has a snapshot of step {self.step} already, which was not changed: save "
            "as another step, or delete it first"
        )

    def __enter__(self) -> Draft:
        """The draft itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Drops what was not published."""
        if self.owner or self._system is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)


def make_root(root: str) -> None:
    """Makes a local directory for snapshots, or checks the one there is.

    Raises:
        SnapshotError: a later version of recis wrote it, or it is something else's.
    """
    missing = []
    folder = root
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    os.makedirs(root, exist_ok=True)
    for folder in missing:
        sync(os.path.dirname(folder))
    path = os.path.join(root, FORMAT)
    if not os.path.exists(path):
        _replace(root, FORMAT, _FORMAT_TEXT.encode())  # whoever else does so writes the same
    with open(path, encoding="ascii", errors="replace") as file:
        found = file.read(1000)
    if found != _FORMAT_TEXT:
        raise SnapshotError(
            f"{path}: expected {_FORMAT_TEXT.strip()}, found {found.strip()[:100]!r}: a later "
            "recis wrote this directory, or it is no directory of snapshots. Choose another"
        )


def steps(root: str | os.PathLike[str]) -> list[int]:
    """The steps of which there is a snapshot, damaged or not, ascending."""
    files = open_files(root)
    found = {step for name in files.list() if (step := parse_step(name)) is not None}
    if not found and files.exists(LATEST):  # some systems cannot list
        hint = files.read(LATEST, 0, min(files.size(LATEST), 100)).decode("ascii", "replace")
        found = {step for step in [parse_step(hint.strip())] if step is not None}
    return [step for step in sorted(found) if files.exists(f"{step_name(step)}/{MANIFEST}")]


def newest(root: str | os.PathLike[str]) -> int | None:
    """The greatest step whose manifest is whole; None if there is none."""
    for step in reversed(steps(root)):
        try:
            read_manifest(open_files(f"{os.fspath(root)}/{step_name(step)}"))
        except (SnapshotError, FileNotFoundError) as error:
            logger.warning("%s", error)
        else:
            return step
    return None


def clean_drafts(root: str | os.PathLike[str]) -> list[str]:
    """Removes what saves that were cut short left in a local directory; returns the names.

    Drafts that a process is still writing stay.
    """
    removed = []
    folder = local_path(root)
    for name in open_files(folder).list():
        path = os.path.join(folder, name)
        if not name.startswith(DRAFT_PREFIX) or os.path.islink(path):
            continue
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.isdir(path):
                remove_tree(path)
            else:
                os.unlink(path)
            removed.append(name)
        except (BlockingIOError, FileNotFoundError):
            pass  # in use, or published meanwhile
        finally:
            os.close(handle)
    return removed


def _make_locked(folder: str) -> int:
    """A directory that `clean_drafts` lets be while this process has it open."""
    while True:
        os.makedirs(folder, exist_ok=True)
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        fcntl.flock(handle, fcntl.LOCK_SH)
        try:
            if os.path.samestat(os.fstat(handle), os.stat(folder)):
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)  # cleaned away before it was locked


def _replace(root: str, name: str, data: bytes) -> None:
    """Makes a file of this content in a directory, or in the place of another, durably."""
    draft = os.path.join(root, f"{DRAFT_PREFIX}{name}-{secrets.token_hex(8)}")
    while True:
        with named(draft), open(draft, "wb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            if not os.path.exists(draft):
                continue  # cleaned away before it was locked
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.rename(draft, os.path.join(root, name))
        sync(root)
        return


def write_bytes(path: str, data: bytes | bytearray) -> None:
    """Makes a file of this content, or gives it to one; `sync` makes it durable."""
    with named(path), open(path, "wb") as file:
        file.write(data)


def sync(path: str) -> None:
    """Makes the names in a directory, or the content of a file, durable."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with named(path):
            os.fsync(handle)
    finally:
        os.close(handle)


def remove_tree(path: str) -> None:
    """Removes a directory with all that is in it."""
    with named(path):
        shutil.rmtree(path)


@contextmanager
def named(path: str) -> Iterator[None]:
    """Has errors of calls on what is open name the path that it was opened by."""
    try:
        yield
    except OSError as error:
        if not os.path.isabs(str(error.filename or "")):  # or a name in an open directory
            error.filename = path
        raise
