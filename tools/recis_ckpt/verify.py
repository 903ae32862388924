"""`recis-ckpt verify`: names all damage."""

from enum import Enum
from typing import Annotated, Any

import typer

from recis.snapshot import verify as library
from recis.snapshot.sources import is_store
from recis.snapshot.stores import open_table
from recis.snapshot.upstream.read import is_upstream
from recis.store import Store
from recis_ckpt.errors import FOUND
from recis_ckpt.output import JsonOption, print_json, progress, say


class Level(str, Enum):
    """How closely to look."""

    quick = "quick"
    full = "full"
    deep = "deep"


def verify(
    path: Annotated[
        str,
        typer.Argument(
            help="A snapshot, a directory of them, a store, or a checkpoint of RecIS 1.0."
        ),
    ],
    level: Annotated[
        Level,
        typer.Option(
            help="quick: manifests, sizes, headers. full: every byte. deep: also that ids are "
            "where they belong."
        ),
    ] = Level.full,
    json: JsonOption = False,
) -> None:
    """Reads a snapshot with all it is a delta to, or a store, and names every damaged place.

    Example: recis-ckpt verify run7/snapshots/step-000000012000 --level deep
    """
    problems = _of_store(path, level) if is_store(path) else _of_snapshot(path, level)
    if json:
        print_json({"path": path, "level": level.value, "ok": not problems, "problems": problems})
    elif problems:
        for problem in problems:
            say(_line(problem))
        say("1 damaged place" if len(problems) == 1 else f"{len(problems)} damaged places")
    else:
        say(f"{path}: no damage found, level {level.value}")
        if is_upstream(path):
            say("RecIS 1.0 writes no checksums: values are not verified")
    if problems:
        raise typer.Exit(FOUND)


def _line(problem: dict[str, Any]) -> str:
    where: str = problem["path"]
    if problem["tensor"] is not None:
        where += f", tensor {problem['tensor']}"
    if problem["slices"] is not None:
        where += ", slices [{}, {})".format(*problem["slices"])
    return f"{where}: expected {problem['expected']}, found {problem['found']}"


def _of_snapshot(path: str, level: Level) -> list[dict[str, Any]]:
    with progress("bytes") as report:
        return [p._asdict() for p in library.verify(path, level.value, report)]


def _of_store(path: str, level: Level) -> list[dict[str, Any]]:
    """A store checks its catalog when it is opened, blocks and tables when asked."""
    try:
        with Store(path, read_only=True) as store, progress("blocks") as report:
            found = [] if level is Level.quick else store.verify(report)
            for name in store.tables() if level is Level.deep else ():
                try:
                    open_table(store, name)
                except RuntimeError as error:
                    found.append(str(error))
    except RuntimeError as error:
        found = [str(error)]
    return [
        {"path": path, "tensor": None, "slices": None, "found": text, "expected": "no damage"}
        for text in found
    ]
