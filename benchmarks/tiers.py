"""How fast are lookups when the table is four times as large as memory?

Rows of 768 bytes (64 floats and two Adam slots), 4 GiB of them, under a memory limit of 1 GiB that
counts the system's cache of files too (a control group: run as root). Every batch is 65,536 ids.
The peers know each id's row, and hold no index: `pread` reads the distinct rows of a batch from a
flat file with 16 threads, `mmap` is one gather over the mapped file with MADV_RANDOM.
"""

from __future__ import annotations

import mmap
import os
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from common import BATCH_IDS, Homes, Report, Spread, Vocabulary, arguments, ratio, seconds
from peers import recis_adam
from torch import Tensor

from recis import Store
from recis.nn import HashTable
from recis.nn.initializers import UniformInitializer

DIM = 64
ROW_BYTES = 3 * DIM * 4
LIMIT_BYTES = 1 << 30
HOT_BYTES = 400 << 20  # the rest is for Python, torch and the index
THREADS = 16
WARM_UP = 20  # batches before the clock starts

Turn = tuple[Tensor, np.ndarray]  # ids and rows of a batch


def main() -> None:
    parser = arguments(
        __doc__, rows=5_600_000, dims=[DIM], threads=[2], rounds=3, peers=["pread", "mmap"]
    )
    parser.add_argument("--batches", type=int, default=60)
    options = parser.parse_args()
    setting = f"{options.rows:,} rows of {ROW_BYTES} bytes, limit {LIMIT_BYTES >> 20} MiB"
    report = Report(__doc__, setting)
    names = ["recis", *options.peers]
    with TemporaryDirectory(dir=os.environ.get("RECIS_BENCH_DATA")) as folder:
        _fill(Path(folder), options.rows)
        for exponent in (0.99, 0.0):
            _save_batches(Path(folder), options.rows, exponent, options.batches)
            homes = Homes(_run, folder)
            runs = report.interleave(homes, names, options)
            for name, each in runs.items():
                row: dict[str, object] = {"zipf": exponent, "who": name}
                report.rows.append(
                    row | {key: Spread.of([r[key] for r in each]) for key in each[0]}
                )
            for name, least in (("pread", 2.0 if exponent else 1.5), ("mmap", 10.0)):
                if name in runs:
                    mine, theirs = ([r["k ids/s"] for r in runs[who]] for who in ("recis", name))
                    what = f"zipf {exponent}: ids/s over {name}'s"
                    report.goal(what, ratio(mine, theirs), at_least=least)
    report.finish(options.json)


def _fill(folder: Path, rows: int) -> None:
    """Writes the rows twice: into a store, and into a flat file."""
    ids = Vocabulary(rows).ids()
    with Store(folder / "store", hot_bytes=HOT_BYTES) as store, torch.no_grad():
        table = _table(store)
        for first in range(0, rows, BATCH_IDS):
            table(ids[first : first + BATCH_IDS])
        store.commit(step=0)
    with (folder / "flat").open("wb") as flat:
        chunk = np.random.default_rng(1).random((BATCH_IDS, ROW_BYTES // 4), np.float32)
        for first in range(0, rows, BATCH_IDS):
            flat.write(chunk[: rows - first].tobytes())
        flat.flush()
        os.fsync(flat.fileno())


def _save_batches(folder: Path, rows: int, exponent: float, count: int) -> None:
    batches = Vocabulary(rows).zipf(count, exponent=exponent)
    np.save(folder / "ids.npy", np.stack([batch.ids.numpy() for batch in batches]))
    np.save(folder / "rows.npy", np.stack([batch.rows.numpy() for batch in batches]))


def _table(store: Store) -> HashTable:
    table = HashTable([DIM], name="tiers", initializer=UniformInitializer(-0.1, 0.1), store=store)
    recis_adam(table)
    return table


def _run(name: str, folder: str) -> dict[str, float]:
    """One contestant, in a process of its own that is under the limit."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")
    _limit_memory()
    ids = torch.from_numpy(np.load(f"{folder}/ids.npy"))
    rows = np.load(f"{folder}/rows.npy")
    look_up = LOOKUPS[name](Path(folder))
    taken = seconds(look_up, zip(ids, rows, strict=True))[WARM_UP:]
    distinct = statistics.mean(len(np.unique(batch)) for batch in rows[WARM_UP:])
    return {
        "k ids/s": BATCH_IDS / statistics.median(taken) / 1e3,
        "k distinct rows/s": distinct / statistics.median(taken) / 1e3,
        "worst / median": max(taken) / statistics.median(taken),
    }


def _limit_memory() -> None:
    """Moves this process into a control group of its own (version 1 or 2)."""
    root = Path("/sys/fs/cgroup/memory")
    limit = "memory.limit_in_bytes"
    if not root.exists():
        root, limit = Path("/sys/fs/cgroup"), "memory.max"
    group = root / "recis-bench"
    group.mkdir(exist_ok=True)
    (group / limit).write_text(str(LIMIT_BYTES))
    (group / "cgroup.procs").write_text(str(os.getpid()))


def _recis(folder: Path) -> Callable[[Turn], object]:
    table = _table(Store(folder / "store", hot_bytes=HOT_BYTES))

    def look_up(batch: Turn) -> Tensor:
        with torch.no_grad():  # in training mode: what is used is promoted
            return table(batch[0])

    return look_up


def _pread(folder: Path) -> Callable[[Turn], object]:
    file = os.open(folder / "flat", os.O_RDONLY)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
    pool = ThreadPoolExecutor(THREADS)

    def look_up(batch: Turn) -> np.ndarray:
        rows, inverse = np.unique(batch[1], return_inverse=True)
        out = np.empty((len(rows), ROW_BYTES), np.uint8)

        def read(part: range) -> None:
            for i in part:
                os.preadv(file, [out[i]], int(rows[i]) * ROW_BYTES)

        list(pool.map(read, (range(t, len(rows), THREADS) for t in range(THREADS))))
        return out.view(np.float32)[:, :DIM][inverse]

    return look_up


def _mmap(folder: Path) -> Callable[[Turn], object]:
    with (folder / "flat").open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    mapped.madvise(mmap.MADV_RANDOM)
    flat = np.frombuffer(mapped, np.float32).reshape(-1, ROW_BYTES // 4)
    return lambda batch: flat[batch[1], :DIM]


LOOKUPS: dict[str, Callable[[Path], Callable[[Turn], object]]] = {
    "recis": _recis,
    "pread": _pread,
    "mmap": _mmap,
}


if __name__ == "__main__":
    main()
