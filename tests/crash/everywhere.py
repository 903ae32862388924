"""Has every call of an operation on snapshots go wrong in turn, in every way.

    LD_PRELOAD=shim.so python everywhere.py FOLDER OPERATION [EVERY]

After each, all that was acknowledged is there, nothing half made can be seen, and the operation
can be done again. EVERY 1 tries all calls; a larger one tries every so many, and the first of each
kind on each file. Prints, as JSON, for each fault how many calls can meet it, how many did, and
what went wrong then.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from recis_ckpt.main import app
from shim import FAULTS, HALFWAY, KILL, SHORT, Call, arm, calls, disarm, read_log
from typer.testing import CliRunner
from workload import Workload, drafts

from recis.snapshot.errors import SnapshotError
from recis.snapshot.publish import clean_drafts, steps

KILLED, OK, FAILED = 9, 0, 1
NEXT = 9
"""The step of a save that follows."""


class CommandError(Exception):
    """A command has said that it could not do it."""


class Operation(NamedTuple):
    """Something that is done to snapshots."""

    prepare: Callable[[Workload, Path], None]
    act: Callable[[Workload, Path], None]
    before: set[int]
    """Steps that must be there whatever happens."""
    extra: set[int]
    """Steps that may be there if it does not come to its end."""
    after: set[int]
    """Steps that are there once it has."""
    undone: bool = True
    """Whether an error means that nothing has changed."""
    root: str = "snapshots"


def _base(work: Workload, folder: Path) -> None:
    _save(work, folder, 1)
    work.train(2)
    work.expect(2)


def _store(work: Workload, folder: Path) -> None:
    _base(work, folder)
    work.put_into(_store_beside(folder))


def _store_beside(folder: Path) -> Path:
    """Where its own calls are none of those that go wrong."""
    return folder.parent / "store"


def _delta(work: Workload, folder: Path) -> None:
    _save(work, folder, 1)
    _save(work, folder, 2, parent=1)


def _chains(work: Workload, folder: Path) -> None:
    _delta(work, folder)
    _save(work, folder, 3, shards=2)
    _save(work, folder, 4, parent=3)


def _save(work: Workload, folder: Path, step: int, **options: int) -> None:
    work.train(step)
    work.expect(step)
    work.save(folder / "snapshots", step, **options)


def _command(*arguments: str | Path) -> None:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exit_code == 2:
        raise CommandError(done.output)
    assert done.exit_code == 0, done.output


OPERATIONS = {
    "first save": Operation(
        lambda work, _: (work.train(2), work.expect(2)),
        lambda work, folder: work.save(folder / "snapshots", 2),
        set(), {2}, {2},
    ),
    "save": Operation(
        _base,
        lambda work, folder: work.save(folder / "snapshots", 2),
        {1}, {2}, {1, 2},
    ),
    "delta": Operation(
        _base,
        lambda work, folder: work.save(folder / "snapshots", 2, parent=1),
        {1}, {2}, {1, 2},
    ),
    "shards": Operation(
        _base,
        lambda work, folder: work.save(folder / "snapshots", 2, shards=2),
        {1}, {2}, {1, 2},
    ),
    "background": Operation(
        _base,
        lambda work, folder: work.save_beside(folder / "snapshots", 2),
        {1}, {2}, {1, 2},
    ),
    "store": Operation(
        _store,
        lambda work, folder: work.save_store(_store_beside(folder), folder / "snapshots", 2),
        {1}, {2}, {1, 2},
    ),
    "device": Operation(
        _store,
        lambda work, folder: work.save_beside_on_device(
            _store_beside(folder), folder / "snapshots", 2
        ),
        {1}, {2}, {1, 2},
    ),
    "gc": Operation(
        _chains,
        lambda _, folder: _command("gc", folder / "snapshots", "--keep", "1"),
        {3, 4}, {1, 2}, {3, 4},
        undone=False,
    ),
    "compact": Operation(
        _delta,
        lambda _, folder: _command("compact", folder / "snapshots", folder / "full"),
        set(), {2}, {2},
        root="full",
    ),
    "reshard": Operation(
        _delta,
        lambda _, f: _command("reshard", f / "snapshots", f / "two", "--shards", "2"),
        set(), {2}, {2},
        root="two",
    ),
}  # fmt: skip


class Campaign:
    """An operation, and all that it needs to be done again and again."""

    def __init__(self, folder: Path, operation: Operation) -> None:
        self._operation = operation
        self._seed = folder / "seed"
        self._folder = folder / "run"
        self._log = folder / "log"
        self._work = Workload()
        self._seed.mkdir()
        operation.prepare(self._work, self._seed)
        self._work.expect(NEXT)
        self._given = set(steps(self._seed / "snapshots"))
        self.calls = self._record()

    def _renew(self) -> Path:
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.copytree(self._seed, self._folder)
        return self._folder / self._operation.root

    def _record(self) -> list[Call]:
        """What the operation does when nothing goes wrong."""
        root = self._renew()

        def act() -> None:
            log = os.open(self._log, os.O_WRONLY | os.O_CREAT, 0o600)
            arm(self._folder, log=log)
            self._operation.act(self._work, self._folder)
            disarm()

        for task in (act, lambda: self._finish(root)):
            code, text = forked(task)
            assert code == OK, text
            # What was checked here is known to the children that follow.
            self._check(root, self._operation.after, self._operation.after | {NEXT})
        return read_log(self._log.read_bytes())

    def meet(self, fault: int, at: int) -> str:
        """Has a call go wrong; what is not as it must be after that, or nothing."""
        operation, root = self._operation, self._renew()
        code, text = forked(lambda: self._child(root, fault, at))
        if code == KILLED and fault in (KILL, HALFWAY):
            try:
                self._check(root, operation.before, operation.before | operation.extra)
            except Exception:
                return traceback.format_exc()
            code, text = forked(lambda: self._after_kill(root))
        return "" if code == OK else text

    def _child(self, root: Path, fault: int, at: int) -> None:
        arm(self._folder, at, fault)
        error = self._act()
        happened = calls() >= at
        disarm()
        assert happened, "the call was never made"
        assert fault not in (KILL, HALFWAY), "the process lives"
        if error is not None:
            assert fault != SHORT, f"a short write is no reason to fail: {error!r}"
            # Files of any snapshot are named: one of those that are read may have been the reason.
            assert str(self._folder) in str(error), f"no file is named: {error!r}"
            extra = set() if self._operation.undone else self._operation.extra
            self._check(root, self._operation.before, self._operation.before | extra)
            error = self._act()
            assert error is None, f"it failed again: {error!r}"
        self._finish(root)

    def _after_kill(self, root: Path) -> None:
        operation = self._operation
        if not operation.undone or not operation.after <= set(steps(root)):
            clean_drafts(root)  # of a shard that has no partner any more
            error = self._act()
            assert error is None, f"it cannot be done again: {error!r}"
        self._finish(root)

    def _act(self) -> Exception | None:
        try:
            self._operation.act(self._work, self._folder)
        except (OSError, SnapshotError, CommandError) as error:
            return error
        return None

    def _finish(self, root: Path) -> None:
        """The operation has come to its end: all is there, and one more snapshot can be made."""
        self._check(root, self._operation.after, self._operation.after)
        self._work.save(root, NEXT)
        assert drafts(root) == [], "a save cleans up"
        self._check(root, self._operation.after | {NEXT}, self._operation.after | {NEXT})

    def _check(self, root: Path, needed: set[int], allowed: set[int]) -> None:
        self._work.check(root, needed, allowed)
        if root.name != "snapshots":  # where it was made from
            self._work.check(self._folder / "snapshots", self._given, self._given)


def forked(task: Callable[[], None]) -> tuple[int, str]:
    """Does it in a child; its exit status or the signal that ended it, and its last words."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = FAILED
        try:
            task()
            code = OK
        except BaseException:
            disarm()
            os.write(writing, traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    return abs(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])), text


def chosen(calls: list[Call], every: int) -> list[int]:
    """Numbers, from 1, of the calls that are tried."""
    seen, numbers = set(), []
    for number, call in enumerate(calls, 1):
        if number % every == 0 or call.place() not in seen:
            numbers.append(number)
        seen.add(call.place())
    return numbers


def main(folder: str, name: str, every: str = "1") -> None:
    torch.set_num_threads(1)
    logging.disable()  # that `latest` cannot be moved
    _command("gc", folder, "--keep", "1")  # imports what each child would have to
    campaign = Campaign(Path(folder), OPERATIONS[name])
    report = {}
    for fault_name, fault in FAULTS.items():
        counted = [call for call in campaign.calls if call.can_go_wrong(fault)]
        tried = chosen(counted, int(every))
        failures = {
            f"{at}: {counted[at - 1].kind} {counted[at - 1].path}": text
            for at in tried
            if (text := campaign.meet(fault, at))
        }
        report[fault_name] = {"calls": len(counted), "tried": len(tried), "failures": failures}
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
