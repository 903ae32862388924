"""What do snapshots cost: saved durably, as a delta, beside training, and loaded?

A table with an embedding and two Adam slots of its size. The peers save the same tensors, one a
slot, and sync them: `torch.save`, safetensors' `save_file`, torch's distributed checkpoint without
processes. `direct` writes as many bytes past the system's cache in pieces of 8 MiB, and reads them
so: what the disk can do.
"""

from __future__ import annotations

import mmap
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory

import torch
import torch.distributed.checkpoint as dcp
from common import Homes, Report, Spread, Vocabulary, arguments, contestants, ratio
from peers import INSERT_ROWS, random_rows, recis_adam
from safetensors.torch import load_file, save_file
from torch import Tensor

from recis._table import Table
from recis.nn import HashTable
from recis.serialize import Loader, Saver
from recis.snapshot.names import step_name

SLOTS = 3
PIECE_BYTES = 8 << 20
STEPS_BESIDE = 200  # at least, beside asynchronous saves
DELTA_SHARE = 0.01

Run = dict[str, float]


def main() -> None:
    parser = arguments(
        __doc__, rows=4_000_000, dims=[64], threads=[2], rounds=3,
        peers=["direct", "torch", "safetensors", "dcp"],
    )  # fmt: skip
    options = parser.parse_args()
    report = Report(__doc__, f"{options.rows:,} rows, {SLOTS} slots of {options.dims[0]} float32")
    names = contestants(options.peers)
    with TemporaryDirectory(dir=os.environ.get("RECIS_BENCH_DATA")) as folder:
        homes = Homes(_run, options.rows, options.dims[0], options.threads[0], folder)
        runs = report.interleave(homes, names, options)
    columns = list(dict.fromkeys(key for each in runs.values() for key in each[0]))
    for name, each in runs.items():
        figures = {key: Spread.of([r[key] for r in each]) for key in columns if key in each[0]}
        report.rows.append({"who": name} | figures)
    mine = runs["recis"]
    for name, most in {"direct": 1.5, "torch": 1, "safetensors": 1, "dcp": 1}.items():
        if name in runs:
            saved = ratio([r["save s"] for r in mine], [r["save s"] for r in runs[name]])
            report.goal(f"save, time over {name}'s", saved, at_most=most)
    if "direct" in runs:
        least = [r["insert s"] + d["load s"] for r, d in zip(mine, runs["direct"], strict=True)]
        for figure in ("load s", "load delta s"):
            loaded = ratio(least, [r[figure] for r in mine])
            report.goal(f"{figure}, speed of reading and inserting", loaded, at_least=0.7)
    report.goal("MiB more while saving", _spread(mine, "save MiB more"), at_most=64)
    report.goal("bytes of a delta of 1 %", _spread(mine, "delta bytes"), at_most=0.02)
    report.goal("time of a delta of 1 %", _spread(mine, "delta time"), at_most=0.03)
    report.goal("p99 of a step beside a save", _spread(mine, "step p99"), at_most=1.5)
    report.finish(options.json)


def _spread(runs: list[Run], key: str) -> Spread:
    return Spread.of([run[key] for run in runs])


def _run(name: str, rows: int, dim: int, threads: int, folder: str) -> Run:
    torch.set_num_threads(threads)
    with TemporaryDirectory(dir=folder) as place:
        if name == "recis":
            return _recis(rows, dim, Path(place))
        return _peer(name, rows, dim, Path(place) / "saved")


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _measured(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and how many MiB this process grows meanwhile."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is from now on
    before = _memory_mib("VmRSS")
    seconds = _timed(call)
    return seconds, _memory_mib("VmHWM") - before


def _memory_mib(figure: str) -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{figure}:")[1].split()[0]) / 1024


def _drop_cache(place: Path) -> None:
    """Lets the system forget the files below a place, which are durable."""
    for path in place.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


# ---- recis ------------------------------------------------------------------------------------


def _recis(rows: int, dim: int, place: Path) -> Run:
    figures = _save_recis(rows, dim, place)  # its table is gone by now
    for figure, step in {"load s": 1, "load delta s": 2}.items():
        _drop_cache(place)
        table = HashTable([dim], name="bench")
        recis_adam(table)
        loader = Loader(str(_step_path(place, step)), hashtables={"bench": table.table})
        figures[figure] = _timed(loader.load)
        del table, loader
    return figures


def _save_recis(rows: int, dim: int, place: Path) -> Run:
    vocabulary = Vocabulary(rows)
    ids = vocabulary.ids()
    table = HashTable([dim], name="bench")
    optimizer = recis_adam(table)
    insert_s = 0.0
    for first in range(0, rows, INSERT_ROWS):
        part = ids[first : first + INSERT_ROWS]
        insert_s += _timed(partial(table.insert, part, random_rows(len(part), dim)))
    tables = {"bench": table.table}
    batches = vocabulary.zipf(20)

    def step(number: int) -> None:
        table(batches[number % len(batches)].ids).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    full = Saver(path=str(place), hashtables=tables, track=True)
    full_s, more = _measured(partial(full.save, step=1))
    full_bytes = _bytes(place)

    changed = ids[: int(rows * DELTA_SHARE)]
    table.insert(changed, random_rows(len(changed), dim))
    delta = Saver(path=str(place), hashtables=tables, parent=str(_step_path(place, 1)))
    delta_s = _timed(partial(delta.save, step=2))
    alone = [_timed(partial(step, number)) for number in range(STEPS_BESIDE)]
    beside = _steps_beside_saves(place / "beside", tables, step)
    return {
        "insert s": insert_s,
        "save s": full_s,
        "GB": full_bytes / 1e9,
        "save MiB more": more,
        "delta bytes": (_bytes(place) - full_bytes) / full_bytes,
        "delta time": delta_s / full_s,
        "step p99": _p99(beside) / _p99(alone),
        "steps beside": float(len(beside)),
    }


def _steps_beside_saves(
    place: Path, tables: dict[str, Table], step: Callable[[int], None]
) -> list[float]:
    saver = Saver(path=str(place), hashtables=tables)
    taken: list[float] = []
    while len(taken) < STEPS_BESIDE:
        handle = saver.save_async(step=1)
        while not handle.done():
            taken.append(_timed(partial(step, len(taken))))
        handle.wait()
        rmtree(place)
    return taken


def _p99(taken: list[float]) -> float:
    return statistics.quantiles(taken, n=100, method="inclusive")[98]


def _step_path(place: Path, step: int) -> Path:
    return place / step_name(step)


def _bytes(place: Path) -> int:
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())


# ---- peers ------------------------------------------------------------------------------------


def _peer(name: str, rows: int, dim: int, path: Path) -> Run:
    tensors = {f"slot{k}": random_rows(rows, dim) for k in range(SLOTS)}
    tensors["ids"] = Vocabulary(rows).ids()
    save, load = PEERS[name]
    save_s, more = _measured(partial(save, tensors, path))
    _drop_cache(path.parent)
    load_s = _timed(partial(load, tensors, path))
    saved = path.stat().st_size if path.is_file() else _bytes(path)
    return {"save s": save_s, "GB": saved / 1e9, "load s": load_s, "save MiB more": more}


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)
    os.close(file)


def _save_torch(tensors: dict[str, Tensor], path: Path) -> None:
    torch.save(tensors, path)
    _sync(path)


def _save_safetensors(tensors: dict[str, Tensor], path: Path) -> None:
    save_file(tensors, path)
    _sync(path)


def _save_dcp(tensors: dict[str, Tensor], path: Path) -> None:
    dcp.save(tensors, checkpoint_id=path, no_dist=True)  # syncs its files


def _load_dcp(tensors: dict[str, Tensor], path: Path) -> None:
    dcp.load(tensors, checkpoint_id=path, no_dist=True)


def _direct(tensors: dict[str, Tensor], path: Path, flags: int, piece: Callable[..., int]) -> None:
    buffer = mmap.mmap(-1, PIECE_BYTES)  # aligned
    file = os.open(path, flags | os.O_DIRECT)
    total = sum(tensor.nbytes for tensor in tensors.values())
    for first in range(0, total, PIECE_BYTES):
        piece(file, [buffer], first)
    os.fsync(file)
    os.close(file)


PEERS: dict[str, tuple[Callable[[dict[str, Tensor], Path], object], Callable[..., object]]] = {
    "direct": (
        lambda tensors, path: _direct(tensors, path, os.O_WRONLY | os.O_CREAT, os.pwritev),
        lambda tensors, path: _direct(tensors, path, os.O_RDONLY, os.preadv),
    ),
    "torch": (_save_torch, lambda _tensors, path: torch.load(path, weights_only=True)),
    "safetensors": (_save_safetensors, lambda _tensors, path: load_file(path)),
    "dcp": (_save_dcp, _load_dcp),
}


if __name__ == "__main__":
    main()
