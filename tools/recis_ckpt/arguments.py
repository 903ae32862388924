"""Arguments that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Source = Annotated[
    str,
    typer.Argument(
        help="A snapshot, a directory of them (its newest is taken) or, where it says so, a store."
    ),
]
Destination = Annotated[str, typer.Argument(help="The directory of snapshots to write into.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
