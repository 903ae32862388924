"""`recis-ckpt reshard` and `recis-ckpt compact`."""

from __future__ import annotations

from typing import Annotated

import typer

from recis.snapshot.rewrite import rewrite
from recis_ckpt.arguments import Destination, Json, Source
from recis_ckpt.output import bar, console, escape, print_json


def reshard(
    source: Source,
    destination: Destination,
    shards: Annotated[int, typer.Option(min=1, help="Shards of the new snapshot.")],
    as_json: Json = False,
) -> None:
    """Writes a snapshot anew in another number of shards; its deltas become part of it.

    Loading needs no such thing: any number of workers loads any snapshot.

    Example: recis-ckpt reshard runs/7/snapshots resharded --shards 8
    """
    _rewrite(source, destination, shards, as_json)


def compact(source: Source, destination: Destination, as_json: Json = False) -> None:
    """Writes a delta and all that it follows as one snapshot that stands for itself.

    Example: recis-ckpt compact runs/7/snapshots compacted
    """
    _rewrite(source, destination, None, as_json)


def _rewrite(source: str, destination: str, shards: int | None, as_json: bool) -> None:
    with bar("writing", as_json) as progress:
        path = rewrite(source, destination, shards, progress)
    if as_json:
        print_json({"path": path})
    else:
        console.print(escape(path))
