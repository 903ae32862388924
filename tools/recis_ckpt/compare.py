"""`recis-ckpt diff`."""

from __future__ import annotations

from dataclasses import asdict

from recis.snapshot.compare import compare
from recis_ckpt.arguments import Json, Source
from recis_ckpt.output import exit_if, print_json, print_table


def diff(first: Source, second: Source, as_json: Json = False) -> None:
    """Tells which rows were added, removed and changed, and by how much. Exits with 1 if any was.

    Example: recis-ckpt diff runs/7/snapshots/step-000000001000 runs/7/snapshots
    """
    differences = compare(first, second)
    if as_json:
        print_json({name: asdict(found) for name, found in differences.items()})
    else:
        print_table(
            "rows",
            ["table", "added", "removed", "in both", "changed"],
            [(n, d.added, d.removed, d.common, d.changed) for n, d in differences.items()],
        )
        slots = [
            (name, slot, found.rows, f"{found.largest:.4g}", f"{found.mean:.4g}", f"{found.l2:.4g}")
            for name, table in differences.items()
            for slot, found in table.slots.items()
            if found.rows
        ]
        if slots:
            columns = ["table", "slot", "rows", "largest", "mean", "L2"]
            print_table("values", columns, slots)
    exit_if(not all(found.equal for found in differences.values()))
