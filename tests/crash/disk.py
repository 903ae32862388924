"""How a disk may look after power fails, by the calls that were made."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from shim import Call

PIECE_BYTES = 512
"""What a disk writes whole or not at all."""

_ROOT = 0


class Change(NamedTuple):
    """What is on the disk whole or not at all."""

    node: int
    """The file, or the directory whose names change: until it is synced, this may be lost."""
    names: dict[str, int | None]
    """What they stand for from now on; for a file none."""
    offset: int
    data: bytes | None
    """What is written at the offset; None ends the file there."""


class Disk:
    """The calls below a directory that was empty before the first.

    Strict: POSIX promises no more than the syncs. Of what was not synced, any piece of a write, any
    truncation and any name may be there or not. Ordered: all is there but the last call, which may
    be done in part.
    """

    def __init__(self, root: Path, calls: Sequence[Call]) -> None:
        self._root = os.fspath(root)
        self._now: dict[int, dict[str, int]] = {_ROOT: {}}  # directories as the process sees them
        self._next = 1
        self._changes: list[list[Change]] = []
        self._synced: dict[int, list[int]] = {}  # by node, when
        for at, call in enumerate(calls):
            self._changes.append([])
            if not call.changed:
                continue
            if call.kind == "s":
                self._synced.setdefault(self._find(call.path), []).append(at)
            else:
                self._changes[at] = self._changes_of(call)

    def write(self, target: Path, count: int, strict: bool, random: Random) -> None:
        """Makes what may be there after the first `count` calls, in an empty directory."""
        chance = random.choice([0.0, 0.5, 0.9, 1.0]) if strict else 1.0
        names: dict[int, dict[str, int]] = {}
        content: dict[int, bytearray] = {}
        for at, changes in enumerate(self._changes[:count]):
            if not strict and at == count - 1:
                changes = changes[: random.randint(0, len(changes))]
            for change in changes:
                if self._lasts(change.node, at, count) or random.random() < chance:
                    _apply(change, names, content)
        self._make(target, _ROOT, names, content)

    def _lasts(self, node: int, at: int, count: int) -> bool:
        return any(at < sync < count for sync in self._synced.get(node, ()))

    def _make(
        self,
        path: Path,
        node: int,
        names: dict[int, dict[str, int]],
        content: dict[int, bytearray],
    ) -> None:
        if node not in self._now:
            path.write_bytes(content.get(node, b""))
            return
        path.mkdir(exist_ok=True)
        for name, child in names.get(node, {}).items():
            self._make(path / name, child, names, content)

    def _changes_of(self, call: Call) -> list[Change]:
        if call.kind == "w":
            return _pieces(self._find(call.path), call.offset, call.more)
        if call.kind == "t":
            return [Change(self._find(call.path), {}, call.offset, None)]
        folder, _, name = call.path.rpartition("/")
        node = self._find(folder)
        if call.kind == "r":
            target, _, new_name = os.fsdecode(call.more).rpartition("/")
            assert target == folder, "a rename to another directory: two would have to be synced"
            names = {name: None, new_name: self._now[node].pop(name)}
        elif call.kind in "ud":
            del self._now[node][name]
            names = {name: None}
        else:
            names = {name: self._next}
            if call.kind == "m":
                self._now[self._next] = {}
            self._next += 1
        self._now[node].update({name: found for name, found in names.items() if found is not None})
        return [Change(node, names, 0, None)]

    def _find(self, path: str) -> int:
        node = _ROOT
        for name in path.removeprefix(self._root).split("/")[1:]:
            node = self._now[node][name]
        return node


def _pieces(node: int, offset: int, data: bytes) -> list[Change]:
    ends = [*range(PIECE_BYTES - offset % PIECE_BYTES, len(data), PIECE_BYTES), len(data)]
    return [
        Change(node, {}, offset + begin, data[begin:end])
        for begin, end in zip([0, *ends], ends, strict=False)
    ]


def _apply(change: Change, names: dict[int, dict[str, int]], content: dict[int, bytearray]) -> None:
    if change.names:
        folder = names.setdefault(change.node, {})
        for name, node in change.names.items():
            folder.pop(name, None)
            if node is not None:
                folder[name] = node
        return
    found = content.setdefault(change.node, bytearray())
    end = change.offset + len(change.data or b"")
    found.extend(bytes(max(0, end - len(found))))
    if change.data is None:
        del found[end:]
    else:
        found[change.offset : end] = change.data
