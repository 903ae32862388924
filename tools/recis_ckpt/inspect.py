"""`recis-ckpt inspect`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from recis.snapshot.files import LocalFiles
from recis.snapshot.names import MANIFEST
from recis.snapshot.read import SnapshotReader, open_snapshot
from recis.snapshot.rewrite import slice_counts
from recis_ckpt.arguments import Json, Source
from recis_ckpt.output import console, escape, print_json, print_table, size
from recis_ckpt.stores import is_store, open_store

_SAMPLE_SLICES = 16
_SAMPLE_ROWS = 1 << 16


def inspect(
    source: Source,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw rows by slice, norms of embeddings and counters into this PNG."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Shows what a snapshot or a store holds, without reading rows.

    Example: recis-ckpt inspect runs/7/snapshots --plot balance.png
    """
    if is_store(source):
        _inspect_store(source, as_json)
        return
    reader = open_snapshot(source)
    found = _about(reader)
    if plot is not None:
        _plot(reader, plot)
    if as_json:
        print_json(found)
        return
    age = "" if found["age_seconds"] is None else f", {found['age_seconds']:.0f} s old"
    console.print(
        f"{escape(reader.files.url)}: step {found['step']}, {found['world_size']} shards{age}, "
        f"{size(found['bytes'])}",
        f"chain: {' <- '.join(str(step) for step in found['chain'])}",
        f"dense: {', '.join(found['dense']) or 'none'}",
        sep="\n",
    )
    for name, table in found["tables"].items():
        title = (
            f"{name}: {table['rows']} rows, {table['deleted']} deleted, {size(table['bytes'])}, "
            f"largest shard {table['shard_skew']:.2f} and slice {table['slice_skew']:.2f} means"
        )
        slots = [(s["name"], s["dtype"], s["shape"], s["initial"]) for s in table["slots"]]
        print_table(title, ["slot", "dtype", "shape", "initial"], slots)


def _about(reader: SnapshotReader) -> dict[str, Any]:
    manifest, files = reader.manifest, reader.files
    age = None
    if isinstance(files, LocalFiles):
        age = time.time() - os.stat(os.path.join(files.url, MANIFEST)).st_mtime
    tables: dict[str, Any] = {}
    for name, table in manifest.tables.items():
        counts = slice_counts(reader, name) if len(reader.sources(name)) == 1 else None
        tables[name] = {
            "rows": table.rows,
            "deleted": table.deleted,
            "bytes": sum(file.bytes for file in table.files),
            "slice_size": table.slice_size,
            "slots": [vars(slot) for slot in table.slots],
            "children": list(table.children),
            "info": table.info,
            "shard_skew": _skew(_by_shard(table.files, manifest.world_size)),
            "slice_skew": _skew(np.ones(1) if counts is None else counts),
        }
    return {
        "url": files.url,
        "step": manifest.step,
        "epoch": manifest.epoch,
        "world_size": manifest.world_size,
        "chain": [link.manifest.step for link in reader.chain],
        "age_seconds": age,
        "bytes": sum(t["bytes"] for t in tables.values()) + sum(f.bytes for f in manifest.dense),
        "dense": reader.dense_names(),
        "tables": tables,
    }


def _by_shard(files: Any, shards: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    rows = np.zeros(shards, np.int64)
    for file in files:
        rows[file.shard] += file.rows
    return rows


def _skew(counts: np.ndarray[Any, Any]) -> float:
    """The largest over the mean; 1 if there is nothing."""
    return float(counts.max() / counts.mean()) if counts.sum() else 1.0


def _inspect_store(source: str, as_json: bool) -> None:
    with open_store(source) as store:
        stats = store.stats()
        found: dict[str, Any] = {
            "path": source,
            "epochs": [epoch._asdict() for epoch in store.epochs()],
            "tables": {
                name: [slot._asdict() for slot in store.schema(name)] for name in store.tables()
            },
            "live_bytes": stats["live_bytes"],
            "file_bytes": stats["file_bytes"],
        }
    if as_json:
        print_json(found)
        return
    console.print(
        f"{escape(source)}: a store, {size(stats['live_bytes'])} of rows in "
        f"{size(stats['file_bytes'])}"
    )
    epochs = [(e["epoch"], e["step"], time.ctime(e["time"])) for e in found["epochs"]]
    print_table("epochs", ["epoch", "step", "time"], epochs)
    for name, slots in found["tables"].items():
        rows = [(s["name"], s["dtype"], list(s["shape"]), s["initial"]) for s in slots]
        print_table(name, ["slot", "dtype", "shape", "initial"], rows)


def _plot(reader: SnapshotReader, path: Path) -> None:
    """Draws each table in a row: slices, norms, and the first integer slot."""
    from matplotlib.figure import Figure

    names = sorted(reader.manifest.tables)
    figure = Figure(figsize=(15, 4 * max(1, len(names))), layout="constrained")
    for i, name in enumerate(names):
        counts = slice_counts(reader, name)
        slices = figure.add_subplot(len(names), 3, 3 * i + 1, title=f"{name}: rows by slice")
        slices.plot(counts, ",")
        norms = figure.add_subplot(len(names), 3, 3 * i + 2, title="norm of embeddings")
        counters = figure.add_subplot(len(names), 3, 3 * i + 3, title="counters")
        for slot, values in _sample(reader, name).items():
            if slot == "embedding":
                norms.hist(values.double().flatten(1).norm(dim=1).numpy(), bins=50)
            elif not values.dtype.is_floating_point:
                counters.hist(values.flatten().numpy(), bins=50, label=slot, alpha=0.5)
                counters.legend()
    figure.savefig(path)


def _sample(reader: SnapshotReader, name: str) -> dict[str, torch.Tensor]:
    """Some rows of slices that are spread over the table."""
    table = reader.table(name)
    pieces: list[dict[str, torch.Tensor]] = []
    rows = 0
    step = max(1, table.slice_size // _SAMPLE_SLICES)
    for part in range(0, table.slice_size, step):
        for found in reader.read_rows(name, (part, part + 1)):
            pieces.append(found.slots)
            rows += len(found.ids)
        if rows > _SAMPLE_ROWS:
            break
    return {slot: torch.cat([p[slot] for p in pieces]) for slot in (pieces[0] if pieces else {})}
