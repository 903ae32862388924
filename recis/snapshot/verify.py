"""Finding all that is wrong with a snapshot."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Literal, NamedTuple

import torch

from recis.snapshot.errors import DamagedError, MismatchError
from recis.snapshot.manifest import FileInfo, StateFile
from recis.snapshot.publish import steps
from recis.snapshot.read import SnapshotReader, check_follows, read_chain, split_url
from recis.snapshot.sparse_file import SparseFile
from recis.snapshot.upstream.read import is_upstream, open_upstream

Level = Literal["quick", "full", "deep"]


class Problem(NamedTuple):
    """Something that is not as it was written."""

    path: str
    """The file."""
    tensor: str | None
    """The tensor in it; None for the file as a whole."""
    slices: tuple[int, int] | None
    """The slices `[begin, end)` concerned; None for all."""
    found: str
    """What is there."""
    expected: str
    """What should be."""


def verify(
    url: str | os.PathLike[str],
    level: Level = "full",
    progress: Callable[[int, int], None] | None = None,
    *,
    finite: bool = False,
    parallel: int = 4,
) -> list[Problem]:
    """Looks at a snapshot, and at those it is a delta to, in bounded memory.

    Args:
        url: a snapshot, or a directory of them, whose newest is taken; or a checkpoint of
            RecIS 1.0. That has no checksums: "quick" holds its files against one another, "full"
            and "deep" look for ids that are there twice.
        level: "quick": manifests, sizes and headers. "full": every byte. "deep": also that ids
            are in order, in their slices, and nowhere twice.
        progress: called with `(bytes done, bytes in all)` as files are done.
        finite: whether values that are infinite or no number are problems too; not for "quick".
        parallel: how many files are read at once.

    Returns:
        All problems found; none if the snapshot is as it was written.

    Raises:
        FileNotFoundError: there is no snapshot.
        SnapshotError: a later version of recis wrote it.
    """
    if level not in ("quick", "full", "deep"):
        raise ValueError(f"level must be 'quick', 'full' or 'deep', found {level!r}")
    if is_upstream(url):
        return list(_verify_upstream(url, level, finite))
    root, own = split_url(url)
    step = own if own is not None else max(steps(root), default=None)
    if step is None:
        raise FileNotFoundError(f"{root}: there is no snapshot in it")
    problems: list[Problem] = []
    readers: list[SnapshotReader] = []
    try:
        for files, manifest, checksum in read_chain(root, step):
            if readers:
                check_follows(readers[-1].files, readers[-1].manifest, manifest)
            readers.append(SnapshotReader(files, manifest, checksum, []))
    except DamagedError as error:
        problems.append(_problem(error))
    total = sum(file.bytes for reader in readers for _, file in _files_of(reader))
    done = 0
    with ThreadPoolExecutor(max(1, parallel), "recis-verify") as pool:
        sizes: dict[Future[list[Problem]], int] = {}
        for reader in readers:
            for table, file in _files_of(reader):
                task = pool.submit(_verify_file, reader, table, file, level, finite)
                sizes[task] = file.bytes
        for task in as_completed(sizes):
            done += sizes[task]
            problems += task.result()
            if progress is not None:
                progress(done, total)
    return sorted(problems, key=lambda p: (p.path, p.tensor or "", p.slices or (0, 0)))


def _verify_upstream(url: str | os.PathLike[str], level: Level, finite: bool) -> Iterator[Problem]:
    try:
        reader = open_upstream(url)
    except DamagedError as error:
        yield _problem(error)
        return
    for name in reader.manifest.tables if level != "quick" else ():
        try:
            reader.check_ids(name)
            for rows in reader.read_rows(name) if finite else ():
                for slot, values in rows.slots.items():
                    if values.is_floating_point() and not bool(torch.isfinite(values).all()):
                        found = "infinite ones or no number"
                        yield Problem(
                            reader.files.url, f"{name}@{slot}", None, found, "finite values"
                        )
        except DamagedError as error:
            yield _problem(error)
        except MismatchError as error:
            yield Problem(reader.files.url, name, None, str(error), "parts with all slices")


def _problem(error: DamagedError) -> Problem:
    return Problem(error.path, error.tensor, error.slices, error.found, error.expected)


def _files_of(reader: SnapshotReader) -> Iterator[tuple[str, FileInfo | StateFile]]:
    for name, table in reader.manifest.tables.items():
        yield from ((name, file) for file in table.files)
        yield from ((name, file) for file in table.policies)
    yield from (("", file) for file in reader.manifest.dense)


def _verify_file(
    reader: SnapshotReader, table: str, info: FileInfo | StateFile, level: Level, finite: bool
) -> list[Problem]:
    try:
        if isinstance(info, StateFile):
            reader.check_size(info)
            if level != "quick":
                for _ in reader.read_pieces(info):
                    pass
            return []
        about = reader.table(table)
        # Not the reader's, which keeps what it opens.
        file = SparseFile(reader.files, table, info, about.slots, about.slice_size)
    except DamagedError as error:
        return [_problem(error)]
    if level == "quick":
        return []
    return [
        _problem(error)
        for tensor in file.columns()
        for error in _verify_groups(file, tensor, 0, file.groups(), level, finite)
    ]


def _verify_groups(
    file: SparseFile, tensor: str, first: int, last: int, level: Level, finite: bool
) -> list[DamagedError]:
    try:
        if first < last:
            _verify_tensor(file, tensor, first, last, level, finite)
    except DamagedError as error:
        if last - first == 1:
            return [error]
        return [
            found
            for group in range(first, last)
            for found in _verify_groups(file, tensor, group, group + 1, level, finite)
        ]
    return []


def _verify_tensor(
    file: SparseFile, tensor: str, first: int, last: int, level: Level, finite: bool
) -> None:
    """Raises DamagedError of the first group that is not what it should be."""
    if level == "deep" and tensor == "ids":
        file.verify_ids(first, last)
        return
    dtype = file.dtype(tensor)
    all_finite = True
    for _, piece in file.read_pieces(tensor, first, last):
        if finite and dtype.is_floating_point:
            all_finite &= bool(torch.isfinite(torch.from_numpy(piece).view(dtype)).all())
    if not all_finite:
        raise DamagedError(
            file.name,
            "finite values",
            "infinite ones or no number",
            tensor=tensor,
            slices=(file.group_slices(first)[0], file.group_slices(last - 1)[1]),
        )
