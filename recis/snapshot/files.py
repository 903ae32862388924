"""Reading files of a local directory or of an fsspec URL, behind one face."""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from recis.snapshot.errors import DamagedError, SnapshotError

PIECE_BYTES = 4 << 20
"""Of a file, where it is read piece by piece."""

Bytes = np.ndarray[tuple[int], np.dtype[np.uint8]]


class Files(ABC):
    """The files below a directory. Threads may share one. Paths are relative, with "/"."""

    def __init__(self, url: str) -> None:
        self.url = url

    def name(self, path: str) -> str:
        """A path as errors show it."""
        return f"{self.url}/{path}" if path else self.url

    @abstractmethod
    def size(self, path: str) -> int:
        """Bytes of a file; FileNotFoundError if there is none."""

    @abstractmethod
    def read_into(self, path: str, offset: int, buffer: Any) -> None:
        """Fills a writable contiguous buffer with the bytes from an offset on.

        Raises:
            DamagedError: the file ends before, or is no regular file.
            FileNotFoundError: there is none.
        """

    @abstractmethod
    def list(self, path: str = "") -> list[str]:
        """Names in a directory, sorted; none if there is no such directory."""

    @abstractmethod
    def is_link(self, path: str) -> bool:
        """Whether a path leads to or through a symbolic link."""

    def read(self, path: str, offset: int, count: int) -> bytearray:
        """So many bytes from an offset on; raises as `read_into` does."""
        buffer = bytearray(count)
        self.read_into(path, offset, buffer)
        return buffer

    def read_pieces(self, path: str, offset: int, count: int) -> Iterator[Bytes]:
        """The same piece by piece, in memory that the next piece takes over."""
        buffer = np.empty(min(count, PIECE_BYTES), np.uint8)
        for done in range(0, count, PIECE_BYTES):
            piece = buffer[: count - done]
            self.read_into(path, offset + done, piece)
            yield piece

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        try:
            self.size(path)
        except FileNotFoundError:
            return False
        return True


class LocalFiles(Files):
    """Those of a local directory. Symbolic links below it are not followed."""

    def size(self, path: str) -> int:
        """Bytes of a file."""
        with self.open(path) as handle:
            return os.fstat(handle).st_size

    def read_into(self, path: str, offset: int, buffer: Any) -> None:
        """Fills a buffer."""
        view = memoryview(buffer).cast("B")
        done = 0
        with self.open(path) as handle:
            while done < len(view):
                count = os.preadv(handle, [view[done:]], offset + done)
                if count == 0:
                    raise DamagedError(
                        self.name(path),
                        f"at least {offset + len(view)} bytes",
                        f"{os.fstat(handle).st_size}",
                    )
                done += count

    def list(self, path: str = "") -> list[str]:
        """Names in a directory."""
        try:
            return sorted(os.listdir(os.path.join(self.url, path)))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def is_link(self, path: str) -> bool:
        """Whether a path leads to or through a symbolic link."""
        parts = path.split("/")
        return any(
            os.path.islink(os.path.join(self.url, *parts[: i + 1])) for i in range(len(parts))
        )

    @contextmanager
    def open(self, path: str) -> Iterator[int]:
        """A regular file, reached without following a link."""
        *folders, leaf = path.split("/")
        handle = os.open(self.url, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for folder in folders:
                handle = _step(handle, folder, os.O_DIRECTORY)
            # A pipe would otherwise wait for somebody to write.
            handle = _step(handle, leaf, os.O_NONBLOCK)
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise DamagedError(self.name(path), "a regular file", "something else")
            yield handle
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.name(path)}: there is no such file") from None
        except (NotADirectoryError, IsADirectoryError, OSError) as error:
            if self.is_link(path):
                raise DamagedError(self.name(path), "a file", "a symbolic link") from None
            if isinstance(error, NotADirectoryError | IsADirectoryError):
                raise DamagedError(self.name(path), "a file", str(error)) from None
            raise
        finally:
            os.close(handle)


def _step(handle: int, name: str, flags: int) -> int:
    """Opens an entry of an open directory, and closes that if it could."""
    found = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=handle)
    os.close(handle)
    return found


class RemoteFiles(Files):
    """Those below a URL that fsspec knows."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._system, self._root = file_system(url)

    def size(self, path: str) -> int:
        """Bytes of a file."""
        try:
            info = self._system.info(self._at(path))
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.name(path)}: there is no such file") from None
        if info["type"] != "file" or info.get("size") is None:
            raise FileNotFoundError(f"{self.name(path)}: no file of a known size")
        return int(info["size"])

    def read_into(self, path: str, offset: int, buffer: Any) -> None:
        """Fills a buffer."""
        view = memoryview(buffer).cast("B")
        if not len(view):
            return
        try:
            # By name: of s3fs, their places are others.
            data = self._system.cat_file(self._at(path), start=offset, end=offset + len(view))
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.name(path)}: there is no such file") from None
        if len(data) > len(view):
            raise SnapshotError(
                f"{self.name(path)}: asked for {len(view)} bytes from {offset} on, found "
                f"{len(data)}: what serves this URL must be able to give ranges of bytes. Copy "
                "the snapshot to a local directory"
            )
        if len(data) < len(view):
            raise DamagedError(
                self.name(path), f"{len(view)} bytes from {offset} on", f"{len(data)}"
            )
        view[:] = data

    def list(self, path: str = "") -> list[str]:
        """Names in a directory."""
        self._system.invalidate_cache()
        try:
            found = self._system.ls(self._at(path) if path else self._root, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted({name.rstrip("/").rpartition("/")[2] for name in found})

    def is_link(self, path: str) -> bool:
        """Never: object stores have none."""
        return False

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"


def is_remote(url: str) -> bool:
    """Whether fsspec is needed for it."""
    return "://" in url and not url.startswith("file://")


def local_path(url: str | os.PathLike[str]) -> str:
    """The path of a local directory, given so or as a `file://` URL."""
    return os.fspath(url).removeprefix("file://")


def open_files(url: str | os.PathLike[str]) -> Files:
    """The files below a local directory or an fsspec URL, such as `memory://run` or `s3://...`.

    Raises:
        SnapshotError: a package is missing; the message names it.
    """
    url = os.fspath(url)
    if is_remote(url):
        return RemoteFiles(url.rstrip("/"))
    return LocalFiles(os.path.abspath(local_path(url)))


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system for a URL, and the URL's path in it.

    Raises:
        SnapshotError: a package is missing; the message names it.
    """
    try:
        import fsspec  # type: ignore[import-untyped]

        system, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise SnapshotError(
            f"{url}: {error}. URLs need the package fsspec and the one of their protocol, for "
            "example `pip install fsspec s3fs` for s3://"
        ) from None
    return system, str(root).rstrip("/")
