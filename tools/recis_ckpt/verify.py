"""`recis-ckpt verify`."""

from __future__ import annotations

from typing import Annotated

import typer

from recis.snapshot.verify import Level
from recis.snapshot.verify import verify as verify_snapshot
from recis_ckpt.arguments import Json, Source
from recis_ckpt.output import bar, console, escape, exit_if, print_json, print_table
from recis_ckpt.stores import is_store, open_store


def verify(
    source: Source,
    level: Annotated[
        Level,
        typer.Option(
            help="quick: manifests, sizes and headers. full: every byte. deep: also that ids "
            "are in order, in their slices, and nowhere twice."
        ),
    ] = "full",
    as_json: Json = False,
) -> None:
    """Names every damaged file, tensor and slice of a snapshot or, by block, of a store.

    Example: recis-ckpt verify runs/7/snapshots --level deep
    """
    if is_store(source):
        _verify_store(source, as_json)
        return
    with bar("verifying", as_json) as progress:
        problems = verify_snapshot(source, level, progress)
    if as_json:
        print_json([problem._asdict() for problem in problems])
    elif problems:
        rows = [
            (p.path, p.tensor or "", "" if p.slices is None else f"{p.slices[0]}-{p.slices[1] - 1}",
             p.expected, p.found)
            for p in problems
        ]  # fmt: skip
        print_table(f"{source} is damaged", ["file", "tensor", "slices", "expected", "found"], rows)
    else:
        console.print(f"{escape(source)}: no damage found ({level})")
    exit_if(problems)


def _verify_store(source: str, as_json: bool) -> None:
    with open_store(source) as store, bar("verifying", as_json) as progress:
        damage = store.verify(progress)
    if as_json:
        print_json(damage)
    else:
        for text in damage or [f"{source}: no damage found"]:
            console.print(escape(text))
    exit_if(damage)
