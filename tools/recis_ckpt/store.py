"""`recis-ckpt save` and `load`: from a store to a snapshot and back."""

from typing import Annotated

import typer

from recis.snapshot.read import open_snapshot
from recis.snapshot.stores import load_store, save_store
from recis_ckpt.output import JsonOption, print_json, progress, say


def save(
    store: Annotated[str, typer.Argument(help="The store, which may be in use.")],
    snapshot: Annotated[str, typer.Argument(help="The directory of snapshots to add to.")],
    json: JsonOption = False,
) -> None:
    """Makes a snapshot of a store's last commit: rows, slots, hooks and its state.

    Example: recis-ckpt save run7/store run7/snapshots
    """
    with progress("rows") as report:
        made = save_store(store, snapshot, progress=report)
    print_json({"snapshot": made}) if json else say(f"saved {made}")


def load(
    snapshot: Annotated[str, typer.Argument(help="A snapshot, or a directory of them.")],
    store: Annotated[str, typer.Argument(help="The store to make.")],
    hot_bytes: Annotated[str, typer.Option(help="Memory for rows.")] = "1GiB",
    json: JsonOption = False,
) -> None:
    """Makes a store of a snapshot, committed at the snapshot's step.

    Example: recis-ckpt load run7/snapshots run8/store
    """
    with progress("rows") as report:
        reader = open_snapshot(snapshot, strict=True)
        epoch = load_store(reader, store, hot_bytes=hot_bytes, progress=report)
    step = reader.manifest.step
    if json:
        print_json({"store": store, "step": step, "epoch": epoch})
    else:
        say(f"loaded step {step} into {store}, epoch {epoch}")
