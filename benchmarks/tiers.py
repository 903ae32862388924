"""How fast are lookups, or training steps, when the table is four times as large as memory?

Rows of 768 bytes (64 floats and two Adam slots), 4 GiB of them, under a memory limit of 1 GiB that
counts the system's cache of files too (a control group: run as root). Every batch is 65,536 ids;
the clock starts when everyone's memory has filled. `recis-prefetch` is told each batch one earlier.
Peers with a flat file know each id's row and hold no index: `threads` and `pread` read the distinct
rows of a batch with 16 threads, in C and in Python, `mmap` is one gather over the mapped file with
MADV_RANDOM. `rocksdb` finds the distinct ids with one thread and a cache of as many bytes as recis
may keep hot. With --train recis also computes a gradient and takes an Adam step; the peers only
write the rows back as they are.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import statistics
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from common import BATCH_IDS, Homes, Report, Spread, Vocabulary, arguments, ratio, seconds
from peers import installed, recis_adam
from torch import Tensor

from recis import Store
from recis.nn import HashTable
from recis.nn.initializers import UniformInitializer

DIM = 64
ROW_BYTES = 3 * DIM * 4
LIMIT_BYTES = 1 << 30
HOT_BYTES = 440 << 20  # the rest is for Python, torch, the index and what is on its way
QUEUED_BYTES = 64 << 20  # less of them where rows change, for what waits to be written
THREADS = 16
ROCKSDB_FILE_ROWS = 1 << 18
WARM_UP = 60  # batches before the clock starts


class Turn(NamedTuple):
    """A batch."""

    ids: Tensor
    rows: np.ndarray
    next_ids: Tensor  # of the batch after it


Play = Callable[[Turn], object]
Move = Callable[[int, np.ndarray, np.ndarray, bool], None]
"""Moves rows between a file and memory: (file, rows, data, whether to write)."""


def main() -> None:
    parser = arguments(
        __doc__,
        rows=5_600_000,
        dims=[DIM],
        threads=[2],
        rounds=3,
        peers=["threads", "mmap", "rocksdb"],
    )
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--train", action="store_true", help="change the rows of each batch too")
    options = parser.parse_args()
    setting = f"{options.rows:,} rows of {ROW_BYTES} bytes, limit {LIMIT_BYTES >> 20} MiB"
    report = Report(__doc__, f"{setting}, {'training steps' if options.train else 'lookups'}")
    names = installed(options.peers)
    with TemporaryDirectory(dir=os.environ.get("RECIS_BENCH_DATA")) as folder:
        _fill(Path(folder), options.rows)
        if "rocksdb" in names:
            _fill_rocksdb(Path(folder), options.rows)
        for exponent in (0.99, 0.0):
            _save_batches(Path(folder), options.rows, exponent, options.batches)
            homes = Homes(_run, folder, options.train)
            runs = report.interleave(homes, names, options)
            for name, each in runs.items():
                row: dict[str, object] = {"zipf": exponent, "who": name}
                report.rows.append(
                    row | {key: Spread.of([r[key] for r in each]) for key in each[0]}
                )
            for name, least in (("threads", 2.0 if exponent else 1.5), ("mmap", 10.0)):
                if name in runs:
                    mine, theirs = ([r["k ids/s"] for r in runs[who]] for who in ("recis", name))
                    what = f"zipf {exponent}: ids/s over {name}'s"
                    report.goal(what, ratio(mine, theirs), at_least=least)
                    if "recis-prefetch" in runs:
                        ahead = ratio([r["k ids/s"] for r in runs["recis-prefetch"]], theirs)
                        report.notes.append(f"{what}, told each batch one earlier: {ahead}")
    report.finish(options.json)


def _fill(folder: Path, rows: int) -> None:
    """Writes the rows twice: into a store, and into a flat file."""
    ids = Vocabulary(rows).ids()
    with Store(folder / "store", hot_bytes=HOT_BYTES) as store, torch.no_grad():
        table = _table(store)
        recis_adam(table)
        for first in range(0, rows, BATCH_IDS):
            table(ids[first : first + BATCH_IDS])
        store.commit(step=0)
    with (folder / "flat").open("wb") as flat:
        chunk = np.random.default_rng(1).random((BATCH_IDS, ROW_BYTES // 4), np.float32)
        for first in range(0, rows, BATCH_IDS):
            flat.write(chunk[: rows - first].tobytes())
        flat.flush()
        os.fsync(flat.fileno())


def _fill_rocksdb(folder: Path, rows: int) -> None:
    """Writes the rows a third time, as sorted files that RocksDB takes over as they are."""
    keys = _keys(np.sort(Vocabulary(rows).ids().numpy().view(np.uint64)))
    value = np.random.default_rng(1).bytes(ROW_BYTES)
    with closing(_rocksdb_at(folder)) as database:
        for first in range(0, rows, ROCKSDB_FILE_ROWS):
            part = str(folder / f"{first}.sst")
            writer = _rocksdict().SstFileWriter(_rocksdb_options())
            writer.open(part)
            for key in keys[first : first + ROCKSDB_FILE_ROWS]:
                writer[key] = value
            writer.finish()
            ingest = _rocksdict().IngestExternalFileOptions()
            ingest.set_move_files(True)
            database.ingest_external_file([part], ingest)


def _save_batches(folder: Path, rows: int, exponent: float, count: int) -> None:
    batches = Vocabulary(rows).zipf(count, exponent=exponent)
    np.save(folder / "ids.npy", np.stack([batch.ids.numpy() for batch in batches]))
    np.save(folder / "rows.npy", np.stack([batch.rows.numpy() for batch in batches]))


def _table(store: Store) -> HashTable:
    return HashTable([DIM], name="tiers", initializer=UniformInitializer(-0.1, 0.1), store=store)


def _run(name: str, folder: str, train: bool) -> dict[str, float]:
    """One contestant, in a process of its own that is under the limit."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")
    _limit_memory()
    play = CONTESTANTS[name](Path(folder), train)
    taken = seconds(play, _turns(folder))[WARM_UP:]
    rows = np.load(f"{folder}/rows.npy", mmap_mode="r")[WARM_UP:]
    distinct = statistics.mean(len(np.unique(batch)) for batch in rows)
    return {
        "k ids/s": BATCH_IDS / statistics.median(taken) / 1e3,
        "k distinct rows/s": distinct / statistics.median(taken) / 1e3,
        "worst / median": max(taken) / statistics.median(taken),
    }


def _turns(folder: str) -> Iterator[Turn]:
    """Yields the batches, of which no more than two are in memory."""
    ids, rows = (np.load(f"{folder}/{name}.npy", mmap_mode="r") for name in ("ids", "rows"))
    following = torch.from_numpy(np.array(ids[0]))
    for i in range(len(ids)):
        current, following = following, torch.from_numpy(np.array(ids[min(i + 1, len(ids) - 1)]))
        yield Turn(current, np.array(rows[i]), following)


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


def _recis(folder: Path, train: bool, ahead: bool = False) -> Play:
    hot_bytes = HOT_BYTES - QUEUED_BYTES if train else HOT_BYTES
    table = _table(Store(folder / "store", hot_bytes=hot_bytes))
    optimizer = recis_adam(table) if train else None  # it takes 60 MB

    def step(batch: Turn) -> None:
        assert optimizer is not None
        if ahead:
            table.prefetch(batch.next_ids)
        table(batch.ids).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    def look_up(batch: Turn) -> Tensor:
        if ahead:
            table.prefetch(batch.next_ids)
        with torch.no_grad():  # in training mode: what is used is promoted
            return table(batch.ids)

    return step if train else look_up


def _flat(move: Move, folder: Path, train: bool) -> Play:
    file = os.open(folder / "flat", os.O_RDWR)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)

    def play(batch: Turn) -> np.ndarray:
        rows, inverse = np.unique(batch.rows, return_inverse=True)
        data = np.empty((len(rows), ROW_BYTES), np.uint8)
        move(file, rows, data, False)
        if train:
            move(file, rows, data, True)
        return data.view(np.float32)[:, :DIM][inverse]

    return play


def _pread(folder: Path, train: bool) -> Play:
    pool = ThreadPoolExecutor(THREADS)

    def move(file: int, rows: np.ndarray, data: np.ndarray, writing: bool) -> None:
        call = os.pwritev if writing else os.preadv

        def move_part(part: range) -> None:
            for i in part:
                call(file, [data[i]], int(rows[i]) * ROW_BYTES)

        list(pool.map(move_part, (range(t, len(rows), THREADS) for t in range(THREADS))))

    return _flat(move, folder, train)


def _threads(folder: Path, train: bool) -> Play:
    library = folder / "threads.so"
    source = Path(__file__).with_name("threads.c")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-pthread", source, "-o", library], check=True)
    move_rows = ctypes.CDLL(str(library)).MoveRows

    def move(file: int, rows: np.ndarray, data: np.ndarray, writing: bool) -> None:
        size = map(ctypes.c_size_t, (len(rows), ROW_BYTES))
        move_rows(file, writing, rows.ctypes, *size, data.ctypes)

    return _flat(move, folder, train)


def _mmap(folder: Path, train: bool) -> Play:
    with (folder / "flat").open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)
    mapped.madvise(mmap.MADV_RANDOM)
    flat = np.frombuffer(mapped, np.float32).reshape(-1, ROW_BYTES // 4)

    def play(batch: Turn) -> np.ndarray:
        if train:
            rows = np.unique(batch.rows)
            flat[rows] = flat[rows]
        return flat[batch.rows, :DIM]

    return play


def _rocksdb(folder: Path, train: bool) -> Play:
    database = _rocksdb_at(folder)

    def play(batch: Turn) -> np.ndarray:
        ids, inverse = np.unique(batch.ids.numpy(), return_inverse=True)
        keys = _keys(ids.view(np.uint64))
        values = database.get(keys)
        if train:
            changes = _rocksdict().WriteBatch(raw_mode=True)
            for key, value in zip(keys, values, strict=True):
                changes.put(key, value)
            database.write(changes)
        rows = np.frombuffer(b"".join(values), np.float32).reshape(-1, ROW_BYTES // 4)
        return rows[:, :DIM][inverse]

    return play


def _rocksdict() -> Any:
    return import_module("rocksdict")


def _rocksdb_options() -> Any:
    options = _rocksdict().Options(raw_mode=True)
    options.set_compression_type(_rocksdict().DBCompressionType.none())
    options.optimize_for_point_lookup(HOT_BYTES >> 20)
    return options


def _rocksdb_at(folder: Path) -> Any:
    return _rocksdict().Rdict(str(folder / "rocksdb"), _rocksdb_options())


def _keys(ids: np.ndarray) -> list[bytes]:
    """Returns bytes that sort as the ids, which are unsigned, do."""
    joined = ids.astype(">u8").tobytes()
    return [joined[at : at + 8] for at in range(0, len(joined), 8)]


CONTESTANTS: dict[str, Callable[[Path, bool], Play]] = {
    "recis": _recis,
    "recis-prefetch": partial(_recis, ahead=True),
    "threads": _threads,
    "pread": _pread,
    "mmap": _mmap,
    "rocksdb": _rocksdb,
}


if __name__ == "__main__":
    main()
