"""`recis-ckpt gc`."""

from __future__ import annotations

from typing import Annotated

import typer

from recis.snapshot.gc import collect_garbage
from recis.snapshot.verify import Level
from recis_ckpt.arguments import Json
from recis_ckpt.output import console, print_json


def gc(
    root: Annotated[str, typer.Argument(help="A directory of snapshots.")],
    keep: Annotated[int, typer.Option(min=1, help="How many of the newest are kept.")],
    level: Annotated[Level, typer.Option(help="How it is decided which are whole.")] = "full",
    dry_run: Annotated[bool, typer.Option(help="Only say what would go.")] = False,
    as_json: Json = False,
) -> None:
    """Removes old snapshots and what saves that were cut short have left.

    The newest one that is whole always stays, and so does what a kept delta follows.

    Example: recis-ckpt gc runs/7/snapshots --keep 3 --dry-run
    """
    removed = collect_garbage(root, keep, level=level, dry_run=dry_run)
    if as_json:
        print_json({"removed": removed})
        return
    for name in removed:
        console.print(f"{'would remove' if dry_run else 'removed'} {name}")
    if not removed:
        console.print("nothing to remove")
