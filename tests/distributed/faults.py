"""Has one worker of three go wrong wherever it can in a step, a commit and a save.

    python faults.py FOLDER HOW WORKER EVERY

HOW: WORKER is killed, stopped, or its disk full. EVERY 1 tries all points, a larger one every
so many. Prints the points, as JSON, and for those that were tried what the workers ended with.

One process imports torch and forks the workers of all groups: they have done nothing before that a
fork could harm.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _set_pg_timeout

from recis import Store
from recis._table import Table
from recis.nn import EmbeddingEngine, EmbeddingOption
from recis.nn.initializers import TruncNormalInitializer
from recis.nn.modules.hashtable import filter_out_sparse_param
from recis.optim import SparseAdam
from recis.serialize import Loader, Saver, saver
from recis.serialize.shards import _own_group
from recis.snapshot.publish import Draft, steps
from recis.snapshot.stores import open_table

WORLD = 3
TIMEOUT_S = 4  # of a collective, once all are there
END_S = 90  # after which a worker hangs
AT_ONCE = 6  # groups


class Points:
    """Where a worker can go wrong, by name in the order of arrival."""

    def __init__(self, chosen: int, how: str, lost: int) -> None:
        self.lost = lost
        self.names: list[str] = []
        self.armed = False
        self._chosen = chosen
        self._how = how

    def before(self, owner: object, name: str) -> None:
        """Has every call of a function be one of them."""
        function = getattr(owner, name)

        def reached(*arguments: Any, **options: Any) -> Any:
            self.reach(name)
            return function(*arguments, **options)

        setattr(owner, name, reached)

    def reach(self, name: str) -> None:
        if not self.armed:
            return
        self.names.append(name)
        if len(self.names) != self._chosen:
            return
        if self._how == "full":
            set_file_size_limit(0)
        else:
            os.kill(os.getpid(), {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP}[self._how])


def set_file_size_limit(size: int) -> None:
    """As a disk that is full would; -1 lifts it."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (most if size < 0 else size, most))


def engine(store: Store | None, **fields: Any) -> EmbeddingEngine:
    """Two tables of different widths: two exchanges of rows."""
    options = {
        f"width{dim}": EmbeddingOption(
            embedding_dim=dim,
            shared_name=f"width{dim}",
            block_size=8,
            initializer=TruncNormalInitializer(std=1.0),
            **fields,
        )
        for dim in [2, 3]
    }
    return EmbeddingEngine(options, store=store, coalesce=False)


def content(tables: dict[str, Any]) -> dict[str, Any]:
    """Every slot of every id."""
    found: dict[str, Any] = {}
    for name, table in tables.items():
        ids, rows = table.ids_map()
        slots = {slot.name(): slot.read(rows).tolist() for slot in table.slot_group().slots()}
        found[name] = {
            str(id): {slot: values[i] for slot, values in slots.items()}
            for i, id in enumerate(ids.tolist())
        }
    return found


def work(rank: int, folder: Path, points: Points) -> dict[str, Any]:
    """Two steps, each with a commit and a save; the second is where things go wrong."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/group",
        rank=rank,
        world_size=WORLD,
    )
    found: dict[str, Any] = {"content": {}}
    with Store(folder / f"store-{rank}", hot_bytes=4096) as store:
        model = engine(store)
        tables = filter_out_sparse_param(model)
        optimizer = SparseAdam(tables)
        save = Saver(rank, WORLD, path=folder / "snapshots", hashtables=tables)
        for owner, name in [
            (dist, "all_to_all_single"),
            (dist, "all_gather_object"),
            (dist, "broadcast_object_list"),
            (Table, "lookup"),
            (Table, "accumulate"),
            (optimizer, "step"),
            (store, "commit"),
            (saver, "write_table"),
            (Draft, "publish"),
        ]:
            points.before(owner, name)
        try:
            for step in [1, 2]:
                if step == 2:
                    for group in [dist.group.WORLD, _own_group()]:
                        _set_pg_timeout(timedelta(seconds=TIMEOUT_S), group)
                    points.armed = rank == points.lost
                ids = (torch.arange(200) + 50 * step + 10 * rank) * 7919
                out = model(dict.fromkeys(["width2", "width3"], ids))
                sum(each.square().sum() for each in out.values()).backward()
                optimizer.step()
                optimizer.zero_grad()
                found["content"][step] = content(tables)
                store.commit(step)
                save.save(step)
            points.reach("end")
        except Exception as error:
            found["error"] = f"{type(error).__name__}: {error}"
    found["points"] = points.names
    return found


def reopen(folder: Path) -> dict[str, Any]:
    """What is on the disk afterwards."""
    found: dict[str, Any] = {"stores": [], "snapshots": {}}
    for rank in range(WORLD):
        with Store(folder / f"store-{rank}") as store:
            tables = {name: open_table(store, name) for name in store.tables()}
            found["stores"].append({store.step: content(tables)})
        del tables
    for step in steps(folder / "snapshots"):
        model = engine(None)
        tables = filter_out_sparse_param(model)
        SparseAdam(tables)
        Loader(f"{folder}/snapshots/step-{step:012d}", hashtables=tables).load()
        found["snapshots"][step] = content(tables)
        del model, tables
    return found


def forked(report: Path, call: Callable[[], dict[str, Any]]) -> int:
    """Calls a function in a process of its own, which leaves what it returns in a file."""
    pid = os.fork()
    if pid:
        return pid
    try:
        found = call()
        set_file_size_limit(-1)
        report.write_text(json.dumps(found))
    except BaseException as error:
        report.write_text(json.dumps({"broken": f"{type(error).__name__}: {error}"}))
    os._exit(0)


class Group:
    """Workers of which one goes wrong at a point."""

    def __init__(self, folder: Path, chosen: int, how: str, lost: int) -> None:
        self.chosen = chosen
        self._folder = folder
        folder.mkdir()
        points = Points(chosen, how, lost)
        self._pids = [
            forked(self._report(rank), lambda rank=rank: work(rank, folder, points))
            for rank in range(WORLD)
        ]
        self._lost = {lost} if how != "full" and chosen > 0 else set()
        self._until = time.monotonic() + END_S

    def _report(self, rank: int) -> Path:
        return self._folder / f"report-{rank}"

    def end(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """What the workers ended with, and what is on the disk."""
        waited = [rank for rank in range(WORLD) if rank not in self._lost]
        while waited and time.monotonic() < self._until:
            waited = [rank for rank in waited if os.waitpid(self._pids[rank], os.WNOHANG)[0] == 0]
            time.sleep(0.02)
        for rank in {*waited, *self._lost}:
            os.kill(self._pids[rank], signal.SIGKILL)
            os.waitpid(self._pids[rank], 0)
        reports = [
            json.loads(self._report(rank).read_text())
            if self._report(rank).exists()
            else {"broken": "hangs" if rank in waited else "lost"}
            for rank in range(WORLD)
        ]
        disk = self._folder / "disk"
        os.waitpid(forked(disk, lambda: reopen(self._folder)), 0)
        return reports, json.loads(disk.read_text())


class Check:
    """What must hold after one has gone wrong, by what was there when none did."""

    def __init__(
        self, how: str, lost: int, reports: list[dict[str, Any]], disk: dict[str, Any]
    ) -> None:
        self._how = how
        self._lost = lost
        self.points: list[str] = reports[lost]["points"]
        self._content = [report["content"] for report in reports]
        self._whole = disk["snapshots"]
        assert [list(store) for store in disk["stores"]] == [["2"]] * WORLD, disk["stores"]
        assert list(self._whole) == ["1", "2"]
        # From the last broadcast on, rank 0 has published. The others have written before they
        # gather, and need no disk from then on.
        last = "all_gather_object" if how == "full" and lost > 0 else "broadcast_object_list"
        self._published = len(self.points) - self.points[::-1].index(last)

    def failures(
        self, chosen: int, reports: list[dict[str, Any]], disk: dict[str, Any]
    ) -> list[str]:
        """What does not."""
        if "broken" in disk:
            return [f"what is left: {disk['broken']}"]
        found = []
        for rank, report in enumerate(reports):
            lost = rank == self._lost and self._how != "full"
            error = report.get("broken") or report.get("error", "").partition(":")[0]
            if rank == self._lost:
                expected = {"lost"} if lost else {"OSError"}
            else:
                expected = {"ExchangeError", "SnapshotError"}
            if chosen >= self._published and not lost:
                expected.add("")
            if error not in expected:
                found.append(f"worker {rank} ended with {error!r}, not with one of {expected}")
            ((step, rows),) = disk["stores"][rank].items()
            if rows != self._content[rank].get(step):
                found.append(f"the store of worker {rank} is not as of step {step}")
        steps = set(disk["snapshots"])
        if steps != {"1"} and not (steps == {"1", "2"} and chosen >= self._published):
            found.append(f"there are snapshots of {steps}")
        if any(rows != self._whole[step] for step, rows in disk["snapshots"].items()):
            found.append("a snapshot is not what was saved")
        return found


def main(folder: Path, how: str, worker: int, every: int) -> None:
    torch.set_num_threads(1)
    check = Check(how, worker, *Group(folder / "none", 0, how, worker).end())
    left = list(range(1, len(check.points) + 1, every))
    tried: dict[int, list[str]] = {}
    failures: dict[str, list[str]] = {}
    while left:
        groups = [Group(folder / f"{k}", k, how, worker) for k in left[:AT_ONCE]]
        del left[:AT_ONCE]
        for group in groups:
            reports, disk = group.end()
            tried[group.chosen] = [r.get("broken") or r.get("error", "") for r in reports]
            if found := check.failures(group.chosen, reports, disk):
                failures[f"{group.chosen} {check.points[group.chosen - 1]}"] = found
    print(json.dumps({"points": check.points, "tried": tried, "failures": failures}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
