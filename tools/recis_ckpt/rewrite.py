"""`recis-ckpt reshard` and `compact`: a snapshot written anew."""

from typing import Annotated

import typer

from recis.snapshot import rewrite as library
from recis.snapshot.read import open_snapshot
from recis_ckpt.output import JsonOption, print_json, progress, say


def reshard(
    src: Annotated[str, typer.Argument(help="A snapshot, or a directory of them.")],
    dst: Annotated[str, typer.Argument(help="The directory of snapshots to write to.")],
    shards: Annotated[int, typer.Option(min=1, max=65536, help="How many there will be.")],
    json: JsonOption = False,
) -> None:
    """Writes a snapshot, deltas applied, with another number of shards.

    Any world size can load any number of shards; this makes each rank read files of its own.

    Example: recis-ckpt reshard run7/snapshots run7/for-8-ranks --shards 8
    """
    _rewrite(src, dst, shards, json)


def compact(
    chain: Annotated[str, typer.Argument(help="The newest delta, or a directory of snapshots.")],
    dst: Annotated[str, typer.Argument(help="The directory of snapshots to write to.")],
    json: JsonOption = False,
) -> None:
    """Writes a snapshot and the deltas on it as one full snapshot of the same step.

    Example: recis-ckpt compact run7/snapshots/step-000000012000 run7/full
    """
    _rewrite(chain, dst, None, json)


def _rewrite(src: str, dst: str, shards: int | None, json: bool) -> None:
    with progress("rows") as report:
        reader = open_snapshot(src, strict=True)
        made = library.rewrite(reader, dst, shards=shards, progress=report)
    print_json({"snapshot": made}) if json else say(f"wrote {made}")
