"""Power fails behind any call of a life of snapshots, on a disk that promises little.

    LD_PRELOAD=shim.so python power.py FOLDER STATES

Makes that many states of the disk and looks at each: every snapshot that was acknowledged is there,
and every one that can be seen is what was saved. Prints, as JSON, how many calls there are and what
is wrong with which state.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import traceback
from pathlib import Path
from random import Random

import torch
from disk import Disk
from everywhere import OK, forked
from shim import arm, disarm, note, read_log
from workload import Workload, drafts

from recis.snapshot.gc import collect_garbage
from recis.snapshot.names import LATEST

KEPT = {3, 4}
STEPS = {1, 2, 3, 4}


def live(work: Workload, root: Path) -> None:
    """A full snapshot, a delta, shards, another delta, and the first two go."""
    for step, options in [(1, {}), (2, {"parent": 1}), (3, {"shards": 2}), (4, {"parent": 3})]:
        if step == 2:  # from now on it cannot be moved, and no sync of its own helps
            (root / LATEST).unlink()
            (root / LATEST).mkdir()
        work.train(step)
        work.expect(step)
        work.save(root, step, **options)
        note(step)
    note(0)
    collect_garbage(root, 1)


def needed(notes: list[int]) -> set[int]:
    """Steps that must be there after these notes."""
    return KEPT if 0 in notes else set(notes)


def tree(root: Path) -> dict[str, bytes | None]:
    """All names below a directory, with the content of files."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
    }


def main(place: str, states: str) -> None:
    torch.set_num_threads(1)
    logging.disable()  # that `latest` cannot be moved
    folder = Path(place)
    work, failures = Workload(), []
    (folder / "lived").mkdir()
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT, 0o600)
    arm(folder / "lived", log=log)
    live(work, folder / "lived/snapshots")
    disarm()
    calls = read_log((folder / "log").read_bytes())
    disk, random = Disk(folder / "lived", calls), Random(1)
    found = folder / "found"

    def make(count: int, strict: bool) -> Path:
        shutil.rmtree(found, ignore_errors=True)
        disk.write(found, count, strict, random)
        return found / "snapshots"

    make(len(calls) + 1, False)
    assert tree(found) == tree(folder / "lived"), "a call that changes files was not seen"
    for state in range(int(states)):
        strict, count = state % 2 == 0, random.randint(0, len(calls))
        root = make(count, strict)
        notes = [call.offset for call in calls[:count] if call.kind == "n"]
        try:
            work.check(root, needed(notes), STEPS)
            if state % 10 < 2:
                go_on(work, root)
        except Exception:
            name = "strict" if strict else "ordered"
            failures.append(f"state {state}, {name}, {count} calls: {traceback.format_exc()}")
    print(json.dumps({"calls": len(calls), "states": int(states), "failures": failures}))


def go_on(work: Workload, root: Path) -> None:
    """Saves one more and cleans up."""

    def child() -> None:
        work.expect(9)
        work.save(root, 9)
        collect_garbage(root, 1)
        work.check(root, {9}, {9})
        assert drafts(root) == []

    code, text = forked(child)
    assert code == OK, text


if __name__ == "__main__":
    main(*sys.argv[1:])
