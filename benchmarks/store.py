"""How long do filling a store, committing and opening it take?

Rows of 64 floats and two Adam slots, an eighth of them hot. The peer is the disk: as many bytes
written to a file from beginning to end, with an fsync for each 16 MiB.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from common import BATCH_IDS, Homes, Report, Spread, Vocabulary, arguments, ratio
from peers import recis_adam
from torch import Tensor

from recis import Store
from recis.nn import HashTable

HOT_PART = 8  # one row in so many
CHUNK_BYTES = 16 << 20


def main() -> None:
    parser = arguments(__doc__, rows=1_500_000, dims=[64], threads=[2], rounds=3, peers=[])
    options = parser.parse_args()
    report = Report(__doc__, f"{options.rows:,} rows")
    for dim in options.dims:
        homes = Homes(_run, dim, options)
        runs = report.interleave(homes, ["recis"], options)["recis"]
        columns = {key: [run[key] for run in runs] for key in runs[0]}
        row: dict[str, object] = {"dim": dim}
        report.rows.append(row | {key: Spread.of(column) for key, column in columns.items()})
        got = ratio(columns["fill MB/s"], columns["disk MB/s"])
        report.goal(f"dim {dim}: fill over disk", got, at_least=0.6)
    report.finish(options.json)


def _run(_name: str, dim: int, options: argparse.Namespace) -> dict[str, float]:
    torch.set_num_threads(options.threads[0])
    row_bytes = options.rows * dim * 3 * 4
    ids = Vocabulary(options.rows).ids()
    with TemporaryDirectory(dir=os.environ.get("RECIS_BENCH_DATA")) as folder:
        disk_s = _seconds(lambda: _write(Path(folder) / "flat", row_bytes))
        path = Path(folder) / "store"
        with Store(path, hot_bytes=row_bytes // HOT_PART) as store:
            fill_s = _seconds(lambda: _fill(store, dim, ids))
            queued_bytes, written = (store.stats()[k] for k in ("queued_bytes", "bytes_written"))
            commit_s = _seconds(lambda: store.commit(step=0))
            stats = store.stats()
            empty_s = _seconds(lambda: store.commit(step=1))

        def open_again() -> None:
            with Store(path, hot_bytes=row_bytes // HOT_PART) as store:
                HashTable([dim], name="store", store=store)

        open_s = _seconds(open_again)
    return {
        "disk MB/s": row_bytes / disk_s / 1e6,
        "fill MB/s": written / fill_s / 1e6,
        "commit MB/s": (stats["bytes_written"] - written) / commit_s / 1e6,
        "queued MB": queued_bytes / 1e6,
        "stall ms": stats["commit_stall_seconds"] * 1e3,
        "empty commit ms": empty_s * 1e3,
        "open ns/row": open_s / options.rows * 1e9,
    }


def _fill(store: Store, dim: int, ids: Tensor) -> None:
    table = HashTable([dim], name="store", store=store)
    recis_adam(table)
    with torch.no_grad():
        for part in ids.split(BATCH_IDS):
            table(part)


def _write(path: Path, size: int) -> None:
    chunk = os.urandom(CHUNK_BYTES)
    with path.open("wb", buffering=0) as file:
        for _ in range(size // CHUNK_BYTES):
            file.write(chunk)
            os.fsync(file.fileno())
    path.unlink()


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
