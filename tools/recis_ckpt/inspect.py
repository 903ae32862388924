"""`recis-ckpt inspect`: what a snapshot or a store holds."""

import os
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from recis.metrics import skew
from recis.snapshot.files import LocalFiles
from recis.snapshot.manifest import SlotInfo
from recis.snapshot.names import MANIFEST
from recis.snapshot.read import SnapshotReader, open_snapshot
from recis.snapshot.sources import is_store, open_source
from recis.snapshot.stores import slots_in
from recis.snapshot.upstream.names import step_of
from recis.snapshot.upstream.read import UpstreamReader, is_upstream, open_upstream
from recis.store import Store
from recis_ckpt.output import JsonOption, print_json, print_table, say, size

_FACTS = ("epoch", "world_size")
_SECONDS = {"days": 86400, "h": 3600, "min": 60}


def inspect(
    path: Annotated[
        str,
        typer.Argument(
            help="A snapshot, a directory of them, a store, or a checkpoint of RecIS 1.0."
        ),
    ],
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw slices, norms of embeddings and counters of a sample to this PNG."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Shows tables, slots, sizes and balance, from headers alone.

    Example: recis-ckpt inspect run7/snapshots --json
    """
    if is_store(path):
        about = _of_store(path)
    elif is_upstream(path):
        about = _of_upstream(open_upstream(path))
    else:
        about = _of_snapshot(open_snapshot(path))
    if plot is not None:
        from recis_ckpt.plot import draw

        with open_source(path) as source:
            draw(source, plot)
    if json:
        print_json(about)
    else:
        _show(about)


def _of_snapshot(reader: SnapshotReader) -> dict[str, Any]:
    manifest = reader.manifest
    age = None
    if isinstance(reader.files, LocalFiles):
        age = time.time() - os.stat(os.path.join(reader.files.url, MANIFEST)).st_mtime
    state_bytes = sum(file.bytes for file in manifest.dense)
    tables = {name: _table(reader, name) for name in sorted(manifest.tables)}
    return {
        "kind": "snapshot",
        "path": reader.files.url,
        "step": manifest.step,
        "epoch": manifest.epoch,
        "world_size": manifest.world_size,
        "age_seconds": age,
        "chain": [link.manifest.step for link in reader.chain],
        "bytes": state_bytes + sum(table["bytes"] for table in tables.values()),
        "dense": {file.path: file.bytes for file in manifest.dense},
        "tables": tables,
    }


def _table(reader: SnapshotReader, name: str) -> dict[str, Any]:
    about = reader.table(name)
    shards: dict[int, int] = {}
    for file in about.rows_files():
        shards[file.shard] = shards.get(file.shard, 0) + file.rows
    offsets = [reader.open_file(name, file).offsets for file in about.rows_files()]
    counts = np.concatenate([np.diff(found) for found in offsets])
    return {
        "rows": about.rows,
        "deleted": about.deleted,
        "bytes": sum(f.bytes for f in about.files) + sum(f.bytes for f in about.policies),
        "row_bytes": 8 + sum(slot.row_bytes for slot in about.slots),
        "files": len(about.files),
        "slots": [_slot(slot) for slot in about.slots],
        "slice_size": about.slice_size,
        "slice_skew": skew(counts.tolist()),
        "shard_skew": skew(list(shards.values())),
        "info": about.info,
    }


def _of_store(path: str) -> dict[str, Any]:
    with Store(path, read_only=True) as store:
        sizes = store.sizes()
        epochs = [epoch._asdict() for epoch in store.epochs()]
        return {
            "kind": "store",
            "path": path,
            "step": store.step,
            "epoch": store.epoch,
            "epochs": epochs,
            "age_seconds": time.time() - epochs[-1]["time"] if epochs else None,
            "bytes": store.stats()["file_bytes"],
            "live_bytes": store.stats()["live_bytes"],
            "tables": {
                name: sizes[name]._asdict()
                | {"slots": [_slot(slot) for slot in slots_in(store, name)]}
                for name in store.tables()
            },
        }


def _of_upstream(reader: UpstreamReader) -> dict[str, Any]:
    checkpoint = reader.checkpoint
    blocks = checkpoint.dense
    dense = {name: blocks[name].spec.end - blocks[name].spec.begin for name in sorted(blocks)}
    tables: dict[str, dict[str, Any]] = {}
    for name, child in checkpoint.children.items():
        rows = [part.rows for part in child.parts]
        row_bytes = 8 + sum(slot.row_bytes for slot in child.slots)
        tables[name] = {
            "rows": sum(rows),
            "deleted": 0,
            "bytes": sum(rows) * row_bytes,
            "row_bytes": row_bytes,
            "files": len({b.path for p in child.parts for b in (p.ids, *p.slots.values())}),
            "slots": [_slot(slot) for slot in child.slots],
            "slice_size": child.slice_size,
            "slice_skew": None,  # no header says
            "shard_skew": skew(rows),
            "info": {},
        }
    return {
        "kind": "checkpoint of RecIS 1.0",
        "path": reader.files.url,
        "step": step_of(reader.files.url),
        "epoch": None,
        "world_size": checkpoint.shards,
        "age_seconds": None,
        "bytes": sum(dense.values()) + sum(table["bytes"] for table in tables.values()),
        "dense": dense,
        "tables": tables,
    }


def _slot(slot: SlotInfo) -> dict[str, Any]:
    return {
        "name": slot.name,
        "dtype": slot.dtype,
        "shape": list(slot.shape),
        "initial": slot.initial,
    }


def _show(about: dict[str, Any]) -> None:
    say(f"{about['kind']} {about['path']}")
    facts = [f"step {about['step']}"]
    facts += [f"{name.replace('_', ' ')} {about[name]}" for name in _FACTS if about.get(name)]
    facts.append(size(about["bytes"]))
    if about["age_seconds"] is not None:
        facts.append(f"{_time(about['age_seconds'])} old")
    say(", ".join(facts))
    chain = about.get("chain", [])[:-1]
    if chain:
        say(f"a delta on step {', on step '.join(map(str, reversed(chain)))}: the rows are its own")
    if about.get("dense"):
        say("dense: " + ", ".join(f"{name} {size(n)}" for name, n in about["dense"].items()))
    of_files = ["deleted", "bytes", "files", "slice skew", "shard skew"]
    more = ["live bytes"] if about["kind"] == "store" else of_files
    columns = ["table", "rows", *more, "slots"]
    shown = [_row_of(name, table) for name, table in about["tables"].items()]
    print_table("tables", columns, [[row[column] for column in columns] for row in shown])


def _row_of(name: str, table: dict[str, Any]) -> dict[str, Any]:
    """What is shown of a table, by column."""
    slots = ", ".join(f"{s['name']} {s['dtype']}{s['shape']}" for s in table["slots"])
    row = {"table": name, "rows": table["rows"], "slots": slots}
    if "live_bytes" in table:
        return row | {"live bytes": size(table["live_bytes"])}
    row |= {column: table[column] for column in ("deleted", "files")}
    row |= {"bytes": size(table["bytes"]), "shard skew": table["shard_skew"]}
    return row | {"slice skew": table["slice_skew"] or "-"}


def _time(seconds: float) -> str:
    """A time for people."""
    for unit, of_it in _SECONDS.items():
        if seconds >= 2 * of_it:
            return f"{seconds / of_it:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"
