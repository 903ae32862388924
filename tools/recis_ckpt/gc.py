"""`recis-ckpt gc`: removes what is not needed any more."""

from typing import Annotated

import typer

from recis.snapshot.gc import collect_garbage
from recis_ckpt.output import JsonOption, print_json, say
from recis_ckpt.verify import Level


def gc(
    root: Annotated[str, typer.Argument(help="A local directory of snapshots.")],
    keep: Annotated[int, typer.Option(min=1, help="How many of the newest stay.")],
    level: Annotated[
        Level, typer.Option(help="How closely the newest is verified before others go.")
    ] = Level.full,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing.")] = False,
    json: JsonOption = False,
) -> None:
    """Removes old snapshots and unfinished drafts.

    The newest snapshot that is whole always stays, and so does what a delta that stays needs.

    Example: recis-ckpt gc run7/snapshots --keep 3 --dry-run
    """
    removed = collect_garbage(root, keep, level=level.value, dry_run=dry_run)
    if json:
        print_json({"root": root, "removed": removed, "dry_run": dry_run})
        return
    for name in removed:
        say(f"{'would remove' if dry_run else 'removed'} {name}")
    if not removed:
        say("nothing to remove")
