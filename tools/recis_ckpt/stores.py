"""`recis-ckpt save` and `recis-ckpt load`, and what other commands need of stores."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from recis.snapshot.read import open_snapshot
from recis.snapshot.stores import load_store, save_store
from recis.store import Store
from recis_ckpt.arguments import Destination, Json, Source
from recis_ckpt.output import bar, console, escape, print_json


def is_store(path: str) -> bool:
    """Whether a directory holds a store."""
    return os.path.exists(os.path.join(path, "data.mdb"))


def open_store(path: str) -> Store:
    """A store as of its last commit, beside whoever trains with it."""
    return Store(path, read_only=True)


def save(
    store: Annotated[str, typer.Argument(help="The directory of a store.")],
    destination: Destination,
    as_json: Json = False,
) -> None:
    """Makes a snapshot of a store's last commit, which may be in use.

    Example: recis-ckpt save runs/7/store runs/7/snapshots
    """
    with bar("saving", as_json) as progress:
        path = save_store(store, destination, progress=progress)
    if as_json:
        print_json({"path": path})
    else:
        console.print(escape(path))


def load(
    source: Source,
    store: Annotated[str, typer.Argument(help="The directory of the new store.")],
    hot_bytes: Annotated[str, typer.Option(help="Memory for rows meanwhile.")] = "1GiB",
    as_json: Json = False,
) -> None:
    """Makes a store of a snapshot, committed at its step.

    Example: recis-ckpt load runs/7/snapshots runs/8/store
    """
    with bar("loading", as_json) as progress:
        epoch = load_store(open_snapshot(source), store, hot_bytes=hot_bytes, progress=progress)
    if as_json:
        print_json({"epoch": epoch})
    else:
        console.print(f"{escape(store)}: epoch {epoch}")
