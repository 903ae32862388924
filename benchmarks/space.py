"""How much larger than its rows is a store, and how much does it write, while they change?

Rows of 64 floats and two Adam slots, a quarter of them hot, in a steady churn: batches of which
every other one is trained, and a commit every few. Sizes are the largest right before a commit,
over the bytes of all rows: the file, and of it the blocks in use, the dead blocks that the two
epochs still need, and what is free. Write amplification is all bytes written over those that were
not moved from one block to another.
"""

from __future__ import annotations

import argparse
import os
from tempfile import TemporaryDirectory

import torch
from common import Homes, Report, Spread, Vocabulary, arguments
from peers import recis_adam

from recis import Store
from recis.nn import HashTable

HOT_PART = 4  # one row in so many
SIZES = {"file": "file_bytes", "blocks": "block_bytes", "dead": "dead_bytes", "free": "free_bytes"}


def main() -> None:
    parser = arguments(__doc__, rows=1_500_000, dims=[64], threads=[2], rounds=1, peers=[])
    parser.add_argument("--batch", type=int, default=32_768, help="ids in one")
    parser.add_argument("--batches", type=int, default=150)
    parser.add_argument("--every", type=int, default=5, help="batches from commit to commit")
    options = parser.parse_args()
    churn = f"batches of {options.batch:,} ids, a commit every {options.every}"
    report = Report(__doc__, f"{options.rows:,} rows, {churn}")
    for dim in options.dims:
        for exponent in (0.0, 0.99):
            homes = Homes(_run, dim, exponent, options)
            runs = report.interleave(homes, ["recis"], options)["recis"]
            row: dict[str, object] = {"dim": dim, "zipf": exponent}
            report.rows.append(row | {key: Spread.of([r[key] for r in runs]) for key in runs[0]})
            for key, most in (("file", 2.0), ("write amplification", 1.6)):
                got = Spread.of([run[key] for run in runs])
                report.goal(f"dim {dim}, zipf {exponent}: {key}", got, at_most=most)
    report.finish(options.json)


def _run(_name: str, dim: int, exponent: float, options: argparse.Namespace) -> dict[str, float]:
    torch.set_num_threads(options.threads[0])
    vocabulary = Vocabulary(options.rows)
    row_bytes = options.rows * dim * 3 * 4
    with (
        TemporaryDirectory(dir=os.environ.get("RECIS_BENCH_DATA")) as folder,
        Store(folder, hot_bytes=row_bytes // HOT_PART) as store,
    ):
        table = HashTable([dim], name="space", store=store)
        optimizer = recis_adam(table)
        with torch.no_grad():
            for ids in vocabulary.ids().split(options.batch):
                table(ids)
        store.commit(step=0)
        before = store.stats()
        largest = dict.fromkeys(SIZES, 0.0)
        batches = vocabulary.zipf(options.batches, size=options.batch, exponent=exponent)
        for step, batch in enumerate(batches, start=1):
            out = table(batch.ids)
            if step % 2:
                out.sum().backward()
                optimizer.step()
                optimizer.zero_grad()
            if step % options.every == 0:
                stats = store.stats()
                for size, key in SIZES.items():
                    largest[size] = max(largest[size], stats[key] / row_bytes)
                store.commit(step)
        after = store.stats()
    written = after["bytes_written"] - before["bytes_written"]
    moved = after["cleaned_bytes"] - before["cleaned_bytes"]
    return largest | {"write amplification": written / (written - moved)}


if __name__ == "__main__":
    main()
