"""`recis-ckpt import` and `export`: from RecIS 1.0's layout to a snapshot and back."""

from typing import Annotated

import typer

from recis.snapshot.read import open_snapshot
from recis.snapshot.upstream.exporting import PARALLEL, export_snapshot
from recis.snapshot.upstream.importing import import_checkpoint
from recis.snapshot.upstream.read import open_upstream
from recis_ckpt.output import JsonOption, print_json, progress, say


def import_(
    upstream: Annotated[str, typer.Argument(help="The checkpoint: the directory with `index`.")],
    out: Annotated[str, typer.Argument(help="The directory of snapshots to add to.")],
    step: Annotated[
        int | None,
        typer.Option(min=0, help="Of the snapshot. Default, what extra.pt or ckpt_STEP says."),
    ] = None,
    coalesced: Annotated[
        list[str] | None,
        typer.Option(help="TABLE=CHILD,CHILD: a coalesced table and its children, in its order."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Makes a snapshot of a checkpoint of RecIS 1.0, with model.pt, extra.pt and io_state files.

    No code in those is run: a file that needs it is refused.

    Example: recis-ckpt import out/ckpt_1000 snapshots --coalesced words=title,body
    """
    groups = dict(_group(text) for text in coalesced or ())
    with progress("rows") as report:
        made = import_checkpoint(
            open_upstream(upstream), out, step=step, coalesced=groups, progress=report
        )
    print_json({"snapshot": made}) if json else say(f"wrote {made}")


def export(
    snapshot: Annotated[str, typer.Argument(help="A snapshot, or a directory of them.")],
    out: Annotated[str, typer.Argument(help="The directory to make, local.")],
    shards: Annotated[
        int | None, typer.Option(min=1, max=65536, help="Default, as many as the snapshot has.")
    ] = None,
    parallel: Annotated[int, typer.Option(min=1, help="Data files of a shard.")] = PARALLEL,
    json: JsonOption = False,
) -> None:
    """Writes tables and dense tensors of a snapshot, deltas applied, for RecIS 1.0.

    Example: recis-ckpt export snapshots/step-000000012000 ckpt_12000
    """
    with progress("rows") as report:
        reader = open_snapshot(snapshot, strict=True)
        made = export_snapshot(reader, out, shards=shards, parallel=parallel, progress=report)
    print_json({"checkpoint": made}) if json else say(f"wrote {made}")


def _group(text: str) -> tuple[str, tuple[str, ...]]:
    table, equals, children = text.partition("=")
    names = tuple(children.split(","))
    if not equals or not table or not all(names):
        raise typer.BadParameter(f"expected TABLE=CHILD,CHILD, found {text[:100]!r}")
    return table, names
